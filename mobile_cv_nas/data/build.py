"""Data sets and loaders from options."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import did_you_mean
from .coco import read_coco
from .data_set import KINDS, Data, DataError, Source, Split
from .digit_scenes import digit_scenes
from .digits import digits
from .folders import cifar10, image_folder, imagenet
from .images import BadImage, open_image
from .loader import Loader, Transform
from .options import DataOptions
from .remarks import remark, remark_enlarged
from .targets import Annotated
from .transforms import BatchTransform, BoxTransform, ClassTransform, MaskTransform
from .voc import read_voc
from .wrapped import kind_of, named, source_of

_LOG = logging.getLogger(__name__)
_FOLDERS = {"imagefolder": image_folder, "cifar10": cifar10, "imagenet": imagenet}
ANNOTATED = ("coco", "voc", "digit_scenes")  # data sets whose labels are boxes or masks
DATASETS = ("digits", *_FOLDERS, *ANNOTATED)


def build_data(options: DataOptions, labels: str = "classes") -> Data:
    """The data set of the options with `labels`: classes | boxes | masks. No image file is decoded yet.

    What is likely a mistake (rare classes, an image in two splits) is said in the log.
    Raises DataError, which names the folder or file and the remedy; of files that are no images where they are too many.
    """
    if labels not in KINDS:
        raise DataError(f"labels {labels!r}: no such kind{did_you_mean(labels, KINDS, few=8)}")
    if options.dataset not in DATASETS:
        raise DataError(f"DATA.DATASET {options.dataset!r}: no such data set{did_you_mean(options.dataset, DATASETS, few=8)}")
    if (options.dataset in ANNOTATED) != (labels != "classes") or (options.dataset == "voc" and labels == "boxes"):
        raise DataError(f"DATA.DATASET {options.dataset}: has no labels of the kind {labels}")
    if options.dataset == "digits":
        return digits()
    data = _annotated(options, labels) if options.dataset in ANNOTATED else _of_classes(options)
    if options.dataset not in ("imagenet", "digit_scenes"):  # these are known
        remark(data, options.max_skipped_share)
    return data


def _of_classes(options: DataOptions) -> Data:
    if not options.root:
        raise DataError(f"DATA.ROOT: empty; name the folder with the images of DATA.DATASET {options.dataset}")
    root = Path(os.path.expanduser(options.root))
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(f"DATA.ROOT: {root}: {kind}; name the folder that holds the images")
    return _FOLDERS[options.dataset](options, root)


def _annotated(options: DataOptions, labels: str) -> Data:
    """Boxes or masks as annotations have them.

    coco: ROOT/annotations/instances_train*.json and images in ROOT/train* (the same name); so val, and test where there is one.
    voc: ROOT/ImageSets/Segmentation/train.txt, .../val.txt, JPEGImages and SegmentationClass.
    digit_scenes: written at ROOT, or in the cache folder, when it is first used, and read as coco.
    """
    if options.dataset == "digit_scenes":
        root = digit_scenes(options.root)
    else:
        root = Path(os.path.expanduser(options.root))
        if not options.root or not root.is_dir():
            raise DataError(f"DATA.ROOT: {options.root!r} is no folder; name the one that holds the data set")
    parts: dict[str, Annotated] = {}
    for name in ("train", "val", "test"):
        part = _read_voc(root, name) if options.dataset == "voc" else _read_coco(root, name, labels, options)
        if part is not None:
            parts[name] = part
    for name in ("train", "val"):
        if name not in parts:
            raise DataError(f"{root}: has no annotations/instances_{name}*.json; add it")
    categories = parts["train"].categories
    for name, part in parts.items():
        if part.categories != categories:
            raise DataError(
                f"{root}: {name} has other categories than train: {_difference(part.categories, categories)}; make them the same"
            )
    splits = {name: Split.whole(Source(part.paths, part.targets, labels)) for name, part in parts.items()}
    return Data(splits["train"], splits["val"], splits.get("test"), categories if labels == "boxes" else ("background", *categories))


def _read_voc(root: Path, name: str) -> Annotated | None:
    if name == "test" and not (root / "ImageSets/Segmentation/test.txt").exists():
        return None
    return read_voc(root, name)


def _read_coco(root: Path, name: str, labels: str, options: DataOptions) -> Annotated | None:
    files = sorted((root / "annotations").glob(f"instances_{name}*.json"))
    if not files:
        return None
    if len(files) > 1:
        raise DataError(f"{root / 'annotations'}: {len(files)} files for {name} ({files[0].name}, {files[1].name}); leave one")
    images = root / files[0].stem.removeprefix("instances_")
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; it must hold the images of {files[0]}")
    task = "detect" if labels == "boxes" else "segment"
    return read_coco(files[0], images, task, options.on_bad, options.max_skipped_share)


def _difference(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if extra:
        return f"{extra[0]!r} is not in train"
    return f"{missing[0]!r} is missing" if missing else "in another order"


def data_of(
    train: Any, val: Any = None, test: Any = None, classes: Sequence[str] | None = None, options: DataOptions | None = None
) -> Data:
    """The data set of one's own: `train`, `val` and `test` are map-style Datasets of (image, label), or `train` is a folder.

    An image is a PIL image or uint8 (an array (H, W[, C]) or a tensor (C, H, W)), which the transforms of `options` prepare, or a
    float tensor (C, H, W), which is taken as normalised (of boxes as in 0..1) and at most resized. A label is a whole number;
    for segmentation a mask (H, W) of whole numbers, 255 to ignore; for detection {"boxes": (n, 4), "labels": (n,)} as
    torchvision's detectors take them, labels from 1 on. `classes`: their names, of masks with the background first.

    Without `val` a share of `train` is split off; without `test` there is none. Raises DataError.
    """
    options = options or DataOptions()
    if isinstance(train, (str, os.PathLike)):
        if val is not None or test is not None or classes is not None:
            raise DataError(f"train: {str(train)!r} is a folder, whose val, test and classes are its folders; leave those arguments out")
        return build_data(replace(options, root=str(train)))
    kind = kind_of(train, "train")
    given = {"train": train, "val": val, "test": test}
    sources = {name: source_of(dataset, kind, name) for name, dataset in given.items() if dataset is not None}
    sources, names = named(sources, classes)
    splits = {name: Split.whole(source) for name, source in sources.items()}
    if "val" not in splits:
        splits["train"], splits["val"] = splits["train"].halves(options.val_fraction, options.split_seed, "DATA.VAL_FRACTION")
        _LOG.info("no validation images were given: %d of the %d training images are split off", len(splits["val"]), len(train))
    data = Data(splits["train"], splits["val"], splits.get("test"), names)
    remark(data, options.max_skipped_share)
    return data


def build_loader(
    options: DataOptions,
    split: Split,
    input_size: int,
    batch_size: int,
    train: bool,
    shard: tuple[int, int] = (0, 1),
    seed: int = 0,
    label_size: int | None = None,
) -> Loader:
    """The loader of a split. `batch_size` is that of this process; `shard` its (rank, world).

    Masks have the size `label_size`, by default that of the images. Images for a detector keep their size: it resizes them.
    """
    source = split.source
    _check_channels(options, split)
    if train and source.kind != "boxes":
        remark_enlarged(split, input_size)
    transform: Transform
    if source.kind == "boxes":
        transform = BoxTransform(options, train)
    elif source.kind == "masks":
        transform = MaskTransform(options, input_size, label_size or input_size, train)
    elif source.in_memory:
        transform = BatchTransform(options, input_size, train)
    else:
        transform = ClassTransform(options, input_size, train)
    return Loader(split, transform, batch_size, train, seed, shard, options)


def _check_channels(options: DataOptions, split: Split) -> None:
    """Raises DataError where images cannot have as many channels as there are means."""
    channels = len(options.mean)
    if len(options.std) != channels:
        raise DataError(f"std: {len(options.std)} values, and mean has {channels}; give one for each channel")
    source = split.source
    if source.in_memory and source.images.shape[1] not in (1, channels):
        raise DataError(f"DATA.MEAN: {channels} values, and the images have {source.images.shape[1]} channels; give one for each")
    if source.in_memory or source.normalised or channels in (1, 3):
        return
    if options.augment == "randaugment":
        raise DataError(f"DATA.AUGMENT: randaugment is for grey and colour, and the images have {channels} channels; use crop or affine")
    try:
        open_image(source.peek(split.indices[0])[0], options.background, channels)
    except BadImage as error:
        many = "DATA.IN_CHANNELS" if options.in_channels else "DATA.MEAN"
        raise DataError(f"{many}: for {channels} channels, and {source.name(split.indices[0])}: {error}") from None
