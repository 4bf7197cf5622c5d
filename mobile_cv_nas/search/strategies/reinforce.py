"""REINFORCE: a policy over one-hot paths learns from the reward of each; the weights along the same paths.

Sources: Tan et al., "MnasNet" (CVPR 2019), which introduced the reward of accuracy and cost; Bender et al., "Can Weight Sharing Outperform
Random Architecture Search? An Investigation With TuNAS" (CVPR 2020), whose absolute reward this is.
    policy    pi(a) = product over choices of softmax(alpha)[a]
    reward    R(a) = Q(a) - cost_weight |cost(a) / target - 1|                  TuNAS, Eq. 2; Q: share of right answers in a batch
    alphas    alpha <- Adam on -(R(a) - b) log pi(a), b <- 0.95 b + 0.05 R      TuNAS, Section 3; Williams (1992)
    weights   w <- w - lr dL(a, w)/dw, a ~ pi; alphas begin at zero and rest in the warm-up, in which pi is uniform
Of a task without right answers Q is minus the loss. It departs from TuNAS in the warm-up, where that one anneals the share of steps in
which all operations are on, and in Adam's learning rate, which stays.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.step import Loss
from .alphas import AlphaStrategy
from .base import Setting


class Reinforce(AlphaStrategy):
    """One-hot paths drawn from softmax(alpha)."""

    one_path = True

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.path: Mapping[str, int] = {}
        self.baseline: float | None = None
        self.rewards: list[float] = []  # of the last step, which are yet to be averaged into the baseline

    def prepare(self, phase: str, epoch: int, step: int) -> None:
        """Draws the path of a step."""
        self._learn_baseline()
        self.path = draw_path(self.supernet.probabilities(), self.rng(phase, epoch, step))
        self.supernet.choose(self.path)

    def loss(self, phase: str, batch: Any, key: tuple[int, ...]) -> Loss:
        """The task's loss along the path; for the alphas the policy's."""
        return self.path_loss(batch, key) if phase == "weights" else self.policy_loss(batch, key)

    def path_loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        """Of the weights along the selected path."""
        found = self.task_loss(batch, key)
        return Loss(found.total, found.images, found.terms, self.counted(found, self.path_macs(self.path)))

    def policy_loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        """Its gradient with respect to the alphas is an estimate, unbiased for a constant baseline, of that of minus the mean reward."""
        with torch.no_grad():
            found, term = self.task_loss(batch, key), float(self.cost_term())
        reward = self.reward(found, term)
        advantage = reward - (reward if self.baseline is None else self.baseline)
        if math.isfinite(reward):
            self.rewards.append(reward)
        total = -advantage * self.log_probability()
        # The networks are passed forward alone: a third of a step's MACs.
        sums = self.counted(found, self.path_macs(self.path) / 3)
        return Loss(total.float(), found.images, {**found.terms, "policy": total}, sums)

    def reward(self, found: Loss, term: float) -> float:
        """R of the current path on a batch, over all processes."""
        quality = found.sums["right"] / found.images if self.task.hits else -found.sums["loss"] / found.images
        return self.runtime.sum([float(quality)])[0] / self.runtime.world - term

    def log_probability(self) -> Tensor:
        """log pi of the arch of the path: what does not change the arch, such as the widths of a skipped layer, does not count."""
        alphas = self.supernet.alphas()
        deciding = self.supernet.space.deciding(dict(self.path))
        return torch.stack([F.log_softmax(alphas[name].double(), 0)[option] for name, option in deciding.items()]).sum()

    def _learn_baseline(self) -> None:
        if self.rewards:
            mean, keep = sum(self.rewards) / len(self.rewards), self.options.baseline
            self.baseline = mean if self.baseline is None else keep * self.baseline + (1 - keep) * mean
            self.rewards = []

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline, "rewards": list(self.rewards)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.baseline, self.rewards = state["baseline"], list(state["rewards"])


def draw_path(probabilities: Mapping[str, Tensor], rng: random.Random) -> dict[str, int]:
    """An option of every choice, by its probability."""
    return {name: rng.choices(range(len(table)), table.tolist())[0] for name, table in probabilities.items()}
