"""Random search: archs at the target, trained by successive halving; no supernet.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (AISTATS 2016): of n archs, the
better half after each of log2(n) rounds is trained on, and every round costs the same.
    round r  n / 2^r archs, each E / (log2(n) n / 2^r) epochs more, of E = SEARCH.EPOCHS in all
It departs from the source in the learning rate: each round has the cosine of the training's recipe, and goes on from the weights of the
round before. Epochs are whole, one at least.
"""

from __future__ import annotations

import math
import random

from ..derive import Derived
from ..judge import Judge, best_of
from ..sampling import random_archs
from .base import Strategy


class RandomSearch(Strategy):
    """Random archs within the tolerance of the target; the best after successive halving."""

    def rounds(self) -> list[tuple[int, int]]:
        """(archs, epochs of each) of every round."""
        count = self.options.random_archs
        number = math.ceil(math.log2(count))
        left = [max(1, count >> stage) for stage in range(number)]
        return [(archs, max(1, round(self.options.epochs / (number * archs)))) for archs in left]

    def asks(self) -> tuple[int, int]:
        return 0, sum(archs * epochs for archs, epochs in self.rounds())

    def propose(self, judge: Judge) -> Derived:
        found = archs = random_archs(self.supernet.space, self.goal, self.options.random_archs, random.Random(self.setting.seed))
        score = math.nan
        for stage, (_, epochs) in enumerate(self.rounds()):
            scores = judge.trained(archs, epochs, stage)
            order = sorted(range(len(archs)), key=lambda i: (*scores[i], -i), reverse=True)
            score = scores[best_of(archs, scores)][0]
            archs = [archs[i] for i in order[: max(1, len(archs) // 2)]]
        return Derived(archs[0], "random", len(found), len(found), score)
