"""The images that int8 is calibrated on, and which layers lose most by it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.folders import image_files
from ..data.images import BadImage, open_image
from ..errors import InputError, did_you_mean
from .check import sqnr
from .interface import Interface
from .suppress import fitted
from .wrapped import signals

if TYPE_CHECKING:
    from ..tasks.model import Model

HELD_OUT = 16  # images that int8 is judged by, beside those that it is calibrated on, where there are so many
_SENSITIVITY = 4  # images that layers are compared on


def calibration(source: Any, model: Model | None, interface: Interface, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Images to calibrate on and others to judge by, as a file's network takes them: normalised, (C, S, S).

    Args:
        source: a folder; or image paths, PIL images, arrays, or float tensors (C, S, S) that are normalised already, several of them.
        model: whose transform prepares what is no tensor.
        interface: of the file.
        count: images to calibrate on, evenly spread over the source. The others are none where the source has no more.

    Raises:
        InputError: no images, or what cannot be read or prepared.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"images {count!r}: give how many images to calibrate on, 1 or more")
    found = _listed(source)
    if not found:
        raise InputError(
            f"int8: no images{f' in {source}' if isinstance(source, (str, os.PathLike)) else ''}; give some as they are in use"
        )
    chosen = _spread(found, count + HELD_OUT)
    judged = set(_spread(range(len(chosen)), HELD_OUT)) if len(chosen) == count + HELD_OUT else set()
    tensors = [_prepared(one, model, interface) for one in chosen]
    return [t for i, t in enumerate(tensors) if i not in judged], [t for i, t in enumerate(tensors) if i in judged]


def _listed(source: Any) -> list[Any]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.is_dir():
            raise InputError(f"int8: {source}: no such folder; give a folder of images, or a list of them")
        return image_files(path)
    if not isinstance(source, Iterable):
        raise InputError(f"int8: a {type(source).__name__}; give a folder of images, or a list of them")
    return list(source)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """So many items, evenly spaced; all if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _prepared(image: Any, model: Model | None, interface: Interface) -> Tensor:
    if not (isinstance(image, Tensor) and image.is_floating_point()):
        if model is None:
            raise InputError("int8: a network alone does not say how images are prepared; give float tensors, or export a Model")
        if model.about.get("own_inputs"):
            raise InputError("int8: the network was trained on tensors that a Dataset of its own prepared; give float tensors made alike")
        try:
            image = model.transform(open_image(image, model.transform.background, model.task.in_channels))
        except BadImage as error:
            raise InputError(f"int8: {image}: no image that can be read: {error}; take it out") from None
    if interface.kind == "detection" and image.ndim == 3:
        assert interface.suppression is not None
        image = fitted(image, interface.input_size, interface.suppression)[0]
    if tuple(image.shape) != (interface.in_channels, interface.input_size, interface.input_size):
        raise InputError(f"int8: a tensor of shape {tuple(image.shape)}: the network takes {interface.shape(1)[1:]}")
    return image.detach().cpu().float()


def check_layers(network: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """The names of layers or blocks to keep in float. Raises InputError for one that the network has not."""
    known = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in known:
            raise InputError(f"keep_float: {name!r}: no such layer or block{did_you_mean(name, known)}")
    return tuple(names)


def within(name: str, parts: Iterable[str]) -> bool:
    """Whether a module's name is one of these, or inside one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


@torch.no_grad()
def layer_losses(network: nn.Module, images: Sequence[Tensor] | Tensor, most: int = 10) -> list[tuple[str, float]]:
    """The layers that lose most in int8: names, and the signal-to-noise ratio in dB of the outputs where only that layer is quantised.

    A layer is quantised as the runtimes do it: its weights symmetric by channel, its input by the range that it has on these images.

    Args:
        network: folded, giving a tuple of tensors.
        images: as the network takes them, of which the first few are used.
        most: layers to name, the worst first.
    """
    given = torch.stack(list(images[:_SENSITIVITY]))
    old = _joined(signals(network, network(given)))
    found = []
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        weight = layer.weight.data
        hook = layer.register_forward_pre_hook(_round_input)
        layer.weight.data = _rounded_weight(weight)
        try:
            found.append((name.removeprefix("network."), sqnr(old, _joined(signals(network, network(given))))))
        finally:
            layer.weight.data = weight
            hook.remove()
    return sorted(found, key=lambda pair: pair[1])[:most]


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    """All outputs in one vector, each at the same power."""
    return torch.cat([output.flatten() / output.square().mean().sqrt().clamp(min=1e-12) for output in outputs])


def _rounded_weight(weight: Tensor) -> Tensor:
    scale = weight.abs().flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (weight.ndim - 1)) / 127
    return (weight / scale).round() * scale


def _round_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook before a layer; a head takes a list of maps, of which it reads the last."""
    first = args[0]
    return (_rounded(first) if isinstance(first, Tensor) else [*first[:-1], _rounded(first[-1])], *args[1:])


def _rounded(x: Tensor) -> Tensor:
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round()
    return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale
