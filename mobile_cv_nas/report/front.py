"""A front: networks by cost and score, and which of them are dominated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..errors import require
from .figures import FAINT, INK, SERIES, figure_file
from .svg import Mark


def dominated(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Of each network, whether another costs no more and scores no less, and is better in one of the two."""
    pairs = list(zip(costs, scores, strict=True))
    return [any(a <= cost and b >= score and (a, b) != (cost, score) for a, b in pairs) for cost, score in pairs]


def draw_front(groups: Sequence[tuple[str, Sequence[Mark]]], path: str | os.PathLike, x_label: str, y_label: str) -> None:
    """Draws scores over costs, a colour a group, with one standard error; dominated networks are grey.

    Args:
        groups: a name ("" for none in the legend) and its networks.
        path: of the PNG.
        x_label, y_label: of the axes.
    """
    marks = [mark for _, group in groups for mark in group]
    require("matplotlib", "search")
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    with figure_file(path, (7.0, 4.6), constrained=True) as figure:
        axes = figure.subplots()
        for number, (name, group) in enumerate(groups):
            colour, shown = SERIES[number % len(SERIES)], sorted(group, key=lambda mark: mark.cost)
            best = [mark for mark in shown if not mark.faint]
            axes.plot([mark.cost for mark in best], [mark.score for mark in best], color=colour, linewidth=1, alpha=0.6)
            for mark in shown:
                _draw_mark(axes, mark, FAINT if mark.faint else colour)
            if name:
                axes.plot([], [], "o", color=colour, label=name)
        if any(mark.faint for mark in marks):
            axes.plot([], [], "o", color=FAINT, label="dominated")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
        costs = [mark.cost for mark in marks]
        if max(costs) > 4 * min(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0.15, y=0.2)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color="#e6e9ec", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _draw_mark(axes: Any, mark: Mark, colour: str) -> None:
    axes.errorbar([mark.cost], [mark.score], yerr=[mark.error] if mark.error else None, fmt="o", color=colour, capsize=2, linewidth=1)
    ink = FAINT if mark.faint else INK
    axes.annotate(mark.name, (mark.cost, mark.score), xytext=(5, 5), textcoords="offset points", fontsize=8, color=ink)
