"""The picture of a latency table: predicted over measured milliseconds of networks that it was not fitted to."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .figures import FAINT, INK, SERIES, figure_file


def draw_latency(
    measured: Sequence[float], predicted: Sequence[float], by_macs: Sequence[float], path: str | os.PathLike, words: tuple[str, str, str]
) -> None:
    """Draws both predictions over what was measured, and the line on which they would be right.

    Args:
        measured, predicted, by_macs: milliseconds, in the same order.
        path: of the PNG.
        words: the title, and what to call the two predictions.
    """
    title, table, macs = words
    every = [*measured, *predicted, *by_macs]
    low, high = 0.95 * min(every), 1.05 * max(every)
    with figure_file(path, (5.2, 5.0), constrained=True) as figure:
        axes = figure.subplots()
        axes.plot([low, high], [low, high], color=FAINT, linewidth=1, linestyle="--")
        axes.plot(measured, by_macs, "s", color=SERIES[1], markersize=5, alpha=0.6, label=macs)
        axes.plot(measured, predicted, "o", color=SERIES[0], markersize=5, label=table)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.set_xlabel("measured, ms", color=INK)
        axes.set_ylabel("predicted, ms", color=INK)
        axes.set_title(title, fontsize=9, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e9ec", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
