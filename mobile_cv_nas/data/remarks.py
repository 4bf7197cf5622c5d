"""What is said about a data set before it is used: what is likely a mistake, though nothing forbids it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import listed
from .data_set import Data, DataError, Source, Split
from .images import BadImage, file_size, open_image
from .targets import IGNORED, Boxes, CocoMask, VocMask
from .wrapped import DatasetSource, image_size, listed_values

_LOG = logging.getLogger(__name__)
MAX_FILES = 200_000  # beyond, copies are not looked for
MAX_OPENED = 20_000  # beyond, a split's files are opened only when they are read
MAX_ITEMS = 500  # items of a Dataset of one's own that are read for what they show
IMBALANCE = 10  # images of the largest class over those of the smallest
ENLARGED = 1.5  # the network's input size over the shorter side of an image


def remark(data: Data, max_skipped: float) -> None:
    """Warns of classes that are rare or missing, and of images that are in two splits.

    Raises DataError where masks hold one class only, or where a larger share of a split than `max_skipped` is files that are no images,
    or whose masks are none: the test images are read after hours.
    """
    splits = {name: split for name, split in (("train", data.train), ("val", data.val), ("test", data.test)) if split is not None}
    bad = {name: _unreadable(split) for name, split in splits.items()}
    for name, split in splits.items():
        _refuse(name, split, bad[name], max_skipped)
    _copies(splits)
    if data.train.source.kind == "classes":
        _balance(data)
        return
    for name, split in splits.items():
        _presence(name, split, data.classes, bad[name], max_skipped)


def _unreadable(split: Split) -> dict[int, str]:
    """{index: why} of the files that cannot be read, for what their headers and those of their masks say.

    Those of a Dataset of one's own are not opened: it may read what is not read here.
    """
    if isinstance(split.source, DatasetSource) or not _files(split) or len(split) > MAX_OPENED:
        return {}
    bad: dict[int, str] = {}
    for index in split.indices:
        try:
            width, height = _size(split.source, index)
            target = split.source.labels[index]
            if isinstance(target, VocMask):
                target.check((height, width))
            elif isinstance(target, (Boxes, CocoMask)) and tuple(target.size) != (width, height):
                says = f"its annotations say {target.size[0]}x{target.size[1]}"
                bad[index] = f"is {width}x{height} as it is seen, {says}; annotate the file as it is"
        except (BadImage, DataError) as error:
            bad[index] = str(error)
    return bad


def _refuse(name: str, split: Split, bad: dict[int, str], max_skipped: float) -> None:
    if len(bad) > max_skipped * len(split):
        first = min(bad)
        raise DataError(
            f"{split.source.name(first)} ({bad[first]}): cannot be read; {len(bad)} of the {len(split)} images of {name} are such files, "
            f"more than DATA.MAX_SKIPPED_SHARE {max_skipped:g}; mend the data or raise that share"
        )


def _balance(data: Data) -> None:
    """Classes of hardly any images, and how much the others differ."""
    counts = dict(zip(data.classes, data.train.counts(data.num_classes), strict=True))
    few = [f"{name} {count}" for name, count in counts.items() if count <= 1]
    if few:
        _LOG.warning("train: classes with one image or none (%s); add images or leave them out", listed(few))
    rare = sorted((name for name, count in counts.items() if count > 1), key=lambda name: counts[name])
    if len(rare) > 1 and counts[most := rare[-1]] >= IMBALANCE * counts[rare[0]]:
        extremes = listed(f"{name} {counts[name]}" for name in dict.fromkeys((rare[0], rare[1], most)))
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
    if isinstance(split.source, DatasetSource):
        images = _listed_files(images)
    if not isinstance(images, list) or not images or not isinstance(images[0], (str, os.PathLike)):
        return []
    return [str(images[index]) for index in split.indices]


def _listed_files(dataset: Any) -> list[Any]:
    """The paths that a Dataset of one's own lists, one an item; none where one is there twice, as of frames of a film."""
    found = listed_values(dataset, ("samples", "imgs", "images"))
    if not isinstance(found, (list, tuple)) or len(found) != len(dataset):
        return []
    paths = [one[0] if isinstance(one, (list, tuple)) and one else one for one in found]
    single = all(isinstance(path, (str, os.PathLike)) for path in paths) and len(set(paths)) == len(paths)
    return paths if single else []


def _digest(path: str) -> bytes:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return path.encode()  # no copy of anything


def _presence(name: str, split: Split, classes: tuple[str, ...], bad: dict[int, str], max_skipped: float) -> None:
    """Looks for each class among the objects; in masks, which must be read for it, only until all classes were seen.

    Files of masks that turn out bad then, for their values, count with the `bad` ones.
    """
    source = split.source
    first = 1 if source.kind == "boxes" else 0
    looked = split.spread(MAX_ITEMS) if isinstance(source, DatasetSource) else split
    if not isinstance(source, DatasetSource) and source.labels and isinstance(source.labels[0], (Boxes, CocoMask)):
        seen = {0, *(int(label) for index in split.indices for label in source.labels[index].labels)}
    else:
        seen = _values(looked, len(classes) + first, bad)
        if not isinstance(source, DatasetSource):
            _refuse(name, split, bad, max_skipped)
        if source.kind == "masks":
            if len(seen - {IGNORED}) < 2 and len(looked) < len(split):
                seen |= _values(split, 2)
            _check_values(name, seen, len(classes))
    missing = [text for number, text in enumerate(classes, first) if number not in seen]
    if missing and seen:
        which = "no image" if len(looked) == len(split) else f"none of {len(looked)} images, evenly spread,"
        _LOG.warning("%s: %s shows %s; check the annotations", name, which, listed(missing))


def _values(split: Split, enough: int, bad: dict[int, str] | None = None) -> set[int]:
    """The values of a split's masks or boxes (0 is the background there too), until `enough` of them were found beside IGNORED.

    Notes in `bad` what cannot be read.
    """
    seen: set[int] = set()
    for index in split.indices:
        try:
            values = _shown(split.source, index)
        except (BadImage, DataError) as error:
            if bad is not None:
                bad[index] = str(error)
            continue  # said when it is read
        seen.update(np.unique(values).tolist())
        if len(seen - {IGNORED}) >= enough:
            break
    return seen


def _shown(source: Source, index: int) -> np.ndarray:
    image, target = source.peek(index)
    if isinstance(target, Boxes):
        return np.array([0, *target.labels])
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
    image = source.images[index] if not isinstance(source, DatasetSource) else source.peek(index)[0]
    return file_size(image) if isinstance(image, (str, os.PathLike)) else image_size(image)


@cache
def _say(line: str) -> None:
    """Once in a process: a search makes several loaders of the same images."""
    _LOG.warning(line)
