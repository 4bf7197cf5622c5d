"""Images that are neither grey nor colour: of any number of channels, from .npy files, TIFF files and arrays."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_BYTES = 1 << 30  # of one image
_FULL = {"uint8": 255.0, "uint16": 65535.0, "bool": 1.0}  # what stands for 1; floats are taken as they are


class BadImage(Exception):
    """An image that cannot be used, and why."""


@dataclass(frozen=True)
class Bands:
    """An image of several channels, in 0..1; it stands where a PIL image stands for grey and colour.

    Args:
        values: float32 (H, W, C).
    """

    values: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)  # as of a PIL image

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.values.shape[1], self.values.shape[0]

    @property
    def channels(self) -> int:
        return self.values.shape[2]

    def crop(self, box: tuple[int, int, int, int]) -> Bands:
        """The part from (left, top) to (right, bottom)."""
        left, top, right, bottom = box
        return Bands(self.values[top:bottom, left:right], self.info)

    def tensor(self) -> Tensor:
        """The image as torchvision's transforms take it: (C, H, W)."""
        from torchvision import tv_tensors

        return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(self.values.transpose(2, 0, 1))))

    def picture(self) -> Any:
        """A PIL image to look at: the first three channels as red, green and blue, or the first as grey."""
        from PIL import Image

        shown = self.values[..., :3] if self.channels >= 3 else self.values[..., 0]
        return Image.fromarray((shown.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")


def as_picture(image: Any) -> Any:
    """A PIL image, of bands as well."""
    return image.picture() if isinstance(image, Bands) else image


def read_array(path: str | os.PathLike) -> np.ndarray:
    """The array of a .npy file, which is not read as Python objects. Raises BadImage."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would be waited for
        raise BadImage("no file")
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray):
        raise BadImage("an archive of arrays, where one array is needed: save it by numpy.save")
    if mapped.nbytes > MAX_BYTES:
        raise BadImage(f"{mapped.nbytes:,} bytes are more than {MAX_BYTES:,}")
    return np.array(mapped)


def from_pages(image: Any, channels: int) -> np.ndarray | None:
    """The channels of an open PIL image, as they are stored: of a pixel (RGBA as 4, say), or one a page; None if there are others."""
    if len(image.getbands()) == channels:
        return np.asarray(image)
    pages = getattr(image, "n_frames", 1)
    if pages != channels or len(image.getbands()) != 1 or image.mode == "P":
        return None
    found = []
    for page in range(pages):
        image.seek(page)
        found.append(np.asarray(image))
    if len({page.shape for page in found}) > 1:
        raise BadImage("its pages differ in size")
    return np.stack(found, -1)


def to_bands(values: np.ndarray, channels: int | None = None) -> Bands:
    """An array (H, W, C) or (C, H, W) as bands, of so many channels. Raises BadImage."""
    wanted = f"(H, W, {channels or 'C'})"
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim == 3 and channels and values.shape[2] != channels == values.shape[0]:
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or not values.size or (channels and values.shape[2] != channels):
        raise BadImage(f"an array of shape {values.shape}, where {wanted} is needed")
    if values.dtype.kind == "f":
        return Bands(np.nan_to_num(values.astype(np.float32)))
    if values.dtype.name not in _FULL:
        raise BadImage(f"values of type {values.dtype}, of which no range is known; save uint8, uint16, or floats in 0..1")
    return Bands((values / _FULL[values.dtype.name]).astype(np.float32))
