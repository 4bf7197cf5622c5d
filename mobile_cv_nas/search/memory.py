"""Peak activation memory: the largest sum of maps that are held at once, in bytes, as a microcontroller needs it.

A map is held from the operator that writes it to the last one that reads it: the input of a block that adds it to the end of the block.
Activations, additions and scales write over what they read. An operator holds what it reads, what it writes and what is held beside.

It is no sum over layers, so that its expectation has no such form. Of a child it is exact, and of small spaces, which are enumerated. Of
others it is a bound: with M_l the peak within layer l, for any c

    E[max_l M_l]  <=  c + sum_l E[max(M_l - c, 0)],        here with c = max_l E[M_l]

each term of which is an expectation over one layer (`networks.additive`). At one-hot gates the two are equal.
"""

from __future__ import annotations

import itertools
import math
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arch import ArchDef, SearchSpace
from ..errors import InputError
from ..networks.additive import Expectation, layer_values
from ..networks.cells import BlockCells, HeadCells
from ..networks.extreme import extreme
from ..networks.supernet import Supernet
from ..nn.heads import HeadDef
from ..nn.operators import FREE, Operator

ENUMERATED = 2_000  # networks of a space up to which the expectation is exact
_IN_PLACE = (*FREE, "hswish", "silu", "sigmoid", "hsigmoid", "add", "scale")  # they write over what they read


@dataclass(frozen=True)
class Maps:
    """A `LayerSum`'s values, each of which is the peak within one block or one map of a head: bytes.

    Args:
        element: bytes of a value: 4 of float32, 1 of int8.
    """

    element: int = 1
    constant: float = 0.0

    def block(self, cells: BlockCells) -> Any:
        """The peak of a block."""
        return self.element * _peak(cells.operators(), cells.c_in * cells.sides[0] ** 2 * cells.adds)

    def head(self, cells: HeadCells) -> Any:
        """The peak of what a map adds to a head."""
        return self.element * _peak(cells.operators(), 0.0)


def _peak(operators: list[Operator], source: Any) -> Any:
    """The largest sum of maps that operators in a row hold; `source` is the block's input where it is added at the end, else 0."""
    most: Any = 0.0
    scaled = [i for i, one in enumerate(operators) if one.kind == "scale"]
    for i, one in enumerate(operators):
        read, written = one.c_in * one.in_area, one.c_out * one.out_area
        total = read if one.kind in _IN_PLACE else read + written
        if i:  # the first one reads it
            total = total + source
        squeezing = next((j for j in scaled if j > i), None)
        start = _pool_before(operators, squeezing)
        if squeezing is not None and start < i:  # the map that is to be scaled
            total = total + operators[squeezing].c_in * operators[squeezing].in_area
        if one.kind == "scale":
            total = total + one.c_in  # by these
        most = np.maximum(most, total)
    return most


def _pool_before(operators: list[Operator], scale: int | None) -> int:
    """Where the squeeze-and-excite begins that ends in a scale."""
    return next((j for j in range(scale or 0, -1, -1) if operators[j].kind == "pool"), len(operators))


@dataclass(frozen=True)
class PeakMemory:
    """The objective: bytes of activations at one byte a value, the weights aside."""

    unit: str = "bytes"
    digits: int = 0
    maps: Maps = field(default_factory=Maps)
    _built: Any = field(default_factory=weakref.WeakKeyDictionary, compare=False, repr=False)

    def cost(self, arch: ArchDef, head: HeadDef, in_channels: int) -> float:
        """Exact."""
        _check_head(head)
        return max(layer_values(self.maps, arch, head, in_channels))

    def exact(self, supernet: Supernet) -> bool:
        """Whether the space is enumerated."""
        return math.prod(len(choice.options) for choice in supernet.space.choices) <= ENUMERATED

    def expected(self, supernet: Supernet, noise: bool) -> Tensor:
        """Exact on a space that is enumerated, else an upper bound; see above."""
        _check_head(supernet.head_def)
        if supernet not in self._built:
            self._built[supernet] = _Enumerated(self, supernet) if self.exact(supernet) else _Bound(self, supernet)
        return self._built[supernet](supernet, noise)

    def ends(self, space: SearchSpace, head: HeadDef, in_channels: int) -> tuple[float, float]:
        """The least and the most that a network of the space holds."""
        _check_head(head)
        found = [extreme(self.maps, space, head, in_channels, largest, peak=True) for largest in (False, True)]
        low, high = (self.cost(arch, head, in_channels) for arch in found)
        return low, high


def _check_head(head: HeadDef) -> None:
    if head.name != "classifier":
        raise InputError(f"memory: the head {head.name} reads several maps, which are held beside the rest; it is for classifiers")


class _Bound:
    """An upper bound of the expectation; see above."""

    def __init__(self, objective: PeakMemory, supernet: Supernet):
        self.each = Expectation(objective.maps, supernet)

    def __call__(self, supernet: Supernet, noise: bool) -> Tensor:
        each = self.each.to(supernet.table.noise.device)
        level = each.values(supernet, noise).max()
        return level + each.values(supernet, noise, lambda cells: torch.relu(cells - level)).sum()


class _Enumerated:
    """sum_arch P(arch) peak(arch)."""

    def __init__(self, objective: PeakMemory, supernet: Supernet):
        space, table = supernet.space, supernet.table
        rows = [table.row[choice.name] for choice in space.choices]
        index = torch.tensor(list(itertools.product(*(range(len(choice.options)) for choice in space.choices))))
        archs = [space.decode({choice.name: int(i) for choice, i in zip(space.choices, row)}) for row in index.tolist()]
        self.costs = torch.tensor([objective.cost(a, supernet.head_def, supernet.in_channels) for a in archs], dtype=torch.float64)
        self.index = index + torch.tensor(rows) * table.columns

    def __call__(self, supernet: Supernet, noise: bool) -> Tensor:
        flat = supernet.table.gates(noise=noise).flatten()
        self.index, self.costs = self.index.to(flat.device), self.costs.to(flat.device)
        return flat[self.index].prod(1) @ self.costs
