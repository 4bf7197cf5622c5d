"""digit_scenes: handwritten digits strewn over small canvases, with boxes and masks that are known exactly.

The digits are scikit-learn's scans of 8x8 pixels, enlarged. Everything is drawn from fixed seeds.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..weights.fetch import cache_folder
from .data_set import DataError
from .digits import digits as read_digits

_LOG = logging.getLogger(__name__)
SIZE = 128  # pixels, of the square canvas
COUNTS = {"train": 1600, "val": 200, "test": 400}  # scenes
SIDES = (28, 60)  # pixels, of an enlarged scan
MOST = 5  # digits of a scene; two at least
VISIBLE = 0.7  # the least share of a digit's strokes that later digits leave to be seen
BOX_OVERLAP = 0.25  # the highest IoU of two digits' boxes
INK = 0.4  # of the full intensity of a scan, from where on a pixel is a stroke
_SEED = 128
_HUFFMAN = 2  # zlib's Z_HUFFMAN_ONLY: of noise it makes smaller files than its other ways, in a sixth of the time


def digit_scenes(root: str = "") -> Path:
    """The folder of digit_scenes, written if it is not there: `root`, else one in the cache folder.

    Raises DataError if it cannot be written, or `root` holds something else.
    """
    folder = Path(os.path.expanduser(root)) if root else cache_folder() / "digit_scenes_v1"
    if _complete(folder):
        return folder
    _LOG.info("writing digit_scenes to %s", folder)
    return write_digit_scenes(folder)


def write_digit_scenes(folder: str | os.PathLike, counts: Mapping[str, int] = COUNTS) -> Path:
    """Writes images to FOLDER/train, val and test, and annotations/instances_{train,val,test}.json in COCO's format.

    The category ids 1 to 10 are the digits 0 to 9. The folder takes its name once it is whole; of several processes
    one wins. The first scenes of a split do not depend on how many there are. Raises DataError.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not _complete(folder):
            raise DataError(f"{folder}: is there and holds no whole digit_scenes; name an empty folder or remove it")
        (temporary / "annotations").mkdir(parents=True)
        for split, scans in _scans().items():
            _write_split(temporary, split, scans, counts[split])
        try:
            temporary.rename(folder)  # an empty folder of that name gives way
        except OSError:
            if not _complete(folder):  # else another process was first
                raise
    except OSError as error:
        reason = error.strerror or error
        remedy = "free some space, or set DATA.ROOT to a folder that you may write"
        raise DataError(f"{folder}: digit_scenes cannot be written there: {reason}; {remedy}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _complete(folder: Path) -> bool:
    return all(os.path.isfile(folder / "annotations" / f"instances_{split}.json") for split in COUNTS)


# -- drawing ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scans:
    """The scans of one split: float64 (N, 8, 8) in 0..1 and the digits they show."""

    images: np.ndarray
    digits: np.ndarray


@dataclass(eq=False)
class _Digit:
    """A digit on the canvas."""

    digit: int
    top: int
    left: int
    ink: np.ndarray  # (h, w) float64: how much of the digit's colour covers a pixel
    strokes: np.ndarray  # (h, w) bool
    visible: np.ndarray  # (SIZE, SIZE) bool: the strokes that no later digit covers

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of all strokes: a scan is cut to them."""
        return self.left, self.top, self.left + self.ink.shape[1], self.top + self.ink.shape[0]


def _scans() -> dict[str, _Scans]:
    """The splits of the data set `digits`: no scan is in two of them."""
    data = read_digits()
    images = np.asarray(data.train.source.images[:, 0], np.float64)
    digits = np.asarray(data.train.source.labels)
    splits = {"train": data.train, "val": data.val, "test": data.test}
    chosen = {name: list(split.indices) for name, split in splits.items() if split is not None}
    return {name: _Scans(images[indices], digits[indices]) for name, indices in chosen.items()}


def _scene(scans: _Scans, rng: np.random.Generator) -> tuple[np.ndarray, list[_Digit]]:
    """A canvas, uint8 (SIZE, SIZE, 3), and its digits, the later above the earlier."""
    digits = _place(scans, rng)
    canvas = _background(rng)
    for digit in digits:
        x0, y0, x1, y1 = digit.box
        patch = canvas[y0:y1, x0:x1]
        colour = np.clip(patch[digit.strokes].mean() + rng.uniform(0.25, 0.5) + rng.uniform(-0.08, 0.08, 3), 0, 1)
        ink = digit.ink[..., None]
        patch += ink * (colour - patch)
    canvas += rng.normal(size=canvas.shape) * rng.uniform(0.01, 0.05)
    # 5 bits a channel: less noise to store, and hardly a difference to see
    return (canvas.clip(0, 1) * 31).round().astype(np.uint8) * 8, digits


def _place(scans: _Scans, rng: np.random.Generator) -> list[_Digit]:
    digits: list[_Digit] = []
    count = rng.integers(2, MOST + 1)
    chosen = rng.choice(len(scans.images), MOST, replace=False)
    tries = 0
    while len(digits) < count and (tries < 60 or len(digits) < 2):
        tries += 1
        index = chosen[len(digits)]
        height = rng.integers(SIDES[0], SIDES[1] + 1)
        width = np.clip(round(height * rng.uniform(0.8, 1.15)), *SIDES)
        ink, strokes = _enlarge(scans.images[index], int(height), int(width))
        top, left = rng.integers(SIZE - ink.shape[0] + 1), rng.integers(SIZE - ink.shape[1] + 1)
        visible = np.zeros((SIZE, SIZE), bool)
        visible[top : top + ink.shape[0], left : left + ink.shape[1]] = strokes
        digit = _Digit(int(scans.digits[index]), int(top), int(left), ink, strokes, visible)
        if all(_may_cover(digit, other) for other in digits):
            for other in digits:
                other.visible &= ~visible
            digits.append(digit)
    return digits


def _may_cover(above: _Digit, below: _Digit) -> bool:
    a, b = above.box, below.box
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return True
    union = above.ink.size + below.ink.size - width * height
    seen = (below.visible & ~above.visible).sum()
    return width * height <= BOX_OVERLAP * union and seen >= VISIBLE * below.strokes.sum()


def _enlarge(scan: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan at a size, cut to its strokes: how much ink covers each pixel, and where the strokes are."""
    # rounded: the last bits of a product differ between machines
    smooth = (_bicubic(height) @ scan @ _bicubic(width).T).round(6)
    strokes = smooth >= INK
    rows, columns = np.flatnonzero(strokes.any(1)), np.flatnonzero(strokes.any(0))
    cut = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return ((smooth[cut] - INK) / 0.4 + 0.5).clip(0, 1), strokes[cut]  # half covered at the edge of a stroke


@cache
def _bicubic(size: int) -> np.ndarray:
    """(size, 8): the weights of 8 pixels in each of `size`, by Keys' kernel with a = -0.5; outside is empty."""
    centres = (np.arange(size) + 0.5) * 8 / size - 0.5
    x = np.abs(centres[:, None] - np.arange(8))
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _background(rng: np.random.Generator) -> np.ndarray:
    """A gradient from one dark colour to another, float64 (SIZE, SIZE, 3)."""
    brightness = rng.uniform(0.1, 0.4)
    first, second = brightness + rng.uniform(-0.1, 0.1, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.linspace(-0.5, 0.5, SIZE)
    slope = (np.cos(angle) * steps + np.sin(angle) * steps[:, None]) / np.sqrt(2) + 0.5  # 0..1
    canvas = first + slope[..., None] * (second - first)
    return canvas.clip(0, 1)


# -- writing ------------------------------------------------------------------------------------------


def _write_split(folder: Path, split: str, scans: _Scans, count: int) -> None:
    from PIL import Image

    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([_SEED, sorted(COUNTS).index(split), number])
        canvas, digits = _scene(scans, rng)
        name = f"{number:06d}.png"
        Image.fromarray(canvas).save(folder / split / name, compress_type=_HUFFMAN)
        images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        for digit in digits:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotation(digit)})
    document = {
        "info": {"description": "digit_scenes: scikit-learn's handwritten digits on canvases", "version": "1"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)],
    }
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def _annotation(digit: _Digit) -> dict[str, Any]:
    """Box and mask of the strokes that can be seen."""
    rows, columns = np.flatnonzero(digit.visible.any(1)), np.flatnonzero(digit.visible.any(0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": digit.digit + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(digit.visible.sum()),
        "segmentation": {"size": [SIZE, SIZE], "counts": _runs(digit.visible)},
        "iscrowd": 0,
    }


def _runs(mask: np.ndarray) -> list[int]:
    """COCO's run lengths: down the columns, the first of background."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    starts = [0] if not flat[0] else [0, 0]
    return np.diff([*starts, *ends.tolist(), flat.size]).tolist()
