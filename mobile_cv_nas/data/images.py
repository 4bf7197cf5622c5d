"""The one reader of images, for training, validation, test, prediction and calibration alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from .bands import BadImage as BadImage
from .bands import Bands, from_pages, read_array, to_bands

MAX_PIXELS = 89_478_485  # an image of more would need over 256 MiB; Pillow warns from here on
MAX_ASPECT = 8  # the middle of a longer image is taken before it is resized: 1x10000 pixels must not become gigabytes
# By content, whatever the name says. Of others Pillow reads, some run programs (EPS) or are little tried.
FORMATS = ("JPEG", "PNG", "WEBP", "PPM", "BMP", "GIF", "TIFF", "AVIF")
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".npy"),
)
BACKGROUNDS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}
_ORIENTATION = 0x0112  # EXIF's tag, and Pillow's number of the transposition that undoes each value
_TURNS: dict[int, Any] = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
TURNED = "turned"  # key of a PIL image's info: set where EXIF had it turned


def endings() -> tuple[str, ...]:
    """The ends of the names of files that are read, lower case: AVIF is where this Pillow has it."""
    from PIL import features

    return (*ENDINGS, ".avif", ".avifs") if features.check("avif") else ENDINGS


def open_image(source: Any, background: str = "white", channels: int | None = None, turn: bool = True) -> Any:
    """A PIL image in RGB from a path, a PIL image, an array (H, W[, C]) or a tensor (C, H, W), uint8, uint16 or float.

    Of other `channels` than 1 and 3 they are `Bands`, with each channel as it is stored; where `channels` are not said, only .npy files
    that can be no picture are.

    It is turned as EXIF says (unless `turn` is False: a PIL image whose labels are of its pixels), transparent parts are composited on
    `background` (white | black), 16-bit and float values are scaled to 8 bits, palettes and CMYK converted. Raises BadImage, and nothing
    else, for what cannot be used.
    """
    try:
        if isinstance(source, (str, os.PathLike)):
            return _from_file(source, background, channels)
        if hasattr(source, "convert"):  # a PIL image
            return _of_pillow(source, background, channels, turn)
        return _from_array(source, background, channels)
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for damaged data
        raise BadImage(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from None


def _from_file(path: str | os.PathLike, background: str, channels: int | None) -> Any:
    if os.fspath(path).lower().endswith(".npy"):
        array = read_array(path)
        return to_bands(array) if channels is None and array.ndim == 3 and array.shape[2] > 4 else _from_array(array, background, channels)
    with _opened(path) as opened:
        return _of_pillow(opened, background, channels)


def file_size(path: str | os.PathLike) -> tuple[int, int]:
    """(width, height) of an image file as it is seen, by its header alone (a .npy file is read). Raises BadImage."""
    if os.fspath(path).lower().endswith(".npy"):
        return open_image(path).size
    try:
        with _opened(path) as opened:
            width, height = opened.size
            lying = "exif" in opened.info and _orientation(opened) in (5, 6, 7, 8)  # elsewhere it would be looked for in the pixels
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(str(error)) from None
    return (height, width) if lying else (width, height)


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata; sizes are checked here
        with open(path, "rb", opener=_at_once) as file, Image.open(file, formats=_formats()) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise BadImage(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
            yield opened


def _of_pillow(image: Any, background: str, channels: int | None, turn: bool = True) -> Any:
    if channels in (None, 1, 3):
        return to_rgb(image, background, turn)
    assert channels is not None
    found = from_pages(image, channels)
    if found is None:
        raise BadImage(
            f"has {len(image.getbands())} channels ({image.mode}), where {channels} are needed: in a .npy file, or a TIFF of pages"
        )
    bands, orientation = to_bands(found), _orientation(image)
    if turn and orientation in _TURNS:
        bands = Bands(_turned(bands.values, orientation), {TURNED: orientation})
    return bands


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """As EXIF says, channel by channel."""
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(one).transpose(_TURNS[orientation])) for one in np.moveaxis(values, -1, 0)], -1)


def _formats() -> tuple[str, ...]:
    from PIL import features

    return FORMATS if features.check("avif") else FORMATS[:-1]


def _at_once(path: str, flags: int) -> int:
    """Opens a named pipe without waiting for a writer (where the system has such pipes)."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def _from_array(source: Any, background: str, channels: int | None) -> Any:
    from PIL import Image

    if isinstance(source, Tensor):
        source = source.detach().cpu()
        values = np.asarray(source.permute(1, 2, 0) if source.ndim == 3 else source)
    else:
        values = np.asarray(source)
    if channels not in (None, 1, 3):
        return to_bands(values, channels)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (2, 3, 4))) or not values.size:
        raise BadImage(f"an array of shape {values.shape}, where (H, W), or (H, W, C) with 1 to 4 channels, is needed")
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.dtype != np.uint8:
        values = _to_bytes(values, wide=values.dtype.kind == "u")
    return to_rgb(Image.fromarray(values), background)


def _to_bytes(values: np.ndarray, wide: bool = False) -> np.ndarray:
    """Values of 0..1 (floats), 0..255 or, if `wide` or above, 0..65535 as uint8.

    Floats whose peak is below 2 are of 0..1: resampling leads a little above 1.
    """
    floats = values.dtype.kind == "f"
    values = values.astype(np.float64)
    peak = float(np.nanmax(values)) if values.size and not np.isnan(values).all() else 0.0
    scale = 255.0 if floats and peak < 2 else 1.0 if peak <= 255 and not wide else 255 / 65535
    return np.nan_to_num(values * scale).clip(0, 255).round().astype(np.uint8)


def to_rgb(image: Any, background: str = "white", turn: bool = True) -> Any:
    """A PIL image of any mode in RGB, as `open_image` says."""
    from PIL import Image

    said = _orientation(image)
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")  # which Pillow scales to 16 bits
    image.load()  # which turns a TIFF, and takes the tag away
    orientation = _orientation(image) if turn else 1
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float: convert() would cut at 255
        values = np.asarray(image)
        image = Image.fromarray(_to_bytes(values, wide))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        # a weighted sum; where all is opaque it leaves every pixel as it is
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUNDS[background]), image)
    image = image.copy() if image.mode == "RGB" else image.convert("RGB")  # reads the pixels while the file is open
    if turn and said in _TURNS:
        image.info[TURNED] = said
    image.info.pop("exif", None)  # it would be turned again
    return image


def _orientation(image: Any) -> int:
    """As EXIF says; 1, upright, where it says nothing that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1)) if hasattr(image, "getexif") else 1
    except Exception:  # damaged metadata spoils no image
        return 1


def middle(image: Any) -> Any:
    """A PIL image or a tensor (C, H, W); of one that is over MAX_ASPECT times as long as wide (or wide as long), the middle."""
    width, height = (image.shape[-1], image.shape[-2]) if isinstance(image, Tensor) else image.size
    new_width, new_height = min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)
    if (new_width, new_height) == (width, height):
        return image
    left, top = (width - new_width) // 2, (height - new_height) // 2
    if isinstance(image, Tensor):
        return image[..., top : top + new_height, left : left + new_width]
    return image.crop((left, top, left + new_width, top + new_height))
