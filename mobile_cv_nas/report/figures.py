"""What all figures share: colours, and how a figure becomes a file."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

from ..errors import require
from ..files import atomic_write

INK, FAINT, RED = "#22282f", "#9aa4af", "#c8323c"
SERIES = ("#2f6db5", "#e07b1f", "#3d9a63")


@contextlib.contextmanager
def figure_file(path: str | os.PathLike, size: tuple[float, float], constrained: bool = False) -> Iterator[Any]:
    """A figure that is written to `path` at the end; no display and no global pyplot state is needed."""
    FigureCanvasAgg = require("matplotlib.backends.backend_agg", "search").FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    yield figure
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, facecolor="white")
    atomic_write(path, data.getvalue())
