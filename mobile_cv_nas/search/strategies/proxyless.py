"""ProxylessNAS: binary gates; weights learn along one sampled path, alphas from two.

Source: Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware" (ICLR 2019).
    weights  one option i of every choice, i ~ p = softmax(alpha)               Eq. 2
    alphas   two options i, j of every choice, drawn from p without replacement; p' = softmax(alpha_i, alpha_j); binary gates g, one-hot
             at i or j by p'; dL/dalpha_i = sum over k in {i, j} of dL/dg_k p'_k (delta_ik - p'_i)                     Eq. 4
             after the update alpha_i and alpha_j move together, so that the other options keep their probabilities   Section 3.2.1
    cost     the expectation under p, differentiable                            Eq. 5 and 6
    variant  SEARCH.PROXYLESS.GRADIENT reinforce: one path, its reward as in `reinforce`                               Section 3.3.2
The gate of a width is one of a mask, as in `dmasking`. Of the cost the two sampled options alone see the gradient, so that the rest stays
where it is; Adam has no first moment, as in the authors' code, for the same reason.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.step import Loss, Stepper
from .base import Setting
from .reinforce import Reinforce


class Proxyless(Reinforce):
    """Paths and binary gates."""

    betas = (0.0, 0.999)

    def __init__(self, setting: Setting):
        self.pairs: dict[str, tuple[int, int]] = {}  # of each choice the two options; the first is the active one
        self._sums: dict[str, Tensor] = {}
        super().__init__(setting)
        if self.options.gradient == "gates":
            self.refuse_sampled_sizes("has gates of one input size, and those of the others would learn from none")

    def alpha_stepper(self) -> Stepper:
        stepper = super().alpha_stepper()
        if self.options.gradient == "gates":
            stepper.optimizer.register_step_pre_hook(self._before)
            stepper.optimizer.register_step_post_hook(self._after)
        return stepper

    def prepare(self, phase: str, epoch: int, step: int) -> None:
        if phase == "weights" or self.options.gradient == "reinforce":
            return super().prepare(phase, epoch, step)
        rng, found = self.rng(phase, epoch, step), self.supernet.probabilities()
        self.pairs = {name: draw_pair(table.tolist(), rng) for name, table in found.items()}
        self.supernet.assign(self.binary_gates, self.pairs)

    def loss(self, phase: str, batch: Any, key: tuple[int, ...]) -> Loss:
        if phase == "weights" or self.options.gradient == "reinforce":
            return super().loss(phase, batch, key)
        found = self.task_loss(batch, key)
        self.supernet.assign(self.cost_gates, self.pairs)
        term = self.cost_term()
        self.supernet.assign(self.binary_gates, self.pairs)
        units = sum(len(block.units) for block in self.supernet.mixed())
        run = 1 - len(self.supernet.off) / units  # the share of candidates: what they cost is alike
        sums = self.counted(found, run * self.whole_macs)
        return Loss(found.total + term.float(), found.images, {**found.terms, "cost term": term}, sums)

    # -- the gates of two options ------------------------------------------------------------------------------------

    def binary_gates(self) -> Tensor:
        """(choices + 1, columns): one at the active options; their gradient reaches alpha through the softmax over the two."""
        pair, active = self._indicators()
        inner = self._inner(pair)
        return active + (inner - inner.detach())

    def cost_gates(self) -> Tensor:
        """(choices + 1, columns): softmax(alpha), whose gradient reaches the two options alone."""
        pair, _ = self._indicators()
        inner, whole = self._inner(pair), F.softmax(self.supernet.table.logits().detach(), 1)
        mass = (whole * pair).sum(1, keepdim=True)
        return whole + mass * (inner - inner.detach())

    def _inner(self, pair: Tensor) -> Tensor:
        return F.softmax(self.supernet.table.logits().masked_fill(~pair, -torch.inf), 1)

    def _indicators(self) -> tuple[Tensor, Tensor]:
        table = self.supernet.table
        pair, active = torch.zeros(table.noise.shape, dtype=torch.bool), torch.zeros(table.noise.shape, dtype=torch.float64)
        for name, options in self.pairs.items():
            pair[table.row[name], list(options)] = True
            active[table.row[name], options[0]] = 1
        pair[-1, 0], active[-1, 0] = True, 1  # the row of what is no choice
        return pair.to(table.noise.device), active.to(table.noise.device)

    # -- the update --------------------------------------------------------------------------------------------------

    def _both(self) -> Mapping[str, Tensor]:
        alphas = self.supernet.alphas()
        return {name: alphas[name].detach()[list(options)].double() for name, options in self.pairs.items()}

    def _before(self, *_: Any) -> None:
        self._sums = {name: torch.logsumexp(both, 0) for name, both in self._both().items()}

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        alphas = self.supernet.alphas()
        for name, both in self._both().items():
            alphas[name][list(self.pairs[name])] += (self._sums[name] - torch.logsumexp(both, 0)).to(alphas[name].dtype)


def draw_pair(probabilities: list[float], rng: random.Random) -> tuple[int, int]:
    """Two options without replacement; the first is the active one, by the probabilities of the two alone."""
    options = range(len(probabilities))
    i = rng.choices(options, probabilities)[0]
    rest = [0.0 if k == i else p for k, p in enumerate(probabilities)]
    j = rng.choices(options, rest)[0] if sum(rest) > 0 else (i + 1) % len(probabilities)
    both = probabilities[i] + probabilities[j]
    return (i, j) if rng.random() * both < probabilities[i] else (j, i)
