"""Effective shapes and the expected cost of a supernet (paper, Section 3.3), for all layers at once in float64.

The cost is the expectation of the child's cost over independent choices. A block's cost (`Block.cost`) is a polynomial in dimensions that
are independent of each other, once products of dimensions that share a choice are dimensions of their own; so the same function that
counts a child in ints gives the expectation when called with vectors of expected dimensions, one entry a candidate block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..arch import SearchSpace
from ..arch.layer import Layer, map_sizes, reading
from ..nn.blocks import Block, Shape
from ..nn.choice import ChoiceTable
from ..nn.exact import ExactBuffers
from ..nn.heads import HeadDef
from ..nn.shapes import Cost


class _Candidates(ExactBuffers):
    """The candidate blocks of one class, over all layers: where their gates and dimensions lie, and their constants."""

    layer: Tensor
    gate: Tensor
    constants: Tensor

    def __init__(self, kind: type[Block], rows: Sequence[tuple[int, int, dict[str, int]]]):
        super().__init__()
        self.kind, self.names = kind, tuple(rows[0][2])
        self.register_buffer("layer", torch.tensor([layer for layer, _, _ in rows]), persistent=False)
        self.register_buffer("gate", torch.tensor([gate for _, gate, _ in rows]), persistent=False)
        constants = [[c[name] for _, _, c in rows] for name in self.names]
        self.register_buffer("constants", torch.tensor(constants, dtype=torch.float64).view(len(self.names), len(rows)), persistent=False)

    def forward(self, gates: Tensor, dims: Tensor) -> Tensor:
        """(2,): expected MACs and parameters, from flat gates and (7, layers) expected dimensions."""
        shape = Shape(*dims.index_select(1, self.layer).unbind())
        cost = self.kind.cost(shape, SimpleNamespace(**dict(zip(self.names, self.constants.unbind()))))
        return torch.stack([cost.macs, cost.params]) @ gates.index_select(0, self.gate)


class Effective(ExactBuffers):
    """Widths as distributions, agreement, effective shapes and expected cost, from a table's gates.

    Args:
        space: whose layers these are.
        table: of the supernet; rows and columns of `gates` below are its.
        in_channels: of the images.
        head: whose cost is included.
    """

    _widths: Tensor
    _image: Tensor
    _c_out: Tensor
    _skip: Tensor
    _block_rows: Tensor
    _adds: Tensor
    _hidden_rows: Tensor
    _hidden_values: Tensor
    _areas: Tensor
    _sides_by_size: Tensor

    def __init__(self, space: SearchSpace, table: ChoiceTable, in_channels: int, head: HeadDef):
        super().__init__()
        layers, self.head = reading(space.layers, in_channels), head
        self._read = self.head.reads(layers)
        columns, constant = table.columns, len(table.choices)
        self._one, self._zero = constant * columns, constant * columns + 1

        def row(layer: Layer, kind: str) -> int:
            return table.row.get(f"{layer.key}.{kind}", constant)

        def keep(name: str, values: Sequence, dtype: torch.dtype = torch.long) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        def padded(values: Sequence[float]) -> list[float]:
            return [*values, *[0.0] * (columns - len(values))]

        widths = sorted({in_channels, *(c for layer in layers for c in layer.channels)})
        keep("_widths", widths, torch.float64)
        where = [[self._zero] * len(widths) for _ in layers]
        for i, layer in enumerate(layers):
            for j, channels in enumerate(layer.channels):
                where[i][widths.index(channels)] = row(layer, "channels") * columns + j
        keep("_c_out", where)
        keep("_image", [[float(w == in_channels) for w in widths]], torch.float64)
        keep("_skip", [self._zero if x.skip is None else row(x, "block") * columns + x.skip for x in layers])
        adds = [[x.stride == 1 and n in x.candidates and x.arguments[n].kind.residual for n in x.names] for x in layers]
        keep("_block_rows", [row(x, "block") for x in layers])
        keep("_adds", [padded([float(a) for a in flags]) for flags in adds], torch.float64)
        hidden = [(x, [(h, s, h * s) for h in x.hidden for s in [x.squeeze(h) if h else 0]]) for x in layers]
        keep("_hidden_rows", [row(x, "hidden") for x in layers] * 3)
        keep("_hidden_values", [padded([d[i] for d in values]) for i in range(3) for _, values in hidden], torch.float64)
        areas = [[side**2 for side in map_sizes(layers, size)] for size in space.input_sizes]
        keep("_areas", areas, torch.float64)
        sides = [[sizes[0], *(sizes[index + 1] for index in self._read)] for sizes in (map_sizes(layers, s) for s in space.input_sizes)]
        self._sides: list[int] | None = sides[0] if len(sides) == 1 else None  # of the image and the maps that the head reads
        keep("_sides_by_size", list(zip(*sides)), torch.float64)
        self._size_row = table.row.get("input_size", constant)
        groups: dict[type[Block], list[tuple[int, int, dict[str, int]]]] = {}
        for i, layer in enumerate(layers):
            for name in layer.candidates:
                gate = row(layer, "block") * columns + layer.names.index(name)
                groups.setdefault(layer.arguments[name].kind, []).append((i, gate, layer.constants(name)))
        self.candidates = nn.ModuleList(_Candidates(kind, rows) for kind, rows in groups.items())

    def widths(self, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distributions over all widths, (layers, widths) each: of what enters a layer, of its own output choice, of what leaves.

        What leaves a layer is its own width or, if it is skipped, what entered: a recurrence over layers, solved as one triangular
        system (exact at one-hot gates, where it only copies).
        """
        flat = gates.flatten()
        own = flat.index_select(0, self._c_out.flatten()).view(self._c_out.shape)
        skip = flat.index_select(0, self._skip)
        chain = torch.eye(len(skip), dtype=gates.dtype, device=gates.device) - torch.diag(skip[1:], -1)
        leaves = torch.linalg.solve_triangular(chain, (1 - skip)[:, None] * own, upper=False, unitriangular=True)
        return torch.cat([self._image, leaves[:-1]]), own, leaves

    def residual(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """(layers,) each: the weight of a layer's input in its output, and the part of it that is the skip's gate.

        A block adds its input with the probability that the two widths agree; a skip always.
        """
        enters, own, _ = self.widths(gates)
        skip = gates.flatten().index_select(0, self._skip)
        adds = (gates.index_select(0, self._block_rows) * self._adds).sum(1)
        return (enters * own).sum(1) * adds + skip, skip

    def masks(self, gates: Tensor, layer_widths: Mapping[int, int]) -> list[Tensor]:
        """The mask (width,) of what leaves each of some layers: the probability that a channel is there. {layer: its widest width}."""
        leaves = self.widths(gates)[2]
        alive = [self._widths[:, None] > torch.arange(width, device=gates.device) for width in layer_widths.values()]
        return [leaves[layer] @ flags.to(gates.dtype) for layer, flags in zip(layer_widths, alive)]

    def sizes(self, gates: Tensor) -> Tensor:
        """(sizes,) the gates of the input sizes."""
        return gates[self._size_row, : len(self._areas)]

    def areas(self, gates: Tensor) -> Tensor:
        """(layers + 1,) expected pixels of the image and of each layer's output: sum_r g_r h_r w_r."""
        return self.sizes(gates) @ self._areas

    def shapes(self, gates: Tensor) -> list[tuple[float, float]]:
        """Effective channels (Eq. 5) and side (Eq. 6) of the image and of each layer's output, for reports.

        Averages of each dimension alone; `cost` does not use them, since the cost of the averages is not the average cost.
        """
        enters, _, leaves = self.widths(gates)
        channels = torch.cat([enters[:1], leaves]) @ self._widths
        sides = self.sizes(gates) @ self._areas.sqrt()
        return list(zip(channels.tolist(), sides.tolist()))

    def cost(self, gates: Tensor) -> Cost:
        """Expected MACs and parameters of the child under independent choices (Eq. 10), head included; float64."""
        enters, own, leaves = self.widths(gates)
        hidden = (gates.index_select(0, self._hidden_rows) * self._hidden_values).sum(1).view(3, -1)
        areas = self.areas(gates)
        channels = torch.stack([enters @ self._widths, own @ self._widths])
        dims = torch.cat([channels, hidden, areas[None, :-1], areas[None, 1:]])
        flat = gates.flatten()
        total: Any = sum(group(flat, dims) for group in self.candidates)
        result = Cost(total[0], total[1])
        sizes, sides = self.sizes(gates), self._sides or self._sides_by_size.unbind()
        for n, layer in enumerate(self._read):
            one = self.head.cost(n, leaves[layer] @ self._widths, sides)
            result += one if self._sides else Cost(one.macs @ sizes, one.params)
        return result
