"""A supernet as the backbone of a segmenter, and what its child inherits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..arch import SearchSpace
from ..networks.supernet import Supernet, copy_part, inherit_blocks
from ..nn.choice import Gates
from ..nn.heads import LRASPP, Head
from ..nn.shapes import subsample
from ..tasks.detectors import build_segmenter


class SegmentationSupernet(Supernet):
    """All segmenters of a space in one: torchvision's LR-ASPP head on two maps of the supernet; `search.tasks` makes it.

    A map is masked to its width, so that the head reads it at its widest, and a child's head inherits the first channels. Every input
    size runs by itself, and the logits, resized to the largest, are summed under the gates: a child of a small input size
    is judged by the same pixels.

    Args:
        space: whose layers end in the last map that the head reads.
        head: of the child.
        sharing, recompute, resolution: as of `build_supernet`.

    Shapes: images (N, 3, S, S) at the space's largest input size to logits (N, num_classes, S, S).
    """

    def __init__(self, space: SearchSpace, head: LRASPP, sharing: str = "none", recompute: bool = False, resolution: str = "all"):
        super().__init__(space, head, 3, sharing, recompute, resolution)
        self._maps = dict(zip(head.reads(space.layers), ("low", "high")))

    def _make_head(self, width: int, head: Head) -> None:
        from torchvision.models.segmentation.lraspp import LRASPPHead

        assert isinstance(head, LRASPP)
        low = list(self.blocks.values())[head.reads(self.space.layers)[0]]
        self.head = LRASPPHead(low.width, width, head.num_classes, head.channels)  # type: ignore[arg-type]

    def _run(self, x: Tensor, gates: Gates) -> Tensor:
        side, maps = x.shape[-2:], {}
        for i, block in enumerate(self.blocks.values()):
            x = block(x, gates)
            if i in self._maps:  # a selected layer gives its own width only
                maps[self._maps[i]] = nn.functional.pad(x, (0, 0, 0, 0, 0, block.width - x.shape[1]))  # type: ignore[operator, arg-type]
        logits = _resized(self.head(maps), side)
        return logits if len(self.space.input_sizes) == 1 else _resized(logits, (self.space.max_input_size,) * 2)

    def _all_sizes(self, x: Tensor, gates: Gates) -> Tensor:
        assert gates.sizes is not None
        weights = gates.sizes.float().unbind()
        parts: Any = (weight * self._run(subsample(x, size), gates) for size, weight in zip(self.space.input_sizes, weights))
        return sum(parts)


def _resized(logits: Tensor, size: Any) -> Tensor:
    if logits.shape[-2:] == tuple(size):
        return logits
    return nn.functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def build_child(arch: Any, head: LRASPP) -> nn.Module:
    """The segmenter that `build_segmenter` makes of an arch of the space."""
    stride = 1
    for layer in arch.layers:
        stride *= layer.stride
    return build_segmenter("lraspp", arch, head.num_classes, output_stride=stride, low_stride=head.low_stride, channels=head.channels)


@torch.no_grad()
def inherit_segmenter(child: nn.Module, supernet: SegmentationSupernet) -> nn.Module:
    """`inherit_weights` for a child of `build_child`. Raises ArchError if its arch is not of the space."""
    body: Any = child.backbone.body  # type: ignore[union-attr]
    supernet.space.encode(body.arch)
    inherit_blocks(body.arch, body.blocks, supernet)
    copy_part(child.classifier.state_dict(), supernet.head.state_dict(), "head")  # type: ignore[union-attr]
    return child
