"""How far alphas can move in a search: Adam moves one by up to the learning rate in a step.

An alpha that is to stand out among its options has to move by several units. In a search of few steps the alphas stay where they began, and
what is derived is close to chance; where they move too fast they settle while the weights, which judge the options, are young.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..data.data_set import Split
from .options import SearchOptions

# In units of ALPHA_LR times the steps of alpha.
SLOW, AIM, FAST = 12.0, 24.0, 60.0
SETTLED = 35.0  # where alphas have been seen to settle
YOUNG = 20  # epochs of the weights
LARGEST = 0.5  # rate that is chosen for a search of few steps


@dataclass(frozen=True)
class Pace:
    """The steps that alpha takes: `steps` in each of `epochs` after the warm-up, and the learning rate."""

    steps: int
    epochs: int
    rate: float

    @property
    def reach(self) -> float:
        """How far an alpha can move."""
        return self.rate * self.steps * self.epochs

    def remark(self, warmup: int) -> str:
        """What is to be said of it, with the remedy; "" where nothing is."""
        total = self.steps * self.epochs
        if not total:
            return ""
        far = f"SEARCH.ALPHA_LR: {self.rate:g} times the {total:,} steps of alpha is {self.reach:.2g}"
        if self.reach < SLOW:
            rate = min(LARGEST, AIM / total)
            ways = f"set SEARCH.ALPHA_LR {rate:.2g} or raise SEARCH.EPOCHS" if rate > self.rate else "raise SEARCH.EPOCHS"
            return f"{far}: under {SLOW:g} the alphas stay undecided, and what is derived is close to chance; {ways}"
        settled = warmup + SETTLED / (self.rate * self.steps)
        if self.reach > FAST and settled < YOUNG:
            return (
                f"{far}: over {FAST:g} the alphas settle early, about epoch {settled:.0f}, while the weights are young; "
                f"set SEARCH.ALPHA_LR {AIM / total:.2g}"
            )
        return ""


def paced(options: SearchOptions, train: Split, seed: int) -> SearchOptions:
    """The options with a learning rate of alpha: where it is 0, the one that lets the alphas move by AIM."""
    return replace(options, alpha_lr=_pace(options, train, seed).rate)


def pace_remark(options: SearchOptions, train: Split, seed: int) -> str:
    """What is to be said of the pace that options lead to on some training images; "" where nothing is."""
    return _pace(options, train, seed).remark(_warmup(options))


def _warmup(options: SearchOptions) -> int:
    return round(options.warmup_fraction * options.epochs)


def _pace(options: SearchOptions, train: Split, seed: int) -> Pace:
    steps = len(train.halves(options.alpha_fraction, seed)[1]) // options.batch_size
    epochs = options.epochs - _warmup(options)
    return Pace(steps, epochs, options.alpha_lr or min(LARGEST, AIM / max(1, steps * epochs)))
