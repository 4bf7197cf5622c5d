"""What images show: boxes and masks, as COCO's and Pascal VOC's files describe them. No image is opened here."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import listed
from .data_set import DataError

IGNORED = 255  # the value of a pixel that neither trains nor counts
MAX_CLASSES = 254  # of a mask: one byte a pixel, 0 is the background
MAX_MASK_BYTES = 200_000_000  # of a mask's file


@dataclass(frozen=True, eq=False)
class Boxes:
    """The objects of one image, for detection."""

    image_id: int
    size: tuple[int, int]  # width, height of the image, in pixels
    boxes: np.ndarray  # (n, 4) float32: x0, y0, x1, y1 in pixels, inside the image
    labels: np.ndarray  # (n,) int64: 1 is the first category
    crowd: np.ndarray  # (n,) bool: a group of objects, for evaluation only

    def __len__(self) -> int:
        return len(self.labels)

    def relabelled(self, new: Sequence[int]) -> Boxes:
        """The same with label `new[k]` for k."""
        return replace(self, labels=np.asarray(new, np.int64)[self.labels])

    def without_crowd(self) -> Boxes:
        """What to train on."""
        if not self.crowd.any():
            return self
        keep = ~self.crowd
        return Boxes(self.image_id, self.size, self.boxes[keep], self.labels[keep], self.crowd[keep])


class Mask:
    """What draws a mask."""

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """The class of every pixel, uint8 (H, W), of an image of that shape (H, W): 0 background, 255 to ignore. Raises DataError."""
        raise NotImplementedError(f"{type(self).__name__} draws no mask; it needs a method `mask`")

    def relabelled(self, new: Sequence[int]) -> Mask:
        """The same with class `new[k]` for k."""
        return _Relabelled(self, tuple(new))


@dataclass(frozen=True, eq=False)
class _Relabelled(Mask):
    inner: Mask
    new: tuple[int, ...]

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.new)] = self.new
        return table[self.inner.mask(shape)]


@dataclass(frozen=True, eq=False)
class CocoMask(Mask):
    """The segmentations of one image. Each is bytes (compressed run lengths) or arrays of x0, y0, x1, y1, ... (polygons)."""

    source: str  # the file, for messages
    image_id: int
    size: tuple[int, int]  # width, height
    labels: np.ndarray  # (n,) uint8: 1 is the first category, IGNORED a crowd
    shapes: tuple[bytes | tuple[np.ndarray, ...], ...]

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """The label of every pixel, uint8 (H, W), of an image of that shape (H, W): 0 background, 255 to ignore.

        Where objects overlap, the smaller one is seen, of equal ones the later in the file; a crowd only where nothing
        else is. Raises DataError if the annotations are of another size.
        """
        width, height = self.size
        if tuple(shape) != (height, width):
            says = f"the image file has {shape[1]}x{shape[0]} pixels, the annotations say {width}x{height}"
            raise DataError(f"{self.source}: image {self.image_id}: {says}; annotate the file as it is")
        api = pycocotools("mask")
        result = np.zeros((height, width), np.uint8)
        runs = [self._runs(api, shape) for shape in self.shapes]
        areas = np.asarray(api.area(runs), np.int64) if runs else np.zeros(0, np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools' own arrays, by NumPy 2
            for index in np.lexsort((-areas, self.labels != IGNORED)):
                result[api.decode(runs[index]).view(bool)] = self.labels[index]
        return result

    def _runs(self, api: Any, shape: bytes | tuple[np.ndarray, ...]) -> Any:
        width, height = self.size
        if isinstance(shape, bytes):
            return {"size": [height, width], "counts": shape}
        return api.merge(api.frPyObjects(list(shape), height, width))


@dataclass(frozen=True)
class VocMask(Mask):
    """The file of one mask: a PNG whose pixel values are class numbers."""

    path: str
    classes: int  # background not counted

    def mask(self, shape: tuple[int, int] | None) -> np.ndarray:
        """As `Mask.mask`; None for an image of whatever shape.

        Raises DataError, which names the file, if it cannot be read, has another size or unknown values.
        """
        with self._opened(shape) as image:
            values = np.array(image, dtype=np.uint8)
        wrong = values[(values > self.classes) & (values != IGNORED)]
        if wrong.size:
            raise DataError(
                f"{self.path}: value {wrong[0]} in a mask of {self.classes} classes (1 to {self.classes}, 0 background, "
                f"{IGNORED} ignored); list all classes in labels.txt, or correct the mask"
            )
        return values

    def check(self, shape: tuple[int, int]) -> None:
        """Raises DataError as `mask` does, by the file's header alone: its values are not looked at."""
        with self._opened(shape):
            pass

    @contextmanager
    def _opened(self, shape: tuple[int, int] | None) -> Iterator[Any]:
        from PIL import Image

        check_size(self.path, MAX_MASK_BYTES)
        try:
            with open(self.path, "rb") as file, Image.open(file, formats=("PNG",)) as image:
                if image.mode not in ("P", "L", "1"):
                    raise DataError(f"{self.path}: a mask of mode {image.mode}; save class numbers as a palette or grey PNG of 8 bits")
                if shape is not None and image.size != (shape[1], shape[0]):
                    pixels = f"{image.size[0]}x{image.size[1]} pixels, its image {shape[1]}x{shape[0]}"
                    raise DataError(f"{self.path}: a mask of {pixels}; make them equal")
                yield image
        except DataError:
            raise
        except Exception as error:  # Pillow's decoders raise almost anything for damaged data
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{self.path}: no mask that can be read ({type(error).__name__}: {reason}); restore the file") from None


@dataclass(frozen=True, eq=False)
class ArrayMask(Mask):
    """A mask that is there already: class numbers, uint8 (H, W)."""

    values: np.ndarray
    name: str  # of the image, for messages

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """As `CocoMask.mask`."""
        if self.values.shape != tuple(shape):
            height, width = self.values.shape
            raise DataError(f"{self.name}: a mask of {width}x{height} pixels, its image {shape[1]}x{shape[0]}; make them equal")
        return self.values


Target = Boxes | Mask


@dataclass(frozen=True)
class Annotated:
    """Images and what they show: `targets[i]` is of the file `paths[i]`; label k + 1 is `categories[k]`."""

    paths: list[str]
    targets: Sequence[Target]
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


# -- checks -------------------------------------------------------------------------------------------


def pycocotools(name: str) -> Any:
    """The module `name` of pycocotools. Raises DataError, which says how to install it."""
    try:
        return importlib.import_module(f"pycocotools.{name}")
    except (ImportError, ValueError) as error:  # ValueError: built for another version of NumPy
        reason = " ".join(str(error).split())[:120]
        raise DataError(f'pycocotools cannot be imported ({reason}); run: pip install "mobile_cv_nas[coco]"') from None


def check_size(path: str, limit: int) -> None:
    """Raises DataError for a file of more than `limit` bytes, and for what is no file."""
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not os.path.isfile(path):
        raise DataError(f"{path}: not a regular file")
    if size > limit:
        raise DataError(f"{path}: larger than the limit of {limit:,} bytes for such a file")


def check_present(missing: list[str], total: int, folder: object, what: str) -> None:
    """Raises DataError, which counts the `missing` and names three, if there are any."""
    if missing:
        raise DataError(f"{folder}: {len(missing)} of {total} {what} are missing ({listed(missing)}); add them or name another folder")


def leaves(name: str) -> bool:
    """Whether a file name leads, or could lead on another system, out of the folder it is relative to."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or ".." in parts or parts[0][1:2] == ":" or "\0" in name


def check_names(names: Sequence[str], path: object) -> None:
    """Raises DataError for names of classes that are empty, not printable or given twice."""
    seen: set[str] = set()
    for name in names:
        if not name.strip() or not name.isprintable():
            raise DataError(f"{path}: {name!r} cannot name a category; use printable characters")
        if name in seen:
            raise DataError(f"{path}: two categories are named {name!r}; rename one")
        seen.add(name)
