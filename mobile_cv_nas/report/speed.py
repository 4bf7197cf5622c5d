"""The picture of a benchmark: accuracy over milliseconds, or milliseconds alone where accuracy is not known."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .figures import FAINT, INK, SERIES, figure_file

_MARKS = "os^Dvp*"


def draw_speed(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draws the images of batch 1, or of the smallest batch, one colour and mark a runtime.

    Args:
        rows: each with `source`, `runtime`, `batch`, `cpu` (its `median` in ms) and `accuracy`, a share or None.
        path: of the PNG.
    """
    least = min(row["batch"] for row in rows)
    shown = [row for row in rows if row["batch"] == least]
    known = all(row["accuracy"] is not None for row in shown)
    runtimes = list(dict.fromkeys(row["runtime"] for row in shown))
    sources = list(dict.fromkeys(row["source"] for row in shown))
    with figure_file(path, (6.4, 4.2), constrained=True) as figure:
        axes = figure.subplots()
        for index, runtime in enumerate(runtimes):
            mine = [row for row in shown if row["runtime"] == runtime]
            x = [row["cpu"]["median"] for row in mine]
            y = [100 * row["accuracy"] if known else sources.index(row["source"]) for row in mine]
            axes.plot(x, y, _MARKS[index % len(_MARKS)], color=SERIES[index % len(SERIES)], label=runtime)
            for row, left, low in zip(mine, x, y, strict=True):
                if known:
                    axes.annotate(row["source"], (left, low), xytext=(4, 4), textcoords="offset points", fontsize=7, color=INK)
        if not known:
            axes.set_yticks(range(len(sources)), sources)
            axes.set_ylim(-0.5, len(sources) - 0.5)
        axes.set_ylabel("accuracy, %" if known else "", color=INK)
        axes.set_xlabel(f"ms of CPU time, batch {least}", color=INK)
        axes.set_xlim(left=0)
        axes.grid(color=FAINT, alpha=0.3)
        axes.legend(fontsize=8)
