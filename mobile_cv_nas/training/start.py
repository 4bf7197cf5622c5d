"""From a trained model to the data that fits it: its preparation of images, its classes by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..data.data_set import Data
from ..data.options import DataOptions
from ..errors import listed
from ..model_zoo.weights import adapt_stem
from ..tasks.load import imagenet_words
from ..tasks.model import Model
from ..weights.file import WeightsError

_LOG = logging.getLogger(__name__)
_WNID = re.compile(r"n\d{8}")  # what ImageNet's folders are called: the number of a noun in WordNet


def prepared_as(model: Model, options: DataOptions, given: Collection[str] = (), source: object = "the model") -> DataOptions:
    """The options of a data set with the mean, std, resize, interpolation and background of a model.

    Args:
        model: what the images are for.
        options: of the data set.
        given: names of fields that were set on purpose: they stay as they are, and where the model differs a warning says so.
        source: what to call the model in that warning.
    """
    transform = model.transform
    own: dict[str, Any] = {"background": transform.background, "mean": tuple(model.task.mean), "std": tuple(model.task.std)}
    if model.task.labels != "boxes":  # a detector resizes its images itself
        own["interpolation"] = transform.interpolation
    if options.in_channels not in (0, model.task.in_channels):
        _LOG.warning(
            "DATA.IN_CHANNELS: %d, where %s was trained with %d: mean and std are those of DATA",
            options.in_channels,
            source,
            len(own["mean"]),
        )
        del own["mean"], own["std"]
    size, resize = transform.input_size, transform.resize
    if transform.crop and isinstance(resize, int) and resize and max(size, round(size / options.crop_ratio)) != resize:
        own["crop_ratio"] = size / resize
    changes = {}
    for name, value in own.items():
        kept = getattr(options, name)
        kept = tuple(kept) if isinstance(kept, list) else kept
        if kept == value:
            continue
        if name in given:
            _LOG.warning("DATA.%s: %s, as set, where %s was trained with %s; leave it out to take that", name.upper(), kept, source, value)
        else:
            changes[name] = value
    return replace(options, **changes)


def in_order(data: Data, model: Model, source: object) -> Data:
    """The data with the labels of a model's classes, by name. Raises WeightsError where the two have other classes."""
    found = _matched(data, model, source)
    if found is None:
        raise WeightsError(
            f"{source}: a network of {len(model.classes)} classes ({listed(model.classes)}), but the data has {len(data.classes)} "
            f"({listed(data.classes)}); check DATA.DATASET and DATA.ROOT"
        )
    return found


def check_head(model: Model, head: str, source: object) -> None:
    """Raises WeightsError unless a head ("" for a classifier) can start from a model: from its own kind, or from a classifier."""
    if model.task.head.name not in ("", head):
        other = f"{head}; start from its own or a classifier's" if head else "empty: not of a classifier"
        raise WeightsError(f"{source}: the weights of {model.task.head.name}, and HEAD.NAME is {other}")


def check_channels(options: DataOptions, model: Model, source: object) -> None:
    """Raises WeightsError unless images have the channels that a model takes."""
    if len(options.mean) != model.task.in_channels:
        what = "DATA.IN_CHANNELS is" if options.in_channels else "the values of DATA.MEAN are"
        raise WeightsError(f"{source}: takes images of {model.task.in_channels} channels, and {what} {len(options.mean)}; leave them out")


def starting_state(data: Data, model: Model, source: object, channels: int) -> tuple[Data, dict[str, Tensor]]:
    """What fine-tuning starts from: the data in the order of the model's classes, and the weights, but a classifier of others.

    For images of another number of `channels` the first convolution is adapted, as the zoo does.
    """
    state = dict(model.network.state_dict())
    if channels != model.task.in_channels:
        stem = next(f"{name}.weight" for name, module in model.network.named_modules() if isinstance(module, nn.Conv2d))
        state[stem] = adapt_stem(state[stem], channels)
        _LOG.warning(
            "%s: trained on images of %d channels; its first convolution is adapted to %d", source, model.task.in_channels, channels
        )
    found = _matched(data, model, source)
    if found is not None or model.task.labels != data.train.source.kind:
        return found or data, state
    if model.task.labels == "classes":
        if len(data.classes) == len(model.classes):  # else the shape says it
            _LOG.warning(
                "%s: its classes are %s, not %s; the classifier starts at random", source, *map(listed, (model.classes, data.classes))
            )
        state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    elif len(data.classes) == len(model.classes):  # else the shape is an error
        names = listed(model.classes), listed(data.classes)
        _LOG.warning("%s: its classes are %s; their outputs go on as those of %s", source, *names)
    return data, state


def _matched(data: Data, model: Model, source: object) -> Data | None:
    """The data with its classes in the model's order; None where the names differ."""
    if data.classes == model.classes:
        return data
    if sorted(data.classes) == sorted(model.classes):
        _LOG.warning("%s: the classes of the data are in another order than the model's; they are matched by name", source)
        return data.relabelled(model.classes)
    if _imagenet_folders(data.classes) and tuple(model.classes) == imagenet_words():
        _LOG.warning("%s: the 1000 folders of the data (%s) are taken for ImageNet's, whose names it has", source, listed(data.classes))
        return replace(data, classes=model.classes)  # the same order; not by name
    nameless = all(name == str(i) for i, name in enumerate(model.classes))
    return data if nameless and len(data.classes) == len(model.classes) else None


def _imagenet_folders(names: Sequence[str]) -> bool:
    """Whether classes are called as the folders of ImageNet's 1000 classes are, in their order."""
    return len(names) == 1000 and all(map(_WNID.fullmatch, names)) and list(names) == sorted(names)
