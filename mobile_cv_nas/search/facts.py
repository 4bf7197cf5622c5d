"""What a search's result says of costs: what was expected, what the child costs, and what it takes on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..arch import ArchDef
from ..deploy.latency.here import cannot_measure, measure_here
from ..deploy.latency.table import LatencyTable
from ..networks.supernet import Supernet
from .goal import Goal
from .objective import Objective, Summed


@torch.no_grad()
def cost_facts(
    goal: Goal, supernet: Supernet, arch: ArchDef, build: Callable[[], nn.Module], expected: Callable[[Objective], float] | None = None
) -> dict[str, Any]:
    """Plain values for result.json.

    By the objective's name its cost and, as `<name>_expected`, its expectation; of each of the limits the same in
    `limits`; where one is latency, `latency_measured` in milliseconds, or None and, as `latency_not_measured`, why.

    Args:
        goal: of the search.
        supernet: as it was trained.
        arch: that was found.
        build: makes its network.
        expected: of an objective; see `Strategy.expected`. Without it under softmax(alpha).
    """
    expected = expected or (lambda measure: measure.expected(supernet, False).item())
    costs = goal.costs(arch)
    found: dict[str, Any] = {
        goal.objective: costs[goal.objective],
        f"{goal.objective}_expected": expected(goal.by),
    }
    if goal.limits:
        found["limits"] = {
            one.objective: {"most": one.most, "cost": costs[one.objective], "expected": expected(one.measure)} for one in goal.limits
        }
    table = _table(goal.by, *(one.measure for one in goal.limits))
    if table is not None:
        why = cannot_measure(table)
        found["latency_measured"] = None if why else measure_here(build(), table, arch.input_size, supernet.in_channels)
        found |= {"latency_not_measured": why} if why else {}
    return found


def _table(*objectives: Objective) -> LatencyTable | None:
    functions = [one.function for one in objectives if isinstance(one, Summed)]
    return next((one for one in functions if isinstance(one, LatencyTable)), None)
