"""Data sets of one's own from Python: torch Datasets of (image, label)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from ..errors import listed, shown
from .data_set import DataError, Source, own_randomness
from .images import BadImage
from .targets import IGNORED, MAX_CLASSES, ArrayMask, Boxes, check_names

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetSource(Source):
    """A Dataset as a source: `images` is the Dataset; the labels of `kind` classes are read, others come with the image.

    `listed` are the labels of classes as the Dataset gives them, and `classes` is the number of classes of boxes; 0 before it is known.
    """

    listed: Sequence[int] = field(default=(), repr=False)
    classes: int = 0

    @property
    def turns(self) -> bool:
        """Masks and boxes are of the pixels that the Dataset gives, whatever EXIF still says of its file."""
        return self.kind == "classes"

    @property
    def draws(self) -> bool:
        return True

    def item(self, index: int) -> tuple[Any, Any]:
        image, label = _pair(self.images, index, self.name(index))
        if self.kind == "masks":
            return image, self._renewed(ArrayMask(mask_values(label, self.name(index)), self.name(index)))
        if self.kind == "boxes":
            found = _boxes(label, index, image_size(image), self.name(index))
            if self.classes and len(found) and found.labels.max() > self.classes:
                raise DataError(f"{self.name(index)}: label {found.labels.max()}, and there are {self.classes} classes, numbered from 1")
            return image, self._renewed(found)
        if not _is_whole(label) or int(label) != self.listed[index]:
            raise DataError(
                f"{self.name(index)}: label {shown(label)}, which was {self.listed[index]} before the run; it must stay the same"
            )
        return image, self.labels[index]

    def peek(self, index: int) -> tuple[Any, Any]:
        """As `item`, without a trace in the generators, from which a Dataset may draw."""
        with own_randomness():
            return self.item(index)

    @property
    def normalised(self) -> bool:
        image, _ = self.peek(0)
        return isinstance(image, Tensor) and image.is_floating_point()

    def name(self, index: int) -> str:
        return f"item {index} of the {type(self.images).__name__}"


def kind_of(dataset: Any, name: str) -> str:
    """What a Dataset's labels are, as its first item shows. Raises DataError, which names the argument, for what is no Dataset."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(f"{name}: {shown(type(dataset).__name__)} is no map-style Dataset; it needs __len__ and __getitem__")
    if not len(dataset):
        raise DataError(f"{name}: has no items; give a Dataset that has some")
    where = f"{name}: item 0"
    try:
        with own_randomness():
            _, label = _pair(dataset, 0, where)
    except BadImage as error:
        raise DataError(f"{where}: {error}") from None
    if isinstance(label, dict):
        return "boxes"
    if _is_whole(label):
        return "classes"
    if hasattr(label, "convert") or (isinstance(label, (Tensor, np.ndarray)) and label.ndim >= 2):
        return "masks"
    raise DataError(f"{where}: a label of {shown(label)}; it needs a whole number, a mask (H, W), or boxes and labels in a dict")


def source_of(dataset: Any, kind: str, name: str) -> DatasetSource:
    """A Dataset whose labels are of `kind`. Raises DataError."""
    if kind_of(dataset, name) != kind:
        raise DataError(f"{name}: its labels are {kind_of(dataset, name)}, those of train are {kind}; give Datasets of one kind")
    if kind != "classes":
        return DatasetSource(dataset, range(len(dataset)), kind)
    labels = _class_labels(dataset, name)
    return DatasetSource(dataset, labels, kind, listed=labels)


def _own_names(dataset: Any) -> tuple[str, ...] | None:
    """The names of a Dataset's classes, where it has them.

    ImageNet's are tuples of the names of one class, two of which are equal: the later one gets its number.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)):
        return None
    texts = [", ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in names]
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    return tuple(text if first[text] == i else f"{text} ({i})" for i, text in enumerate(texts))


def named(sources: dict[str, DatasetSource], classes: Sequence[str] | None) -> tuple[dict[str, DatasetSource], tuple[str, ...]]:
    """The sources with their labels as numbers of one list of names, and the names: see `class_names`.

    A further Dataset of classes with names of its own, such as a folder that lacks one of them, is matched by name. Raises DataError.
    """
    names = class_names(sources, classes)
    known = classes is None and _own_names(sources["train"].images) is not None
    found = {}
    for name, source in sources.items():
        own = _own_names(source.images) if known else None
        source = source if own is None or own == names else _by_name(source, own, names, name)
        found[name] = replace(source, classes=len(names)) if source.kind == "boxes" else source
    return found, names


def _by_name(source: DatasetSource, own: tuple[str, ...], names: tuple[str, ...], name: str) -> DatasetSource:
    """The source with numbers of `names` for those of its own ones, if its items have the labels that it lists."""
    others = f"{name}: its classes are {listed(own)}, those of train {listed(names)}"
    if source.kind != "classes" or not set(own) <= set(names):
        raise DataError(f"{others}, so that labels mean others; make them alike, or give `classes` where the numbers mean the same")
    plain = _listed_labels(source.images)
    same = plain is not None and len(plain) == len(source.listed)
    same = same and all(_is_whole(one) and int(one) == label for one, label in zip(plain, source.listed))
    if not same or max(source.listed) >= len(own):
        _LOG.warning("%s; its labels are taken for numbers of the latter, as its items have them", others)
        return source
    return replace(source, labels=[names.index(own[label]) for label in source.listed])


def class_names(sources: dict[str, DatasetSource], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names given, else those of the train Dataset, else the numbers of the labels. Raises DataError where a label has none.

    Of masks the names are of the values 0 (the background), 1, ...; of boxes of the labels 1, 2, ...
    """
    kind = sources["train"].kind
    names = tuple(str(name) for name in classes) if classes is not None else _own_names(sources["train"].images)
    if classes is not None and names is not None:
        check_names(names, "classes")
    first = 1 if kind == "boxes" else 0
    if kind != "classes" and names is not None:
        return names  # labels beyond these are found when they are read
    highest = -1
    for name, source in sources.items():
        for index, label in enumerate(_highest(source) if kind != "classes" else source.labels):
            if not first <= label <= (MAX_CLASSES if names is None and kind == "masks" else len(names) - 1 if names else 10**7):
                known = f"{len(names)} classes" if names else "no classes"
                raise DataError(
                    f"{name}: item {index}: label {label}, and there are {known}, numbered from {first}; correct it or `classes`"
                )
            highest = max(highest, label)
    if names is None:
        names = tuple(str(number) for number in range(first, highest + 1))
    if len(names) < (1 if kind == "boxes" else 2):
        raise DataError(f"train: {len(names)} classes; it needs 2 at least")
    return names


def _pair(dataset: Any, index: int, where: str) -> tuple[Any, Any]:
    """Raises BadImage with whatever went wrong in the Dataset."""
    try:
        item = dataset[index]
    except Exception as error:
        raise BadImage(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"{where}: {shown(item)} is no pair of image and label")
    return item[0], item[1]


def _is_whole(label: Any) -> bool:
    if isinstance(label, bool):
        return False
    if isinstance(label, (Tensor, np.ndarray)):
        kind = str(label.dtype)
        return label.ndim == 0 and "int" in kind
    return isinstance(label, (int, np.integer))


def _class_labels(dataset: Any, name: str) -> list[int]:
    """The label of every item: of its `targets` or `labels` if it has them, else read once."""
    count = len(dataset)
    known = _listed_labels(dataset)
    if known is not None and len(known) == count:
        values = known.tolist() if isinstance(known, (Tensor, np.ndarray)) else list(known)
        if all(_is_whole(value) for value in values):
            known = [int(value) for value in values]
            if all(_says(dataset, i, known[i]) for i in _probes(known)):
                return known
    with own_randomness():
        return list(_passing(dataset, name, lambda index: _label(dataset, index, name)))


def _says(dataset: Any, index: int, label: int) -> bool:
    """Whether an item has that label; one that cannot be read is told when it is."""
    try:
        with own_randomness():
            found = _pair(dataset, index, "")[1]
    except BadImage:
        return True
    return _is_whole(found) and int(found) == label


def _probes(labels: Sequence[int]) -> list[int]:
    """Some items: the first, the middle and the last, and of each of the first hundred classes one, that its `targets` may differ for."""
    one_each: dict[int, int] = {}
    for index, label in enumerate(labels):
        one_each.setdefault(label, index)
    return sorted({0, len(labels) // 2, len(labels) - 1, *list(one_each.values())[:100]})


def _listed_labels(dataset: Any) -> Any:
    return listed_values(dataset, ("targets", "labels"))


def listed_values(dataset: Any, attributes: Sequence[str]) -> Any:
    """What a Dataset, or one behind Subsets, lists of its items under the first of these attributes that is a list; None without one."""
    if isinstance(dataset, Subset):
        inner = listed_values(dataset.dataset, attributes)
        return None if inner is None or len(inner) != len(dataset.dataset) else [inner[index] for index in dataset.indices]  # type: ignore[arg-type]
    for attribute in attributes:
        values = getattr(dataset, attribute, None)
        if isinstance(values, (list, tuple, np.ndarray, Tensor)):
            return values
    return None


def _label(dataset: Any, index: int, name: str) -> int:
    where = f"{name}: item {index}"
    try:
        _, label = _pair(dataset, index, where)
    except BadImage as error:
        raise DataError(f"{where}: {error}; mend the Dataset, or give it `targets`") from None
    if not _is_whole(label):
        raise DataError(f"{where}: a label of {shown(label)}, where a whole number is needed")
    return int(label)


def _passing(dataset: Any, name: str, read: Callable[[int], int]) -> Iterator[int]:
    """`read` of every index, with a line in the log at the start and every ten seconds."""
    count, last = len(dataset), time.monotonic()
    _LOG.info("%s: reading the labels of %d items; a Dataset with `targets` needs no such pass", name, count)
    for index in range(count):
        if time.monotonic() - last > 10:
            last = time.monotonic()
            _LOG.info("%s: %d of %d labels read", name, index, count)
        yield read(index)


def _highest(source: DatasetSource) -> list[int]:
    """The highest label of each item with a mask or boxes."""

    def read(index: int) -> int:
        try:
            target = source.item(index)[1]
        except BadImage as error:
            raise DataError(f"{source.name(index)}: {error}; mend the Dataset, or give `classes`") from None
        values = target.labels if isinstance(target, Boxes) else target.values[target.values != IGNORED]
        return int(values.max()) if values.size else int(isinstance(target, Boxes))

    with own_randomness():
        return list(_passing(source.images, source.kind, read))


# -- targets ------------------------------------------------------------------------------------------


def image_size(image: Any) -> tuple[int, int]:
    """(width, height) of a PIL image, an array (H, W[, C]) or a tensor (C, H, W)."""
    if isinstance(image, Tensor):
        return int(image.shape[-1]), int(image.shape[-2])
    if isinstance(image, np.ndarray):
        return int(image.shape[1]), int(image.shape[0])
    return int(image.size[0]), int(image.size[1])


def mask_values(label: Any, where: str) -> np.ndarray:
    """A mask as uint8 (H, W), from a PIL image, an array or a tensor of whole numbers. Raises DataError."""
    values = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise DataError(f"{where}: a mask of shape {values.shape} and type {values.dtype}, where whole numbers (H, W) are needed")
    if values.size and not (values.min() >= 0 and values.max() <= IGNORED):
        raise DataError(
            f"{where}: a mask with values {values.min()} to {values.max()}; it holds 0 to {MAX_CLASSES}, and {IGNORED} to ignore"
        )
    return values.astype(np.uint8)


def _boxes(label: Any, index: int, size: tuple[int, int], where: str) -> Boxes:
    """As torchvision's detectors take them: "boxes" (n, 4) x0, y0, x1, y1 in pixels and "labels" (n,) from 1 on."""
    if not isinstance(label, dict) or not {"boxes", "labels"} <= set(label):
        raise DataError(f"{where}: {shown(label)} needs 'boxes' (n, 4) and 'labels' (n,)")
    boxes = torch.as_tensor(label["boxes"], dtype=torch.float32).reshape(-1, 4).numpy()
    labels = torch.as_tensor(label["labels"], dtype=torch.int64).reshape(-1).numpy()
    if len(boxes) != len(labels):
        raise DataError(f"{where}: {len(boxes)} boxes and {len(labels)} labels; give one for each")
    if len(labels) and labels.min() < 1:
        raise DataError(f"{where}: label {labels.min()}; the first class is 1, as 0 is the background")
    inside = np.array([*size, *size], np.float32)
    if not (np.isfinite(boxes).all() and (boxes >= -1).all() and (boxes <= inside + 1).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise DataError(f"{where}: a box outside its image of {size[0]}x{size[1]}; it is x0, y0, x1, y1 in pixels")
    boxes = boxes.clip(0, inside)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Boxes(index, size, boxes[kept], labels[kept], np.zeros(int(kept.sum()), np.bool_))
