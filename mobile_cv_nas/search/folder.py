"""The result folder of a search: what it is emptied of, and what it is left with, for one target or for several.

For one target the folder itself holds arch, figures, child and result; for several each target has a folder of its own that holds
these, and front.yaml lists them. The supernet is kept once, in search.pt. The folder of networks derived later has a list of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arch import ArchDef, SearchSpace
from ..engine.about import ABOUT, identity, write_about
from ..engine.progress import short
from ..engine.run_folder import CHECKPOINTS, RESULT, open_run, remove, write_result
from ..errors import FileError, listed
from ..files import atomic_write, dump_yaml, read_yaml
from ..report.board import BOARD, write_board
from ..report.choices import choices_page
from ..report.front import dominated, draw_front
from ..report.html import REPORT, write_report
from ..report.network import draw_arch
from ..report.run import CHILD, FRONT, read_run
from ..report.search import draw_alphas, draw_curves
from ..report.svg import Mark
from ..report.tables import name_of
from ..report.test import TEST
from ..tasks.task import Task
from .goal import Goal
from .measure import FINALISTS
from .result import SearchResult
from .saved import SEARCH

METRICS = "metrics.jsonl"
CHOICES = "choices.txt"
_LEFT = (
    "arch.yaml",
    SEARCH,
    FRONT,
    "arch.png",
    "alphas.png",
    "curves.png",
    "front.png",
    CHOICES,
    "config.yaml",
    METRICS,
    RESULT,
    ABOUT,
    REPORT,
)
NETWORKS = "networks.yaml"
# What `train_derived` leaves, and a test of its network.
_TRAINED = (CHILD, TEST, "config.yaml", "arch.yaml", "arch.png", RESULT, ABOUT, REPORT, BOARD)


def prepare(folder: Path, resume: bool, names: Sequence[str], overwrite: bool) -> bool:
    """Prepares a folder for a search for the named targets; whether the run goes on from a checkpoint.

    The folders of the targets of an earlier, finished search are removed with the rest of it.
    """
    earlier = _names_of(folder)
    goes_on = open_run(folder, resume, overwrite)
    if not goes_on:
        for name in {"", *earlier, *names}:
            empty(folder / name)
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    return goes_on


def write_configs(folder: Path, configs: Mapping[str, str]) -> None:
    """Leaves the configuration of the whole, "", and of each target by its name."""
    for name, text in configs.items():
        atomic_write(folder / name / "config.yaml", text)


def _names_of(folder: Path) -> list[str]:
    """The folders of the targets of a finished search, as its front.yaml names them."""
    try:
        names = [str(row["folder"]) for row in read_yaml(folder / FRONT)]
    except (FileError, TypeError, KeyError):  # none, or not of this library
        return []
    return [name for name in names if Path(name).name == name]


def empty(folder: Path) -> None:
    """Removes what a search leaves in the folder of a target, and nothing else; the folder too if that was all."""
    for name in (CHILD, FINALISTS, TEST):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _LEFT:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def prepare_derived(folder: Path, resume: bool, overwrite: bool, count: int, train: bool) -> None:
    """Prepares the folder of a derivation of so many networks: what an earlier one left is removed, unless its training shall go on.

    Nothing else is: `networks.yaml` lists the archs of an earlier one, and a folder that holds a child of it has been trained in.

    Raises FileError where what is removed would be a training, or what is written (with `train` also by the training) would replace files
    that no derivation left, unless `overwrite` says that it is meant; and where the folder holds another run.
    """
    child, earlier = folder / CHILD, earlier_archs(folder)
    if earlier is None and any((folder / name).exists() for name in (RESULT, SEARCH, CHECKPOINTS)):
        raise FileError(f"{folder}: holds another run, which this would replace; give another --output")
    begun = (child / RESULT).exists() or any((child / CHECKPOINTS).glob("*.pt"))
    own = [] if earlier is None else [NETWORKS, *earlier, *(_TRAINED if begun or (child / CHECKPOINTS).is_dir() else ())]
    written = [NETWORKS, *map(arch_name, range(1, count + 1)), *(_TRAINED if train else ())]
    foreign = [name for name in written if name not in own and (folder / name).exists()]
    if foreign and not overwrite:
        raise FileError(
            f"{folder}: holds {listed(foreign)}, which this would replace and no derivation left; give another --output, or --overwrite"
        )
    if not resume:
        if begun and CHILD in own and not overwrite:
            state = "a finished" if (child / RESULT).exists() else "an unfinished"
            raise FileError(f"{folder}: holds {state} training; add --resume to go on, --overwrite to replace it, or give another --output")
        remove(folder, own)
    remove(folder, foreign)


def arch_name(rank: int) -> str:
    """The file of the network of a rank, from 1."""
    return f"arch_{rank}.yaml"


def earlier_archs(folder: Path) -> list[str] | None:
    """The arch files that a derivation left in a folder, as its networks.yaml lists them; None where there was none."""
    try:
        content = read_yaml(folder / NETWORKS)
        names = [str(row["arch"]) for row in content["networks"]]
    except (FileError, TypeError, KeyError):  # none, or of something else
        return None
    return names if names == [arch_name(rank) for rank in range(1, len(names) + 1)] else None


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a search, as metrics.jsonl in its folder has them."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["phase"] == "search"]


def records_of(records: Sequence[Mapping[str, Any]], name: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a search for several targets as one for that target alone would have them."""
    mine, others = f"{name}/", tuple(f"{other}/" for other in names if other != name)
    return [{key.removeprefix(mine): value for key, value in record.items() if not key.startswith(others)} for record in records]


def write_target(folder: Path, name: str, names: Sequence[str], arch: ArchDef, goal: Goal, space: SearchSpace, warmup: int) -> None:
    """Leaves the arch of a target with its figures; where there are several targets, in its own folder, with its records."""
    records, place = read_records(folder), folder / name
    if name:
        records = records_of(records, name, names)
        atomic_write(place / METRICS, "".join(json.dumps(record) + "\n" for record in records))
    arch.save(place / "arch.yaml")
    draw_arch(arch, place / "arch.png", in_channels=goal.in_channels)
    if not records:  # a strategy that trains no supernet
        return
    if "probabilities" in records[-1]:
        atomic_write(place / CHOICES, choices_page(space, arch, records[-1]["probabilities"]))
        draw_alphas(space.choices, records, place / "alphas.png", space.deciding(space.encode(arch)))
    cost = goal.cost(space, arch)
    draw_curves(records, place / "curves.png", goal.target, goal.tolerance, goal.unit, warmup, cost)


def draw_found(result: SearchResult, task: Task) -> None:
    """Draws the network that was found once more, with what it costs and how good it is."""
    if result.arch is None or result.cost is None:
        return
    values = result.to_dict()
    key = next(((of, key) for of, key in (("test", task.main), ("validation", f"val_{task.main}")) if key in values), None)
    score = f", {key[0]} {name_of(task.main)} {values[key[1]]:.4f}" if key else ""
    about = f"{short(result.cost.macs)} MACs, {short(result.cost.params)} parameters{score}"
    draw_arch(result.arch, result.folder / "arch.png", about=about, in_channels=task.in_channels)


def write_results(result: SearchResult, about: dict[str, Any], task: Task, step: int) -> None:
    """Leaves result.json, run.json and report.html, and for several targets front.yaml and front.png; result.json of the whole last."""
    options, spent = about["options"], about["seconds"]
    for one in result.targets or (result,):
        draw_found(one, task)
    for one in result.targets:
        seconds = {**spent, "training": round(one.training.seconds, 1)} if one.training is not None else spent
        write_about(one.folder, {**about, "seconds": seconds})
        write_result(one.folder, {**one.to_dict(), **identity(options, seconds)})
        write_report(one.folder)
    if result.targets:
        rows = _front(result.targets, task)
        atomic_write(result.folder / FRONT, dump_yaml(rows))
        _draw_front(rows, result.folder / "front.png", result.targets[0].goal, task)
    write_about(result.folder, about)
    _write_board(result, about, task, step)
    write_result(result.folder, {**result.to_dict(), **identity(options, spent)})
    write_report(result.folder)


def _front(found: Sequence[SearchResult], task: Task) -> list[dict[str, Any]]:
    """One entry a target. The score is of the test images, or of the validation images where there is no test."""
    rows: list[dict[str, Any]] = []
    for one in found:
        assert one.goal is not None
        assert one.cost is not None
        assert one.arch is not None
        result = one.to_dict()
        of = next((of for of, key in (("test", task.main), ("validation", f"val_{task.main}")) if key in result), None)
        score = None if of is None else float(result[task.main if of == "test" else f"val_{task.main}"])
        row = {"target": one.goal.target, "objective": one.goal.objective, "folder": one.folder.name}
        row |= {**one.goal.costs(one.arch), "macs": one.cost.macs, "params": one.cost.params, "score": score, "score_of": of}
        rows.append({**row, "error": read_run(one.folder).error})
    costs = [row[row["objective"]] for row in rows]
    if all(row["score"] is not None for row in rows):
        for row, worse in zip(rows, dominated(costs, [row["score"] for row in rows]), strict=True):
            row["dominated"] = worse
    return rows


def _draw_front(rows: Sequence[Mapping[str, Any]], path: Path, goal: Goal | None, task: Task) -> None:
    known = [row for row in rows if row["score"] is not None]
    if not known or goal is None:
        return
    marks = [Mark(row["folder"], row[goal.objective], row["score"], row["error"] or 0.0, row.get("dominated", False)) for row in known]
    draw_front([("", marks)], path, goal.unit, f"{known[0]['score_of']} {name_of(task.main)}")


def _write_board(result: SearchResult, about: Mapping[str, Any], task: Task, step: int) -> None:
    """What TensorBoard shows of the end."""
    found = result.targets or (result,)
    figures = {"front": result.folder / "front.png"}
    for one in found:
        label = f"{one.folder.name}/" if result.targets else ""
        figures |= {f"{label}{name}": one.folder / f"{name}.png" for name in ("arch", "alphas", "curves")}
        figures[f"{label}confusion"] = one.folder / CHILD / TEST / "confusion.png"
    texts = {f"arch/{one.folder.name}" if result.targets else "arch": repr(one.arch) for one in found}
    options = {key: value for key, value in about["options"].items() if key.isupper()}
    texts["config"] = "\n".join(f"{key} {value}" for key, value in sorted(options.items()))
    scores: dict[str, float] = {}
    for one in found:
        label, values = f"{one.folder.name}/" if result.targets else "", one.to_dict()
        scores |= {label + key: values[key] for key in (task.main, f"val_{task.main}", "macs", "params") if key in values}
    write_board(result.folder, step, figures, texts, options, scores)
