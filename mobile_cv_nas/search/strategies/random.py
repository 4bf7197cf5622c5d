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

    def propose(self, judge: Judge) -> Derived:
        count = self.options.random_archs
        archs = random_archs(self.supernet.space, self.goal, count, random.Random(self.setting.seed))
        rounds = max(1, math.ceil(math.log2(count))) if count > 1 else 0
        score = math.nan
        for stage in range(rounds):
            epochs = max(1, round(self.options.epochs / (rounds * len(archs))))
            scores = judge.trained(archs, epochs, stage)
            order = sorted(range(len(archs)), key=lambda i: (*scores[i], -i), reverse=True)
            score = scores[best_of(archs, scores)][0]
            archs = [archs[i] for i in order[: max(1, len(archs) // 2)]]
        return Derived(archs[0], "random", count, count, score)
