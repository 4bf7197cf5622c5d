"""Exact arithmetic of shapes and costs: what a child counts in ints, a supernet counts in expectations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, positive_int


@dataclass(frozen=True)
class Cost:
    """What a network costs for one image.

    Args:
        macs: multiply-accumulates of convolutions and linear layers, plus the elements entering adaptive pools.
        params: number of parameters, frozen ones too; statistics of norms are none.

    Both are ints for a child and float64 scalars (differentiable) for a supernet.
    """

    macs: Any
    params: Any

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.params + other.params)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.macs, self.params))


def round_to(width: float, divisor: int) -> int:
    """Rounds a width to a multiple of `divisor` as the released networks do (never below 0.95 of it, nor one divisor).

    >>> [round_to(w, 8) for w in (43.65, 26, 10, 16)]
    [48, 32, 16, 16]
    """
    if divisor > 0 and width % divisor != 0:
        rounded = max(divisor, divisor * math.floor(width / divisor + 0.5))
        if rounded < 0.95 * width:
            rounded += divisor
    else:
        rounded = int(width)
    return max(rounded, divisor)


def out_size(size: int, kernel: int, stride: int, padding: int | str | None = None) -> int:
    """Side of the map that a convolution makes from one of side `size`; `padding` as in `layers.ConvOptions`."""
    if padding == "same":
        return -(-size // stride)
    zeros = padding if isinstance(padding, int) else kernel // 2
    return (size + 2 * zeros - kernel) // stride + 1


def subsample_index(size: int, full: int, device: torch.device | None = None) -> Tensor:
    """Rows (or columns) of a map of side `full` that its version of side `size` keeps: floor(i * full / size).

    Returns:
        (size,) int64, strictly ascending.
    """
    return torch.div(torch.arange(size, device=device) * full, size, rounding_mode="floor")


def subsample(x: Tensor, size: int) -> Tensor:
    """Nearest-neighbour rows and columns of square maps, as the supernet takes them (paper, Fig. 2, A to B).

    Args:
        x: (N, C, H, H).
        size: side of the result, at most H.

    Returns:
        (N, C, size, size); `x` itself when it has that size already.

    Raises:
        InputError: the maps are no (N, C, H, H) or smaller than `size`, or `size` is no positive int.

    >>> subsample(torch.arange(4.0).expand(1, 1, 4, 4), 2)[0, 0]
    tensor([[0., 2.],
            [0., 2.]])
    """
    if not isinstance(size, int):  # the compiler would not follow the check of an int
        size = positive_int(size, "subsample: size")
    if x.ndim != 4:
        raise InputError(f"subsample: maps must be (N, C, H, H), not of shape {tuple(x.shape)}")
    full = x.shape[-1]
    if x.shape[-2] != full or not 0 < size <= full:
        raise InputError(f"cannot subsample maps of {x.shape[-2]}x{full} to {size}x{size}: give square maps, not smaller")
    if size == full:
        return x
    index = subsample_index(size, full, x.device)
    return x.index_select(2, index).index_select(3, index)


class _Place(torch.autograd.Function):
    """Adds a small map into the pixels of a large one that it was taken from; saves nothing but the two sizes."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, part: Tensor) -> Tensor:
        ctx.size = part.shape[-1]
        full = total.shape[-1]
        ctx.mark_dirty(total)
        if ctx.size == full:
            total.add_(part)
            return total
        index = subsample_index(ctx.size, full, part.device)
        rows = total.index_select(2, index)
        rows.index_add_(3, index, part)
        total.index_copy_(2, index, rows)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        return grad, subsample(grad, ctx.size)


def place(total: Tensor, part: Tensor) -> Tensor:
    """Adds `part` (N, C, h, h) into the pixels of `total` (N, C, H, H) it was subsampled from (Fig. 2, D); may work in place."""
    if torch.compiler.is_compiling():  # the compiler reads no custom backward that works in place, and needs none
        index = subsample_index(part.shape[-1], total.shape[-1], part.device)
        rows = part.new_zeros(*part.shape[:3], total.shape[-1]).index_copy(3, index, part)
        return total.index_add(2, index, rows)
    return _Place.apply(total, part)


def widened(x: Tensor, width: int) -> Tensor:
    """Zero channels after those of `x` (N, C, H, W), up to `width`."""
    return x if x.shape[1] == width else torch.nn.functional.pad(x, (0, 0, 0, 0, 0, width - x.shape[1]))
