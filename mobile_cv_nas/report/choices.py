"""What a search chose, on one page: a line a layer, however wide the space is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..arch import ArchDef, SearchSpace

KINDS = ("block", "channels", "hidden")


def choices_page(space: SearchSpace, arch: ArchDef, probabilities: Mapping[str, Sequence[float]]) -> str:
    """A table: of each layer what the derived network has, its probability under the alphas, and the mean entropy of its choices.

    "=" stands before what was never a choice. Entropy is 1 where all options are alike, 0 where one is sure; a layer over 0.5 is
    marked "?": another search may well choose otherwise.

    Args:
        space: that was searched.
        arch: that was derived; of the space.
        probabilities: softmax(alpha) at the end, by choice.
    """
    from tabulate import tabulate

    picks = space.deciding(space.encode(arch))
    rows: list[list[str]] = []
    if len(space.input_sizes) > 1:
        rows.append(
            ["input size", _cell("input_size", arch.input_size, picks, probabilities), "", "", *_entropy(["input_size"], probabilities)]
        )
    for layer, one in zip(space.layers, arch.layers, strict=True):
        skipped = layer.skip is not None and one.names[0] == "skip"
        names = [f"{layer.key}.{kind}" for kind in KINDS]
        values = [one.names[0], one.channels[0], one.hidden[0]]
        cells = [_cell(name, value, picks, probabilities) for name, value in zip(names, values)]
        if skipped:
            cells[1:] = ["", ""]
        elif not one.hidden[0]:
            cells[2] = ""
        rows.append([layer.key, *cells, *_entropy(names, probabilities)])
    return tabulate(rows, ["layer", "block", "channels", "hidden", "entropy", ""], disable_numparse=True) + "\n"


def _cell(name: str, value: object, picks: Mapping[str, int], probabilities: Mapping[str, Sequence[float]]) -> str:
    if name not in probabilities:
        return f"= {value}"
    return f"{value}  {probabilities[name][picks[name]]:.2f}" if name in picks else ""


def _entropy(names: Sequence[str], probabilities: Mapping[str, Sequence[float]]) -> list[str]:
    values = [entropy(probabilities[name]) for name in names if name in probabilities]
    if not values:
        return ["", ""]
    mean = sum(values) / len(values)
    return [f"{mean:.2f}", "?" if mean > 0.5 else ""]


def entropy(probabilities: Sequence[float]) -> float:
    """Of a distribution, over that of the uniform one."""
    return -sum(p * math.log(p) for p in probabilities if p > 0) / math.log(len(probabilities))
