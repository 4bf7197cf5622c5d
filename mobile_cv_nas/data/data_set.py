"""What a data set is: where its images are, what they show, and how they are split."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from ..errors import InputError

KINDS = ("classes", "boxes", "masks")


class DataError(InputError):
    """A data set that is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Source:
    """All images of one folder or archive: file paths, uint8 (N, H, W, 3), or a tensor (N, C, H, W) in 0..1.

    `kind` says what `labels` are, one for each image: the number of its class, its `Boxes`, or what draws its mask.
    """

    images: Any = field(repr=False)
    labels: Sequence[Any] = field(repr=False)
    kind: str = "classes"  # classes | boxes | masks
    new_labels: tuple[int, ...] = ()  # of boxes and masks: what each number stands for here; (): itself

    @property
    def in_memory(self) -> bool:
        """Whether the images are one float tensor, of which batches are slices."""
        return isinstance(self.images, Tensor)

    def item(self, index: int) -> tuple[Any, Any]:
        """One image, as `open_image` takes it, and its label."""
        return self.images[index], self._renewed(self.labels[index])

    def peek(self, index: int) -> tuple[Any, Any]:
        """As `item`, to look at it before the run."""
        return self.item(index)

    @property
    def turns(self) -> bool:
        """Whether images are turned as EXIF says."""
        return True

    @property
    def draws(self) -> bool:
        """Whether reading an item may draw from the generators of NumPy and of Python, as code of one's own does."""
        return False

    def _renewed(self, label: Any) -> Any:
        return label.relabelled(self.new_labels) if self.new_labels else label

    @property
    def normalised(self) -> bool:
        """Whether the images are float tensors that are prepared already (of a Dataset of one's own)."""
        return False

    def name(self, index: int) -> str:
        """What to call an image in messages."""
        image = self.images[index]
        return str(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"


@dataclass(frozen=True)
class Split:
    """Some of the images of a source, by index."""

    source: Source
    indices: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Split({len(self):,} of {len(self.source.labels):,} images, {self.source!r})"

    @classmethod
    def whole(cls, source: Source) -> Split:
        """All images of a source."""
        return cls(source, tuple(range(len(source.labels))))

    def __len__(self) -> int:
        return len(self.indices)

    def halves(self, second: float, seed: int, key: str = "") -> tuple[Split, Split]:
        """Two disjoint random splits; the second gets the share `second` of every class (at least one image in all).

        The search trains the weights on the first and alpha on the other. Raises DataError, which names
        the `key` of that share, if a part would be empty.
        """
        taken = set(_stratified(self, second, seed))
        parts = tuple(i for i in self.indices if i not in taken), tuple(i for i in self.indices if i in taken)
        if not parts[0] or not parts[1]:
            named = f" ({key})" if key else ""
            raise DataError(
                f"{len(self) or 'no'} training images are too few to split off a share of {second:g}{named}; add images to the train split"
            )
        return Split(self.source, parts[0]), Split(self.source, parts[1])

    def head(self, count: int) -> Split:
        """The first `count` images, or all if there are fewer."""
        return Split(self.source, self.indices[:count])

    def spread(self, count: int) -> Split:
        """So many images, evenly spaced over the split, or all if there are fewer."""
        count = min(count, len(self))
        return Split(self.source, tuple(self.indices[i * len(self) // count] for i in range(count)))

    def counts(self, num_classes: int) -> list[int]:
        """The images of each class. Of boxes and masks, which have no one class, a list of zeros."""
        found = [0] * num_classes
        if self.source.kind == "classes":
            for index in self.indices:
                found[int(self.source.labels[index])] += 1
        return found


@dataclass(frozen=True)
class Data:
    """A data set: its splits and the names of its classes (of masks the background first). `test` is None where there is none."""

    train: Split
    val: Split
    test: Split | None
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def relabelled(self, classes: Sequence[str]) -> Data:
        """The same images with the classes in another order. Raises DataError unless the names are the same."""
        classes = tuple(classes)
        if sorted(classes) != sorted(self.classes):
            raise DataError(f"{len(self.classes)} classes cannot be put in the order of {len(classes)} others; give the same names")
        if len(set(classes)) < len(classes):
            twice = next(name for name in classes if classes.count(name) > 1)
            raise DataError(f"two classes are named {twice!r}; classes are matched by name: rename one")
        new = tuple(classes.index(name) for name in self.classes)

        def renewed(split: Split) -> Split:
            source = split.source
            if source.kind == "classes":
                return Split(replace(source, labels=[new[int(label)] for label in source.labels]), split.indices)
            table = new if source.kind == "masks" else (0, *(label + 1 for label in new))  # boxes count from 1
            return Split(replace(source, new_labels=table), split.indices)

        return Data(renewed(self.train), renewed(self.val), None if self.test is None else renewed(self.test), classes)


def _stratified(split: Split, share: float, seed: int) -> list[int]:
    """A random `share` of the indices, near the same of every class, that leaves no class empty."""
    by_class: dict[int, list[int]] = {}
    single = split.source.kind != "classes"  # an image of many objects belongs to no one class
    for index in split.indices:
        by_class.setdefault(0 if single else split.source.labels[index], []).append(index)
    rng = random.Random(seed)
    taken: list[int] = []
    debt = 0.0  # carries the rounding over, so that the total is right even if each class has few images
    for label in sorted(by_class):
        members = by_class[label]
        debt += len(members) * share
        count = max(0, min(round(debt), len(members) - 1))
        debt = min(debt - count, 1.0)  # what classes of one image cannot give is not asked of the next
        taken += rng.sample(members, count)
    return taken


@contextmanager
def own_randomness(seed: int | None = None, everything: bool = True) -> Iterator[None]:
    """Within it torch's generator begins at a seed, and with `everything` NumPy's and Python's; afterwards they are as they were.

    In a process that only reads images nobody else draws from the latter, which take longer to keep than a small image to read.
    """
    keep = everything and torch.utils.data.get_worker_info() is None
    kept = (random.getstate(), np.random.get_state()) if keep else None  # noqa: NPY002 - what code of one's own draws from
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator as well, for each image
        if seed is not None and everything:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            if kept is not None:
                random.setstate(kept[0])
                np.random.set_state(kept[1])  # noqa: NPY002
