"""Drawings of what a model says of an image: names, boxes, or tinted pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

_DRAWN = 480  # pixels: the longer side of a smaller image is enlarged to this, so that names can be read
_TEXT = 15  # pixels
_TINT = 0.6  # of a class's colour over its pixels
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#ffe119", "#fabed4")


def draw_labels(picture: Image, labels: Sequence[str], scores: Sequence[float]) -> Image:
    """The image, enlarged if it is small, and beside it the names of its most probable classes."""
    lines = [(f"{name}  {score:.1%}", None) for name, score in zip(labels, scores, strict=True)]
    return _with_panel(_enlarged(picture), lines)


def draw_lines(picture: Image, lines: Sequence[str]) -> Image:
    """The image, enlarged if it is small, and beside it lines of text."""
    return _with_panel(_enlarged(picture), [(line, None) for line in lines])


def draw_boxes(
    picture: Image, labels: Sequence[str], scores: Sequence[float], indices: Sequence[int], boxes: Sequence[Sequence[float]]
) -> Image:
    """The image, enlarged if it is small, with the boxes (x0, y0, x1, y1 in pixels) of objects, their classes and scores."""
    from PIL import ImageDraw

    canvas, scale = _enlarged(picture), _scale(picture)
    draw, font = ImageDraw.Draw(canvas), _font()
    line = max(2, round(max(canvas.size) / 240))
    for name, score, index, box in reversed(list(zip(labels, scores, indices, boxes, strict=True))):  # the surest on top
        colour = _colour(index + 1)
        corners = [round(value * scale) for value in box]
        right, bottom = min(corners[2], canvas.width - 1), min(corners[3], canvas.height - 1)
        left, top = min(max(0, corners[0]), right), min(max(0, corners[1]), bottom)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        text = f"{name} {score:.2f}"
        width, height = math.ceil(font.getlength(text)) + 6, _TEXT + 5
        x = max(0, min(left, canvas.width - width))
        y = top - height if top >= height else top
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.text((x + 3, y + height / 2), text, fill=_ink(colour), font=font, anchor="lm")
    return canvas


def draw_masks(picture: Image, mask: Tensor, classes: Sequence[str]) -> Image:
    """The image, enlarged if it is small, tinted by the class of each pixel of `mask` (H, W), and beside it the names that occur.

    A class 0 that is called background is not tinted.
    """
    import numpy as np
    from PIL import Image

    canvas = _enlarged(picture)
    labels, counts = mask.unique(return_counts=True)
    pairs = sorted(zip(labels.tolist(), (counts.double() / mask.numel()).tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    present = [(label, share) for label, share in pairs if label or classes[0] != "background"]
    palette = np.array([_rgb(_colour(label)) for label in range(len(classes))], np.float64)
    labels = np.array(Image.fromarray(mask.numpy().astype(np.uint8)).resize(canvas.size, Image.Resampling.NEAREST))
    tinted = np.isin(labels, [label for label, _ in present])[..., None] * _TINT
    pixels = np.asarray(canvas, np.float64)
    canvas = Image.fromarray((pixels + tinted * (palette[labels] - pixels)).round().astype(np.uint8))
    return _with_panel(canvas, [(f"{classes[label]}  {share:.1%}", _colour(label)) for label, share in present])


def _with_panel(canvas: Image, lines: Sequence[tuple[str, str | None]]) -> Image:
    """The image with a white panel beside it: lines of text, each after a square of its colour if it has one."""
    from PIL import Image, ImageDraw

    if not lines:
        return canvas
    font, row = _font(), _TEXT + 9
    panel = row + 26 + math.ceil(max(font.getlength(text) for text, _ in lines))
    whole = Image.new("RGB", (canvas.width + panel, max(canvas.height, row * len(lines) + 12)), "white")
    whole.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (text, colour) in enumerate(lines):
        x, y = canvas.width + 8, 6 + number * row
        if colour is not None:
            draw.rectangle((x, y + 4, x + _TEXT, y + 4 + _TEXT), fill=colour)
        draw.text((x + (0 if colour is None else _TEXT + 8), y + 4 + _TEXT / 2), text, fill="#22282f", font=font, anchor="lm")
    return whole


def _scale(picture: Image) -> int:
    return max(1, math.ceil(_DRAWN / max(picture.size)))


def _enlarged(picture: Image) -> Image:
    from PIL import Image

    scale = _scale(picture)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC) if scale > 1 else picture.copy()


def _font() -> Any:
    """The font that comes with matplotlib, which has more alphabets than Pillow's own; that one where matplotlib is missing."""
    from PIL import ImageFont

    try:
        import matplotlib
    except ImportError:
        return ImageFont.load_default(_TEXT)
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _TEXT)


def _colour(label: int) -> str:
    """Of a label: ten colours, and from the eleventh label on darker shades of them."""
    colour = _COLOURS[(label - 1) % len(_COLOURS)]
    shade = 0.75 ** ((label - 1) // len(_COLOURS) % 4) if label else 0.5
    return "#" + "".join(f"{round(value * shade):02x}" for value in _rgb(colour))


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _ink(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    red, green, blue = _rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
