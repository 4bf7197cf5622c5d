"""What a derived network must cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..arch import ArchDef, SearchSpace
from ..errors import InputError
from ..networks.supernet import Supernet
from ..nn.heads import HeadDef
from .objective import Objective, objective_of, parse_limits, parse_target, written
from .options import SearchOptions

__all__ = ["DeriveError", "Goal", "Limit", "check_target", "parse_target"]


class DeriveError(InputError):
    """No arch of the space could be found near enough to the target."""


@dataclass(frozen=True)
class Limit:
    """At most so much of an objective."""

    objective: str
    most: float
    measure: Objective


@dataclass(frozen=True)
class Goal:
    """`objective` within `tolerance`, a share, of `target`, and no more than each of the `limits`; of networks under a head.

    `measure` is the objective itself; without it that of the name.
    """

    objective: str
    target: float
    tolerance: float
    head: HeadDef
    in_channels: int = 3
    measure: Objective | None = field(default=None, compare=False)
    limits: tuple[Limit, ...] = ()

    @property
    def by(self) -> Objective:
        """The objective."""
        return self.measure or objective_of(self.objective)

    @property
    def unit(self) -> str:
        """What people call the objective."""
        return self.by.unit

    def text(self, value: float) -> str:
        """A cost for people: 60,000,000 macs; 8.00 ms; 0.0452 ms; 256,000 bytes."""
        return f"{written(value, self.by)} {self.objective if self.objective in ('macs', 'params') else self.by.unit}"

    def cost(self, space: SearchSpace, arch: ArchDef) -> float:
        """The exact cost of `arch` in the units of the target."""
        return self.by.cost(arch, self.head, self.in_channels)

    def expected(self, supernet: Supernet, noise: bool = True) -> Tensor:
        """The expected cost of the child, 0-d float64: under the current gates, or (`noise` False) under softmax(alpha)."""
        return self.by.expected(supernet, noise)

    def term(self, supernet: Supernet) -> Tensor:
        """What is added to the loss of the alphas, times SEARCH.COST_WEIGHT: |cost / target - 1|, and of each limit what is above it."""
        total = (self.expected(supernet) / self.target - 1).abs()
        for one in self.limits:
            total = total + torch.relu(one.measure.expected(supernet, True) / one.most - 1)
        return total

    def met(self, cost: float) -> bool:
        """Whether a cost is within the tolerance."""
        return abs(cost / self.target - 1) <= self.tolerance

    def off(self, arch: ArchDef) -> float:
        """How far an arch is from the target, and above the limits, as shares of these."""
        over = [max(0.0, one.measure.cost(arch, self.head, self.in_channels) / one.most - 1) for one in self.limits]
        return abs(self.by.cost(arch, self.head, self.in_channels) / self.target - 1) + sum(over)

    def fits(self, arch: ArchDef) -> bool:
        """Whether an arch meets the target and keeps the limits."""
        return self.met(self.by.cost(arch, self.head, self.in_channels)) and self.allows(arch)

    def allows(self, arch: ArchDef) -> bool:
        """Whether an arch keeps the limits."""
        return all(one.measure.cost(arch, self.head, self.in_channels) <= one.most for one in self.limits)

    def costs(self, arch: ArchDef) -> Mapping[str, float]:
        """By objective, the cost of an arch: of the target and of each limit."""
        found = {one.objective: one.measure.cost(arch, self.head, self.in_channels) for one in self.limits}
        return {self.objective: self.by.cost(arch, self.head, self.in_channels), **found}


def target_name(target: float, objective: str = "macs") -> str:
    """What a target and its folder are called: 50M, 2.64M, 414.592k; 8ms."""
    if objective == "latency":
        return f"{target:.12g}ms"
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
        name = target_name(target, options.objective)
        if name in found:
            raise InputError(f"SEARCH.TARGETS: {name} is there twice; name each target once")
        found[name] = replace(options, target=target)
    if len(found) == 1:
        raise InputError(f"SEARCH.TARGETS: {name} alone; name several, or set SEARCH.TARGET")
    return found


def counted_head(head: HeadDef, options: SearchOptions) -> HeadDef:
    """The head that costs are counted under: that of the search, with as many classes as the target is meant for.

    Raises InputError where the options have classes, and the head is no classifier, or not MACs or parameters alone are counted.
    """
    if not options.target_classes:
        return head
    others = {options.objective, *parse_limits(options.limits)} - {"macs", "params"}
    if others:
        raise InputError(f"SEARCH.TARGET_CLASSES: {options.target_classes}: counts MACs and parameters, not {', '.join(sorted(others))}")
    if head.name != "classifier" or options.target_classes < 0:
        raise InputError(f"SEARCH.TARGET_CLASSES: {options.target_classes}: a number of classes, of a classifier; the head is {head.name}")
    return replace(head, num_classes=options.target_classes)


def check_target(options: SearchOptions, space: SearchSpace, head: HeadDef, in_channels: int = 3, source: str = "the space") -> Goal:
    """The goal of a search. Raises InputError, which gives the range, if no arch of the space can meet it."""
    if not space.choices:
        raise InputError(f"SEARCH.SPACE: {source} has one network, nothing to choose; train it with tools/train_net.py")
    limits = limits_of(options)
    measure = objective_of(options.objective, options.table)
    goal = Goal(options.objective, options.target, options.tolerance, head, in_channels, measure, limits)
    low, high = measure.ends(space, head, in_channels)
    if not low <= goal.target <= high:
        raise InputError(
            f"SEARCH.TARGET: {goal.text(goal.target)} is out of the reach of {source}: its networks have "
            f"{written(low, measure)} to {written(high, measure)} with {head.num_classes} classes; choose a target in between"
        )
    for one in limits:
        least = one.measure.ends(space, head, in_channels)[0]
        if least > one.most:
            raise InputError(
                f"SEARCH.LIMITS: {one.objective}: {written(one.most, one.measure)} {one.measure.unit} is less than any network of "
                f"{source} has with {head.num_classes} classes; the least is {written(least, one.measure)}"
            )
    return goal


def limits_of(options: SearchOptions) -> tuple[Limit, ...]:
    """The limits of a search. Raises InputError."""
    found = parse_limits(options.limits)
    if options.objective in found:
        raise InputError(f"SEARCH.LIMITS: {options.objective}: it has the target; a limit is for another objective")
    return tuple(Limit(name, most, objective_of(name, options.table)) for name, most in found.items())
