"""What is said about a data set before it is used: what is likely a mistake, though nothing forbids it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from ..errors import listed
from .data_set import Data, DataError, Source, Split
from .images import BadImage, open_image
from .targets import IGNORED, Boxes, CocoMask, VocMask
from .wrapped import DatasetSource, image_size

_LOG = logging.getLogger(__name__)
MAX_FILES = 200_000  # beyond, copies are not looked for
MAX_OPENED = 20_000  # beyond, a split's files are opened only when they are read
IMBALANCE = 10  # images of the largest class over those of the smallest
ENLARGED = 1.5  # the network's input size over the shorter side of an image


def remark(data: Data, max_skipped: float) -> None:
    """Warns of classes that are rare or missing, and of images that are in two splits.

    Raises DataError where masks hold one class only, or where a larger share of a split than `max_skipped` is files that are no images:
    the test images are read after hours.
    """
    splits = {name: split for name, split in (("train", data.train), ("val", data.val), ("test", data.test)) if split is not None}
    for name, split in splits.items():
        _unreadable(name, split, max_skipped)
    _copies(splits)
    if data.train.source.kind == "classes":
        _balance(data)
        return
    for name, split in splits.items():
        _presence(name, split, data.classes)


def _unreadable(name: str, split: Split, max_skipped: float) -> None:
    """Opens the files of a split, without decoding them."""
    if not _files(split) or len(split) > MAX_OPENED:
        return
    bad: list[str] = []
    for index in split.indices:
        try:
            _size(split.source, index)
        except BadImage as error:
            bad.append(f"{split.source.name(index)} ({error})")
    if len(bad) > max_skipped * len(split):
        raise DataError(
            f"{bad[0]}: cannot be read; {len(bad)} of the {len(split)} images of {name} are such files, more than "
            f"DATA.MAX_SKIPPED_SHARE {max_skipped:g}; mend the data or raise that share"
        )


def _balance(data: Data) -> None:
    counts = dict(zip(data.classes, data.train.counts(data.num_classes), strict=True))
    rare = sorted(counts, key=lambda name: counts[name])
    fewest, most = rare[0], rare[-1]
    if counts[fewest] <= 1:
        few = [f"{name} {counts[name]}" for name in rare if counts[name] <= 1]
        _LOG.warning("train: %d classes have one image or none (%s); add images or leave them out", len(few), listed(few))
    elif counts[most] >= IMBALANCE * counts[fewest]:
        extremes = listed(f"{name} {counts[name]}" for name in dict.fromkeys((fewest, rare[1], most)))
        _LOG.warning("train: the classes differ much in their images (%s); consider TRAIN.CLASS_WEIGHTS balanced", extremes)


def _copies(splits: dict[str, Split]) -> None:
    """Counts the images of one split whose bytes are in another one too."""
    paths = {name: _files(split) for name, split in splits.items()}
    if sum(map(len, paths.values())) > MAX_FILES:
        return
    sizes: dict[int, dict[str, list[str]]] = {}
    for name, files in paths.items():
        for path in files:
            try:
                sizes.setdefault(os.stat(path).st_size, {}).setdefault(name, []).append(path)
            except OSError:
                continue  # said when it is read
    found: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for groups in sizes.values():
        if len(groups) < 2:
            continue
        seen: dict[bytes, tuple[str, str]] = {}
        for name, files in groups.items():
            for path in files:
                digest = _digest(path)
                other = seen.setdefault(digest, (name, path))
                if other[0] != name:
                    found[other[0], name] += 1
                    example.setdefault((other[0], name), f"{other[1]} and {path}")
    for (first, second), count in found.items():
        _LOG.warning("%d images of %s are in %s too, such as %s; remove them from one", count, second, first, example[first, second])


def _files(split: Split) -> list[str]:
    images = split.source.images
    if not isinstance(images, list) or not images or not isinstance(images[0], (str, os.PathLike)):
        return []
    return [str(images[index]) for index in split.indices]


def _digest(path: str) -> bytes:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return path.encode()  # no copy of anything


def _presence(name: str, split: Split, classes: tuple[str, ...]) -> None:
    """Counts the objects of each class; of masks, which must be read for it, only until all classes were seen."""
    source = split.source
    first = 1 if source.kind == "boxes" else 0
    if isinstance(source, DatasetSource):
        if source.kind == "masks":
            _check_values(name, _values(split, 2), len(classes))
        return
    if source.labels and isinstance(source.labels[0], (Boxes, CocoMask)):
        counts = Counter(int(label) for index in split.indices for label in source.labels[index].labels)
        seen = set(counts) | ({0} if source.kind == "masks" else set())
    else:
        seen = _values(split, len(classes))
        _check_values(name, seen, len(classes))
    missing = [text for number, text in enumerate(classes, first) if number not in seen]
    if missing:
        _LOG.warning("%s: no image shows %s; check the annotations", name, listed(missing))


def _values(split: Split, enough: int) -> set[int]:
    """The values of a split's masks, until `enough` of them were found beside IGNORED."""
    seen: set[int] = set()
    for index in split.indices:
        try:
            values = _mask(split.source, index)
        except (BadImage, DataError):
            continue  # said when it is read
        seen.update(np.unique(values).tolist())
        if len(seen - {IGNORED}) >= enough:
            break
    return seen


def _mask(source: Source, index: int) -> np.ndarray:
    image, target = source.peek(index)
    if isinstance(target, VocMask):
        return target.mask(None)
    width, height = image_size(open_image(image) if isinstance(image, (str, os.PathLike)) else image)
    return np.asarray(target.mask((height, width)))


def _check_values(name: str, seen: set[int], classes: int) -> None:
    found = sorted(seen - {IGNORED})
    if len(found) > 1 or not seen:
        return
    what = f"the value {found[0]}" if found else "nothing"
    if IGNORED in seen:
        raise DataError(f"{name}: its masks hold {what} and {IGNORED}, which means ignored; write the class as 1")
    raise DataError(f"{name}: its masks hold {what} of {classes} classes; check them")


def remark_enlarged(split: Split, input_size: int) -> None:
    """Says where small images are enlarged much for the network."""
    side = None if split.source.in_memory else median_side(split)
    if side and input_size > ENLARGED * side:
        _say(f"images of {side} pixels are enlarged to {input_size}; a network of a smaller input size does less work for the same")


def median_side(split: Split) -> int | None:
    """The median of the shorter sides of some images of a split; None where there is none, or none can be read."""
    if split.source.in_memory:
        return min(split.source.images.shape[-2:])
    sides: list[int] = []
    for position in range(0, len(split), max(1, len(split) // 8)):
        try:
            sides.append(min(_size(split.source, split.indices[position])))
        except (BadImage, DataError):
            continue
    return sorted(sides)[len(sides) // 2] if sides else None


def _size(source: Source, index: int) -> tuple[int, int]:
    from PIL import Image

    image = source.images[index] if not isinstance(source, DatasetSource) else source.peek(index)[0]
    if not isinstance(image, (str, os.PathLike)):
        return image_size(image)
    try:
        if os.fspath(image).lower().endswith(".npy"):
            return open_image(image).size
        with Image.open(image) as opened:  # reads the header only
            return opened.size
    except Exception as error:
        raise BadImage(str(error)) from None


@cache
def _say(line: str) -> None:
    """Once in a process: a search makes several loaders of the same images."""
    _LOG.warning(line)
