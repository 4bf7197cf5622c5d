"""Staged features: the maps of a network at each of its strides, for detection and segmentation."""

# No `from __future__ import annotations`: torch.fx copies annotations into its code, where a string would be no type.
import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arch import ArchDef
from ..errors import InputError, shown
from .maps import FeatureInfo, dilate_blocks
from .network import Network
from .recompute import recomputed


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
        in_channels: of the images.

    Shapes: (N, in_channels, H, W) to a list of (N, channels[i], ~H / strides[i], ~W / strides[i]).

    Raises:
        InputError: an index out of range, given twice or not in ascending order.
    """

    def __init__(self, network: Network, out_indices: Sequence[int] | None = None):
        super().__init__()
        maps = network.maps
        indices = range(len(maps.strides)) if out_indices is None else _checked(out_indices, maps)
        self._take(network, maps, indices)

    def _take(self, source: Any, maps: FeatureInfo, indices: Sequence[int]) -> None:
        """The first blocks of a network, or of another backbone."""
        self.feature_info = FeatureInfo(
            [maps.channels[i] for i in indices], [maps.strides[i] for i in indices], [maps.blocks[i] for i in indices]
        )
        self.arch: ArchDef = source.arch
        self.in_channels: int = source.in_channels
        kept = list(source.blocks.named_children())
        last = [name for name, _ in kept].index(self.feature_info.blocks[-1])
        self.blocks = nn.Sequential()
        for name, block in kept[: last + 1]:
            self.blocks.add_module(name, block)
        self._returned = list(self.feature_info.blocks)
        self.grad_checkpointing = False

    def pick(self, indices: Sequence[int]) -> "FeatureBackbone":
        """A backbone of these very modules that returns fewer maps, by position in `feature_info`; as `out_indices`."""
        part = FeatureBackbone.__new__(FeatureBackbone)
        nn.Module.__init__(part)
        part._take(self, self.feature_info, _checked(indices, self.feature_info))
        return part

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for name, block in self.blocks.named_children():
            x = recomputed(block, x) if self.grad_checkpointing and not torch.jit.is_scripting() else block(x)
            if name in self._returned:
                maps.append(x)
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As of a `Network`."""
        self.grad_checkpointing = enable


def dilate(features: FeatureBackbone, output_stride: int) -> "FeatureBackbone":
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
    features.feature_info = dilate_blocks(features.blocks, features.feature_info, features.arch, output_stride)
    return features


def _checked(out_indices: Sequence[int], maps: FeatureInfo) -> list[int]:
    count = len(maps.strides)
    if not isinstance(out_indices, Iterable):
        raise InputError(f"out_indices {shown(out_indices)}: give a sequence of them, such as ({shown(out_indices)},)")
    out_indices = list(out_indices)
    strides = ", ".join(map(str, maps.strides))
    for index in out_indices:
        if isinstance(index, bool) or not isinstance(index, int) or not -count <= index < count:
            raise InputError(f"out_indices: {index!r} is out of range: there are {count} maps, at strides {strides}")
    positive = [index % count for index in out_indices]
    if not positive or positive != sorted(set(positive)):
        raise InputError(f"out_indices {out_indices}: give at least one, each once, in ascending order")
    return positive
