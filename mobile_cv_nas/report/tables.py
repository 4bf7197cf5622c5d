"""The results of runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import decimal

NAMES = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
NAMES |= {"ap": "box AP", "ap50": "box AP50", "ap75": "box AP75"}
UNDECIDED = 0.5  # mean normalised entropy of the alphas, above which a choice is close to chance
UNITS = {"macs": "MACs", "params": "parameters", "latency": "ms", "memory": "bytes of maps"}
_COUNTED = ("macs", "params", "memory")


def name_of(key: str) -> str:
    """What people call a score."""
    return NAMES.get(key, key)


def amount(value: float, objective: str) -> str:
    """A cost for people, its unit aside: whole where it is counted, else as `decimal` writes it."""
    return f"{value:,.0f}" if objective in _COUNTED else decimal(value)


def result_table(result: Mapping[str, Any], weights: str) -> str:
    """The result of a training, of which `weights` is the file; or where it was stopped."""
    if not result["finished"]:
        return _stopped(result)
    rows = [(f"test {name_of(key)}", f"{result[key]:.4f}") for key in NAMES if key in result]
    rows += [(f"validation {name_of(key)}", f"{result[f'val_{key}']:.4f}") for key in NAMES if f"val_{key}" in result]
    rows += [*_costs(result), ("skipped images", str(result["skipped_images"])), ("weights", weights)]
    return table(rows)


def derived_how(result: Mapping[str, Any]) -> str:
    """How an arch was found, in words."""
    how, compared = str(result["derived_in_words"]), result["candidates_compared"]
    return f"{how}, best of {compared} compared, {result['candidates_within']} near the target" if compared else how


def search_table(result: Mapping[str, Any], folder: str, seconds: tuple[float, float], found_by: str = "search") -> str:
    """The result of a search and of the training of its child; or where it was stopped."""
    if not result["finished"]:
        return _stopped(result)
    if "targets" in result:
        return _targets_table(result["targets"], folder, seconds)
    cost, key = result.get("counted", result[result["objective"]]), next((k for k in ("top1", "miou", "ap50") if f"val_{k}" in result), "")
    scores = [(of, prefix + key) for of, prefix in (("test", ""), ("validation", "val_")) if prefix + key in result]
    return table(
        [
            *((f"{of} {name_of(key)}", f"{result[name]:.4f}") for of, name in scores),
            *_costs(result),
            *_counted(result),
            *_aim(result, cost),
            ("derived", derived_how(result)),
            *_decided(result.get("entropy")),
            (found_by, f"{seconds[0]:.0f} s"),
            ("training and test", f"{seconds[1]:.0f} s"),
            ("result folder", folder),
        ]
    )


def _targets_table(found: Sequence[Mapping[str, Any]], folder: str, seconds: tuple[float, float]) -> str:
    """A row a target, then what they have in common."""
    from tabulate import tabulate

    key = next((k for k in ("top1", "miou", "ap50") if f"val_{k}" in found[0]), "")
    columns = [(of, prefix + key) for of, prefix in (("test", ""), ("validation", "val_")) if key and prefix + key in found[0]]
    rows = []
    for one in found:
        off = f"{one.get('counted', one[one['objective']]) / one['target'] - 1:+.1%}"
        rows.append([one["folder"], f"{one['macs']:,}", f"{one['params']:,}", off, *(f"{one[name]:.4f}" for _, name in columns)])
    heads = ["target", "MACs", "parameters", "off", *(f"{of} {name_of(key)}" for of, _ in columns)]
    align = ["left", *["right"] * (len(heads) - 1)]
    rest = [("search", f"{seconds[0]:.0f} s"), ("training and test", f"{seconds[1]:.0f} s"), ("result folder", folder)]
    return tabulate(rows, heads, disable_numparse=True, colalign=align) + "\n\n" + table(rest)


def networks_table(found: Sequence[Mapping[str, Any]], objective: str, target: float, epochs: int, folder: str) -> str:
    """The networks that were derived from a finished search, the best first; a row is as networks.yaml has it."""
    from tabulate import tabulate

    rows = []
    for one in found:
        off = f"{one[objective] / target - 1:+.1%}"
        rows.append([one["arch"], f"{one['macs']:,}", f"{one['params']:,}", off, f"{one['score']:.4f}", f"{one['log_probability']:.1f}"])
    heads = ["network", "MACs", "parameters", "off", "score, inherited", "log-probability"]
    rest = [
        ("target, " + UNITS.get(objective, objective), amount(target, objective)),
        ("epochs of the alphas", str(epochs)),
        ("folder", folder),
    ]
    return tabulate(rows, heads, disable_numparse=True, colalign=["left", *["right"] * 5]) + "\n\n" + table(rest)


def _aim(result: Mapping[str, Any], cost: float) -> list[tuple[str, str]]:
    """The target, what the child has of it, and the limits."""
    name, target = result["objective"], result["target"]
    unit, off = UNITS.get(name, name), f"({cost / target - 1:+.1%})"
    if name in ("macs", "params"):
        rows = [(f"target, {unit}", f"{amount(target, name)} {off}")]
    else:
        rows = [(f"target, {unit}", amount(target, name)), (f"child, {unit}", f"{amount(cost, name)} {off}")]
        rows.append((f"expected, {unit}", amount(result[f"{name}_expected"], name)))
    if "latency_measured" in result:
        measured = result["latency_measured"]
        rows.append(("measured, ms", f"not: {result['latency_not_measured']}" if measured is None else decimal(measured)))
    for key, one in result.get("limits", {}).items():
        rows.append((f"at most, {UNITS.get(key, key)}", f"{amount(one['most'], key)} ({amount(one['cost'], key)})"))
    return rows


def table(rows: list[tuple[str, str]]) -> str:
    """Two columns of text."""
    from tabulate import tabulate

    return tabulate(rows, disable_numparse=True)


def _decided(entropy: float | None) -> list[tuple[str, str]]:
    """How sure a search was of its choice; nothing where it had no alphas."""
    if entropy is None:
        return []
    chance = ": close to chance; raise SEARCH.EPOCHS or SEARCH.ALPHA_LR" if entropy > UNDECIDED else ""
    return [("entropy of the alphas", f"{entropy:.2f}{chance}")]


def _costs(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("MACs", f"{result['macs']:,}"), ("parameters", f"{result['params']:,}")]


def _counted(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the target is compared with, where that is no cost of the network that was trained."""
    if "counted" not in result:
        return []
    return [(f"{UNITS[result['objective']]} with {result['target_classes']:,} classes", f"{result['counted']:,}")]


def _stopped(result: Mapping[str, Any]) -> str:
    return f"stopped, and saved in {result['folder']}; the same command with --resume goes on"
