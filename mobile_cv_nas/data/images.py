"""One image: safe decoding, and the transforms of training and testing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

MAX_PIXELS = 89_478_485  # an image of more would need over 256 MiB; Pillow warns from here on
MAX_ASPECT = 8  # the middle of a longer image is taken before it is resized: 1x10000 pixels must not become gigabytes
# By content, whatever the name says. Of others Pillow reads, some run programs (EPS) or are little tried.
FORMATS = ("JPEG", "PNG", "WEBP", "PPM", "BMP", "GIF", "TIFF")


class BadImage(Exception):
    """An image that cannot be used, and why."""


def decode(image: Any, whole: bool = False) -> Any:
    """A PIL image in RGB from a path or a uint8 array (H, W, 3); of a very long one its middle, unless `whole`.

    Raises BadImage, and nothing else, for a bad one.
    """
    from PIL import Image

    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; sizes are checked here
            with open(image, "rb", opener=_at_once) as file, Image.open(file, formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise BadImage(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
                found = to_rgb(opened)
                return found if whole else _middle(found)
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for damaged data
        raise BadImage(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from None


def _at_once(path: str, flags: int) -> int:
    """Opens a named pipe without waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def to_rgb(image: Any) -> Any:
    """A PIL image of any mode in RGB, 16-bit and floating point scaled to 8 bits."""
    from PIL import Image

    if image.mode == "RGB":
        return image.copy()  # reads the pixels while the file is open
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float: convert() would cut at 255
        values = np.asarray(image, dtype=np.float64)
        peak = float(np.nanmax(values)) if values.size else 0.0
        scale = 255.0 if image.mode == "F" and peak <= 1 else 1.0 if peak <= 255 and image.mode != "I;16" else 255 / 65535
        values = np.nan_to_num(values * scale).clip(0, 255).round().astype(np.uint8)
        return Image.fromarray(values).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _middle(image: Any) -> Any:
    width, height = image.size
    new_width, new_height = min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)
    if (new_width, new_height) == (width, height):
        return image
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height))


def image_transform(data: CfgNode, input_size: int, train: bool) -> Callable[[Any], Tensor]:
    """PIL image to a normalised (3, input_size, input_size) tensor, augmented as `data`, which is `cfg.DATA`, says if `train`."""
    from torchvision.transforms import v2

    mode = v2.InterpolationMode(data.INTERPOLATION)
    augment = data.AUGMENT if train else "none"
    steps: list[Any] = []
    if augment in ("crop", "randaugment"):
        steps.append(v2.RandomResizedCrop(input_size, scale=(data.CROP_SCALE, 1.0), interpolation=mode, antialias=True))
        steps.append(v2.RandomHorizontalFlip())
    else:
        resized = max(input_size, round(input_size / data.CROP_RATIO))
        steps += [v2.Resize(resized, interpolation=mode, antialias=True), v2.CenterCrop(input_size)]
    if augment == "randaugment":
        steps.append(v2.RandAugment(num_ops=2, magnitude=data.RANDAUGMENT_MAGNITUDE))
    if augment == "affine":
        steps.append(v2.RandomAffine(AFFINE["degrees"], (AFFINE["shift"],) * 2, (1 - AFFINE["scale"], 1 + AFFINE["scale"])))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.MEAN, data.STD)]
    if train and data.ERASE > 0:
        steps.append(v2.RandomErasing(p=data.ERASE))
    return _Tensor(v2.Compose(steps))


class _Tensor:
    """Drops torchvision's tensor subclass: a batch is an ordinary tensor."""

    def __init__(self, transform: Callable[[Any], Any]):
        self.transform = transform

    def __call__(self, image: Any) -> Tensor:
        return self.transform(image).as_subclass(Tensor)


AFFINE = {"degrees": 10.0, "shift": 0.1, "scale": 0.1}  # the range of `affine`, either way


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
