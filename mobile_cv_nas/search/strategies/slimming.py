"""AutoSlim: a slimmable network is trained, then shrunk greedily where that costs the least accuracy.

Source: Yu and Huang, "AutoSlim: Towards One-Shot Architecture Search for Channel Numbers" (2019); its training: Yu and Huang, "Universally
Slimmable Networks" (ICCV 2019).
    weights  the mean of the losses of the widest network, the narrowest and two of random widths; all but the widest learn from its
             probabilities (of a classifier)
    search   from the widest on: of all networks with one width a step smaller, the one of the highest accuracy, until the target is met
             and the limits are kept
It departs from the paper in what is slimmed: hidden widths and the input size as well. A step is an eighth of a choice's options, one at
least. Blocks stay those of the space's largest network, which AutoSlim does not search.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from ...nn.choice import Choice
from ...tasks.classification import Classification
from ..derive import Derived
from ..goal import DeriveError
from ..judge import Judge, Score, best_of
from ..options import SearchOptions
from ..sampling import Picks, led
from .base import Setting
from .one_shot import MIDDLE, OneShot

STEPS = 8  # from the widest option of a choice to the narrowest
TRIES = 20  # of leading the last network to the target


class Slimming(OneShot):
    """A slimmable network and its greedy shrinking."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        space = self.supernet.space
        widest = self.end(space.largest)
        self.slimmed = [choice for choice in space.choices if not choice.name.endswith(".block")]
        self.distill = isinstance(self.task, Classification)
        self.ends = [widest, {**widest, **{choice.name: 0 for choice in self.slimmed}}]

    @classmethod
    def passes(cls, options: SearchOptions) -> dict[str, int]:
        return {"weights": 2 + MIDDLE}

    def draw(self, rng: random.Random) -> Mapping[str, int]:
        """Random widths of the widest network's blocks."""
        return {**self.ends[0], **{choice.name: rng.randrange(len(choice.options)) for choice in self.slimmed}}

    def asks(self) -> tuple[int, int]:
        """As if all steps from the widest to the narrowest network saved as much; each looks at every choice."""
        space, goal = self.supernet.space, self.goal
        widest, narrowest = (goal.cost(space, space.decode(end)) for end in self.ends)
        steps = sum(math.ceil((len(choice.options) - 1) / _step(choice)) for choice in self.slimmed)
        share = max(0.0, widest - goal.target) / max(widest - narrowest, 1e-9)
        return math.ceil(steps * share) * len(self.slimmed), 0

    def propose(self, judge: Judge) -> Derived:
        space, goal, picks, compared = self.supernet.space, self.goal, dict(self.ends[0]), 0
        score: Score = (float("nan"), 0.0)
        while not goal.fits(space.decode(picks)):
            smaller = self._smaller(picks)
            if not smaller:
                picks = self._led(picks)
                (score,) = judge.scores([space.decode(picks)])
                compared += 1
                break
            archs = [space.decode(one) for one in smaller]
            scores = judge.scores(archs)
            best = best_of(archs, scores)
            picks, score, compared = smaller[best], scores[best], compared + len(archs)
        return Derived(space.decode(picks), "slimmed", 1, compared, score[0])

    def _smaller(self, picks: Picks) -> list[Picks]:
        """All picks with one width a step smaller, cheaper than these and not below the target."""
        space, goal = self.supernet.space, self.goal
        now, found = goal.cost(space, space.decode(picks)), []
        for choice in self.slimmed:
            one = {**picks, choice.name: picks[choice.name] - min(_step(choice), picks[choice.name])}
            cost = goal.cost(space, space.decode(one))
            if cost < now and (cost > goal.target or goal.met(cost)):
                found.append(one)
        return found

    def _led(self, picks: Picks) -> Picks:
        """Where every step would miss the target: the nearest widths that meet it and keep the limits."""
        kept = {name: option for name, option in picks.items() if name.endswith(".block")}
        for seed in range(TRIES):
            found = led(self.supernet.space, self.goal, picks, random.Random(seed), lambda one: kept.items() <= one.items())
            if found is not None:
                return found
        limited = " that keeps SEARCH.LIMITS" if self.goal.limits else ""
        raise DeriveError(f"SEARCH.TOLERANCE: slimming met no network within {self.goal.tolerance:.0%} of SEARCH.TARGET{limited}; widen it")


def _step(choice: Choice) -> int:
    """Options that one step goes down."""
    return max(1, (len(choice.options) - 1) // STEPS)
