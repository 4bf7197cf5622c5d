"""Single-Path NAS: one super-kernel; which part of it is kept is decided by the norms of its weights against learnt thresholds.

Source: Stamoulis et al., "Single-Path NAS: Designing Hardware-Efficient ConvNets in less than 4 Hours" (ECML PKDD 2019).
    kernel     w = w_3x3 + 1(|w_5x5\\3x3|^2 > t_5) w_5x5\\3x3                     Eq. 2
    expansion  the same over groups of channels, each only with those before it  Eq. 3
    skip       no channel is kept                                                Eq. 3
    gradient   1(n > t) backward as the sigmoid of n - t                         Section 3.1
The thresholds are the alphas of this strategy: `alpha[i]` is that of option i, and that of a skip. It departs from the paper in that
output widths are decided like expansions; that a norm is relative to what it was at the start, so that thresholds mean the same in all
layers; that thresholds learn from images of their own, like the alphas of others; and in the cost term. Activation and squeeze-and-excite,
which the paper does not search, are those of a layer's last candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...arch import ArchDef
from ...errors import InputError
from ...networks.mixed import MixedBlock
from ...nn.blocks import InvertedResidual
from ...nn.choice import Choice
from ..objective import Objective
from .alphas import AlphaStrategy
from .base import Setting, under


class SinglePath(AlphaStrategy):
    """Hard gates from norms and thresholds. Raises InputError for a space whose blocks are no super-kernel."""

    sharing = "full"

    def __init__(self, setting: Setting):
        super().__init__(setting)
        space = self.supernet.space
        if len(space.input_sizes) > 1:
            raise InputError(f"{space.name or 'the space'}: key input_size: single_path decides by weights, and none has a size; give one")
        self.layers = {block.layer.key: block for block in self.supernet.mixed()}
        self.kernels = {key: _family(block) for key, block in self.layers.items()}
        with torch.no_grad():
            self.start = {choice.name: [float(norm) for norm in self._norms(choice)] for choice in space.choices}

    def prepare(self, phase: str, epoch: int, step: int) -> None:
        self.supernet.assign(self.gates)

    def gates(self, soft: bool = False) -> Tensor:
        """(choices + 1, columns): one-hot gates with the sigmoids' gradient; `soft`: what the sigmoids themselves would give."""
        table = self.supernet.table
        rows = [self._padded(self._row(choice, soft)) for choice in table.choices]
        last = torch.zeros(table.columns, dtype=torch.float64, device=table.noise.device)
        last[0] = 1
        return torch.stack([*rows, last])

    def _padded(self, row: Tensor) -> Tensor:
        return torch.cat([row, row.new_zeros(self.supernet.table.columns - len(row))])

    def _row(self, choice: Choice, soft: bool) -> Tensor:
        """The gates of one choice: option i is kept with all before it, and the next is not."""
        alpha, norms = self.supernet.alphas()[choice.name].double(), self._norms(choice)
        key, _, kind = choice.name.rpartition(".")
        relative = [norm.double() / max(start, 1e-12) for norm, start in zip(norms, self.start[choice.name])]
        order = self.kernels[key] if kind == "block" else list(range(len(choice.options)))
        skip = choice.options.index("skip") if kind == "block" and "skip" in choice.options else None
        kept = torch.ones((), dtype=torch.float64, device=alpha.device)
        found = list(torch.zeros(len(choice.options), dtype=torch.float64, device=alpha.device).unbind())
        if skip is not None:
            kept = indicator(relative[0], alpha[skip], soft)
            found[skip] = 1 - kept
        for place, option in enumerate(order):
            after = kept * indicator(relative[place + 1], alpha[order[place + 1]], soft) if place + 1 < len(order) else None
            found[option] = kept if after is None else kept - after
            kept = kept if after is None else after
        return torch.stack(found)

    def _norms(self, choice: Choice) -> list[Tensor]:
        """Mean squares of the weights that are kept in any case, and of what each further option adds."""
        key, _, kind = choice.name.rpartition(".")
        unit: Any = next(iter(self.layers[key].units.values()))
        if kind == "block":
            weight, sizes = unit.dw.conv.weight, [_kernel(self.layers[key], i) for i in self.kernels[key]]
            return [_ring(weight, low, high).square().mean() for low, high in zip([0, *sizes], sizes)]
        widths = choice.options
        last = (unit.pwl if hasattr(unit, "pwl") else unit) if kind == "channels" else unit.dw if hasattr(unit, "dw") else unit.pw
        weight = last.conv.weight if hasattr(last, "conv") else last.weight
        return [weight[low:high].square().mean() for low, high in zip([0, *widths], widths)]

    # -- what is found -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def derive(self) -> ArchDef:
        gates, choices = self.gates(), self.supernet.table.choices
        return self.supernet.space.decode({choice.name: int(gates[i].argmax()) for i, choice in enumerate(choices)})

    @torch.no_grad()
    def probabilities(self) -> Mapping[str, Tensor]:
        gates = self.gates(soft=True)
        return {choice.name: gates[i, : len(choice.options)] for i, choice in enumerate(self.supernet.table.choices)}

    @torch.no_grad()
    def expected(self, measure: Objective) -> float:
        """Under the soft gates: thresholds are no logits."""
        with under(self.supernet, lambda: self.gates(soft=True)):
            return float(measure.expected(self.supernet, True))


def indicator(norm: Tensor, threshold: Tensor, soft: bool = False) -> Tensor:
    """1(norm > threshold), whose gradient is that of sigmoid(norm - threshold); `soft`: the sigmoid itself."""
    smooth = torch.sigmoid(norm - threshold)
    return smooth if soft else (norm > threshold).to(smooth.dtype) + (smooth - smooth.detach())


def _kernel(block: MixedBlock, option: int) -> int:
    return block.layer.arguments[block.layer.names[option]].args.kernel


def _ring(weight: Tensor, low: int, high: int) -> Tensor:
    """The taps of a kernel of side `high` that one of side `low` has not, of depthwise weights (C, 1, k, k)."""
    side = weight.shape[-1]
    reach = (torch.arange(side, device=weight.device) - side // 2).abs()
    ring = torch.maximum(reach[:, None], reach[None, :])
    return weight[:, 0, (ring <= high // 2) & ((ring > low // 2) if low else (ring >= 0))]


def _family(block: MixedBlock) -> list[int]:
    """The options of a layer that differ from its last candidate in the kernel alone, by ascending kernel."""
    layer = block.layer
    if len(layer.names) == 1:
        return []
    kinds = {layer.arguments[name].kind for name in layer.candidates}
    if kinds != {InvertedResidual}:
        raise InputError(f"{layer.key}: single_path needs inverted residuals alone, which make one super-kernel; take out the others")
    last = layer.arguments[layer.candidates[-1]].args
    args = {name: layer.arguments[name].args for name in layer.candidates}
    same = [name for name in layer.candidates if (args[name].activation, args[name].se) == (last.activation, last.se)]
    return [layer.names.index(name) for name in sorted(same, key=lambda name: args[name].kernel)]
