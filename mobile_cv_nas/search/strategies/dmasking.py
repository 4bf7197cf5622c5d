"""DMaskingNAS: weights and alphas in turn, under Gumbel-Softmax gates of falling temperature.

Source: Wan et al., "FBNetV2: Differentiable Neural Architecture Search for Spatial and Channel Dimensions" (CVPR 2020).
    gates    g = softmax((alpha + Gumbel noise) / tau)                          Eq. 4
    weights  w <- w - lr dL/dw, on most of the training images                  Section 4.1
    alphas   alpha <- Adam on L + cost_weight |cost(g) / target - 1|, on the rest
It departs from the paper in the cost term, which is relative to a target instead of alpha * log(cost)^beta.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...arch import ArchDef
from ...engine.runtime import Runtime
from ...engine.step import Loss, Stepper
from ...networks.supernet import Supernet
from ...tasks.task import Task
from ..goal import Goal
from ..options import SearchOptions


class DMasking:
    """The gates, losses and updates of a search.

    Args:
        supernet: on the device.
        task: its loss.
        goal: the cost to aim at.
        options: of the search.
        runtime: precision and processes.

    Attributes:
        steppers: of each phase, "weights" and "alphas", in the order of an epoch.
        warmup: epochs at the start in which only the weights learn.
    """

    def __init__(self, supernet: Supernet, task: Task, goal: Goal, options: SearchOptions, runtime: Runtime):
        self.supernet, self.task, self.goal, self.options, self.runtime = supernet, task, goal, options, runtime
        self.warmup = round(options.warmup_fraction * options.epochs)
        alphas = supernet.alphas()
        known = {id(alpha) for alpha in alphas.values()}
        weights = {name: p for name, p in supernet.named_parameters() if id(p) not in known}
        o, fused = options, runtime.device.type == "cuda"
        sgd = torch.optim.SGD(weights.values(), lr=o.weight_lr, momentum=o.weight_momentum, weight_decay=o.weight_decay, fused=fused)
        adam = torch.optim.Adam(alphas.values(), lr=o.alpha_lr, weight_decay=o.alpha_weight_decay, fused=fused)
        self.steppers = {
            "weights": Stepper(weights, sgd, supernet, runtime, o.clip_grad),
            "alphas": Stepper({f"alpha of {name}": alpha for name, alpha in alphas.items()}, adam, supernet, runtime, watched=True),
        }
        self.model = runtime.compile(task.learner(supernet))

    # -- a step ------------------------------------------------------------------------------------------------------

    def temperature(self, epoch: int) -> float:
        """Tau of an epoch: `geometric` falls from tau_start to tau_end over the run, `paper` by exp(-tau_decay) an epoch."""
        o = self.options
        if o.schedule == "paper":
            return o.tau_start * math.exp(-o.tau_decay * epoch)
        return o.tau_start * (o.tau_end / o.tau_start) ** (epoch / max(1, o.epochs - 1))

    def runs(self, phase: str, epoch: int) -> bool:
        """Whether an epoch has a phase."""
        return phase == "weights" or epoch >= self.warmup

    def rate(self, phase: str, progress: float) -> float:
        """The learning rate; `progress` is the share of the phase's steps that are done."""
        return self.options.alpha_lr if phase == "alphas" else self.options.weight_lr * 0.5 * (1 + math.cos(math.pi * progress))

    def begin(self, phase: str, epoch: int) -> None:
        """Only the phase's own parameters have gradients while it runs."""
        for name, stepper in self.steppers.items():
            for parameter in stepper.parameters.values():
                parameter.requires_grad_(name == phase)
        self.supernet.train()

    def prepare(self, phase: str, epoch: int) -> None:
        """Draws the gates of a step."""
        self.supernet.sample(self.temperature(epoch))

    def loss(self, phase: str, batch: Any, key: tuple[int, ...]) -> Loss:
        """The task's loss; for the alphas with the cost term beside it."""
        found = self.task.loss(self.model, batch, key, self.runtime)
        if phase == "weights":
            with torch.no_grad():
                cost = self._cost()
            return Loss(found.total, found.images, found.terms, {**found.sums, "cost": cost})
        cost = self._cost()
        term = self.options.cost_weight * self.goal.term(self.supernet)
        terms = {**found.terms, "cost term": term}
        return Loss(found.total + term.float(), found.images, terms, {**found.sums, "cost": cost.detach()})

    def _cost(self) -> Tensor:
        return self.goal.expected(self.supernet)

    # -- what is found -----------------------------------------------------------------------------------------------

    def derive(self) -> ArchDef:
        """The arch that the search would name now."""
        return self.supernet.derive()

    def report(self, epoch: int) -> dict[str, Any]:
        """What a record keeps of an epoch: temperature, costs, entropy and probabilities."""
        entropies = self.supernet.entropies()
        return {
            **self.costs(),
            "entropy": self.entropy(),
            **{f"entropy/{name}": value for name, value in entropies.items()},
            "probabilities": {name: p.tolist() for name, p in self.supernet.probabilities().items()},
        }

    @torch.no_grad()
    def costs(self) -> dict[str, float]:
        """The cost under the noise-free softmax and that of the argmax, in units of the target."""
        expected = self.goal.expected(self.supernet, noise=False)
        return {"cost_expected": float(expected), "cost_argmax": float(self.goal.cost(self.supernet.space, self.derive()))}

    def entropy(self) -> float:
        """Mean normalised entropy of the alphas: 1 at the start, 0 when all are decided."""
        values = self.supernet.entropies().values()
        return sum(values) / len(values) if values else 0.0
