"""The results of runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
NAMES |= {"ap": "box AP", "ap50": "box AP50", "ap75": "box AP75"}
UNDECIDED = 0.5  # mean normalised entropy of the alphas, above which a choice is close to chance
_UNITS = {"macs": "MACs", "params": "parameters", "latency": "ms", "memory": "bytes of maps"}


def name_of(key: str) -> str:
    """What people call a score."""
    return NAMES.get(key, key)


def result_table(result: Mapping[str, Any], weights: str) -> str:
    """The result of a training, of which `weights` is the file; or where it was stopped."""
    if not result["finished"]:
        return _stopped(result)
    rows = [(f"test {name_of(key)}", f"{result[key]:.4f}") for key in NAMES if key in result]
    rows += [(f"validation {name_of(key)}", f"{result[f'val_{key}']:.4f}") for key in NAMES if f"val_{key}" in result]
    rows += [*_costs(result), ("skipped images", str(result["skipped_images"])), ("weights", weights)]
    return table(rows)


def search_table(result: Mapping[str, Any], folder: str, seconds: tuple[float, float], found_by: str = "search") -> str:
    """The result of a search and of the training of its child; or where it was stopped."""
    if not result["finished"]:
        return _stopped(result)
    if "targets" in result:
        return _targets_table(result["targets"], folder, seconds)
    cost, key = result.get("counted", result[result["objective"]]), next((k for k in ("top1", "miou", "ap50") if f"val_{k}" in result), "")
    how, compared = result["derived_in_words"], result["candidates_compared"]
    if compared:
        how += f", best of {compared} compared, {result['candidates_within']} near the target"
    scores = [(of, prefix + key) for of, prefix in (("test", ""), ("validation", "val_")) if prefix + key in result]
    return table(
        [
            *((f"{of} {name_of(key)}", f"{result[name]:.4f}") for of, name in scores),
            *_costs(result),
            *_counted(result),
            *_aim(result, cost),
            ("derived", how),
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
    rest = [("target, " + _UNITS.get(objective, objective), f"{target:,.0f}"), ("epochs of the alphas", str(epochs)), ("folder", folder)]
    return tabulate(rows, heads, disable_numparse=True, colalign=["left", *["right"] * 5]) + "\n\n" + table(rest)


def _aim(result: Mapping[str, Any], cost: float) -> list[tuple[str, str]]:
    """The target, what the child has of it, and the limits."""
    name, target = result["objective"], result["target"]
    unit, off = _UNITS.get(name, name), f"({cost / target - 1:+.1%})"
    if name in ("macs", "params"):
        rows = [(f"target, {unit}", f"{target:,.0f} {off}")]
    else:
        rows = [(f"target, {unit}", f"{target:,.4g}"), (f"child, {unit}", f"{cost:,.4g} {off}")]
        rows.append((f"expected, {unit}", f"{result[f'{name}_expected']:,.4g}"))
    if "latency_measured" in result:
        measured = result["latency_measured"]
        rows.append(("measured, ms", f"not: {result['latency_not_measured']}" if measured is None else f"{measured:.4g}"))
    for key, one in result.get("limits", {}).items():
        rows.append((f"at most, {_UNITS.get(key, key)}", f"{one['most']:,.5g} ({one['cost']:,.5g})"))
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
    return [(f"{_UNITS[result['objective']]} with {result['target_classes']:,} classes", f"{result['counted']:,}")]


def _stopped(result: Mapping[str, Any]) -> str:
    return f"stopped, and saved in {result['folder']}; the same command with --resume goes on"
