"""From an image, and what it shows, to what a network takes: validation (`Preprocess`) and training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from .bands import Bands
from .images import TURNED, BadImage, middle
from .options import DataOptions

MAX_LENGTH = 32  # of an image for a detector, in its widths
AFFINE = {"degrees": 10.0, "shift": 0.1, "scale": 0.1}  # the range of `affine`, either way


@dataclass(frozen=True)
class Preprocess:
    """Turns a PIL image into a network's input, exactly as validation does: `preprocess(image) -> Tensor (C, H, W)`."""

    input_size: int  # pixels, each side of the result
    resize: int | tuple[int, int] = 0  # shorter side before the crop; (height, width): squeezed to it; 0: left as it is
    crop: bool = True  # the middle square of `input_size`
    interpolation: str = "bilinear"  # bilinear | bicubic
    mean: Sequence[float] = (0.485, 0.456, 0.406)  # of images in 0..1; as many as channels: 3, or 1 for grey
    std: Sequence[float] = (0.229, 0.224, 0.225)
    background: str = "white"  # white | black: what the reader composites transparent parts on

    def __call__(self, image: Any) -> Tensor:
        from torchvision.transforms import v2

        mode = v2.InterpolationMode(self.interpolation)
        image = with_channels(image, len(self.mean))
        if isinstance(self.resize, int):
            if self.resize:
                image = v2.Resize(self.resize, interpolation=mode, antialias=True)(middle(image))
            image = v2.CenterCrop(self.input_size)(image) if self.crop else image
            image = v2.functional.to_image(image)
        else:
            image = v2.Resize(list(self.resize), interpolation=mode, antialias=True)(v2.functional.to_image(image))
            size = [self.input_size, self.input_size]
            if size != list(self.resize):
                image = v2.Resize(size, interpolation=mode, antialias=True)(image)
        return _normalised(image, self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them."""
        resize = self.resize if isinstance(self.resize, int) else list(self.resize)
        return {**asdict(self), "resize": resize, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`."""
        resize = values["resize"]
        pair = resize if isinstance(resize, int) else (int(resize[0]), int(resize[1]))
        return cls(**{**values, "resize": pair, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def preprocess(
    options: DataOptions, input_size: int, labels: str = "classes", label_size: int | None = None, squeeze: bool = False
) -> Preprocess:
    """What validation does to an image with `labels` (classes | boxes | masks). `squeeze`: to the square, as images in memory are.

    Of boxes it only scales to 0..1: a detector resizes and normalises its images itself.
    """
    mean, std, mode = tuple(options.mean), tuple(options.std), options.interpolation
    if labels == "boxes":
        return Preprocess(input_size, 0, False, mode, (0.0,) * len(mean), (1.0,) * len(std), options.background)
    if labels == "masks" or squeeze:
        side = label_size or input_size
        return Preprocess(input_size, (side, side), False, mode, mean, std, options.background)
    return Preprocess(input_size, max(input_size, round(input_size / options.crop_ratio)), True, mode, mean, std, options.background)


def with_channels(image: Any, channels: int) -> Any:
    """A PIL image with 3 channels, or 1 (grey); bands as a tensor. Raises BadImage for another number of channels than these have."""
    if isinstance(image, Tensor):  # made of bands before
        return image
    if isinstance(image, Bands):
        if image.channels != channels:
            raise BadImage(f"has {image.channels} channels, where {channels} are needed")
        return image.tensor()
    if channels not in (1, 3):
        raise BadImage(f"a {image.mode} image, where {channels} channels are needed")
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _normalised(image: Any, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    from torchvision.transforms import v2

    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])
    return steps(image).as_subclass(Tensor)  # a batch is an ordinary tensor


def fitted(image: Tensor, size: int | None, options: DataOptions) -> Tensor:
    """A float image (C, H, W), already normalised, at (C, size, size). Raises BadImage for another number of channels."""
    if image.ndim != 3 or len(image) != len(options.mean):
        raise BadImage(f"a float tensor of shape {tuple(image.shape)}, where ({len(options.mean)}, H, W), as long as DATA.MEAN, is needed")
    image = image.detach().float()
    if size is None or tuple(image.shape[1:]) == (size, size):
        return image
    mode = options.interpolation
    return torch.nn.functional.interpolate(image[None], (size, size), mode=mode, align_corners=False, antialias=True)[0]


# -- classes ------------------------------------------------------------------------------------------


class ClassTransform:
    """PIL image and class to a normalised (C, S, S) tensor and the class, augmented if `train`."""

    collate: Callable[[list], Any] = staticmethod(default_collate)

    def __init__(self, options: DataOptions, input_size: int, train: bool):
        self.options, self.input_size = options, input_size
        self.steps: Any = _augmentation(options, input_size) if train else preprocess(options, input_size)

    def __call__(self, image: Any, label: int) -> tuple[Tensor, int]:
        if isinstance(image, Tensor):
            return fitted(image, self.input_size, self.options), label
        image = with_channels(image, len(self.options.mean))
        return self.steps(middle(image)).as_subclass(Tensor), label


def _augmentation(options: DataOptions, input_size: int) -> Any:
    from torchvision.transforms import v2

    mode = v2.InterpolationMode(options.interpolation)
    steps: list[Any] = []
    if options.augment in ("crop", "randaugment"):
        steps.append(v2.RandomResizedCrop(input_size, scale=(options.crop_scale, 1.0), interpolation=mode, antialias=True))
        steps.append(v2.RandomHorizontalFlip())
    else:
        resized = max(input_size, round(input_size / options.crop_ratio))
        steps += [v2.Resize(resized, interpolation=mode, antialias=True), v2.CenterCrop(input_size)]
    if options.augment == "randaugment":
        steps.append(v2.RandAugment(num_ops=2, magnitude=options.randaugment_magnitude))
    if options.augment == "affine":
        steps.append(_affine(0))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(options.mean), list(options.std))]
    if options.erase > 0:
        steps.append(v2.RandomErasing(p=options.erase))
    return v2.Compose(steps)


def _affine(fill: Any) -> Any:
    """Slight turns, shifts and scales; what comes in from outside has the value `fill`."""
    from torchvision.transforms import v2

    return v2.RandomAffine(AFFINE["degrees"], (AFFINE["shift"],) * 2, (1 - AFFINE["scale"], 1 + AFFINE["scale"]), fill=fill)


class BatchTransform:
    """Resizes and normalises a batch of a source in memory, (N, 1 or C, h, w) to (N, C, S, S)."""

    collate: Callable[[list], Any] = staticmethod(default_collate)

    def __init__(self, options: DataOptions, input_size: int, train: bool):
        self.mean, self.std = (torch.tensor(list(values)).view(1, -1, 1, 1) for values in (options.mean, options.std))
        self.size, self.mode = (input_size, input_size), options.interpolation
        self.affine = train and options.augment == "affine"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        images = torch.nn.functional.interpolate(images, self.size, mode=self.mode, align_corners=False, antialias=True)
        if self.affine:
            images = affine_batch(images, generator)
        return (images - self.mean) / self.std


def affine_batch(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turns, shifts and scales each image of a batch (N, C, H, W) at random, with black around it.

    The ranges are those of `AFFINE`; all randomness is the generator's.
    """
    count = len(images)
    angle, zoom, right, down = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle = angle * (AFFINE["degrees"] * torch.pi / 180)
    zoom = 1 / (1 + zoom * AFFINE["scale"])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift = 2 * AFFINE["shift"]  # the grid spans -1..1
    rows = torch.stack([cos, -sin, right * shift, sin, cos, down * shift], dim=1).view(count, 2, 3)
    grid = torch.nn.functional.affine_grid(rows, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


# -- boxes and masks ----------------------------------------------------------------------------------


def as_it_is(batch: list) -> list:
    """A batch of what differs in size: a list."""
    return batch


def _joint_affine() -> Any:
    """As `_affine`: what comes in from outside is black and belongs to no class."""
    from torchvision import tv_tensors

    return _affine({tv_tensors.Image: 0, tv_tensors.Mask: 255})


class BoxTransform:
    """PIL image and `Boxes` to an image (C, H, W) in 0..1, neither resized nor normalised (a detector does that itself).

    In training the second is {"boxes": (n, 4) in pixels, "labels": (n,)} without crowds; else the `Boxes` as they are.
    `crop` is the random crop of SSD, which keeps enough of an object, and a flip. A float tensor is taken as in 0..1.
    """

    collate: Callable[[list], Any] = staticmethod(as_it_is)

    def __init__(self, options: DataOptions, train: bool):
        self.options, self.train = options, train
        self.augment = options.augment if train else "none"

    def __call__(self, image: Any, target: Any) -> tuple[Tensor, Any]:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        width, height = _checked_size(image, target.size)
        if isinstance(image, Tensor):
            image = tv_tensors.Image(fitted(image, None, self.options))
        else:
            image = with_channels(image, len(self.options.mean))
        convert = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        if not self.train:
            return v2.Compose(convert)(image).as_subclass(Tensor), target
        kept = ~target.crowd
        size: Any = (height, width)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(target.boxes[kept]).view(-1, 4), format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        sample = {"image": image, "boxes": boxes, "labels": torch.from_numpy(target.labels[kept])}
        if self.augment == "affine":
            sample = _joint_affine()(sample)
        elif self.augment == "crop" and len(boxes):
            sample = v2.RandomHorizontalFlip()(v2.RandomIoUCrop()(sample))
        sample = v2.Compose([v2.SanitizeBoundingBoxes(min_size=1), *convert])(sample)
        return sample["image"].as_subclass(Tensor), {"boxes": sample["boxes"].as_subclass(Tensor), "labels": sample["labels"]}


def _checked_size(image: Any, wanted: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an image, which must be `wanted`. Raises BadImage, which says so where EXIF turned it."""
    width, height = (image.shape[-1], image.shape[-2]) if isinstance(image, Tensor) else image.size
    if (width, height) != tuple(wanted):
        turned = not isinstance(image, Tensor) and TURNED in image.info and (height, width) == tuple(wanted)
        why = " (EXIF has it turned; annotate it as it is seen, or remove its EXIF orientation)" if turned else ""
        raise BadImage(f"is {width}x{height}, its annotations say {wanted[0]}x{wanted[1]}{why}")
    if max(width, height) > MAX_LENGTH * min(width, height):  # resized to the network's input, nothing would be left of it
        raise BadImage(f"is {width}x{height}: more than {MAX_LENGTH} times as long as wide")
    return width, height


class MaskTransform:
    """PIL image and what draws its mask to a normalised (C, S, S) image and an int64 (L, L) mask, 255 where nothing counts.

    Both are squeezed into squares: S is the network's input size, L the size at which it is judged. `crop` is a random crop, and a flip.
    """

    collate: Callable[[list], Any] = staticmethod(default_collate)

    def __init__(self, options: DataOptions, input_size: int, label_size: int, train: bool):
        self.options, self.augment = options, options.augment if train else "none"
        self.input_size, self.label_size = input_size, label_size

    def __call__(self, image: Any, target: Any) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        mode, side = v2.InterpolationMode(self.options.interpolation), [self.label_size, self.label_size]
        if isinstance(image, Tensor):
            mask = tv_tensors.Mask(torch.from_numpy(target.mask(tuple(image.shape[1:])))[None])
            mask = v2.functional.resize(mask, side)
            return fitted(image, self.input_size, self.options), mask.as_subclass(Tensor)[0].long()
        drawn = target.mask((image.size[1], image.size[0]))  # DataError if of another size
        image = with_channels(image, len(self.options.mean))
        sample: Any = (v2.functional.to_image(image), tv_tensors.Mask(torch.from_numpy(drawn)[None]))
        if self.augment == "crop":
            scale = (self.options.crop_scale, 1.0)
            crop = v2.RandomResizedCrop(self.label_size, scale=scale, interpolation=mode, antialias=True)
            sample = v2.RandomHorizontalFlip()(*crop(*sample))
        else:
            sample = _joint_affine()(*sample) if self.augment == "affine" else sample
            sample = v2.Resize(side, interpolation=mode, antialias=True)(*sample)
        picture, mask = sample
        if self.input_size != self.label_size:
            picture = v2.Resize([self.input_size, self.input_size], interpolation=mode, antialias=True)(picture)
        return _normalised(picture, self.options.mean, self.options.std), mask.as_subclass(Tensor)[0].long()
