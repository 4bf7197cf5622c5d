"""report.html: a run on one page, in one file that needs no other and asks for none."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..arch.layer import map_sizes
from ..errors import decimal, require
from ..files import atomic_write, read_yaml
from ..nn.choice import Choice
from . import svg
from .network import block_rows
from .run import FRONT, RunFiles, read_run, score_rows
from .tables import UNITS, amount, derived_how, name_of

REPORT = "report.html"
_PARTS = ("block", "channels", "hidden")  # of a layer, each perhaps a choice


def write_report(folder: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Writes the page of a result folder, into it or as `out`, and returns its path.

    Raises InputError where the folder holds no finished run, or jinja2 (extra `search`) is missing; FileError.
    """
    run = read_run(folder)
    path = Path(out) if out is not None else run.folder / REPORT
    atomic_write(path, render(run))
    return path


def render(run: RunFiles) -> str:
    """The page as text."""
    jinja2 = require("jinja2", "search")
    source = (resources.files(__package__) / "page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rows = [] if run.arch is None else block_rows(run.arch)
    return environment.from_string(source).render(
        title=_title(run),
        facts=_facts(run),
        summary=_summary(run),
        network=svg.network(rows, "the network, block by block") if rows else "",
        network_legend=svg.kernel_legend(rows) if rows else "",
        layers=_layers(run),
        alphas=_alphas(run),
        charts=_charts(run),
        test=_test(run),
        front=_front(run),
        keys=sorted(run.keys.items()),
        command=_command(run),
        versions=run.about.get("versions", {}),
    )


def _title(run: RunFiles) -> str:
    if run.front:
        return f"Search for {len(run.front)} targets"
    if "target" in run.result:
        return f"Search for {_amount(run.result['target'], run.result['objective'])}"
    return f"Training of {run.arch.name or 'a network'}" if run.arch is not None else "Training"


def _amount(value: float, objective: str) -> str:
    return f"{amount(value, objective)} {_unit(objective)}"


def _unit(objective: str) -> str:
    return UNITS.get(objective, objective)


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """What was searched, on what, and by what."""
    data, machine = run.about.get("data", {}), run.about.get("machine", {})
    facts = []
    if run.space is not None:
        space = run.space
        sizes = f", input {space.input_sizes[0]}" + (f" to {space.max_input_size}" if len(space.input_sizes) > 1 else "")
        what = f"{len(space.layers)} layers, {len(space.choices)} choices, {_large(space.size())} networks{sizes}"
        facts += [("space", f"{space.name or 'unnamed'}: {what}"), ("strategy", str(run.keys.get("SEARCH.STRATEGY", "")))]
    if data:
        counts = ", ".join(f"{count:,} for {name}" for name, count in data["images"].items())
        facts.append(("images", f"{run.keys.get('DATA.DATASET', '')}: {len(data['classes'])} classes; {counts}"))
        facts.append(("digests of the splits", ", ".join(f"{name} {digits}" for name, digits in data["digest"].items())))
    if run.keys.get("HEAD.NAME"):
        facts.append(("head", str(run.keys["HEAD.NAME"])))
    if machine:
        facts.append(("machine", f"{machine['device']}, {machine['processes']} process(es) of {machine['threads']} thread(s)"))
    facts += [(f"seconds of the {name}", f"{value:,.0f}") for name, value in run.about.get("seconds", {}).items()]
    return facts


def _large(number: int) -> str:
    return f"{number:,}" if number < 10**6 else f"about {number // 10 ** (len(str(number)) - 1)}e{len(str(number)) - 1}"


def _summary(run: RunFiles) -> list[tuple[str, str, str]]:
    """Name, value and remark of the figures at the top."""
    result, found = run.result, []
    for name, value in score_rows(result):
        remark = f"± {run.error:.4f} (standard error)" if run.error is not None and name == "test top-1" else ""
        found.append((name, value, remark))
    for key in ("macs", "params"):
        if key in result:
            off = (
                f"{result.get('counted', result[key]) / result['target'] - 1:+.1%} against the target"
                if result.get("objective") == key
                else ""
            )
            if off and "counted" in result:
                off += f", with {result['target_classes']:,} classes {result['counted']:,}"
            found.append((UNITS[key], f"{result[key]:,}", off))
    found += _other_costs(result)
    if "target" in result:
        objective = result["objective"]
        found.append((f"target, {_unit(objective)}", amount(result["target"], objective), derived_how(result)))
    return found


def _other_costs(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Costs that are neither MACs nor parameters, and limits."""
    key, found = result.get("objective", ""), []
    if key not in ("macs", "params") and key in result:
        found.append((_unit(key), amount(result[key], key), f"{result[key] / result['target'] - 1:+.1%} against the target"))
    if result.get("latency_measured") is not None:
        found.append(("ms, measured", decimal(result["latency_measured"]), "on the machine of the search"))
    for name, one in result.get("limits", {}).items():
        found.append((f"{_unit(name)}, limited", amount(one["cost"], name), f"at most {amount(one['most'], name)}"))
    return found


# -- choices -------------------------------------------------------------------------------------------------------------------


def _last(run: RunFiles) -> Mapping[str, Sequence[float]]:
    known = [record["probabilities"] for record in run.search if "probabilities" in record]
    return known[-1] if known else {}


def _cell(choice: Choice | None, taken: Any, probabilities: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What was taken of a choice, its probability and the entropy of the choice, 0 decided to 1 undecided; of a fixed value itself."""
    if choice is None or choice.name not in probabilities or taken not in choice.options:
        return {"value": taken, "probability": None}
    p = probabilities[choice.name]
    entropy = -sum(value * math.log(value) for value in p if value > 0) / math.log(len(p))
    best = choice.options[max(range(len(p)), key=lambda i: p[i])]
    chance = p[choice.options.index(taken)]
    return {"value": taken, "probability": chance, "entropy": max(0.0, entropy), "best": None if best == taken else best}


def _layers(run: RunFiles) -> dict[str, Any] | None:
    """The table of choices: one row a layer, or None where nothing was chosen."""
    if run.space is None or run.arch is None or not run.search:
        return None
    probabilities, choices = _last(run), {choice.name: choice for choice in run.space.choices}
    rows = []
    sides = map_sizes(run.arch.layers, run.arch.input_size)[1:]
    for layer, side in zip(run.arch.layers, sides, strict=True):
        taken = {"block": layer.names[0], "channels": layer.channels[0], "hidden": layer.hidden[0] or "–"}
        if layer.names[0] == "skip":
            taken |= {"channels": "–", "hidden": "–"}
        cells = [_cell(choices.get(f"{layer.key}.{part}"), taken[part], probabilities) for part in _PARTS]
        rows.append({"key": layer.key, "side": side, "cells": cells})
    size = _cell(choices["input_size"], run.arch.input_size, probabilities) if "input_size" in choices else None
    return {"rows": rows, "input_size": size, "parts": _PARTS}


def _alphas(run: RunFiles) -> dict[str, Any] | None:
    """softmax(alpha) of each choice over the epochs, for the slider; three digits."""
    records = [record for record in run.search if "probabilities" in record]
    if run.space is None or not records:
        return None
    panels = []
    for choice in run.space.choices:
        values = [[round(p, 3) for p in record["probabilities"][choice.name]] for record in records]
        panels.append({"name": choice.name, "options": [str(option) for option in choice.options], "values": values})
    return {"epochs": [record["epoch"] + 1 for record in records], "panels": panels}


# -- curves, test, front -------------------------------------------------------------------------------------------------------


def _series(records: Sequence[Mapping[str, Any]], names: Mapping[str, str], start: int = 0) -> dict[str, list[svg.Point]]:
    return {
        label: [(record["epoch"] + start, record[key]) for record in records if record.get(key) is not None] for key, label in names.items()
    }


def _charts(run: RunFiles) -> list[tuple[str, str]]:
    """Title and drawing of each chart."""
    result, records, found = run.result, run.search, []
    shared = {"weight_loss": "images of the weights", "alpha_loss": "images of the alphas"}
    found.append(("loss of the search", svg.lines(_series(records, shared, 1), "loss over the epochs of the search", log=True)))
    costs = {"cost_sampled": "sampled", "cost_expected": "expected", "cost_argmax": "argmax"}
    if "target" in result:
        aim = (result["target"], float(run.keys.get("SEARCH.TOLERANCE", 0)))
        unit = _unit(result["objective"])
        found.append((f"{unit} over the search", svg.lines(_series(records, costs, 1), f"{unit} over the epochs", aim=aim)))
    found += _target_charts(run)
    names = {"entropy": "mean entropy of the alphas"}
    found.append(("entropy of the search", svg.lines(_series(records, names, 1), "entropy over the epochs of the search")))
    found.append(("temperature", svg.lines(_series(records, {"tau": "tau"}, 1), "temperature over the epochs", log=True)))
    losses = {"loss": "training images", "val_loss": "validation images"}
    found.append(("loss of the training", svg.lines(_series(run.training, losses), "loss over the epochs of the training", log=True)))
    if run.score:
        scores = {run.score: "training images", f"val_{run.score}": "validation images"}
        name = name_of(run.score)
        found.append((f"{name} of the training", svg.lines(_series(run.training, scores), f"{name} over the epochs of the training")))
    return [(title, drawing) for title, drawing in found if drawing]


def _target_charts(run: RunFiles) -> list[tuple[str, str]]:
    """What the targets of one search are compared by: expected cost and entropy, a line a target."""
    if not run.front:
        return []
    folders, unit = [row["folder"] for row in run.front], run.front[0]["objective"]
    found = []
    for key, title in (
        ("cost_expected", f"expected {_unit(unit)}"),
        ("alpha_loss", "loss of the alphas"),
        ("entropy", "entropy"),
    ):
        names = {f"{folder}/{key}": folder for folder in folders}
        found.append((title, svg.lines(_series(run.search, names, 1), f"{title} over the epochs, a line a target")))
    return found


def _test(run: RunFiles) -> dict[str, Any] | None:
    if run.test is None:
        return None
    classes, counts = run.test["classes"], run.test["confusion"]
    drawn = svg.matrix(counts, classes, "confusion matrix: shares of each true class") if counts and len(classes) <= 100 else ""
    known = [(name, value) for name, value in run.test["per_class"].items() if value is not None]
    worst = sorted(known, key=lambda pair: pair[1])[:10]
    pictures = [(_inline(path), _caption(run.test, path)) for path in run.pictures]
    return {"matrix": drawn, "worst_classes": worst, "all": len(worst) == len(known), "pictures": pictures}


def _caption(test: Mapping[str, Any], path: Path) -> str:
    """What is wrong about an image, by the number in its file's name."""
    number = int(path.stem.rpartition("_")[2]) - 1
    row = test["worst"][number] if number < len(test["worst"]) else {}
    if row.get("true") is None or row.get("predicted") is None:
        return f"{row['badness']:.1%} of the pixels wrong" if "badness" in row else ""
    return f"is {test['classes'][row['true']]}, taken for {test['classes'][row['predicted']]}"


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _front(run: RunFiles) -> dict[str, Any] | None:
    if not run.front:
        return None
    rows = [dict(entry) for entry in run.front]
    key = rows[0]["objective"]
    known = [row for row in rows if row.get("score") is not None]
    drawing = ""
    if known:
        marks = [svg.Mark(row["folder"], row[key], row["score"], row.get("error") or 0.0, bool(row.get("dominated"))) for row in known]
        drawing = svg.points(marks, _unit(key), "score over cost of the networks found")
    for row in rows:
        row["aim"] = _amount(row["target"], row["objective"])
    return {"rows": rows, "unit": _unit(key), "drawing": drawing}


def _command(run: RunFiles) -> str:
    """What repeats the run: as it was called, where the run says so."""
    if "command" in run.about:
        return str(run.about["command"])
    tool = "tools/search_net.py" if run.space is not None else "tools/train_net.py"
    if run.keys.get("HEAD.NAME") and run.space is None:
        tool = "tools/train_segmenter.py" if run.keys["HEAD.NAME"] in ("lraspp", "deeplabv3") else "tools/train_detector.py"
    if run.about.get("options", {}).get("kind") == "derivation":
        return f"python tools/derive_net.py {run.folder.parent} --target {_plain_target(run.result)} --train --output another_folder"
    front = run.folder.parent / FRONT
    if run.config and not run.front and front.is_file() and any(row["folder"] == run.folder.name for row in read_yaml(front)):
        whole = run.folder.parent / "config.yaml"
        return (
            f"python {tool} --config-file {whole} OUTPUT_DIR another_folder  # the search for all targets, as it was run\n"
            f"python {tool} --config-file {run.folder / 'config.yaml'} OUTPUT_DIR another_folder  # a search for this target alone"
        )
    if run.config:
        return f"python {tool} --config-file {run.folder / 'config.yaml'} OUTPUT_DIR another_folder"
    keys = {key.rpartition(".")[2].lower(): value for key, value in run.keys.items() if key.startswith("SEARCH.")}
    target = run.result.get("target")
    if run.space is None or target is None:
        return "nas.train(arch, train, val, ...) with the options below"
    return f"nas.search(space, train, val, target={target!r}, epochs={keys.get('epochs')}, ...) with the options below"


def _plain_target(result: Mapping[str, Any]) -> str:
    return f"{result['target']:.12g}" if result["objective"] == "macs" else f'"{result["target"]:.12g} {result["objective"]}"'
