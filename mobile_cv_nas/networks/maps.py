"""The feature maps of a network: which blocks make them, and finer ones by dilation in place of strides."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn

from ..arch import ArchDef, BlockDef
from ..errors import InputError
from ..nn.blocks import ConvBlock, IRPool, Skip


class FeatureInfo(NamedTuple):
    """What a backbone returns, map by map: `channels`, `strides` (input pixels a map pixel), `blocks` (their names)."""

    channels: list[int]
    strides: list[int]
    blocks: list[str]


def stride_maps(arch: ArchDef, blocks: nn.Sequential) -> FeatureInfo:
    """The last map of each stride in the blocks of an arch, without what only a classifier needs."""
    named = list(blocks.named_children())
    last: dict[int, tuple[int, str]] = {}  # stride: channels, block
    stride = 1
    for (name, block), row in zip(named, rows(arch), strict=True):
        pointwise = isinstance(block, ConvBlock) and block.kernel == 1
        if isinstance(block, IRPool) or (pointwise and name == named[-1][0]):
            break
        stride *= row.stride
        if not (stride in last and isinstance(block, Skip) and block.proj is None):  # its map is the one before, and it leaves no trace
            last[stride] = (row.channels, name)
    return FeatureInfo([c for c, _ in last.values()], list(last), [name for _, name in last.values()])


def rows(arch: ArchDef) -> list[BlockDef]:
    """The rows of an arch, one a block."""
    return [row for stage in arch.stages for row in stage]


def dilate_blocks(blocks: nn.Sequential, info: FeatureInfo, arch: ArchDef, output_stride: int) -> FeatureInfo:
    """Dilates the first blocks of an arch in place, as `backbone.dilate` says, and returns what is then known of their maps.

    Raises:
        InputError: no such stride, dilated already, or a block strides by more than convolutions; the blocks are then as they were.
    """
    named = list(blocks.named_children())
    last = [name for name, _ in named].index(info.blocks[-1])
    if info.strides[-1] != math.prod(row.stride for row in rows(arch)[: last + 1]):
        raise InputError(f"output_stride {output_stride}: the backbone is dilated already, to stride {info.strides[-1]}; give it as built")
    stride, rate, changes = 1, 1, []
    for (name, block), row in zip(named[: last + 1], rows(arch)):
        strided = stride * row.stride <= output_stride
        stride *= row.stride if strided else 1
        changes += _dilated(name, block, rate, 1 if strided else row.stride)
        rate *= 1 if strided else row.stride
    if stride != output_stride:
        raise InputError(f"output_stride {output_stride}: the backbone goes from stride {stride} to no such stride; choose one that it has")
    for conv, attributes in changes:
        for attribute, value in attributes.items():
            setattr(conv, attribute, value)
    return info._replace(strides=[min(value, output_stride) for value in info.strides])


def _dilated(name: str, block: nn.Module, rate: int, stride: int) -> list[tuple[nn.Conv2d, dict[str, tuple[int, int]]]]:
    """What dilates a block's convolutions, and takes out its stride unless that is given as 1: attributes to be set."""
    found, changes = 1, []
    for conv in [module for module in block.modules() if isinstance(module, nn.Conv2d)]:
        if isinstance(conv.padding, str):
            raise InputError(f"block {name}: cannot be dilated: its convolution has padding {conv.padding!r}; give a number")
        attributes: dict[str, tuple[int, int]] = {}
        if conv.kernel_size != (1, 1):
            (d, e), (p, q) = conv.dilation, conv.padding
            attributes = {"dilation": (d * rate * found, e * rate * found), "padding": (p * rate * found, q * rate * found)}
        if stride > 1:
            found, attributes["stride"] = found * conv.stride[0], (1, 1)
        changes.append((conv, attributes))
    if found != stride:
        raise InputError(f"block {name}: cannot be dilated: its convolutions stride by {found}, its row by {stride}")
    return changes
