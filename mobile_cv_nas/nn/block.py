"""What a block is: the dimensions it is built with, the numbers that its cost is made of, and what its class has."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from .choice import Dist, Gates
from .shapes import Cost, out_size


class Dims(NamedTuple):
    """The dimensions a block is built with: ints in a child, `Dist` where a space may choose.

    c_in is what the stream takes up in memory and arrives masked. `hidden`, `squeeze` and `expand` matter to blocks that have them.
    """

    c_in: int
    c_out: int | Dist
    stride: int = 1
    hidden: int | Dist = 0
    squeeze: int | Dist = 0
    expand: bool = True


class Shape(NamedTuple):
    """The same as numbers, for the cost: ints in a child, float64 vectors of expectations over many blocks in a supernet.

    Products of dimensions that one choice decides are dimensions of their own: their expectation is not a product.
    Areas are in pixels.
    """

    c_in: Any
    c_out: Any
    hidden: Any
    squeeze: Any
    hidden_squeeze: Any
    in_area: Any
    out_area: Any


class Block(nn.Module):
    """What a block class has. A class of your own needs `__init__(dims, **arguments)` and `forward(x)` to stand in an arch; to stand in a
    space also `transform`, `constants` and `cost`.

    Attributes:
        Arguments: frozen dataclass of what the constructor takes beside `dims`. A class without one takes its constructor's parameters.
        options: which of them a row may give (`OPTIONS` says which values), over the arguments of the name.
        residual: whether the block adds its input at stride 1 and equal widths.
        sizes: the options that decide dimensions, and so are no constructor arguments.
    """

    Arguments: ClassVar[type[Any] | None] = None
    options: ClassVar[frozenset[str]] = frozenset()
    sizes: ClassVar[frozenset[str]] = frozenset({"expansion", "hidden", "divisor", "squeeze", "squeeze_from"})
    residual: ClassVar[bool] = False

    @staticmethod
    def constants(args: Any, expand: bool) -> dict[str, int]:
        """The numbers, beside a `Shape`, that the cost depends on: from the `Arguments`, and whether an expand convolution exists."""
        return {}

    @staticmethod
    def cost(s: Shape, n: Any) -> Cost:
        """What one image costs, at dimensions `s` and `constants` n (as attributes): ints from ints, vectors from vectors."""
        raise NotImplementedError("the block has no cost")

    @staticmethod
    def out_size(size: int, stride: int, args: Any) -> int:
        """Side of the output for an input of side `size`."""
        return out_size(size, 1, stride, 0)

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        """The block without its residual, times `scale`, and masked to its output width: (N, c_in, H, W) to (N, c_out, H', W')."""
        raise NotImplementedError("the block has no transform")
