"""The data sets: where the images are, what they show, and how they are split."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..config.keys import DENSE, DETECTORS
from ..errors import InputError


class DataError(InputError):
    """A data set that is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Source:
    """All images of one folder or archive: file paths, uint8 (N, H, W, 3), or a tensor (N, 1, H, W) in 0..1.

    `kind` says what `labels` are, one for each image: the number of its class, its `Boxes`, or what draws its mask.
    """

    images: Any
    labels: Sequence[Any]
    kind: str = "classes"  # classes | boxes | masks

    @property
    def in_memory(self) -> bool:
        """Whether the images are one float tensor, of which batches are slices."""
        return isinstance(self.images, Tensor)

    def name(self, index: int) -> str:
        """What to call an image in messages."""
        image = self.images[index]
        return str(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"


@dataclass(frozen=True)
class Split:
    """Some of the images of a source, by index."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def halves(self, second: float, seed: int) -> tuple[Split, Split]:
        """Two disjoint random splits; the second gets the share `second` of every class (at least one image in all).

        The search trains the weights on the first and alpha on the other. Raises DataError if a part would be empty.
        """
        taken = set(_stratified(self, second, seed))
        parts = tuple(i for i in self.indices if i not in taken), tuple(i for i in self.indices if i in taken)
        if not parts[0] or not parts[1]:
            raise DataError(f"{len(self)} training images are too few to split off a share of {second:g}")
        return Split(self.source, parts[0]), Split(self.source, parts[1])

    def head(self, count: int) -> Split:
        """The first `count` images, or all if there are fewer."""
        return Split(self.source, self.indices[:count])


@dataclass(frozen=True)
class Data:
    """A data set: its three splits and the names of its classes."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def build_data(cfg: CfgNode) -> Data:
    """The data set of `cfg.DATA`; no image file is opened yet.

    Raises DataError, which names the folder or file and the remedy.
    """
    if cfg.DATA.DATASET == "digits":
        return _digits()
    if cfg.DATA.DATASET in DENSE:
        from .transforms import build_dense

        return build_dense(cfg, "boxes" if cfg.HEAD.NAME in DETECTORS else "masks")
    if not cfg.DATA.ROOT:
        raise DataError(f"DATA.ROOT: empty; name the folder with the images of DATA.DATASET {cfg.DATA.DATASET}")
    root = Path(os.path.expanduser(cfg.DATA.ROOT))
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(f"DATA.ROOT: {root}: {kind}; name the folder that holds the images")
    builders = {"imagefolder": _image_folder, "cifar10": _cifar10, "imagenet": _imagenet}
    return builders[cfg.DATA.DATASET](cfg, root)


# -- digits -------------------------------------------------------------------------------------------


def _digits() -> Data:
    """1,797 scanned digits of 8x8 pixels, shipped with scikit-learn: 1,257 to train, 180 to validate, 360 to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16.0)[:, None]  # (N, 1, 8, 8)
    source = Source(images, tuple(int(label) for label in digits.target))
    everything = Split(source, tuple(range(len(source.labels))))
    rest, test = everything.halves(360 / 1797, seed=0)
    train, val = rest.halves(180 / 1437, seed=0)
    return Data(train, val, test, tuple(str(name) for name in digits.target_names))


# -- folders of images --------------------------------------------------------------------------------


def _image_folder(cfg: CfgNode, root: Path) -> Data:
    """ROOT/train, ROOT/val and ROOT/test with a folder a class; where there is no val or test, part of the rest."""
    folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if ("val" in folders or "test" in folders) and "train" not in folders:
        raise DataError(f"{root}: has {' and '.join(folders)} but no train folder; add it")
    train_root = folders.get("train", root)
    classes = _choose_classes(_class_names(train_root), cfg)
    train = _scan(train_root, classes)
    if "val" in folders:
        val = _scan(folders["val"], classes, partial=True)
        test = _scan(folders["test"], classes, partial=True) if "test" in folders else val
        return Data(train, val, test, classes)
    if "test" in folders:
        test = _scan(folders["test"], classes, partial=True)
    else:
        train, test = train.halves(cfg.DATA.TEST_FRACTION, cfg.DATA.SPLIT_SEED)
    # VAL_FRACTION is a share of the whole folder, of which the test part may have gone
    share = cfg.DATA.VAL_FRACTION / (1 if "test" in folders else 1 - cfg.DATA.TEST_FRACTION)
    train, val = train.halves(share, cfg.DATA.SPLIT_SEED)
    return Data(train, val, test, classes)


def _class_names(folder: Path, least: int = 2) -> list[str]:
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
    if len(names) < least:
        found = f"one class folder ({names[0]})" if names else "no class folders"
        raise DataError(f"{folder}: {found}; it needs one folder for each class, {least} at least")
    return names


def _choose_classes(names: list[str], cfg: CfgNode) -> tuple[str, ...]:
    if cfg.DATA.CLASS_FRACTION == 1:
        return tuple(names)
    count = max(2, round(len(names) * cfg.DATA.CLASS_FRACTION))
    return tuple(sorted(random.Random(cfg.DATA.SPLIT_SEED).sample(names, min(count, len(names)))))


def _scan(folder: Path, classes: tuple[str, ...], partial: bool = False) -> Split:
    """The image files of the named classes; with `partial` a class may have no folder, but never an empty one."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if partial:
        unknown = sorted(set(_class_names(folder, 1)) - set(_class_names(folder.parent / "train")))
        if unknown:
            raise DataError(f"{folder / unknown[0]}: a class that {folder.parent / 'train'} does not have; rename it")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if partial and not (folder / name).is_dir():
            continue
        found = sorted(
            os.path.join(base, file)
            for base, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
        )
        if not found:
            raise DataError(f"{folder / name}: no images ({', '.join(IMG_EXTENSIONS)}); add some or remove the folder")
        paths += found
        labels += [label] * len(found)
    return Split(Source(paths, labels), tuple(range(len(paths))))


def _imagenet(cfg: CfgNode, root: Path) -> Data:
    """ImageNet-1k by torchvision, from its extracted folders or its archives; the validation images are the test."""
    from torchvision.datasets import ImageNet

    try:
        parts = {split: ImageNet(str(root), split=split) for split in ("train", "val")}
    except (RuntimeError, OSError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{root}: not ImageNet as torchvision reads it ({reason}); for plain folders use DATA.DATASET imagefolder"
        ) from None
    names = parts["train"].wnids
    classes = _choose_classes(list(names), cfg)
    new_label = {names.index(name): label for label, name in enumerate(classes)}
    splits = []
    for part in parts.values():
        samples = [(path, new_label[label]) for path, label in part.samples if label in new_label]
        splits.append(Split(Source([p for p, _ in samples], [y for _, y in samples]), tuple(range(len(samples)))))
    return Data(splits[0], splits[1], splits[1], classes)


def _cifar10(cfg: CfgNode, root: Path) -> Data:
    """CIFAR-10 by torchvision, which compares the files' MD5 sums before it unpickles them."""
    from torchvision.datasets import CIFAR10

    try:
        train, test = CIFAR10(str(root), train=True), CIFAR10(str(root), train=False)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{root}: no complete CIFAR-10 ({' '.join(str(error).split())[:120]}); put cifar-10-batches-py there") from None
    everything = Split(Source(train.data, train.targets), tuple(range(len(train.targets))))
    rest, val = everything.halves(cfg.DATA.VAL_FRACTION, cfg.DATA.SPLIT_SEED)
    test_split = Split(Source(test.data, test.targets), tuple(range(len(test.targets))))
    return Data(rest, val, test_split, tuple(train.classes))


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
        debt -= count
        taken += rng.sample(members, count)
    return taken
