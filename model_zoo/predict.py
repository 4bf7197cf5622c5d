"""Classification of one image file by a network of the zoo."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from mobile_cv_nas.errors import InputError

from .builder import fbnet_builder
from .card import Card, get_card

if TYPE_CHECKING:
    from PIL.Image import Image


def classify(image: str | os.PathLike, name: str, weights: str | os.PathLike | None = None, top: int = 5) -> list[tuple[str, float]]:
    """The `top` most probable classes of an image file, with their probabilities, most probable first.

    Raises InputError for a file that is no image, and ZooError as `fbnet_builder` does.
    """
    card = get_card(name)
    picture = card.transform()(read_image(image))
    network = fbnet_builder(name, pretrained=True, weights=weights).eval()
    with torch.inference_mode():
        probabilities = network(picture[None])[0].softmax(dim=0)
    names = class_names(card)
    best = probabilities.topk(min(top, len(names)))
    return [(names[index], value) for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def read_image(path: str | os.PathLike) -> Image:
    """An image file, turned as its camera says. Raises InputError."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            return ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path of the image") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image file that can be read; give a JPEG or PNG, say") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from None


def class_names(card: Card) -> list[str]:
    """What a network's outputs mean: the names of ImageNet's classes, or the number of the class."""
    if card.classes != 1000:
        return [str(index) for index in range(card.classes)]
    from torchvision.models import ResNet50_Weights

    return list(ResNet50_Weights.DEFAULT.meta["categories"])
