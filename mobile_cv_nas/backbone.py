"""Staged features: the maps of a network at each of its strides, for detection and segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from .blocks import ConvBlock, IRPool
from .build import Network
from .files import InputError


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
        self.feature_info = FeatureInfo(
            [maps.channels[i] for i in indices], [maps.strides[i] for i in indices], [maps.blocks[i] for i in indices]
        )
        self.arch = network.arch
        kept = list(network.blocks.named_children())
        last = [name for name, _ in kept].index(self.feature_info.blocks[-1])
        self.blocks = nn.Sequential()
        for name, block in kept[: last + 1]:
            self.blocks.add_module(name, block)
        self._returned = frozenset(self.feature_info.blocks)

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
