"""Staged features: the maps of a network at each of its strides, for detection and segmentation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..arch import ArchDef
from ..errors import InputError
from ..nn.blocks import ConvBlock, IRPool
from .build import Network


class FeatureInfo(NamedTuple):
    """What a backbone returns, map by map: `channels`, `strides` (input pixels a map pixel), `blocks` (their names)."""

    channels: list[int]
    strides: list[int]
    blocks: list[str]


class FeatureBackbone(nn.Module):
    """The blocks of a network without its head, returning the last map of each stride.

    The head is what only a classifier needs: the classifier, an `ir_pool` and a last 1x1 convolution, as timm has it
    for such networks. Blocks after the last map asked for are dropped. The modules are the network's own (shared, not
    copied) under the same names, so a backbone's state dict is a part of the network's.

    Args:
        network: a network of `build_model`.
        out_indices: which maps, by position in the list of strides (of a mobile network 0 to 4: strides 2, 4, 8, 16,
            32); negative ones count from the end; None is all of them.

    Attributes:
        feature_info: `FeatureInfo` of the maps returned.

    Shapes: (N, in_channels, H, W) to a list of (N, channels[i], ~H / strides[i], ~W / strides[i]).

    Raises:
        InputError: an index out of range, given twice or not in ascending order.
    """

    def __init__(self, network: Network, out_indices: Sequence[int] | None = None):
        super().__init__()
        maps = stride_maps(network)
        indices = range(len(maps.strides)) if out_indices is None else _checked(out_indices, maps)
        self._take(network.arch, network.blocks, maps, indices)

    def _take(self, arch: ArchDef, blocks: nn.Sequential, maps: FeatureInfo, indices: Sequence[int]) -> None:
        self.feature_info = FeatureInfo(
            [maps.channels[i] for i in indices], [maps.strides[i] for i in indices], [maps.blocks[i] for i in indices]
        )
        self.arch = arch
        kept = list(blocks.named_children())
        last = [name for name, _ in kept].index(self.feature_info.blocks[-1])
        self.blocks = nn.Sequential()
        for name, block in kept[: last + 1]:
            self.blocks.add_module(name, block)
        self._returned = frozenset(self.feature_info.blocks)

    def pick(self, indices: Sequence[int]) -> FeatureBackbone:
        """A backbone of these very modules that returns fewer maps, by position in `feature_info`; as `out_indices`."""
        part = FeatureBackbone.__new__(FeatureBackbone)
        nn.Module.__init__(part)
        part._take(self.arch, self.blocks, self.feature_info, _checked(indices, self.feature_info))
        return part

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for name, block in self.blocks.named_children():
            x = block(x)
            if name in self._returned:
                maps.append(x)
        return maps


def stride_maps(network: Network) -> FeatureInfo:
    """The last map of each stride in a network, head excluded."""
    blocks = list(network.blocks.named_children())
    rows = [row for stage in network.arch.stages for row in stage]
    last: dict[int, tuple[int, str]] = {}  # stride: channels, block
    stride = 1
    for (name, block), row in zip(blocks, rows, strict=True):
        pointwise = isinstance(block, ConvBlock) and block.kernel == 1
        if isinstance(block, IRPool) or (pointwise and name == blocks[-1][0]):
            break
        stride *= row.stride
        last[stride] = (row.channels, name)
    return FeatureInfo([c for c, _ in last.values()], list(last), [name for _, name in last.values()])


def dilate(features: FeatureBackbone, output_stride: int) -> FeatureBackbone:
    """A copy whose maps beyond `output_stride` are computed at it, with dilated convolutions in place of strides.

    A convolution whose stride would lead beyond gets stride 1, and the convolutions after it get twice the dilation and
    padding. Pixels [::2, ::2] of a map that had twice the stride are then exactly those of the original, if no block has
    squeeze-and-excite, whose pool sees the denser map. The parameters are the same.

    Args:
        features: not dilated before.
        output_stride: input pixels a pixel of the last map; one of the backbone's strides.

    Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", section 3.1.

    Raises:
        InputError: the backbone has no such stride or is dilated already, or a block strides by more than convolutions.
    """
    features = copy.deepcopy(features)
    rows = [row for stage in features.arch.stages for row in stage]
    info, named = features.feature_info, list(features.blocks.named_children())
    if info.strides[-1] != math.prod(row.stride for row in rows[: len(named)]):
        raise InputError(f"output_stride {output_stride}: the backbone is dilated already, to stride {info.strides[-1]}; give it as built")
    stride, rate = 1, 1
    for (name, block), row in zip(named, rows):
        strided = stride * row.stride <= output_stride
        stride *= row.stride if strided else 1
        rate *= _dilate_block(name, block, rate, 1 if strided else row.stride)
    if stride != output_stride:
        raise InputError(f"output_stride {output_stride}: the backbone goes from stride {stride} to no such stride; choose one that it has")
    features.feature_info = info._replace(strides=[min(value, output_stride) for value in info.strides])
    return features


def _dilate_block(name: str, block: nn.Module, rate: int, stride: int) -> int:
    """Dilates a block's convolutions, in place, and takes out its stride unless that is given as 1. Returns that stride."""
    found = 1
    for conv in [module for module in block.modules() if isinstance(module, nn.Conv2d)]:
        if isinstance(conv.padding, str):
            raise InputError(f"block {name}: cannot be dilated: its convolution has padding {conv.padding!r}; give a number")
        if conv.kernel_size != (1, 1):
            (d, e), (p, q) = conv.dilation, conv.padding
            conv.dilation, conv.padding = (d * rate * found, e * rate * found), (p * rate * found, q * rate * found)
        if stride > 1:
            found, conv.stride = found * conv.stride[0], (1, 1)
    if found != stride:
        raise InputError(f"block {name}: cannot be dilated: its convolutions stride by {found}, its row by {stride}")
    return stride


def _checked(out_indices: Sequence[int], maps: FeatureInfo) -> list[int]:
    count = len(maps.strides)
    strides = ", ".join(map(str, maps.strides))
    for index in out_indices:
        if isinstance(index, bool) or not isinstance(index, int) or not -count <= index < count:
            raise InputError(f"out_indices: {index!r} is out of range: there are {count} maps, at strides {strides}")
    positive = [index % count for index in out_indices]
    if not positive or positive != sorted(set(positive)):
        raise InputError(f"out_indices {list(out_indices)}: give at least one, each once, in ascending order")
    return positive
