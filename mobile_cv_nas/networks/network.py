"""The plain network of one arch, with the methods that timm's networks have."""

# No `from __future__ import annotations`: torch.fx copies annotations into its code, where a string would be no type.
import re
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch import ArchDef
from ..arch.layer import map_sizes, reading
from ..arch.show import block_costs, block_lines, html_table, text_table, total_line
from ..errors import InputError
from ..nn.blocks import InvertedResidual, IRPool
from ..nn.heads import HeadDef
from ..nn.pool import GlobalPool
from ..nn.shapes import Cost
from ..nn.whole import WholeCandidate
from .intermediates import Intermediates
from .maps import FeatureInfo, dilate_blocks, stride_maps
from .mixed import layer_dims
from .recompute import recomputed


class Network(Intermediates, nn.Module):
    """The plain network of one arch: blocks, and the classifier (global pool, one linear layer).

    A last `ir_pool` is in two parts for timm's methods: the map in front of its pool ends the features, the rest belongs to the head.

    Attributes:
        arch: what it was built from.
        in_channels: of the images; `in_chans` is the same.
        blocks: nn.Sequential, children `s0b0`, `s1b0`, ... by stage and block.
        maps: the last map of each stride; `feature_info` says the same in timm's form.
        global_pool: `GlobalPool`.
        classifier: an nn.Linear; nn.Identity without classes.
        num_classes: outputs of the classifier, 0 without one.
        num_features: channels of `forward_features`.
        head_hidden_size: channels of what the classifier reads.
        drop_rate: of a dropout in front of the classifier, 0 at first.
        grad_checkpointing: see `set_grad_checkpointing`.

    Shapes: (N, in_channels, H, W) to logits (N, num_classes).
    """

    __constants__ = ("pools",)

    def __init__(self, arch: ArchDef, num_classes: int, in_channels: int):
        super().__init__()
        self.arch, self.in_channels, self.in_chans = arch, in_channels, in_channels
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        c_in = in_channels
        for layer in reading(arch.layers, in_channels):
            blocks[layer.key] = layer.make(layer.names[0], layer_dims(layer, c_in))
            c_in = layer.channels[0]
        self.blocks = nn.Sequential(blocks)
        self.num_classes, self.drop_rate, self.grad_checkpointing, self.dilated = num_classes, 0.0, False, False
        self.global_pool: nn.Module = GlobalPool()
        self.classifier: nn.Module = nn.Linear(c_in, num_classes)
        self._describe(stride_maps(arch, self.blocks))
        last: Any = self.blocks[-1]
        self.num_features, self.head_hidden_size = last.hidden if self.pools else c_in, c_in

    def _describe(self, maps: FeatureInfo) -> None:
        """Sets what is said of the blocks and of their maps."""
        self.maps = maps
        self.last = next(reversed(dict(self.blocks.named_children())))
        self.pools = isinstance(self.blocks[-1], IRPool)  # the last block does
        zipped = zip(*maps, strict=True)
        self.feature_info = [{"num_chs": channels, "reduction": stride, "module": f"blocks.{block}"} for channels, stride, block in zipped]

    # -- forward -----------------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and not torch.jit.is_scripting():
            for block in self.blocks:
                x = recomputed(block, x)
        else:
            x = self.blocks(x)
        return self.classifier(self._pooled(x))

    def _pooled(self, x: Tensor) -> Tensor:
        x = self.global_pool(x)
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate > 0 else x

    @torch.jit.export
    def forward_features(self, x: Tensor) -> Tensor:
        """The map in front of the pool: (N, in_channels, H, W) to (N, num_features, H', W')."""
        for name, block in self.blocks.named_children():
            if not self.pools or name != self.last:
                x = recomputed(block, x) if self.grad_checkpointing and not torch.jit.is_scripting() else block(x)
        return self.blocks[-1].features(x) if self.pools else x

    @torch.jit.export
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What follows `forward_features`: to logits (N, num_classes), or with `pre_logits` to (N, head_hidden_size)."""
        if self.pools:
            x = self.blocks[-1].head(x)
        x = self._pooled(x)
        return x if pre_logits else self.classifier(x)

    # -- changes, as timm's networks take them -----------------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, in place.

        Args:
            num_classes: of the classifier; 0 for none: the network then gives what is pooled.
            global_pool: see `GlobalPool`; None keeps the one there is. Without a pool there can be no classifier.

        Raises:
            InputError: arguments that do not go together.
        """
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
            raise InputError(f"num_classes is {num_classes!r}: it must be an int of 0 or more")
        old: Any = self.global_pool
        pool = GlobalPool(old.pool_type if global_pool is None else global_pool)
        if num_classes and not pool.pool_type:
            raise InputError(f"global_pool '': a classifier of {num_classes} classes reads a pooled map; give num_classes=0 too")
        if self.pools:
            if pool.feat_mult() > 1:
                raise InputError(
                    f"global_pool {pool.pool_type!r}: the last ir_pool reads as many channels as its map has; give avg, max or avgmax"
                )
            last: Any = self.blocks[-1]
            last.pool = nn.AdaptiveAvgPool2d(1) if pool.pool_type == "avg" else GlobalPool(pool.pool_type, flatten=False)
            last.pool.train(self.training)
        width = self.head_hidden_size // old.feat_mult()
        self.global_pool, self.num_classes, self.head_hidden_size = pool, num_classes, width * pool.feat_mult()
        like = next(self.parameters())
        self.classifier = nn.Linear(self.head_hidden_size, num_classes).to(like) if num_classes else nn.Identity()
        for module in (self.global_pool, self.classifier):
            module.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the activations inside blocks are computed again in the backward pass: less memory, more time."""
        self.grad_checkpointing = enable

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth: in training a residual block's sum is its input alone, for some images.

        Args:
            rate: the probability grows in even steps from 0 at the block after the stem to almost this at the last map.

        Source: Huang et al., "Deep Networks with Stochastic Depth", section 3; the steps are timm's.
        """
        from torchvision.ops import StochasticDepth

        if not 0 <= rate < 1:
            raise InputError(f"drop_path_rate {rate!r}: give a probability of 0 or more, below 1")
        names = [name for name, _ in self.blocks.named_children()]
        body = names[1 : names.index(self.maps.blocks[-1]) + 1]
        for i, name in enumerate(body):
            block = self.blocks.get_submodule(name)
            if isinstance(block, WholeCandidate):
                block = block.block
            if isinstance(block, InvertedResidual) and block.adds_input:
                block.drop_path = StochasticDepth(rate * i / len(body), "row") if rate * i else None

    def set_output_stride(self, output_stride: int) -> None:
        """Dilates the blocks, in place, so that no map is coarser than this; see `backbone.dilate`. Raises InputError."""
        if output_stride != self.maps.strides[-1]:
            self._describe(dilate_blocks(self.blocks, self.maps, self.arch, output_stride))
            self.dilated = True

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, beside norms and biases: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into the stem, blocks (or stages, if `coarse`) and the head's convolution, as timm reads them."""
        names = [name for name, _ in self.blocks.named_children()]
        head = "|".join(re.escape(name) for name in names[names.index(self.maps.blocks[-1]) + 1 :])
        blocks: list[tuple[str, Any]] = [(r"^blocks\.s(\d+)b" if coarse else r"^blocks\.s(\d+)b(\d+)", None)]
        if head:
            blocks.insert(0, (rf"^blocks\.({head})\.".replace("(", "(?:", 1), (99999,)))
        return {"stem": rf"^blocks\.{names[0]}\.", "blocks": blocks}

    def as_sequential(self) -> nn.Sequential:
        """The same function as a chain of its modules."""
        return nn.Sequential(*self.blocks, self.global_pool, nn.Dropout(self.drop_rate), self.classifier)

    # -- as text -----------------------------------------------------------------------------------------------------------------

    def _table(self) -> tuple[str, list[list[str]]]:
        layers = self.arch.layers[: len(self.blocks)]
        costs = block_costs(layers, self.arch.input_size, self.in_channels)
        known, lines = sum((cost for cost in costs if cost is not None), Cost(0, 0)), block_lines(layers, [self.arch.input_size], costs)
        head = self.classifier
        if isinstance(head, nn.Linear):
            side = map_sizes(layers, self.arch.input_size)[-1]
            cost = HeadDef("classifier", head.out_features).cost(0, head.in_features, [self.arch.input_size, side])
            known += cost
            lines.append([*total_line("head", cost)[:1], "classifier", "", str(head.out_features), *total_line("", cost)[4:]])
        params = sum(p.numel() for p in self.parameters())
        title = f"Network {self.arch.name or '(no name)'}, images {self.in_channels}x{self.arch.input_size}x{self.arch.input_size}"
        if self.dilated:
            title += f", dilated to output stride {self.maps.strides[-1]} (maps and MACs: as before)"
        return title, [*lines, total_line("total", Cost(known.macs, params))]

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())
