"""COCO's annotation files: everything is checked before anything is used."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError, listed, shown
from ..files import read_bytes
from .coco_shapes import SLACK, read_shape
from .data_set import DataError
from .images import MAX_PIXELS
from .targets import IGNORED, MAX_CLASSES, Annotated, Boxes, CocoMask, check_names, check_present, leaves, pycocotools

_LOG = logging.getLogger(__name__)
MAX_JSON_BYTES = 2_000_000_000  # COCO's own largest has 470 MB


@dataclass(frozen=True)
class _Image:
    id: int
    name: str
    size: tuple[int, int]  # width, height

    def __str__(self) -> str:
        return f"image {self.id} ({self.name}, {self.size[0]}x{self.size[1]})"


class _Bad:
    """What to do with records that cannot be used: `stop` at the first, or `skip` and count them."""

    def __init__(self, on_bad: str):
        self.skip = on_bad == "skip"
        self.found: list[str] = []

    def checked(self, read: Callable[..., Any], *args: Any) -> Any:
        """What `read` gives; None for a bad record."""
        try:
            return read(*args)
        except DataError as error:
            if not self.skip:
                raise
            self.found.append(str(error))
            return None

    def report(self, source: str, total: int, most: float) -> None:
        """Says once what was left out. Raises DataError if that is more than the share `most`."""
        if not self.found:
            return
        if len(self.found) > most * total:
            raise DataError(
                f"{source}: {len(self.found)} of {total} records cannot be used, more than DATA.MAX_SKIPPED_SHARE {most:g} "
                f"({self.found[0].removeprefix(source + ': ')}); mend the file or raise that share"
            )
        first = self.found[0].removeprefix(source + ": ")
        _LOG.warning("%s: %d of %d records are left out, the first because: %s", source, len(self.found), total, first)


def read_coco(annotations: Path, images: Path, task: str, on_bad: str = "stop", most: float = 0.01) -> Annotated:
    """A file in COCO's format and the folder of its images; `task` is "detect" (Boxes) or "segment" (CocoMask).

    All images are kept, those without objects too, in the file's order; categories are in the order of their ids.
    `on_bad`: stop, or skip records that cannot be used, up to the share `most` of all.
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
    bad = _Bad(on_bad)
    listed_images, listed_objects = _records(document, "images", source), _records(document, "annotations", source)
    known = _images(listed_images, source, bad)
    records = _by_image(listed_objects, known, labels, source, bad)
    paths = _present(known, images, source, bad)
    make = _boxes if task == "detect" else _mask
    before = len(bad.found)
    targets = [make(records.get(number, []), known[number], labels, source, bad) for number in paths]
    bad.report(source, len(listed_images) + len(listed_objects), most)
    _report_empty(sum(len(records.get(number, [])) for number in paths) - (len(bad.found) - before), targets, source)
    return Annotated(list(paths.values()), targets, categories)


def _present(known: dict[int, _Image], folder: Path, source: str, bad: _Bad) -> dict[int, str]:
    """{image id: its path} of those whose file is there."""
    paths = {number: os.path.join(folder, image.name) for number, image in known.items()}
    missing = {number for number, path in paths.items() if not os.path.isfile(path)}
    if not bad.skip:
        check_present([known[number].name for number in missing], len(paths), folder, f"images of {os.path.basename(source)}")
    bad.found += [f"{source}: {known[number]}: no such file in {folder}" for number in missing]
    return {number: path for number, path in paths.items() if number not in missing}


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
        raise DataError(f"{source}: {key!r} is {shown(records)}, where a list is needed")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{source}: {key}[{index}] is {shown(record)}, where a mapping is needed")
    if not records:
        raise DataError(f"{source}: {key!r} is empty; name a file that has some")
    return records


def _integer(record: dict[str, Any], key: str, where: str, default: Any = None) -> int:
    value = record.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise DataError(f"{where}: {key!r} is {shown(value)}, where a whole number is needed")
    return value


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {key!r} is {shown(value)}, where a text is needed")
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


def _images(records: list[dict[str, Any]], source: str, bad: _Bad) -> dict[int, _Image]:
    images: dict[int, _Image] = {}
    named: dict[str, int] = {}
    for index, record in enumerate(records):
        image = bad.checked(_image, record, index, images, named, source)
        if image is not None:
            images[image.id] = image
            named[image.name] = image.id
    return images


def _image(record: dict[str, Any], index: int, images: dict[int, _Image], named: dict[str, int], source: str) -> _Image:
    number = _integer(record, "id", f"{source}: images[{index}]")
    where = f"{source}: image {number}"
    if number in images:
        raise DataError(f"{source}: two images have the id {number}; renumber one")
    name = _text(record, "file_name", where)
    if leaves(name):
        raise DataError(f"{where}: file name {shown(name)} leads out of the folder; use names relative to it")
    if name in named:  # each would have a part of the objects
        raise DataError(f"{where}: has the file {shown(name)}, as image {named[name]} has; give all its annotations one image_id")
    width, height = _integer(record, "width", where), _integer(record, "height", where)
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise DataError(f"{where}: {width}x{height} pixels; it needs 1 to {MAX_PIXELS:,}")
    return _Image(number, name, (width, height))


def _by_image(
    records: list[dict[str, Any]], images: dict[int, _Image], labels: dict[int, int], source: str, bad: _Bad
) -> dict[int, list[dict]]:
    """{image id: its annotations}, with ids, categories and crowd flags checked."""
    seen: set[int] = set()
    unknown: list[int] = []
    result: dict[int, list[dict]] = {}
    for index, record in enumerate(records):
        image = bad.checked(_image_of, record, index, seen, labels, source)
        if image is not None and image not in images:
            unknown.append(int(record["id"]))
        elif image is not None:
            result.setdefault(image, []).append(record)
    if unknown and not bad.skip:
        raise DataError(
            f"{source}: {len(unknown)} annotations are of images that 'images' lacks (ids {listed(unknown)}); add the images or remove them"
        )
    bad.found += [f"{source}: annotation {number}: of an image that 'images' lacks" for number in unknown]
    return result


def _image_of(record: dict[str, Any], index: int, seen: set[int], labels: dict[int, int], source: str) -> int:
    """The id of an annotation's image."""
    number = _integer(record, "id", f"{source}: annotations[{index}]")
    where = f"{source}: annotation {number}"
    if number in seen:
        raise DataError(f"{source}: two annotations have the id {number}; renumber one")
    seen.add(number)
    category = _integer(record, "category_id", where)
    if category not in labels:
        raise DataError(f"{where}: category {category} is not in 'categories'; add it or correct the annotation")
    if record.get("iscrowd", 0) not in (0, 1):
        raise DataError(f"{where}: 'iscrowd' is {shown(record['iscrowd'])}, where 0 or 1 is needed")
    return _integer(record, "image_id", where)


def _boxes(records: list[dict[str, Any]], image: _Image, labels: dict[int, int], source: str, bad: _Bad) -> Boxes:
    read = [(bad.checked(_box, record, image, source), labels[int(record["category_id"])], record.get("iscrowd", 0)) for record in records]
    # COCO's own files have boxes of no area; such an object cannot be found
    found = [(box, label, crowd) for box, label, crowd in read if box is not None and box[2] > box[0] and box[3] > box[1]]
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
        raise DataError(f"{where}: 'bbox' is {shown(box)}, where [x, y, width, height] in pixels is needed")
    x, y, width, height = box
    if width < 0 or height < 0:
        raise DataError(f"{where}: bbox {shown(box)} has a negative size; it is [x, y, width, height]")
    if x < -SLACK or y < -SLACK or x + width > image.size[0] + SLACK or y + height > image.size[1] + SLACK:
        raise DataError(f"{where}: bbox {shown(box)} is outside the image; correct or remove it ([x, y, width, height])")
    corners = np.array([x, y, x + width, y + height], np.float32)
    return corners.clip(0, np.array([*image.size, *image.size], np.float32))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value if abs(value) < 1e18 else math.inf)


def _mask(records: list[dict[str, Any]], image: _Image, labels: dict[int, int], source: str, bad: _Bad) -> CocoMask:
    values: list[int] = []
    shapes: list[Any] = []
    for record in records:
        shape = bad.checked(read_shape, record.get("segmentation"), image.size, f"{source}: annotation {record['id']} of {image}")
        if shape is not None:
            shapes.append(shape)
            values.append(IGNORED if record.get("iscrowd", 0) else labels[int(record["category_id"])])
    return CocoMask(source, image.id, image.size, np.array(values, np.uint8), tuple(shapes))


def _report_empty(given: int, targets: list[Any], source: str) -> None:
    kept = sum(len(target.labels) for target in targets)
    if not kept:
        raise DataError(f"{source}: no box has any area; correct the annotations ([x, y, width, height])")
    if kept < given:
        _LOG.warning("%s: %d boxes of no area are left out", source, given - kept)
