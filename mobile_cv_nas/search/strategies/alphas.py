"""What strategies with alphas have in common: weights and alphas in turn, and archs drawn from softmax(alpha)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...arch import ArchDef
from ...engine.step import Loss, Stepper
from ..derive import Derived, derive_arch
from ..judge import Judge
from ..options import SearchOptions
from .base import Setting, Strategy


class AlphaStrategy(Strategy):
    """Weights learn by SGD on most of the training images, alphas by Adam on the rest; the latter not in the warm-up."""

    betas = (0.9, 0.999)  # of Adam

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.warmup = round(self.options.warmup_fraction * self.options.epochs)
        self.steppers = {"weights": self.weight_stepper(), "alphas": self.alpha_stepper()}

    @classmethod
    def passes(cls, options: SearchOptions) -> dict[str, int]:
        return {"weights": 1, "alphas": 1}

    def alpha_stepper(self) -> Stepper:
        """Adam on the alphas."""
        o, alphas, fused = self.options, self.supernet.alphas(), self.runtime.device.type == "cuda"
        adam = torch.optim.Adam(alphas.values(), lr=o.alpha_lr, betas=self.betas, weight_decay=o.alpha_weight_decay, fused=fused)
        return Stepper({f"alpha of {name}": alpha for name, alpha in alphas.items()}, adam, self.supernet, self.runtime, watched=True)

    def loss(self, phase: str, batch: Any, key: tuple[int, ...]) -> Loss:
        """The task's loss; for the alphas with the cost term beside it."""
        found = self.task_loss(batch, key)
        if phase == "weights":
            return Loss(found.total, found.images, found.terms, self.counted(found, self.whole_macs))
        term = self.cost_term()
        terms = {**found.terms, "cost term": term}
        sizes = 2 if self.one_size else 1  # the alphas learn from two; see `Supernet._sampled`
        return Loss(found.total + term.float(), found.images, terms, self.counted(found, sizes * self.whole_macs))

    # -- what is found -----------------------------------------------------------------------------------------------

    def derive(self) -> ArchDef:
        """The arch that the search would name now."""
        return self.supernet.derive()

    def probabilities(self) -> Mapping[str, Tensor]:
        """Of each option of every choice, (options,); archs are drawn by these."""
        return self.supernet.probabilities()

    def asks(self) -> tuple[int, int]:
        return self.evolution.archs if self.options.from_alphas else self.choosing.compare, self.choosing.training

    def propose(self, judge: Judge) -> Derived:
        return self.derived(self.derive(), judge)

    def derived(self, argmax: ArchDef | None, judge: Judge) -> Derived:
        """The best of archs drawn from the alphas and of `argmax`, and where asked for of those that evolve from them."""
        evolution = self.evolution if self.options.from_alphas else None
        return derive_arch(self.supernet.space, argmax, self.probabilities(), self.goal, judge, self.choosing, evolution)

    def report(self, epoch: int) -> dict[str, Any]:
        """Costs, entropy and probabilities."""
        return {
            **self.costs(),
            "entropy": self.entropy(),
            **{f"entropy/{name}": value for name, value in self.entropies().items()},
            "probabilities": {name: p.tolist() for name, p in self.probabilities().items()},
        }

    def entropies(self) -> dict[str, float]:
        """Of each choice, over that of equal probabilities."""
        found = self.probabilities().items()
        return {name: float(-torch.special.xlogy(p, p).sum() / math.log(len(p))) for name, p in found}

    @torch.no_grad()
    def costs(self) -> dict[str, float]:
        """The cost that is expected of archs drawn now, and that of the argmax."""
        return {"cost_expected": self.expected(self.goal.by), "cost_argmax": float(self.goal.cost(self.supernet.space, self.derive()))}

    def entropy(self) -> float:
        """Mean normalised entropy of the probabilities."""
        values = self.entropies().values()
        return sum(values) / len(values) if values else 0.0
