"""What a cost that is a sum over layers is asked for: the cells of a block or of a head, at all widths at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..arch.layer import Layer
from ..nn.blocks import Shape
from ..nn.heads import HeadDef
from ..nn.operators import Operator, block_operators, head_operators


@dataclass(frozen=True)
class BlockCells:
    """A candidate block of a layer at one input size, at all widths at once.

    Attributes:
        layer: whose candidate it is.
        name: of the block.
        sides: of the map that it reads, and of the one that it writes, in pixels.
        c_in, hidden, c_out: float64 arrays (c_in, 1, 1), (1, hidden, 1), (1, 1, c_out); hidden is 0 for blocks without.
    """

    layer: Layer
    name: str
    sides: tuple[int, int]
    c_in: Any
    hidden: Any
    c_out: Any

    @property
    def adds(self) -> Any:
        """Whether the block adds its input."""
        can = self.layer.stride == 1 and self.layer.arguments[self.name].kind.residual
        return (self.c_in == self.c_out) & can

    @property
    def shape(self) -> Shape:
        """The dimensions as `Block.cost` takes them."""
        squeeze = np.array([self.layer.squeeze(int(h)) if h else 0 for h in self.hidden.flat], float).reshape(self.hidden.shape)
        areas = (self.sides[0] ** 2, self.sides[1] ** 2)
        return Shape(self.c_in, self.c_out, self.hidden, squeeze, self.hidden * squeeze, *areas)

    def operators(self) -> list[Operator]:
        """What is run, the residual's addition included: its widths are 0 where there is none. Raises InputError."""
        one = self.layer.arguments[self.name]
        try:
            found = block_operators(one.kind, self.shape, one.args, self.layer.expand)
        except ValueError as error:
            raise type(error)(f"{self.layer.key}: {error}") from None
        added, area = self.c_out * self.adds, self.sides[1] ** 2
        return [*found, Operator("add", added, added, area, area)] if np.any(added) else found

    def key(self) -> Hashable:
        """Of all that the cells depend on."""
        layer, one = self.layer, self.layer.arguments[self.name]
        options = tuple(sorted(layer.options.items()))
        widths = tuple(tuple(v.flat) for v in (self.c_in, self.hidden, self.c_out))
        return self.name, one.kind, one.args, layer.stride, layer.expand, options, self.sides, widths

    def where(self, index: Sequence[int]) -> str:
        """What a cell is called in errors."""
        c_in, hidden, c_out = (int(v[tuple(min(i, n - 1) for i, n in zip(index, v.shape))]) for v in (self.c_in, self.hidden, self.c_out))
        inner = f", hidden {hidden}" if hidden else ""
        return f"{self.layer.key}: {self.name}, {c_in} to {c_out} channels{inner}, on a map of {self.sides[0]}x{self.sides[0]}"


@dataclass(frozen=True)
class HeadCells:
    """What a map adds to a head at one input size, at all of the map's widths at once.

    Attributes:
        head: which.
        n: number of the map, of those that the head reads.
        width: float64 array (widths,).
        sides: of the image, then of each map read, in pixels.
    """

    head: HeadDef
    n: int
    width: Any
    sides: tuple[int, ...]

    def operators(self) -> list[Operator]:
        """What is run. Raises InputError."""
        return head_operators(self.head, self.n, self.width, self.sides)

    def where(self, index: Sequence[int]) -> str:
        """What a cell is called in errors."""
        side = self.sides[min(self.n + 1, len(self.sides) - 1)]
        return f"head {self.head.name}, map {self.n} of {int(self.width[index[0]])} channels, {side}x{side}"


class LayerSum(Protocol):
    """A cost that is a sum over layers."""

    @property
    def constant(self) -> float:
        """What every network has."""

    def block(self, cells: BlockCells) -> Any:
        """The cost of a block: floats that broadcast to (c_in, hidden, c_out). Each value depends on its own widths alone."""

    def head(self, cells: HeadCells) -> Any:
        """The cost of a map in a head: (widths,)."""
