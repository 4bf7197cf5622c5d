"""One arch, as a search that finds nothing: the one that SEARCH.ARCH names, or the space's uniformly scaled one at the target.

Source: none; what every table of a paper calls the manual baseline. Without a name: first candidates, no layer skipped, every width and the
input size at the same share of its options (the "width multiplier" of MobileNets), then moved within the tolerance.
"""

from __future__ import annotations

import math

from ...errors import InputError
from ..derive import Derived
from ..judge import Judge
from ..sampling import scaled_arch
from .base import Strategy


class Single(Strategy):
    """One arch. Raises InputError where the named one is off the target."""

    def propose(self, judge: Judge) -> Derived:
        arch, goal = self.setting.given, self.goal
        if arch is None:
            return Derived(scaled_arch(self.supernet.space, goal), "scaled", 1, 0, math.nan)
        cost = goal.cost(self.supernet.space, arch)
        if not goal.met(cost):
            raise InputError(
                f"SEARCH.ARCH: it has {goal.text(cost)}, which is not within {goal.tolerance:.0%} of SEARCH.TARGET "
                f"{goal.text(goal.target)}; set that target, or name another"
            )
        if not goal.allows(arch):
            raise InputError("SEARCH.ARCH: it is above SEARCH.LIMITS; name another, or raise them")
        return Derived(arch, "given", 1, 0, math.nan)
