"""The results of runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
NAMES |= {"ap": "box AP", "ap50": "box AP50", "ap75": "box AP75"}
UNDECIDED = 0.5  # mean normalised entropy of the alphas, above which a choice is close to chance
_UNITS = {"macs": "MACs", "params": "parameters"}


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


def search_table(result: Mapping[str, Any], folder: str, seconds: tuple[float, float]) -> str:
    """The result of a search and of the training of its child; or where it was stopped."""
    if not result["finished"]:
        return _stopped(result)
    cost, key = result[result["objective"]], next((k for k in ("top1", "miou", "ap50") if f"val_{k}" in result), "")
    how, compared = result["derived_in_words"], result["candidates_compared"]
    if compared:
        how += f", best of {compared} compared, {result['candidates_within']} near the target"
    scores = [(of, prefix + key) for of, prefix in (("test", ""), ("validation", "val_")) if prefix + key in result]
    return table(
        [
            *((f"{of} {name_of(key)}", f"{result[name]:.4f}") for of, name in scores),
            *_costs(result),
            (f"target, {_UNITS[result['objective']]}", f"{result['target']:,.0f} ({cost / result['target'] - 1:+.1%})"),
            ("derived", how),
            *_decided(result.get("entropy")),
            ("search", f"{seconds[0]:.0f} s"),
            ("training and test", f"{seconds[1]:.0f} s"),
            ("result folder", folder),
        ]
    )


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


def _stopped(result: Mapping[str, Any]) -> str:
    return f"stopped, and saved in {result['folder']}; the same command with --resume goes on"
