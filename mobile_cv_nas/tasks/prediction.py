"""What a model says of an image."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..files import atomic_write


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image; `str()` is a table.

    Attributes:
        labels: names of classes: the most probable ones, of each object, or those that occur in a mask, the largest first.
        scores: of each label, 0 to 1: its probability, the score of the object, or its share of the pixels.
        indices: of each label, its place among the model's classes.
        boxes: of each object, x0, y0, x1, y1 in pixels of the image; None where there are none to find.
        mask: int64 (H, W), the index of the class of each pixel; None likewise.
        classes: all names.
        picture: the PIL image, for `draw`.
    """

    labels: list[str]
    scores: list[float]
    indices: list[int]
    boxes: list[tuple[float, float, float, float]] | None = None
    mask: Tensor | None = field(default=None, repr=False)
    classes: Sequence[str] = field(default=(), repr=False)
    picture: Any = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: labels, scores and indices, and boxes or mask (rows of indices) where there are any."""
        found: dict[str, Any] = {"labels": list(self.labels), "scores": list(self.scores), "indices": list(self.indices)}
        if self.boxes is not None:
            found["boxes"] = [list(box) for box in self.boxes]
        if self.mask is not None:
            found["mask"] = self.mask.tolist()
        return found

    def __str__(self) -> str:
        from tabulate import tabulate

        if not self.labels:
            return "nothing found"
        if self.boxes is not None:
            rows = [[name, f"{s:.3f}", *(f"{v:.1f}" for v in box)] for name, s, box in zip(self.labels, self.scores, self.boxes)]
            header = ["class", "score", "left", "top", "right", "bottom"]
        else:
            rows = [[name, f"{score:.2%}"] for name, score in zip(self.labels, self.scores)]
            header = ["class", "probability" if self.mask is None else "pixels"]
        return tabulate(rows, header, disable_numparse=True, colalign=("left", *["right"] * (len(header) - 1)))

    def draw(self, path: str | os.PathLike) -> Path:
        """Draws what was found on the image, into a PNG file. Raises InputError if there is no picture or the name ends otherwise."""
        from ..report.predictions import draw_boxes, draw_labels, draw_masks

        target = Path(path)
        if target.suffix.lower() != ".png":
            raise InputError(f"{target}: the drawing is a PNG; give a name that ends in .png")
        if self.picture is None:
            raise InputError("a prediction on a tensor has no picture to draw on; give an image")
        if self.boxes is not None:
            drawn = draw_boxes(self.picture, self.labels, self.scores, self.indices, self.boxes)
        elif self.mask is not None:
            drawn = draw_masks(self.picture, self.mask, self.classes)
        else:
            drawn = draw_labels(self.picture, self.labels, self.scores)
        data = io.BytesIO()
        drawn.save(data, format="PNG")
        atomic_write(target, data.getvalue())
        return target
