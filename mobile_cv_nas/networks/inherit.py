"""The weights that a child inherits from a supernet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arch import ArchDef
from .supernet import Supernet


def inherit_weights(child: nn.Module, supernet: Supernet) -> nn.Module:
    """Copies a child's weights and norm statistics from the supernet: prefixes of channels, centres of kernels.

    Statistics of a mixture are not those of one arch: follow it by `recalibrate_batchnorm(child, batches)`.

    Args:
        child: from `build_model`, or under another head the detector or segmenter of the builders, with an arch of the supernet's space and
            as many classes; changed in place.
        supernet: where the weights come from.

    Returns:
        The child.

    Raises:
        ArchError: the child's arch is not in the supernet's space.
        ValueError: the head, its options, the classes or the image channels differ.
    """
    body: Any = child if hasattr(child, "blocks") else getattr(getattr(child, "backbone", None), "body", None)
    arch: Any = getattr(body, "arch", None)
    if not isinstance(arch, ArchDef):
        raise ValueError("the child has no arch: build it with build_model, build_detector or build_segmenter")
    supernet.space.encode(arch)
    if body.in_channels != supernet.in_channels:
        raise ValueError(f"the child takes images of {body.in_channels} channels, the supernet of {supernet.in_channels}; give as many")
    with torch.no_grad():
        for i, (layer, source) in enumerate(zip(arch.layers, supernet.mixed(), strict=True)):
            if layer.names[0] == "skip" and source.layer.skip is not None:
                continue  # it has no weights; at the end of a feature backbone it is not even there
            if i >= len(body.blocks):
                raise ValueError(f"{layer.key}: the child has no such block: its backbone ends in front of it; build all of its arch")
            copy_part(body.blocks[i].state_dict(), source.unit(layer.names[0]).state_dict(), layer.key)
        outputs, own = _part(child, supernet.head.counts), supernet.head_def.num_classes
        own += supernet.head_def.name == "ssdlite"  # the background
        if outputs is not None and outputs != own:
            raise ValueError(f"the child has {outputs} classes, the supernet {own}; give as many")
        like = supernet.head_of(arch)
        for part, place in supernet.head.places.items():
            theirs, target = _part(supernet.head, part), _part(child, place)
            if theirs is None or target is None:
                raise ValueError(f"the child has no {place}: it is not under the head {supernet.head_def.name}")
            _check_head(target.state_dict(), _part(like, part).state_dict(), place, supernet.head_def.name)
            copy_part(target.state_dict(), theirs.state_dict(), place)
    return child


def _check_head(target: dict[str, Tensor], like: dict[str, Tensor], where: str, head: str) -> None:
    """A head is narrower than the supernet's where it reads the maps and nowhere else: a slice of its inside would be another head."""
    for name, value in target.items():
        if name in like and like[name].shape != value.shape:
            found, expected = tuple(value.shape), tuple(like[name].shape)
            raise ValueError(
                f"{where}.{name}: the child has {found}, the supernet's {head} would have {expected}; give it the same options"
            )


def _part(module: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        module = getattr(module, name, None)
    return module


def copy_part(target: dict[str, Tensor], source: dict[str, Tensor], where: str) -> None:
    """Copies into each tensor of `target` the corner of its namesake that has its shape. Raises ValueError if it has none."""
    for name, value in target.items():
        if name not in source or source[name].ndim != value.ndim:
            raise ValueError(f"{where}.{name}: the supernet has none; build the child under the same head")
        found = source[name][_corner(source[name].shape, value.shape)]
        if found.shape != value.shape:
            raise ValueError(
                f"{where}.{name}: the child has {tuple(value.shape)}, the supernet {tuple(source[name].shape)}; give as many classes"
            )
        value.copy_(found)


def _corner(full: Sequence[int], part: Sequence[int]) -> tuple[slice, ...]:
    """Prefixes of the first two dimensions (channels), the centre of the others (kernel taps)."""
    starts = [0 if i < 2 else (f - p) // 2 for i, (f, p) in enumerate(zip(full, part))]
    return tuple(slice(start, start + p) for start, p in zip(starts, part))
