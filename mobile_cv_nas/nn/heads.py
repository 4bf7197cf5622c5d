"""What reads the maps of a network: its cost, of ints in a child and of expectations in a supernet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..arch.parse import Layer
from ..errors import InputError
from .shapes import Cost


class Head(Protocol):
    """The part of a network after its blocks, which reads the maps of some layers."""

    @property
    def num_classes(self) -> int: ...

    def reads(self, layers: Sequence[Layer]) -> tuple[int, ...]:
        """The indices of those layers, ascending; the last one is the last layer."""

    def cost(self, which: int, width: Any, area: Any, image: Any) -> Cost:
        """What map number `which` of these adds to the cost: of `width` channels and `area` pixels, for an image of `image` pixels."""


@dataclass(frozen=True)
class Classifier:
    """The global pool and one linear layer."""

    num_classes: int

    def reads(self, layers: Sequence[Layer]) -> tuple[int, ...]:
        return (len(layers) - 1,)

    def cost(self, which: int, width: Any, area: Any, image: Any) -> Cost:
        classes = self.num_classes
        return Cost(width * area + width * classes, width * classes + classes)


@dataclass(frozen=True)
class LRASPP:
    """torchvision's LR-ASPP head on the last map and on the last one at `low_stride`; its interpolations as fvcore counts them.

    Args:
        num_classes: of a pixel.
        channels: inside the head.
        low_stride: of the map of fine detail.
    """

    num_classes: int
    channels: int = 128
    low_stride: int = 8

    def reads(self, layers: Sequence[Layer]) -> tuple[int, ...]:
        """Raises InputError if there is no such map, or the layers end in what only a classifier needs."""
        strides: list[int] = []
        for layer in layers:
            strides.append((strides[-1] if strides else 1) * layer.stride)
        for layer in layers[-1:]:
            if layer.names[0].startswith(("conv_k1", "ir_pool")):
                raise InputError(f"stage {layer.stage}, block {layer.block}: a last {layer.names[0]} is for classifiers; leave the row out")
        if self.low_stride not in strides or self.low_stride == strides[-1]:
            known = ", ".join(str(s) for s in sorted(set(strides)) if 1 < s < strides[-1])
            raise InputError(f"HEAD.LOW_STRIDE: {self.low_stride}: the space has maps at strides {known} for it")
        return len(strides) - 1 - strides[::-1].index(self.low_stride), len(strides) - 1

    def cost(self, which: int, width: Any, area: Any, image: Any) -> Cost:
        classes, inner = self.num_classes, self.channels
        if which == 0:  # fine detail, and the sum at its size
            macs = width * area * classes + inner * classes * area + _BILINEAR * (inner * area + classes * image)
            return Cost(macs, width * classes + inner * classes + 2 * classes)
        return Cost(width * area * inner + width * area + width * inner, 2 * width * inner + 2 * inner)


_BILINEAR = 4  # fvcore's count of an interpolated value


def as_head(head: int | Head) -> Head:
    """A number of classes means a classifier."""
    return Classifier(head) if isinstance(head, int) else head
