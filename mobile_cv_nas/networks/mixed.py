"""`MixedBlock`: one layer of a supernet, the gated sum of its candidate blocks, at one input size or at all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..arch.layer import Layer
from ..errors import InputError
from ..nn.blocks import Block, Dims, InvertedResidual
from ..nn.choice import SKIP, ChoiceTable, Gates
from ..nn.register import lacks
from ..nn.shapes import place, subsample, widened


def layer_dims(layer: Layer, c_in: int, table: ChoiceTable | None = None) -> Dims:
    """The dimensions of a layer's block: ints for a child (no table), else `Dist` where the layer has a choice."""

    def width(kind: str, options: Sequence[int], of: Any = int) -> Any:
        return of(options[0]) if table is None else table.width(f"{layer.key}.{kind}", options, of)

    squeezes = any(getattr(one.args, "se", None) for one in layer.arguments.values())
    squeeze = width("hidden", layer.hidden, layer.squeeze) if squeezes else 0
    return Dims(c_in, width("channels", layer.channels), layer.stride, width("hidden", layer.hidden), squeeze, layer.expand)


class MixedBlock(nn.Module):
    """Sum over candidates of gate times block, plus the input where a block has a residual or is skipped.

    Args:
        layer: with its candidates.
        c_in: channels that the input takes up in memory.
        table: of the supernet, which gives the dimensions their slots.
        sharing: "none": every candidate has weights of its own. "full": all inverted residuals are one block, whose kernel,
            activation and squeeze-and-excite are gated (a 3x3 kernel is the centre of the 5x5).
        recompute: keep no activations of a candidate; run it again in the backward pass.

    Shapes: (N, c_in, H, W) to (N, max output width, H', W').
    """

    def __init__(self, layer: Layer, c_in: int, table: ChoiceTable, sharing: str, recompute: bool):
        super().__init__()
        self.layer, self.recompute = layer, recompute
        for name, one in layer.arguments.items():
            if lacks(one.kind):
                needs = " and ".join(f"{one.kind.__name__}.{what}" for what in lacks(one.kind))
                raise InputError(f"{layer.key}: the block {name} cannot stand in a space: define {needs}, see mobile_cv_nas.Block")
        dims = layer_dims(layer, c_in, table)
        self.units = nn.ModuleDict()
        self.members: dict[str, tuple[str, ...]] = {}
        shared = _shareable(layer) if sharing == "full" else []
        if len(shared) > 1:
            self._add("ir", shared, _shared_block(layer, dims, shared, table))
        for name in layer.candidates:
            if not any(name in members for members in self.members.values()):
                self._add(name, [name], layer.make(name, dims))
        self.width = layer.c_out[-1]
        self.c_in = c_in
        residuals = any(one.kind.residual for one in layer.arguments.values()) and layer.stride == 1
        self.residual = layer.skip is not None or (residuals and bool(set(layer.c_in) & set(layer.channels)))
        self.index = 0  # of this layer, and of its first unit, in `Gates`; set by the supernet
        self.first_unit = 0

    def _add(self, key: str, names: Sequence[str], unit: Block) -> None:
        self.units[key] = unit
        self.members[key] = tuple(names)

    def unit(self, name: str) -> Block:
        """The module that holds the weights of a candidate."""
        found: Any = next(self.units[key] for key, members in self.members.items() if name in members)
        return found

    def forward(self, x: Tensor, gates: Gates, sizes: Sequence[tuple[int, int, Tensor]] = ()) -> Tensor:
        """The layer under the gates.

        Args:
            x: (N, c_in, H, W), masked to its width.
            gates: of this step.
            sizes: for each input size its side at this depth, before and after the layer, and its gate; empty for one size. Each
                takes its own pixels, and puts its result back where they came from (paper, Fig. 2).
        """
        if gates.picked is not None:
            return self._selected(x, gates)
        if not sizes:
            return self._sum(x, gates, None, None)
        total = None
        for side, out, gate in sizes:
            part = self._sum(x, gates, side, gate)
            if total is None:
                full = max(out for _, out, _ in sizes)
                total = part.new_zeros(*part.shape[:2], full, full)
            total = place(total, part)
        assert total is not None
        return total

    def _sum(self, x: Tensor, gates: Gates, side: int | None, weight: Tensor | None) -> Tensor:
        total = None
        live = [i for i in range(len(self.units)) if self.first_unit + i not in gates.off] or [0]
        for i, unit in enumerate(self.units.values()):
            if i not in live:
                continue
            arguments = (unit, i == live[0], x, gates, gates.units[self.first_unit + i], side, weight)
            part = _recomputed(self._part, *arguments) if self.recompute and torch.is_grad_enabled() else self._part(*arguments)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _part(
        self, unit: Any, first: bool, x: Tensor, gates: Gates, gate: Tensor | None, side: int | None, weight: Tensor | None
    ) -> Tensor:
        """One candidate at one size, times its gates; the first carries the residual of all."""
        if side is not None:
            x = subsample(x, side)
        scale = gate if weight is None else weight if gate is None else gate * weight
        y = unit.transform(x, gates, scale)
        if not first or not self.residual:
            return widened(y, self.width)
        share, skip = gates.residual[self.index], gates.skip[self.index]
        if weight is not None:
            share, skip = share * weight, skip * weight
        common = min(x.shape[1], y.shape[1])
        low = torch.addcmul(y[:, :common], x[:, :common], share.to(y.dtype))
        high = y[:, common:]
        if self.layer.skip is not None and x.shape[1] > common:
            high = x[:, common:] * skip.to(y.dtype)  # wider than any candidate's output: only a skip brings these
        return widened(torch.cat([low, high], 1) if high.shape[1] else low, self.width)

    def _selected(self, x: Tensor, gates: Gates) -> Tensor:
        """Only the selected candidate, at its own widths: prefixes of the weights, no masks."""
        names = self.layer.names
        name = names[gates.blocks[self.index]]
        if len(names) > 1 and name == "skip":
            return x
        unit = self.unit(name)
        y = unit.transform(x, gates)
        return x + y if unit.residual and self.layer.stride == 1 and x.shape[1] == y.shape[1] else y


def _shareable(layer: Layer) -> list[str]:
    """The candidates that one block can stand for: inverted residuals that differ in kernel, activation and squeeze-and-excite alone."""
    found = [name for name in layer.candidates if layer.arguments[name].kind is InvertedResidual]
    alike = {name: replace(layer.arguments[name].args, kernel=0, activation="", se=None) for name in found}
    found = [name for name in found if alike[name] == alike[found[0]]]
    kernels = [layer.arguments[name].args.kernel for name in found]
    if found and alike[found[0]].padding == "same" and min(kernels) < min(layer.stride, max(kernels)):
        raise InputError(
            f"{layer.key}: padding same at stride {layer.stride}: a kernel of {min(kernels)} is no centre of a larger one there; "
            "search with sharing none, or with kernels not below the stride"
        )
    return found


def _shared_block(layer: Layer, dims: Dims, names: Sequence[str], table: ChoiceTable) -> InvertedResidual:
    """One inverted residual in place of several, with a `Dist` for each argument in which they differ."""
    own = {name: layer.arguments[name].args for name in names}
    changed = {}
    for key in ("kernel", "activation", "se"):
        values = [getattr(own[name], key) if name in own else SKIP for name in layer.names]
        options = list(dict.fromkeys(getattr(own[name], key) for name in names))
        ordered = tuple(sorted(options) if key == "kernel" else options)
        changed[key] = table.marginal(f"{layer.key}.block", values, ordered, taps=key == "kernel")
    unit = layer.make(names[0], dims, **changed)
    assert isinstance(unit, InvertedResidual)
    return unit


def _recomputed(part: Any, unit: Any, first: bool, x: Tensor, gates: Gates, *arguments: Any) -> Tensor:
    """`part` without its activations; gates are bound here, and running statistics are updated by the first pass only."""
    if torch.compiler.is_compiling():  # the compiler replays no side effect, so that statistics are updated once anyway
        return checkpoint(part, unit, first, x, gates, *arguments, use_reentrant=False, preserve_rng_state=False)
    passes = 0

    def run(x: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return part(unit, first, x, gates if passes == 1 else gates.frozen(), *arguments)

    return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
