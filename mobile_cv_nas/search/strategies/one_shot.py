"""Single-path one-shot: weights learn along uniform random paths, then evolution under the target.

Source: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (ECCV 2020).
    weights  w <- w - lr dL(a, w)/dw, a ~ U(space)                              Eq. 7 and Section 3.2
    search   argmax over a, cost(a) at the target, of the accuracy of a with inherited weights, by evolution; norm statistics of a's own
The sandwich rule and in-place distillation are options: Yu and Huang, "Universally Slimmable Networks" (ICCV 2019), and Yu et al., "BigNAS"
(ECCV 2020): each step runs the largest arch, the smallest and two random ones, and all but the largest learn from its probabilities.
It departs from these in taking the mean of the four losses, not their sum, so that a learning rate means the same with and without.
Every choice is uniform and independent, as `SearchSpace.sample` draws; Guo et al.'s search of uniform cost is not here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...arch import ArchDef
from ...engine.step import Loss
from ...errors import InputError
from ...tasks.classification import Classification
from ..derive import Derived
from ..judge import Judge
from ..options import SearchOptions
from ..sampling import uniform_picks
from .base import Setting, Strategy

MIDDLE = 2  # random archs of a step under the sandwich rule


class OneShot(Strategy):
    """Uniform paths, or the sandwich rule; then evolution."""

    one_path = True

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.steppers = {"weights": self.weight_stepper()}
        self.paths: list[Mapping[str, int]] = []
        space, o = self.supernet.space, self.options
        self.distill = o.distill
        if o.distill and not isinstance(self.task, Classification):
            raise InputError("SEARCH.ONE_SHOT.DISTILL: for a classifier, whose outputs are probabilities; leave it out")
        self.ends = [self.end(find) for find in (space.largest, space.smallest)] if o.sandwich else []

    def end(self, find: Callable[..., ArchDef]) -> Mapping[str, int]:
        """The space's largest or smallest network: by the objective where `find` knows it, else by MACs."""
        goal = self.goal
        by = goal.objective if goal.objective in ("macs", "params") else "macs"
        return self.supernet.space.encode(find(by=by, in_channels=goal.in_channels, head=goal.head))

    @classmethod
    def passes(cls, options: SearchOptions) -> dict[str, int]:
        return {"weights": 2 + MIDDLE if options.sandwich else 1}

    def prepare(self, phase: str, epoch: int, step: int) -> None:
        """Draws the paths of a step."""
        rng = self.rng(phase, epoch, step)
        self.paths = [*self.ends, *(self.draw(rng) for _ in range(MIDDLE if self.ends else 1))]

    def draw(self, rng: random.Random) -> Mapping[str, int]:
        """A path: an option of every choice."""
        return uniform_picks(self.supernet.space, rng)

    def loss(self, phase: str, batch: Any, key: tuple[int, ...]) -> Loss:
        """The mean of the task's losses along the paths."""
        model, macs = _Kept(self.model), 0
        found: list[Loss] = []
        for path in self.paths:
            self.supernet.choose(path)
            task: Any = self.task
            if self.distill and found:
                task = replace(self.task, losses=replace(self.task.losses, own=self._distillation(model.first)))
            found.append(task.loss(model, batch, key, self.runtime))
            macs += self.path_macs(path)
        total = torch.stack([one.total for one in found]).mean()
        sums = {name: torch.stack([one.sums[name].double() for one in found]).mean() for name in found[0].sums}
        mean = Loss(total, found[0].images, {self.task.loss_name: total}, sums)
        return replace(mean, sums=self.counted(mean, macs, len(found)))

    def _distillation(self, teacher: Tensor) -> Any:
        """Cross-entropy under the teacher's probabilities."""
        probabilities = F.softmax(teacher.float(), 1)
        return lambda logits, _: F.cross_entropy(logits, probabilities)

    def asks(self) -> tuple[int, int]:
        return self.evolution.archs, self.choosing.training

    def propose(self, judge: Judge) -> Derived:
        seen = self.evolution.run(self.supernet.space, self.goal, judge.scores, random.Random(self.setting.seed))
        arch, score = self.choosing.best(judge, *map(list, zip(*seen)))
        return Derived(arch, "evolved", len(seen), len(seen), score[0])


class _Kept:
    """A model that keeps its first output."""

    def __init__(self, model: Any):
        self.model, self.first = model, torch.empty(0)

    def __call__(self, images: Any, *more: Any) -> Any:
        found = self.model(images, *more)
        if isinstance(found, Tensor) and not self.first.numel():
            self.first = found.detach()
        return found
