"""Images with boxes or masks: the data sets in COCO and Pascal-VOC form, and their transforms."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from .data_set import Data, DataError, Source, Split
from .images import AFFINE, BadImage

MAX_LENGTH = 32  # of an image for a detector, in its widths


def build_dense(cfg: CfgNode, kind: str) -> Data:
    """The data set of `cfg.DATA` with `boxes` or `masks`, as its annotations have them; no image file is opened yet.

    coco: ROOT/annotations/instances_train*.json and images in ROOT/train* (the same name); so val, and test where there is one
    (else val is the test). voc: ROOT/ImageSets/Segmentation/train.txt, .../val.txt, JPEGImages and SegmentationClass.
    digit_scenes: written at ROOT, or in the cache folder, when it is first used, and read as coco.

    The classes of masks begin with the background. Raises DataError.
    """
    from .digit_scenes import digit_scenes
    from .targets import read_voc

    data = cfg.DATA
    if data.DATASET == "digit_scenes":
        root = digit_scenes(data.ROOT)
    else:
        root = Path(os.path.expanduser(data.ROOT))
        if not data.ROOT or not root.is_dir():
            raise DataError(f"DATA.ROOT: {data.ROOT!r} is no folder; name the one that holds the data set")
    if data.DATASET == "voc":
        found = {name: read_voc(root, name) for name in ("train", "val")}
        if (root / "ImageSets/Segmentation/test.txt").exists():
            found["test"] = read_voc(root, "test")
    else:
        found = {name: _read_coco(root, name, kind) for name in ("train", "val", "test")}
    parts = {name: part for name, part in found.items() if part is not None}
    for name in ("train", "val"):
        if name not in parts:
            raise DataError(f"{root}: has no annotations/instances_{name}*.json; add it")
    categories = parts["train"].categories
    for name, part in parts.items():
        if part.categories != categories:
            raise DataError(
                f"{root}: {name} has other categories than train: {_difference(part.categories, categories)}; make them the same"
            )
    train, val, test = (
        Split(Source(part.paths, part.targets, kind), tuple(range(len(part.paths))))
        for part in (parts["train"], parts["val"], parts.get("test", parts["val"]))
    )
    return Data(train, val, test, categories if kind == "boxes" else ("background", *categories))


def _read_coco(root: Path, name: str, kind: str) -> Any:
    from .targets import read_coco

    files = sorted((root / "annotations").glob(f"instances_{name}*.json"))
    if not files:
        return None
    if len(files) > 1:
        raise DataError(f"{root / 'annotations'}: {len(files)} files for {name} ({files[0].name}, {files[1].name}); leave one")
    images = root / files[0].stem.removeprefix("instances_")
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; it must hold the images of {files[0]}")
    return read_coco(files[0], images, "detect" if kind == "boxes" else "segment")


def _difference(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if extra:
        return f"{extra[0]!r} is not in train"
    return f"{missing[0]!r} is missing" if missing else "in another order"


class _Joint:
    """Transforms an image and what is drawn on it alike, as DATA.AUGMENT says."""

    def __init__(self, data: CfgNode, train: bool):
        self.data, self.augment = data, data.AUGMENT if train else "none"

    def affine(self) -> Any:
        """Slight turns, shifts and scales; what comes in from outside is black and belongs to no class."""
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        fill: Any = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
        return v2.RandomAffine(AFFINE["degrees"], (AFFINE["shift"],) * 2, (1 - AFFINE["scale"], 1 + AFFINE["scale"]), fill=fill)


class BoxTransform(_Joint):
    """PIL image and `Boxes` to an image (3, H, W) in 0..1, neither resized nor normalised (a detector does that itself).

    In training the second is {"boxes": (n, 4) in pixels, "labels": (n,)} without crowds; else the `Boxes` as they are.
    `crop` is the random crop of SSD, which keeps enough of an object, and a flip.
    """

    def __init__(self, data: CfgNode, train: bool):
        super().__init__(data, train)
        self.train = train

    def __call__(self, image: Any, target: Any) -> tuple[Tensor, Any]:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        if image.size != tuple(target.size):
            raise BadImage(f"is {image.size[0]}x{image.size[1]}, its annotations say {target.size[0]}x{target.size[1]}")
        if max(image.size) > MAX_LENGTH * min(image.size):  # resized to the network's input, nothing would be left of it
            raise BadImage(f"is {image.size[0]}x{image.size[1]}: more than {MAX_LENGTH} times as long as wide")
        convert = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        if not self.train:
            return v2.Compose(convert)(image).as_subclass(Tensor), target
        kept = ~target.crowd
        size: Any = (image.size[1], image.size[0])
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(target.boxes[kept]).view(-1, 4), format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        sample = {"image": image, "boxes": boxes, "labels": torch.from_numpy(target.labels[kept])}
        if self.augment == "affine":
            sample = self.affine()(sample)
        elif self.augment == "crop" and len(boxes):
            sample = v2.RandomHorizontalFlip()(v2.RandomIoUCrop()(sample))
        sample = v2.Compose([v2.SanitizeBoundingBoxes(min_size=1), *convert])(sample)
        return sample["image"].as_subclass(Tensor), {"boxes": sample["boxes"].as_subclass(Tensor), "labels": sample["labels"]}


class MaskTransform(_Joint):
    """PIL image and what draws its mask to a normalised (3, S, S) image and an int64 (L, L) mask, 255 where nothing counts.

    Both are squeezed into squares: S is the network's input size, L the size at which it is judged. `crop` is a random crop, and a flip.
    """

    def __init__(self, data: CfgNode, input_size: int, label_size: int, train: bool):
        super().__init__(data, train)
        self.input_size, self.label_size = input_size, label_size

    def __call__(self, image: Any, target: Any) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        mask = target.mask((image.size[1], image.size[0]))  # DataError if of another size
        sample: Any = (v2.functional.to_image(image), tv_tensors.Mask(torch.from_numpy(mask)[None]))
        mode, side = v2.InterpolationMode(self.data.INTERPOLATION), (self.label_size, self.label_size)
        if self.augment == "crop":
            crop = v2.RandomResizedCrop(self.label_size, scale=(self.data.CROP_SCALE, 1.0), interpolation=mode, antialias=True)
            sample = v2.RandomHorizontalFlip()(*crop(*sample))
        else:
            sample = self.affine()(*sample) if self.augment == "affine" else sample
            sample = v2.Resize(side, interpolation=mode, antialias=True)(*sample)
        picture, mask = sample
        if self.input_size != self.label_size:
            picture = v2.Resize((self.input_size, self.input_size), interpolation=mode, antialias=True)(picture)
        normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.data.MEAN, self.data.STD)])
        return normalise(picture).as_subclass(Tensor), mask.as_subclass(Tensor)[0].long()
