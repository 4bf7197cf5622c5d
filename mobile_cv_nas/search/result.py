"""What a search ends with, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arch import ArchDef
from ..networks.supernet import Supernet
from ..nn.shapes import Cost
from ..tasks.load import load
from ..tasks.model import Model
from ..training.trainer import TrainResult
from .derive import HOW, Derived
from .goal import Goal


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with.

    Attributes:
        folder: where everything is.
        finished: False where it was stopped on request; its state is saved, and the rest of this is None.
        arch: that was found.
        cost: exact, of its network, with the classes of the images.
        goal: what it was searched for.
        derived: how the arch was derived.
        supernet: as it was trained; that of each of several targets has its alphas, and shares the weights with the others.
        training: of the child; None where it was not trained.
        seconds: of the search, and of training and test, in this process.
        facts: costs of the target and of the limits: expected, of the child, and measured; see `facts.cost_facts`.
        targets: of a search for several targets, the result of each, in a folder of its own; arch, cost, goal, derived and training
            are then None here.
        entropy: of the alphas, mean and normalised: 1 undecided, 0 decided; None where there are none.
        spent: by the search: `search_images`, passed forward and backward, and `search_macs`, of a forward pass of these (a backward pass
            is two more); `judged_images` and `judged_macs` of the forward passes that measured archs.
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
    spent: Mapping[str, int] = field(default_factory=dict)

    def model(self) -> Model:
        """The trained child; of a search for several targets take one of `targets`."""
        return load(self.folder)

    @property
    def counted(self) -> float | None:
        """The cost in the units of the target with the classes that it is of, where the images have another number; else None."""
        if self.goal is None or self.arch is None or self.supernet is None or self.goal.head == self.supernet.head_def:
            return None
        return self.goal.cost(self.supernet.space, self.arch)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as result.json has them."""
        if self.targets:
            return {"finished": True, "targets": [{"folder": one.folder.name, **one.to_dict()} for one in self.targets], **self.spent}
        if not self.finished or self.goal is None or self.derived is None:
            return {"finished": False, "folder": str(self.folder)}
        found: dict[str, Any] = dict(self.training.to_dict()) if self.training is not None else {"finished": True}
        found |= {"macs": self.cost.macs, "params": self.cost.params} if self.cost is not None else {}
        if self.counted is not None:
            found |= {"target_classes": self.goal.head.num_classes, "counted": self.counted}
        return {
            **self.facts,
            **found,  # the costs of the child, where the target is of a network with other classes
            "objective": self.goal.objective,
            "target": self.goal.target,
            "derived": self.derived.how,
            "derived_in_words": HOW[self.derived.how],
            "candidates_within": self.derived.within,
            "candidates_compared": self.derived.compared,
            "entropy": self.entropy,
            **self.spent,
        }
