"""What a derived network must cost."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..arch import ArchDef, SearchSpace
from ..errors import InputError, did_you_mean
from ..nn.heads import HeadDef
from .options import SearchOptions

OBJECTIVES = {"macs": "MACs", "params": "parameters"}
_TARGET = re.compile(r"\s*([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([kmg](?![a-z]))?\s*([a-z]*)\s*", re.IGNORECASE)
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Goal:
    """`objective` ("macs" or "params") within `tolerance`, a share, of `target`; of networks under a head."""

    objective: str
    target: float
    tolerance: float
    head: HeadDef
    in_channels: int = 3

    @property
    def unit(self) -> str:
        """What people call the objective."""
        return OBJECTIVES[self.objective]

    def cost(self, space: SearchSpace, arch: ArchDef) -> int:
        """The exact cost of `arch` in the units of the target."""
        return getattr(space.cost(arch, in_channels=self.in_channels, head=self.head), self.objective)

    def met(self, cost: float) -> bool:
        """Whether a cost is within the tolerance."""
        return abs(cost / self.target - 1) <= self.tolerance


def parse_target(text: str | float, objective: str = "macs") -> tuple[float, str]:
    """A target and its objective: 60e6, "60e6", "60M", "60e6 macs", "4M params". Raises InputError."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        found, unit = float(text), objective
    else:
        match = _TARGET.fullmatch(str(text))
        if match is None:
            raise InputError(f"target {text!r}: give a number of MACs or parameters, such as 60e6, 60M or '4M params'")
        found, unit = float(match[1].replace("_", "")) * _SCALE[(match[2] or "").lower()], match[3].lower() or objective
    unit = {"parameters": "params", "mac": "macs"}.get(unit, unit)
    if unit not in OBJECTIVES:
        raise InputError(f"target {text!r}: {unit!r} is no objective{did_you_mean(unit, OBJECTIVES, few=8)}")
    if not found > 0:
        raise InputError(f"target {text!r}: give a number above 0")
    return found, unit


def target_name(target: float) -> str:
    """What a target and its folder are called: 50M, 2.64M, 414.592k."""
    unit, size = next(((unit, size) for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if target >= size), ("", 1.0))
    return f"{target / size:.12g}{unit}"


def each_target(options: SearchOptions) -> dict[str, SearchOptions]:
    """The options of each target by its name, which is also that of its folder, such as 50M; "" is the name of a single one.

    Raises InputError for a target that is named twice.
    """
    if not options.targets:
        return {"": options}
    found: dict[str, SearchOptions] = {}
    for target in options.targets:
        name = target_name(target)
        if name in found:
            raise InputError(f"SEARCH.TARGETS: {name} is there twice; name each target once")
        found[name] = replace(options, target=target)
    if len(found) == 1:
        raise InputError(f"SEARCH.TARGETS: {name} alone; name several, or set SEARCH.TARGET")
    return found


def counted_head(head: HeadDef, options: SearchOptions) -> HeadDef:
    """The head that costs are counted under: that of the search, with as many classes as the target is meant for.

    Raises InputError where the options have classes, and the head is no classifier.
    """
    if not options.target_classes:
        return head
    if head.name != "classifier" or options.target_classes < 0:
        raise InputError(f"SEARCH.TARGET_CLASSES: {options.target_classes}: a number of classes, of a classifier; the head is {head.name}")
    return replace(head, num_classes=options.target_classes)


def check_target(options: SearchOptions, space: SearchSpace, head: HeadDef, in_channels: int = 3, source: str = "the space") -> Goal:
    """The goal of a search. Raises InputError, which gives the range, if no arch of the space can meet it."""
    if not space.choices:
        raise InputError(f"SEARCH.SPACE: {source} has one network, nothing to choose; train it with tools/train_net.py")
    goal = Goal(options.objective, options.target, options.tolerance, head, in_channels)
    low, high = (goal.cost(space, find(by=goal.objective, head=head)) for find in (space.smallest, space.largest))
    if not low <= goal.target <= high:
        raise InputError(
            f"SEARCH.TARGET: {goal.target:,.0f} {goal.objective} is out of the reach of {source}: its networks have "
            f"{low:,} to {high:,} with {head.num_classes} classes; choose a target in between"
        )
    return goal
