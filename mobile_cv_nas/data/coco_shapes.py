"""COCO's shapes: polygons and run lengths, checked against their image."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import shown
from .data_set import DataError
from .images import MAX_PIXELS
from .targets import pycocotools

SLACK = 1.0  # pixels by which a box or polygon may leave its image: tools round
_INTS, _FLOATS = "iu", "iuf"  # kinds of NumPy's types


def read_shape(shape: Any, size: tuple[int, int], where: str) -> bytes | tuple[np.ndarray, ...]:
    """A segmentation as `CocoMask` keeps it, of an image of that (width, height). Raises DataError, which begins with `where`."""
    if isinstance(shape, list) and shape:
        return tuple(_polygon(polygon, size, where) for polygon in shape)
    if isinstance(shape, dict):
        return _runs(shape, size, where)
    raise DataError(f"{where}: 'segmentation' is {shown(shape)}, where polygons or run lengths are needed")


def _polygon(polygon: Any, size: tuple[int, int], where: str) -> np.ndarray:
    values = _array(polygon, _FLOATS)
    if values is None or len(values) < 6 or len(values) % 2:
        raise DataError(f"{where}: {shown(polygon)} is no polygon, which is [x0, y0, x1, y1, x2, y2, ...]")
    values = values.astype(np.float64)  # not less: pycocotools rounds to fifths of a pixel
    x, y = values[::2], values[1::2]
    width, height = size
    # written so that NaN fails
    if not (x.min() >= -SLACK and y.min() >= -SLACK and x.max() <= width + SLACK and y.max() <= height + SLACK):
        raise DataError(f"{where}: polygon {shown(polygon)} is outside the image; correct or remove it")
    return values


def _runs(shape: dict[str, Any], size: tuple[int, int], where: str) -> bytes:
    """Run lengths, compressed: COCO's text of them, as bytes."""
    height_width = [size[1], size[0]]
    if shape.get("size") != height_width:
        raise DataError(
            f"{where}: run lengths of size {shown(shape.get('size'))}, where the image's {height_width} (height, width) is needed"
        )
    counts = shape.get("counts")
    runs = decompress(counts) if isinstance(counts, str) else _array(counts, _INTS)
    total = size[0] * size[1]
    if runs is None or runs.min() < 0 or runs.max() > total or runs.sum() != total:
        raise DataError(f"{where}: run lengths {shown(counts)} do not add up to the image's {total} pixels; write them again")
    if isinstance(counts, str):
        return counts.encode()
    return bytes(pycocotools("mask").frPyObjects({"size": height_width, "counts": runs.tolist()}, *height_width)["counts"])


def _array(values: Any, kinds: str) -> np.ndarray | None:
    """A list of numbers as an array of one dimension, at least one long; None if it is anything else."""
    if not isinstance(values, list) or not values:
        return None
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in kinds else None


def decompress(text: str) -> np.ndarray | None:
    """The run lengths of COCO's text: 6 bits a character, of which one says that more follow; from the fourth run on, differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("utf-8", "replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
        if not 0 <= runs[-1] <= MAX_PIXELS:
            return None
    return np.array(runs, np.int64) if runs and not shift else None
