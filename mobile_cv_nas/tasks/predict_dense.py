"""Detection and segmentation of one image file by weights of this library, drawn into a PNG."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..config.keys import DETECTORS
from ..errors import InputError
from ..files import atomic_write
from ..weights.file import WeightsError
from .dense import load_head

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

TASKS = {"detect": "detector", "segment": "segmenter"}  # and what each needs the weights of
_DRAWN = 480  # pixels: the longer side of a smaller image is enlarged to this, so that names can be read
_TEXT = 15  # pixels
_TINT = 0.6  # of a class's colour over its pixels
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#ffe119", "#9a6324")


class Found(NamedTuple):
    """An object: its label (1 is the first class), class, score in 0..1 and x0, y0, x1, y1 in pixels of the image."""

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]


def predict(task: str, image: str | os.PathLike, weights: str | os.PathLike, output: str | os.PathLike = "", score: float = 0.5) -> str:
    """Draws what `weights` find on an image file, and returns it as a table whose last line names the drawing.

    Args:
        task: detect or segment.
        image: file to look at.
        weights: as tools/train_detector.py or tools/train_segmenter.py leave them.
        output: PNG file to write; "" is the image's name with _detect.png or _segment.png, in the current folder.
        score: of the objects to show, the least.

    Raises:
        InputError: a file that is no image, weights of another task, an output that would replace the image or the weights.
    """
    from tabulate import tabulate

    target = _output(task, image, weights, output)
    if not 0 <= score <= 1:
        raise InputError(f"score {score:g}: give the least score of an object to show, 0 to 1")
    picture = open_image(image)
    network, content = _load(task, weights)
    if task == "detect":
        found = [one for one in detect(network, content, picture) if one.score >= score]
        drawn = draw_boxes(picture, found)
        rows = [[one.name, f"{one.score:.3f}", *(f"{value:.1f}" for value in one.box)] for one in found]
        header, none = ["class", "score", "left", "top", "right", "bottom"], f"no object of score {score:g} or more"
    else:
        mask, classes = segment(network, content, picture), content["classes"]
        drawn = draw_masks(picture, mask, classes)
        rows = [[classes[label], f"{share:.2%}"] for label, share in shares(mask)]
        header, none = ["class", "pixels"], ""
    data = io.BytesIO()
    drawn.save(data, format="PNG")
    atomic_write(target, data.getvalue())
    align = ("left", *["right"] * (len(header) - 1))
    table = tabulate(rows, header, disable_numparse=True, colalign=align) if rows else none
    return f"{table}\nwritten to {target}"


def _output(task: str, image: str | os.PathLike, weights: str | os.PathLike, output: str | os.PathLike) -> Path:
    """The file to write, or InputError if it may not be."""
    target = Path(output or f"{Path(image).stem}_{task}.png")
    if target.suffix.lower() != ".png":
        raise InputError(f"{target}: the drawing is a PNG; give a name that ends in .png")
    for name, path in (("image", image), ("file of the weights", weights)):
        if target.exists() and Path(path).exists() and target.samefile(path):
            raise InputError(f"{target}: is the {name} itself, which the drawing would replace; name another file")
    return target


def open_image(path: str | os.PathLike) -> Image:
    """An image file in RGB, turned as its camera says. Raises InputError."""
    from ..data.images import to_rgb
    from ..model_zoo.predict import read_image

    return to_rgb(read_image(path))


def _load(task: str, weights: str | os.PathLike) -> tuple[torch.nn.Module, dict[str, Any]]:
    """As `load_head`, of weights that are for the task."""
    network, content = load_head(weights)
    name = content["head"]["name"]
    other = "detect" if name in DETECTORS else "segment"
    if task != other:
        raise WeightsError(f"{weights}: the weights of a {TASKS[other]} ({name}), not of a {TASKS[task]}; use --task {other}")
    return network, content


# -- networks -----------------------------------------------------------------------------------------


@torch.inference_mode()
def detect(network: torch.nn.Module, content: dict[str, Any], picture: Image) -> list[Found]:
    """The objects on a PIL image, those of the highest scores first. `network` and `content` are of `load_head`."""
    from torchvision.transforms.v2 import functional

    short, long = sorted(picture.size)
    if short * content["head"]["input_size"] < long:  # nothing is left of it at that size
        raise InputError(f"an image of {picture.width}x{picture.height} pixels is too narrow for a detector; cut it")
    image = functional.to_dtype(functional.to_image(picture), torch.float32, scale=True).as_subclass(Tensor)
    (prediction,) = network([image])
    boxes, labels, scores = (prediction[name].tolist() for name in ("boxes", "labels", "scores"))
    found = [Found(n, content["classes"][n - 1], score, tuple(box)) for box, n, score in zip(boxes, labels, scores, strict=True)]
    return sorted(found, key=lambda one: -one.score)


@torch.inference_mode()
def segment(network: torch.nn.Module, content: dict[str, Any], picture: Image) -> Tensor:
    """The class of each pixel of a PIL image, int64 (H, W). `network` and `content` are of `load_head`.

    The image is squeezed into a square as in training, and the logits are brought back to its own size.
    """
    from torchvision.transforms import v2

    head = content["head"]
    mode = v2.InterpolationMode(head.get("interpolation", "bilinear"))
    steps = [v2.ToImage(), v2.Resize((head["input_size"],) * 2, interpolation=mode, antialias=True)]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(content["mean"], content["std"])]
    logits = network(v2.Compose(steps)(picture).as_subclass(Tensor)[None])["out"]
    size = (picture.height, picture.width)
    best, mask = torch.full(size, -math.inf), torch.zeros(size, dtype=torch.int64)
    for label in range(logits.shape[1]):  # one by one: all classes of a large photograph would need gigabytes
        plane = torch.nn.functional.interpolate(logits[:, label : label + 1], size, mode="bilinear", align_corners=False)[0, 0]
        mask[plane > best] = label
        best = torch.maximum(best, plane)
    return mask


def shares(mask: Tensor) -> list[tuple[int, float]]:
    """The labels of a mask and their shares of its pixels, the largest first."""
    labels, counts = mask.unique(return_counts=True)
    pairs = zip(labels.tolist(), (counts.double() / mask.numel()).tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


# -- drawings -----------------------------------------------------------------------------------------


def draw_boxes(picture: Image, found: Sequence[Found]) -> Image:
    """The image, enlarged if it is small, with the boxes of the objects, their classes and scores."""
    from PIL import ImageDraw

    canvas, scale = _enlarged(picture), _scale(picture)
    draw, font = ImageDraw.Draw(canvas), _font()
    line = max(2, round(max(canvas.size) / 240))
    for one in reversed(found):  # the surest on top
        colour = _colour(one.label)
        corners = [round(value * scale) for value in one.box]
        right, bottom = min(corners[2], canvas.width - 1), min(corners[3], canvas.height - 1)
        left, top = min(max(0, corners[0]), right), min(max(0, corners[1]), bottom)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        text = f"{one.name} {one.score:.2f}"
        width, height = math.ceil(font.getlength(text)) + 6, _TEXT + 5
        x = max(0, min(left, canvas.width - width))
        y = top - height if top >= height else top
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.text((x + 3, y + height / 2), text, fill=_ink(colour), font=font, anchor="lm")
    return canvas


def draw_masks(picture: Image, mask: Tensor, classes: Sequence[str]) -> Image:
    """The image, enlarged if it is small, tinted by class, and beside it the names of the classes that occur.

    A class 0 that is called background is not tinted.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    canvas = _enlarged(picture)
    present = [(label, share) for label, share in shares(mask) if label or classes[0] != "background"]
    palette = np.array([_rgb(_colour(label)) for label in range(len(classes))], np.float64)
    labels = np.array(Image.fromarray(mask.numpy().astype(np.uint8)).resize(canvas.size, Image.Resampling.NEAREST))
    tinted = np.isin(labels, [label for label, _ in present])[..., None] * _TINT
    pixels = np.asarray(canvas, np.float64)
    canvas = Image.fromarray((pixels + tinted * (palette[labels] - pixels)).round().astype(np.uint8))
    if not present:
        return canvas
    font, row = _font(), _TEXT + 9
    names = [f"{classes[label]}  {share:.1%}" for label, share in present]
    panel = row + 26 + math.ceil(max(font.getlength(name) for name in names))
    whole = Image.new("RGB", (canvas.width + panel, max(canvas.height, row * len(names) + 12)), "white")
    whole.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, ((label, _), name) in enumerate(zip(present, names, strict=True)):
        x, y = canvas.width + 8, 6 + number * row
        draw.rectangle((x, y + 4, x + _TEXT, y + 4 + _TEXT), fill=_colour(label))
        draw.text((x + _TEXT + 8, y + 4 + _TEXT / 2), name, fill="#22282f", font=font, anchor="lm")
    return whole


def _scale(picture: Image) -> int:
    return max(1, math.ceil(_DRAWN / max(picture.size)))


def _enlarged(picture: Image) -> Image:
    from PIL import Image

    scale = _scale(picture)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC) if scale > 1 else picture.copy()


def _font() -> FreeTypeFont:
    """The font that comes with matplotlib: it has more alphabets than Pillow's own."""
    import matplotlib
    from PIL import ImageFont

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
