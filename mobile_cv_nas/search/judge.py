"""What archs are worth: measured with inherited weights, or trained for a while; every answer is remembered and saved with the run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from ..arch import ArchDef

Score = tuple[float, float]
"""How good an arch is: the task's main score, then what breaks ties."""

ROUND = 8  # archs that each process measures between two looks at whether to stop


class Stopped(Exception):
    """The run was asked to stop while it derived an arch; what it knows is saved."""


def new_memory() -> dict[str, Any]:
    """What a judge begins with: no scores; images and MACs of forward passes that measured, images and MACs of trainings."""
    return {"scores": {}, "judged_images": 0, "judged_macs": 0, "trained_images": 0, "trained_macs": 0}


@dataclass(frozen=True)
class Judge:
    """Scores of archs, asked for by a strategy. Where the run is stopped and goes on, nothing is measured twice, and all is as before.

    Args:
        measure: an arch to its score with the supernet's weights and norm statistics of its own, on images that no weight was trained on.
        train: (arch, epochs, name, earlier name or "") to its score after a training; goes on from the weights of an earlier one.
            A call that all processes make.
        cost: MACs of an arch.
        images: that one measurement passes forward, and training images of an epoch.
        memory: see `new_memory`; what is saved.
        pause: called between measurements; saves where that is due, and raises `Stopped` where the run was asked to stop.
        shown: archs to themselves, while progress is shown; asks in words for how it stands.
    """

    measure: Callable[[ArchDef], Score]
    train: Callable[[ArchDef, int, str, str], Score]
    cost: Callable[[ArchDef], int]
    images: tuple[int, int]
    memory: dict[str, Any]
    pause: Callable[[], None]
    shown: Callable[[Sequence[ArchDef], Callable[[], str]], Iterator[ArchDef]] = lambda archs, status: iter(archs)

    def scores(self, archs: Sequence[ArchDef]) -> list[Score]:
        """Of each arch, with inherited weights; the processes share the work, and each gets all results."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
        known = self.memory["scores"]
        new = [arch for arch in dict.fromkeys(archs) if _key(arch) not in known]
        own = self.shown(new[rank::world], lambda: f"best {max(values[0] for values in known.values()):.4f}" if known else "")
        for first in range(0, len(new), ROUND * world):
            part = new[first : first + ROUND * world]
            mine = {_key(arch): list(self.measure(arch)) for arch in itertools.islice(own, len(part[rank::world]))}
            parts: list[dict[str, list[float]]] = [mine]
            if world > 1:
                parts = [{} for _ in range(world)]
                dist.all_gather_object(parts, mine)
            for found in parts:
                known.update(found)
            self._count("judged", part, self.images[0])
            self.pause()
        next(own, None)  # the last is done
        return [_score(known[_key(arch)]) for arch in archs]

    def trained(self, archs: Sequence[ArchDef], epochs: int, stage: int = 0) -> list[Score]:
        """Of each arch, trained for some epochs; in stages after the first on from where the stage before left it."""
        known, found = self.memory["scores"], []
        for arch in archs:
            key = f"trained {stage}: {_key(arch)}"
            if key not in known:
                number = self.memory.setdefault("numbers", {}).setdefault(_key(arch), len(self.memory.get("numbers", {})))
                earlier = f"{number}-{stage - 1}" if stage else ""
                known[key] = list(self.train(arch, epochs, f"{number}-{stage}", earlier))
                self._count("trained", [arch], epochs * self.images[1])
                self.pause()
            found.append(_score(known[key]))
        return found

    def _count(self, what: str, archs: Sequence[ArchDef], images: int) -> None:
        self.memory[f"{what}_images"] += images * len(archs)
        self.memory[f"{what}_macs"] += images * sum(self.cost(arch) for arch in archs)


@dataclass(frozen=True)
class Choosing:
    """How one of several archs is chosen.

    Args:
        draws: archs that are drawn from a distribution.
        compare: of those near the target, how many are measured with inherited weights, the most probable first.
        finalists: of these, how many are trained before one is chosen; 1: none, the best by inherited weights is taken.
        epochs: of each round of training, after which the better half stays.
        seed: of the draw.
    """

    draws: int
    compare: int
    finalists: int = 1
    epochs: int = 0
    seed: int = 0

    @property
    def training(self) -> int:
        """Epochs of all finalists together."""
        rounds, left = 0, self.finalists
        while left > 1:
            rounds, left = rounds + left, left // 2
        return rounds * self.epochs

    def best(self, judge: Judge, archs: Sequence[ArchDef], scores: Sequence[Score]) -> tuple[ArchDef, Score]:
        """The best of some archs that were measured, after the finalists' training if there are several; of equals the first."""
        order = sorted(range(len(archs)), key=lambda i: (*scores[i], -i), reverse=True)
        left, found = [archs[i] for i in order[: self.finalists]], [scores[i] for i in order]
        stage = 0
        while len(left) > 1:
            found = judge.trained(left, self.epochs, stage)
            order = sorted(range(len(left)), key=lambda i: (*found[i], -i), reverse=True)
            left, found, stage = [left[i] for i in order[: len(left) // 2]], [found[i] for i in order], stage + 1
        return left[0], found[0]


def best_of(archs: Sequence[ArchDef], scores: Sequence[Score]) -> int:
    """The position of the best; of equals the first."""
    return max(range(len(archs)), key=lambda i: (*scores[i], -i))


def _score(values: Sequence[float]) -> Score:
    return values[0], values[1]


def _key(arch: ArchDef) -> str:
    return json.dumps({**arch.to_dict(), "name": ""}, sort_keys=True)
