"""What is read, and how images are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError

COLOUR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # ImageNet's, of red, green and blue


@dataclass(frozen=True)
class DataOptions:
    """A data set and its preparation; the keys of DATA say the same.

    Raises:
        InputError: `mean` or `std` cannot be of as many channels as `in_channels` says.
    """

    dataset: str = "imagefolder"  # digits | imagefolder | cifar10 | imagenet | digit_scenes | coco | voc
    root: str = ""  # folder of the images; digit_scenes: where to write it, "": the cache
    class_fraction: float = 1.0  # imagefolder, imagenet: random share of the classes to keep
    split_seed: int = 0  # chooses those classes, and which images of a single folder are for validation and test
    val_fraction: float = 0.1  # share for validation, of cifar10 and of folders without val/
    test_fraction: float = 0.1  # share for the test, of a folder that is not split at all
    in_channels: int = (
        0  # of the images, as the network takes them: 1 is grey, 3 colour, others are of .npy and .tif files; 0: as many as mean
    )
    mean: Sequence[float] = COLOUR["mean"]  # of each channel (red, green and blue; one for grey), for images in 0..1
    std: Sequence[float] = COLOUR["std"]  # as mean
    crop_ratio: float = 0.875  # image files of a class, not augmented: side of the central crop over the shorter side
    interpolation: str = "bilinear"  # bilinear | bicubic, of every resize
    augment: str = "none"  # none | affine | crop | randaugment
    crop_scale: float = 0.08  # crop, randaugment: smallest area of a crop, as a share of the image
    randaugment_magnitude: int = 9  # strength of its two operations, 0 to 30
    erase: float = 0.0  # probability of erasing a rectangle of a training image
    mixup: float = 0.0  # alpha of MixUp in training; 0 = off
    background: str = "white"  # white | black: what is behind transparent parts of an image
    on_bad: str = "stop"  # stop | skip: what to do with a record of a COCO file that cannot be used
    workers: int = 2  # processes that read image files, for each training process
    max_skipped_share: float = 0.01  # stop when more than this share of the images cannot be read

    def __post_init__(self) -> None:
        """With `in_channels`, one value stands for every channel, and for grey the default becomes its mean over the colours."""
        for name in ("mean", "std") if self.in_channels else ():
            object.__setattr__(self, name, channel_values(name.upper(), getattr(self, name), self.in_channels))


def channel_values(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """The MEAN or STD of so many channels. Raises InputError."""
    found = tuple(values)
    if len(found) == 1:
        found *= channels
    elif channels == 1 and found == COLOUR[name.lower()]:
        found = (round(sum(found) / len(found), 4),)
    if len(found) != channels:
        raise InputError(f"DATA.{name}: {len(found)} values, and DATA.IN_CHANNELS is {channels}; give one for each channel, or one for all")
    return found
