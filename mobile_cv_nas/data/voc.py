"""Pascal VOC's folders for segmentation: lists of names, images, and masks as PNG files."""

from __future__ import annotations

import os
from pathlib import Path

from .data_set import DataError
from .targets import MAX_CLASSES, MAX_MASK_BYTES, Annotated, VocMask, check_names, check_present, check_size, leaves

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_voc(root: Path, split: str) -> Annotated:
    """Masks as Pascal VOC keeps them: the images that ROOT/ImageSets/Segmentation/SPLIT.txt lists, one a line.

    The images are in ROOT/JPEGImages (.jpg, .jpeg or .png), the masks in ROOT/SegmentationClass (.png). The classes are
    those of ROOT/labels.txt or ROOT/classes.txt (one a line, without the background), else VOC's 20. Raises DataError.
    """
    root = Path(root)
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    names = [line.split()[0] for line in _lines(listed, "it lists the images, one name a line")]
    if not names:
        raise DataError(f"{listed}: empty; list the images, one name a line")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{listed}: {name!r} is listed twice; remove one")
        if leaves(name):
            raise DataError(f"{listed}: {name!r} leads out of the folder; list plain names")
        seen.add(name)
    categories = _voc_categories(root)
    paths = [_first(root / "JPEGImages", name, (".jpg", ".jpeg", ".png")) for name in names]
    check_present([n for n, path in zip(names, paths) if path is None], len(names), root / "JPEGImages", f"images of {listed.name}")
    masks = [_first(root / "SegmentationClass", name, (".png",)) for name in names]
    check_present([n for n, path in zip(names, masks) if path is None], len(names), root / "SegmentationClass", f"masks of {listed.name}")
    return Annotated([str(path) for path in paths], [VocMask(str(path), len(categories)) for path in masks], categories)


def _first(folder: Path, name: str, endings: tuple[str, ...]) -> str | None:
    return next((path for ending in endings if os.path.isfile(path := os.path.join(folder, name + ending))), None)


def _lines(path: Path, purpose: str) -> list[str]:
    """The lines of a text file that are not blank."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; {purpose}")
    check_size(str(path), MAX_MASK_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); {purpose}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _voc_categories(root: Path) -> tuple[str, ...]:
    for path in (root / "labels.txt", root / "classes.txt"):
        if not path.exists():
            continue
        names = tuple(_lines(path, "it names the classes, one a line"))
        if not 1 <= len(names) <= MAX_CLASSES:
            raise DataError(f"{path}: {len(names)} classes; name 1 to {MAX_CLASSES}, one a line")
        if names[0].strip("_").lower() == "background":
            raise DataError(f"{path}: names the background, which is class 0 in any case; remove that line")
        check_names(names, path)
        return names
    return VOC_CLASSES
