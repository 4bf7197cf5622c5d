"""What a search ends with, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arch import ArchDef
from ..networks.supernet import Supernet
from ..nn.shapes import Cost
from ..tasks.model import Model, load
from ..training.trainer import TrainResult
from .derive import Derived
from .goal import Goal


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with.

    Attributes:
        folder: where everything is.
        finished: False where it was stopped on request; its state is saved, and the rest of this is None.
        arch: that was found.
        cost: exact, of its network.
        goal: what it was searched for.
        derived: how the arch was derived.
        supernet: as it was trained.
        training: of the child; None where it was not trained.
        seconds: of the search, and of training and test, in this process.
        entropy: of the alphas, mean and normalised: 1 undecided, 0 decided.
        facts: costs of the target and of the limits: expected, of the child, and measured; see `facts.cost_facts`.
        targets: of a search for several targets, the result of each, in a folder of its own; arch, cost, goal, derived and training
            are then None here.
    """

    folder: Path
    finished: bool = False
    arch: ArchDef | None = None
    cost: Cost | None = None
    goal: Goal | None = None
    derived: Derived | None = None
    supernet: Supernet | None = None
    training: TrainResult | None = None
    seconds: tuple[float, float] = (0.0, 0.0)
    entropy: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[SearchResult, ...] = ()

    def model(self) -> Model:
        """The trained child; of a search for several targets take one of `targets`."""
        return load(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as result.json has them."""
        if self.targets:
            return {"finished": True, "targets": [{"folder": one.folder.name, **one.to_dict()} for one in self.targets]}
        if not self.finished or self.goal is None or self.derived is None:
            return {"finished": False, "folder": str(self.folder)}
        found: dict[str, Any] = dict(self.training.to_dict()) if self.training is not None else {"finished": True}
        found |= {"macs": self.cost.macs, "params": self.cost.params} if self.cost is not None else {}
        return {
            **found,
            **self.facts,
            "objective": self.goal.objective,
            "target": self.goal.target,
            "derived": self.derived.how,
            "candidates_within": self.derived.within,
            "candidates_compared": self.derived.compared,
            "entropy": self.entropy,
        }
