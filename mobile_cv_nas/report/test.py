"""What a test leaves beside its scores: accuracy by class, the confusion matrix as a figure, the worst images."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.bands import as_picture
from ..data.images import BadImage, open_image
from ..data.loader import Loader
from ..engine.runtime import Runtime
from ..files import atomic_write
from .figures import INK, figure_file
from .predictions import draw_lines

TEST = "test"  # the folder in that of a training
_WORST = 12  # images
_DRAWN = 100  # classes of a confusion matrix that can be read


@dataclass
class Examination:
    """What a test keeps beside its scores, filled by `Task.evaluate`.

    Attributes:
        confusion: (classes, classes) int64, rows true, of images or of pixels, over all processes; None for a detector.
        per_class: of each class its accuracy, IoU or AP50, in 0..1; NaN for a class that no image holds.
        images: of this process, in the order of its batches: how bad (loss, or share of wrong pixels), true and predicted class.
    """

    confusion: Tensor | None = None
    per_class: dict[str, float] = field(default_factory=dict)
    images: list[tuple[float, int | None, int | None]] = field(default_factory=list)


def worst_images(kept: Examination, loader: Loader, runtime: Runtime) -> list[dict[str, Any]]:
    """The images that a network is most wrong about, worst first: name, index in the data set, how bad, true and predicted class.

    `loader` is the one that was tested on; a call that all processes make.
    """
    rank, world = loader.shard
    places = [place for place in range(rank, len(loader.split), world) if place not in loader.skipped]
    rows: list[dict[str, Any]] = []
    for place, (bad, true, guess) in zip(places, kept.images, strict=False):  # a detector keeps none
        if true != guess or (true is None and bad > 0):
            index = loader.split.indices[place]
            rows.append({"image": loader.split.source.name(index), "index": index, "badness": bad, "true": true, "predicted": guess})
    rows.sort(key=lambda row: -row["badness"])
    found = [row for part in runtime.gather(rows[:_WORST]) for row in part]
    return sorted(found, key=lambda row: -row["badness"])[:_WORST]


def class_rows(kept: Examination, most: int = 10) -> list[tuple[str, str]]:
    """Lines of a table: every class, or the worst of many."""
    known = [(name, value) for name, value in kept.per_class.items() if not math.isnan(value)]
    if len(known) > most:
        known = sorted(known, key=lambda pair: pair[1])[:most]
        return [(f"  {name} (of the worst {most})", f"{value:.4f}") for name, value in known]
    return [(f"  {name}", f"{value:.4f}") for name, value in known]


def write_test(
    folder: Path, scores: Mapping[str, float], kept: Examination, worst: Sequence[Mapping[str, Any]], loader: Loader, classes: Sequence[str]
) -> list[str]:
    """Writes test.json, and as far as there are such confusion.png and worst_*.png. Returns the names of the files.

    Raises FileError if one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "scores": dict(scores),
        "classes": list(classes),
        "per_class": {name: None if math.isnan(value) else value for name, value in kept.per_class.items()},
        "confusion": None if kept.confusion is None else kept.confusion.tolist(),
        "worst": list(worst),
    }
    atomic_write(folder / "test.json", json.dumps(content, indent=1) + "\n")
    names = ["test.json"]
    if kept.confusion is not None and len(classes) <= _DRAWN and importlib.util.find_spec("matplotlib"):
        draw_confusion(kept.confusion.double(), classes, folder / "confusion.png")
        names.append("confusion.png")
    source = loader.split.source
    for old in folder.glob("worst_*.png"):
        old.unlink()
    if source.normalised:
        return names  # no pictures
    for number, row in enumerate(worst, 1):
        try:
            picture = as_picture(open_image(source.item(row["index"])[0], channels=loader.channels))
        except BadImage:
            continue
        texts = [f"{row['badness']:.1%} of the pixels wrong"] if row["true"] is None else [f"is {classes[row['true']]}"]
        texts += [] if row["true"] is None else [f"taken for {classes[row['predicted']]}"]
        draw_lines(picture, texts).save(folder / f"worst_{number:02}.png")
        names.append(f"worst_{number:02}.png")
    return names


def draw_confusion(counts: Any, classes: Sequence[str], path: Path) -> None:
    """A square of true by predicted classes, each row as shares of its class; shares are written where there is room."""
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    side = max(3.6, 1.6 + 0.34 * len(classes))
    with figure_file(path, (side + 1, side), constrained=True) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [name if len(name) <= 20 else name[:19] + "…" for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title("share of each true class", fontsize=10, color=INK)
        if len(classes) <= 20:
            for row in range(len(classes)):
                for column in range(len(classes)):
                    value = shares[row, column]
                    if value >= 0.005:
                        colour = "white" if value > 0.5 else INK
                        axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=6, color=colour)
        figure.colorbar(image, ax=axes, fraction=0.04)
