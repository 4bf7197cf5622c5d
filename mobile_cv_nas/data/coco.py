"""COCO's annotation files: everything is checked before anything is used."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as show  # short, whatever a file holds
from typing import Any

import numpy as np

from ..errors import FileError
from ..files import read_bytes
from .data_set import DataError
from .images import MAX_PIXELS
from .targets import IGNORED, MAX_CLASSES, Annotated, Boxes, CocoMask, check_names, check_present, leaves, pycocotools

_LOG = logging.getLogger(__name__)
MAX_JSON_BYTES = 2_000_000_000  # COCO's own largest has 470 MB
SLACK = 1.0  # pixels by which a box or polygon may leave its image: tools round
_INTS, _FLOATS = "iu", "iuf"  # kinds of NumPy's types


@dataclass(frozen=True)
class _Image:
    id: int
    name: str
    size: tuple[int, int]  # width, height

    def __str__(self) -> str:
        return f"image {self.id} ({self.name}, {self.size[0]}x{self.size[1]})"


def read_coco(annotations: Path, images: Path, task: str) -> Annotated:
    """A file in COCO's format and the folder of its images; `task` is "detect" (Boxes) or "segment" (CocoMask).

    All images are kept, those without objects too, in the file's order; categories are in the order of their ids.
    Raises DataError, which names the file, the image or annotation and the remedy, for anything amiss.
    """
    if task not in ("detect", "segment"):
        raise ValueError(f"task {task!r} is neither 'detect' nor 'segment'")
    if task == "segment":
        pycocotools("mask")  # now rather than at the first batch
    source = str(annotations)
    document = _load(source)
    labels, categories = _categories(_records(document, "categories", source), source)
    if task == "segment" and len(categories) > MAX_CLASSES:
        raise DataError(f"{source}: {len(categories)} categories; a mask holds {MAX_CLASSES} at most")
    known = _images(_records(document, "images", source), source)
    records = _by_image(_records(document, "annotations", source), known, labels, source)
    if not records:
        raise DataError(f"{source}: has no annotations; annotate some images")
    paths = [os.path.join(images, image.name) for image in known.values()]
    missing = [image.name for image, path in zip(known.values(), paths) if not os.path.isfile(path)]
    check_present(missing, len(paths), images, f"images of {os.path.basename(source)}")
    make = _boxes if task == "detect" else _mask
    targets = [make(records.get(image.id, []), image, labels, source) for image in known.values()]
    _report_empty(records, targets, source)
    return Annotated(paths, targets, categories)


def _load(source: str) -> dict[str, Any]:
    try:
        data = read_bytes(source, MAX_JSON_BYTES)
    except FileError as error:
        raise DataError(error) from None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not valid JSON ({str(error)[:100]}); restore the file") from None
    if not isinstance(document, dict):
        raise DataError(f"{source}: not in COCO's format: a {type(document).__name__}, where a mapping is needed")
    return document


def _records(document: dict[str, Any], key: str, source: str) -> list[dict[str, Any]]:
    if key not in document:
        raise DataError(f"{source}: not in COCO's format: no {key!r}; it needs 'images', 'annotations' and 'categories'")
    records = document[key]
    if not isinstance(records, list):
        raise DataError(f"{source}: {key!r} is {show(records)}, where a list is needed")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{source}: {key}[{index}] is {show(record)}, where a mapping is needed")
    if not records:
        raise DataError(f"{source}: {key!r} is empty; name a file that has some")
    return records


def _integer(record: dict[str, Any], key: str, where: str, default: Any = None) -> int:
    value = record.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise DataError(f"{where}: {key!r} is {show(value)}, where a whole number is needed")
    return value


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {key!r} is {show(value)}, where a text is needed")
    return value


def _categories(records: list[dict[str, Any]], source: str) -> tuple[dict[int, int], tuple[str, ...]]:
    """{category id: label} and the names, in the order of the ids."""
    names: dict[int, str] = {}
    for index, record in enumerate(records):
        number = _integer(record, "id", f"{source}: categories[{index}]")
        if number in names:
            raise DataError(f"{source}: two categories have the id {number}; renumber one")
        names[number] = _text(record, "name", f"{source}: category {number}")
    order = sorted(names)
    check_names([names[number] for number in order], source)
    return {number: label for label, number in enumerate(order, 1)}, tuple(names[number] for number in order)


def _images(records: list[dict[str, Any]], source: str) -> dict[int, _Image]:
    images: dict[int, _Image] = {}
    for index, record in enumerate(records):
        number = _integer(record, "id", f"{source}: images[{index}]")
        where = f"{source}: image {number}"
        if number in images:
            raise DataError(f"{source}: two images have the id {number}; renumber one")
        name = _text(record, "file_name", where)
        if leaves(name):
            raise DataError(f"{where}: file name {show(name)} leads out of the folder; use names relative to it")
        width, height = _integer(record, "width", where), _integer(record, "height", where)
        if width < 1 or height < 1 or width * height > MAX_PIXELS:
            raise DataError(f"{where}: {width}x{height} pixels; it needs 1 to {MAX_PIXELS:,}")
        images[number] = _Image(number, name, (width, height))
    return images


def _by_image(records: list[dict[str, Any]], images: dict[int, _Image], labels: dict[int, int], source: str) -> dict[int, list[dict]]:
    """{image id: its annotations}, with ids, categories and crowd flags checked."""
    seen: set[int] = set()
    unknown: list[int] = []
    result: dict[int, list[dict]] = {}
    for index, record in enumerate(records):
        number = _integer(record, "id", f"{source}: annotations[{index}]")
        where = f"{source}: annotation {number}"
        if number in seen:
            raise DataError(f"{source}: two annotations have the id {number}; renumber one")
        seen.add(number)
        category = _integer(record, "category_id", where)
        if category not in labels:
            raise DataError(f"{where}: category {category} is not in 'categories'; add it or correct the annotation")
        if record.get("iscrowd", 0) not in (0, 1):
            raise DataError(f"{where}: 'iscrowd' is {show(record['iscrowd'])}, where 0 or 1 is needed")
        image = _integer(record, "image_id", where)
        if image not in images:
            unknown.append(number)
        result.setdefault(image, []).append(record)
    if unknown:
        names = ", ".join(map(str, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise DataError(
            f"{source}: {len(unknown)} annotations are of images that 'images' lacks (ids {names}); add the images or remove them"
        )
    return result


def _boxes(records: list[dict[str, Any]], image: _Image, labels: dict[int, int], source: str) -> Boxes:
    found = [(_box(record, image, source), labels[int(record["category_id"])], record.get("iscrowd", 0)) for record in records]
    # COCO's own files have boxes of no area; such an object cannot be found
    found = [(box, label, crowd) for box, label, crowd in found if box[2] > box[0] and box[3] > box[1]]
    boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    return Boxes(
        image.id,
        image.size,
        boxes,
        np.array([label for _, label, _ in found], np.int64),
        np.array([crowd for _, _, crowd in found], np.bool_),
    )


def _box(record: dict[str, Any], image: _Image, source: str) -> np.ndarray:
    """x0, y0, x1, y1, float32, clipped to the image."""
    where = f"{source}: annotation {record['id']} of {image}"
    box = record.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        raise DataError(f"{where}: 'bbox' is {show(box)}, where [x, y, width, height] in pixels is needed")
    x, y, width, height = box
    if width < 0 or height < 0:
        raise DataError(f"{where}: bbox {show(box)} has a negative size; it is [x, y, width, height]")
    if x < -SLACK or y < -SLACK or x + width > image.size[0] + SLACK or y + height > image.size[1] + SLACK:
        raise DataError(f"{where}: bbox {show(box)} is outside the image; correct or remove it ([x, y, width, height])")
    corners = np.array([x, y, x + width, y + height], np.float32)
    return corners.clip(0, np.array([*image.size, *image.size], np.float32))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value if abs(value) < 1e18 else math.inf)


def _mask(records: list[dict[str, Any]], image: _Image, labels: dict[int, int], source: str) -> CocoMask:
    values = [IGNORED if record.get("iscrowd", 0) else labels[int(record["category_id"])] for record in records]
    shapes = tuple(_shape(record, image, source) for record in records)
    return CocoMask(source, image.id, image.size, np.array(values, np.uint8), shapes)


def _shape(record: dict[str, Any], image: _Image, source: str) -> bytes | tuple[np.ndarray, ...]:
    where = f"{source}: annotation {record['id']} of {image}"
    shape = record.get("segmentation")
    if isinstance(shape, list) and shape:
        return tuple(_polygon(polygon, image, where) for polygon in shape)
    if isinstance(shape, dict):
        return _runs(shape, image, where)
    raise DataError(f"{where}: 'segmentation' is {show(shape)}, where polygons or run lengths are needed")


def _polygon(polygon: Any, image: _Image, where: str) -> np.ndarray:
    values = _array(polygon, _FLOATS)
    if values is None or len(values) < 6 or len(values) % 2:
        raise DataError(f"{where}: {show(polygon)} is no polygon, which is [x0, y0, x1, y1, x2, y2, ...]")
    values = values.astype(np.float64)  # not less: pycocotools rounds to fifths of a pixel
    x, y = values[::2], values[1::2]
    width, height = image.size
    # written so that NaN fails
    if not (x.min() >= -SLACK and y.min() >= -SLACK and x.max() <= width + SLACK and y.max() <= height + SLACK):
        raise DataError(f"{where}: polygon {show(polygon)} is outside the image; correct or remove it")
    return values


def _runs(shape: dict[str, Any], image: _Image, where: str) -> bytes:
    """Run lengths, compressed: COCO's text of them, as bytes."""
    height_width = [image.size[1], image.size[0]]
    if shape.get("size") != height_width:
        raise DataError(
            f"{where}: run lengths of size {show(shape.get('size'))}, where the image's {height_width} (height, width) is needed"
        )
    counts = shape.get("counts")
    runs = _decompress(counts) if isinstance(counts, str) else _array(counts, _INTS)
    total = image.size[0] * image.size[1]
    if runs is None or runs.min() < 0 or runs.max() > total or runs.sum() != total:
        raise DataError(f"{where}: run lengths {show(counts)} do not add up to the image's {total} pixels; write them again")
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


def _decompress(text: str) -> np.ndarray | None:
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


def _report_empty(records: dict[int, list[dict]], targets: list[Any], source: str) -> None:
    given, kept = sum(map(len, records.values())), sum(len(target.labels) for target in targets)
    if not kept:
        raise DataError(f"{source}: no box has any area; correct the annotations ([x, y, width, height])")
    if kept < given:
        _LOG.warning("%s: %d boxes of no area are left out", source, given - kept)
