"""The members of a space that cost least and most, by a cost that is a sum over layers, or the largest of their values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..arch import ArchDef, SearchSpace
from ..arch.layer import Layer, map_sizes, reading
from ..nn.heads import HeadDef
from .additive import head_values, layer_cells
from .cells import LayerSum


def extreme(function: LayerSum, space: SearchSpace, head: HeadDef, in_channels: int, largest: bool, peak: bool = False) -> ArchDef:
    """The member of a space that costs least, or most: dynamic programming over (layer, input width), for each input size.

    A skip hands on a wider input, so that greedy choices are wrong. With `peak` the cost is the largest of the values, not their sum.
    """
    sign, ends = (1.0 if largest else -1.0), []
    join: Callable[[float, float], float] = operator.add if not peak else max if largest else min
    layers, reads = reading(space.layers, in_channels), head.reads(space.layers)
    for number, size in enumerate(space.input_sizes):
        sides = map_sizes(layers, size)
        seen = (sides[0], *(sides[i + 1] for i in reads))
        # For each width that may reach a layer: the best total so far, and the picks that lead there as a linked list.
        best: dict[int, tuple[float, Any]] = {in_channels: (0.0, None)}
        for i, layer in enumerate(layers):
            cells = sign * layer_cells(function, layer, [sides[i]]).numpy()[0]  # (c_in, block, hidden, c_out)
            after: dict[int, tuple[float, Any]] = {}
            for c_in, (total, node) in best.items():
                for c_out, gain, picks in _best_cells(layer, cells[layer.c_in.index(c_in)], c_in):
                    if c_out not in after or join(total, gain) > after[c_out][0]:
                        after[c_out] = (join(total, gain), (picks, node))
            if i in reads:
                more = head_values(function, head, reads.index(i), list(after), seen)
                after = {c: (join(total, sign * float(v)), node) for (c, (total, node)), v in zip(after.items(), more)}
            best = after
        total, node = max(best.values(), key=lambda end: end[0])
        ends.append((total, number, node))
    _, number, node = max(ends, key=lambda end: end[0])
    found = {"input_size": number}
    while node is not None:
        picks, node = node
        found |= picks
    return space.decode(found)


def _best_cells(layer: Layer, cells: Any, c_in: int) -> Iterator[tuple[int, float, dict[str, int]]]:
    """For each width that may leave a layer: the best value of a block that makes it, and its picks. cells: (block, hidden, c_out)."""
    real = [i for i, name in enumerate(layer.names) if name in layer.candidates]
    for c, c_out in enumerate(layer.channels):
        part = cells[real][:, :, c]
        block, hidden = np.unravel_index(int(part.argmax()), part.shape)
        picks = {f"{layer.key}.block": real[int(block)], f"{layer.key}.channels": c, f"{layer.key}.hidden": int(hidden)}
        yield c_out, float(part.max()), picks
    if layer.skip is not None:
        yield c_in, 0.0, {f"{layer.key}.block": layer.skip}
