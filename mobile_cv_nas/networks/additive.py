"""Costs that are sums over layers of any function of (map size, input width, block, hidden width, output width), and their expectation.

MACs and parameters are polynomials, of which `Effective` needs expected dimensions alone. Latency and energy are not: here every layer has
one tensor T[size, c_in, block, hidden, c_out], and since the choices are independent, the expectation is a contraction,

    E = constant + sum_l  p_size . T_l . (enters_l x block_l x hidden_l x c_out_l)  +  the head over the widths of its maps,

with gates for all but `enters_l`, the distribution of what reaches a layer (`Effective.widths`). A child reads the same cells, one a layer,
and sums them in the same order: at one-hot gates, where all else is a product with zero, the two are equal to the last bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arch import ArchDef
from ..arch.layer import Layer, has_hidden, map_sizes, reading
from ..nn.exact import ExactBuffers
from ..nn.heads import HeadDef
from .cells import BlockCells, HeadCells, LayerSum
from .supernet import Supernet


def layer_sum(function: LayerSum, arch: ArchDef, head: HeadDef, in_channels: int) -> float:
    """The cost of one network."""
    return float(_total(torch.tensor(layer_values(function, arch, head, in_channels), dtype=torch.float64), function))


def layer_values(function: LayerSum, arch: ArchDef, head: HeadDef, in_channels: int) -> list[float]:
    """What is summed: a value a layer, in order, then one a map of the head."""
    layers, sizes, reads = reading(arch.layers, in_channels), map_sizes(arch.layers, arch.input_size), head.reads(arch.layers)
    values = [_block_values(function, layer, layer.names[0], sizes[i], layer.c_in).item() for i, layer in enumerate(layers)]
    sides = (sizes[0], *(sizes[i + 1] for i in reads))
    values += [head_values(function, head, n, layers[i].channels, sides).item() for n, i in enumerate(reads)]
    return values


def _total(values: Tensor, function: LayerSum) -> Tensor:
    """The sum, in one order for all."""
    return values.sum() + float(function.constant)


def _array(values: Iterable[int], axis: int, rank: int = 3) -> Any:
    found = np.array(list(values), dtype=np.float64)
    return found.reshape([-1 if i == axis else 1 for i in range(rank)])


def _block_values(function: LayerSum, layer: Layer, name: str, side: int, c_in: Sequence[int]) -> Any:
    """(c_in, hidden, c_out) of a candidate, at a side of the map that it reads."""
    full = (len(c_in), len(layer.hidden), len(layer.channels))
    if name == "skip" and not layer.expand:
        return np.zeros(full)
    hidden = layer.hidden if has_hidden(name) else (0,)
    cells = BlockCells(layer, name, (side, layer.out_size(side)), _array(c_in, 0), _array(hidden, 1), _array(layer.channels, 2))
    return _finite(np.broadcast_to(np.asarray(function.block(cells), dtype=np.float64), full), cells)


def head_values(function: LayerSum, head: HeadDef, n: int, widths: Sequence[int], sides: tuple[int, ...]) -> Any:
    """(widths,) of a map of a head."""
    cells = HeadCells(head, n, _array(widths, 0, 1), sides)
    return _finite(np.broadcast_to(np.asarray(function.head(cells), dtype=np.float64), (len(widths),)), cells)


def _finite(values: Any, cells: BlockCells | HeadCells) -> Any:
    if not np.isfinite(values).all():
        index = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{cells.where(tuple(index))}: the cost is {values[tuple(index)]}; give a number for every cell")
    return values


Change = Callable[[Tensor], Tensor]


class _Group(ExactBuffers):
    """Layers whose tensors have one shape, so that they are contracted together.

    `cells` is (layers, size * c_in * block * hidden, c_out); the other tensors say where in the gates each distribution lies.
    """

    cells: Tensor
    enters: Tensor
    block: Tensor
    hidden: Tensor
    channels: Tensor

    def __init__(self, cells: Tensor, places: dict[str, Tensor]):
        super().__init__()
        self.shape = tuple(cells.shape)  # layers, sizes, c_in, blocks, hidden, c_out
        self.register_buffer("cells", cells.flatten(1, 4), persistent=False)
        for name, index in places.items():
            self.register_buffer(name, index, persistent=False)

    def forward(self, flat: Tensor, enters: Tensor, sizes: Tensor, change: Change | None) -> Tensor:
        """(layers,) expectations, of the changed cells, from flat gates, flat widths (of what enters) and the gates of the sizes."""
        count, n_sizes, n_in, blocks, hidden, _ = self.shape

        def pick(source: Tensor, index: Tensor) -> Tensor:
            return source.index_select(0, index.flatten()).view(*index.shape, 1)

        found = (self.cells if change is None else change(self.cells)) @ pick(flat, self.channels)
        found = found.view(count, -1, hidden) @ pick(flat, self.hidden)
        found = found.view(count, -1, blocks) @ pick(flat, self.block)
        found = found.view(count, n_sizes, n_in) @ pick(enters, self.enters)
        return found.view(count, n_sizes) @ sizes


class Expectation(ExactBuffers):
    """The expectation of a `LayerSum` under the current gates of a supernet, its head included.

    Args:
        function: whose cells are read once, here.
        supernet: on any device; the module goes along with `to`.

    Raises:
        InputError: the function has no value for a cell of the space; names it.
    """

    _order: Tensor

    def __init__(self, function: LayerSum, supernet: Supernet):
        super().__init__()
        self.function = function
        space, table, columns = supernet.space, supernet.table, supernet.table.columns
        constant = len(table.choices)
        layers, head = reading(space.layers, supernet.in_channels), supernet.head_def
        sides = [map_sizes(layers, size) for size in space.input_sizes]
        widths = sorted({supernet.in_channels, *(c for layer in layers for c in layer.channels)})  # as `Effective` has them

        def places(layer: Layer, kind: str, count: int) -> list[int]:
            row = table.row.get(f"{layer.key}.{kind}", constant)
            return [row * columns + i for i in range(count)]

        groups: dict[tuple[int, ...], list[tuple[int, Tensor, dict[str, list[int]]]]] = {}
        for i, layer in enumerate(layers):
            cells = layer_cells(function, layer, [side[i] for side in sides])
            where = {"enters": [i * len(widths) + widths.index(c) for c in layer.c_in]}
            for kind, options in (("block", layer.names), ("hidden", layer.hidden), ("channels", layer.channels)):
                where[kind] = places(layer, kind, len(options))
            groups.setdefault(tuple(cells.shape), []).append((i, cells, where))
        self.groups = nn.ModuleList()
        for rows in groups.values():
            index = {name: torch.tensor([where[name] for _, _, where in rows]) for name in rows[0][2]}
            self.groups.append(_Group(torch.stack([cells for _, cells, _ in rows]), index))
        order = [i for rows in groups.values() for i, _, _ in rows]
        self.register_buffer("_order", torch.tensor(order).argsort(), persistent=False)
        self._size_row = table.row.get("input_size", constant)
        self._n_sizes = len(sides)
        self._heads(head, layers, sides, widths)

    def _heads(self, head: HeadDef, layers: Sequence[Layer], sides: Sequence[Sequence[int]], widths: Sequence[int]) -> None:
        reads, index = head.reads(layers), []
        for n, i in enumerate(reads):
            seen = [(side[0], *(side[j + 1] for j in reads)) for side in sides]
            values = np.stack([head_values(self.function, head, n, layers[i].c_out, one) for one in seen])
            self.register_buffer(f"_head{n}", torch.from_numpy(values), persistent=False)
            index.append(torch.tensor([i * len(widths) + widths.index(c) for c in layers[i].c_out]))
        self._n_heads = len(index)
        for n, one in enumerate(index):
            self.register_buffer(f"_head_index{n}", one, persistent=False)

    def forward(self, supernet: Supernet, noise: bool) -> Tensor:
        """0-d float64, differentiable in every alpha. `noise` False: under softmax(alpha), without noise or selection."""
        return _total(self.values(supernet, noise), self.function)

    def values(self, supernet: Supernet, noise: bool, change: Change | None = None) -> Tensor:
        """What is summed: the expectation of each layer's value, in order, then of each map's of the head; of `change` of the values."""
        gates = supernet.table.gates(noise=noise)
        enters, _, leaves = (part.flatten() for part in supernet.effective.widths(gates))
        flat, sizes = gates.flatten(), gates[self._size_row, : self._n_sizes]
        parts = [torch.cat([group(flat, enters, sizes, change) for group in self.groups]).index_select(0, self._order)]
        for n in range(self._n_heads):
            values, index = getattr(self, f"_head{n}"), getattr(self, f"_head_index{n}")
            parts.append(((values if change is None else change(values)) @ leaves.index_select(0, index)) @ sizes[:, None])
        return torch.cat(parts)


def layer_cells(function: LayerSum, layer: Layer, sides: Sequence[int]) -> Tensor:
    """(size, c_in, block, hidden, c_out) float64; zero where a skip hands on its input."""
    rows = [[_candidate(function, layer, name, side) for name in layer.names] for side in sides]
    return torch.from_numpy(np.stack([np.stack(row, 1) for row in rows]))


def _candidate(function: LayerSum, layer: Layer, name: str, side: int) -> Any:
    if name not in layer.candidates:
        return np.zeros((len(layer.c_in), len(layer.hidden), len(layer.channels)))
    return _block_values(function, layer, name, side, layer.c_in)


class Expectations:
    """The `Expectation` of each supernet that was asked for, built once."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Supernet, Expectation] = weakref.WeakKeyDictionary()

    def __call__(self, function: LayerSum, supernet: Supernet, noise: bool) -> Tensor:
        """As `Expectation.forward`."""
        if supernet not in self._known:
            self._known[supernet] = Expectation(function, supernet)
        return self._known[supernet].to(supernet.table.noise.device)(supernet, noise)
