"""A search in progress: the phases of an epoch, its records, and what is shown of it."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from ..arch import SearchSpace
from ..data.build import build_loader
from ..data.data_set import Data, DataError
from ..data.loader import Loader, derive_seed
from ..engine.loop import Loop
from ..engine.one_image import check_one_image
from ..engine.progress import short
from ..engine.randomness import seed_everything
from ..engine.runtime import Runtime
from ..engine.step import Loss
from ..networks.supernet import Supernet
from ..tasks.task import SupernetOptions, Task
from ..training.options import Recipe
from .goal import Goal
from .options import SearchOptions
from .pace import paced
from .strategies import STRATEGIES

_EVERY = 5  # steps between updates of the numbers beside the bar


class SearchPhase:
    """A phase of a strategy over the images that it learns from; see `engine.loop.Phase`.

    Args:
        name: of the phase, as the strategy has it.
        strategy: what it does.
        loader: of its images.
        parts: batches a step.
        epochs: of the search.
    """

    def __init__(self, name: str, strategy: Any, loader: Loader, parts: int, epochs: int):
        self.name, self.strategy, self.loader, self.epochs = name, strategy, loader, epochs
        self.stepper = strategy.steppers[name]
        self.steps = len(loader) // parts
        self.rate_key = "SEARCH.WEIGHT_LR" if name == "weights" else "SEARCH.ALPHA_LR"

    def runs(self, epoch: int) -> bool:
        return self.strategy.runs(self.name, epoch)

    def rate(self, epoch: int, step: int) -> float:
        return self.strategy.rate(self.name, (epoch * self.steps + step) / (self.epochs * self.steps))

    def begin(self, epoch: int) -> None:
        self.strategy.begin(self.name, epoch)

    def prepare(self, epoch: int, step: int) -> None:
        self.strategy.prepare(self.name, epoch)

    def loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        return self.strategy.loss(self.name, batch, key)


class Searcher:
    """The work of a search.

    Args:
        space: what is searched.
        task: what is learnt.
        data: the training images are split into those for the weights and those for the alphas.
        goal: the cost to aim at.
        options: how to search.
        recipe: how images are read, and the seed.
        runtime: device, precision and ranks.

    Attributes:
        supernet: the network that is trained.
        strategy: how it is.
    """

    name, section, extends = "search", "SEARCH", False

    def __init__(self, space: SearchSpace, task: Task, data: Data, goal: Goal, options: SearchOptions, recipe: Recipe, runtime: Runtime):
        options = paced(options, data.train, recipe.seed, runtime.main)
        self.space, self.task, self.goal, self.options, self.runtime = space, task, goal, options, runtime
        self.epochs, self.on_nan = options.epochs, options.on_nan
        seed_everything(recipe.seed)
        supernet = task.supernet(space, SupernetOptions(options.sharing, options.recompute, options.resolution))
        self.supernet: Supernet = runtime.place(supernet)  # type: ignore[assignment]
        self.strategy = STRATEGIES.get(options.strategy)(self.supernet, task, goal, options, runtime)
        halves = data.train.halves(options.alpha_fraction, recipe.seed)
        per_rank, parts = runtime.batch_size(options.batch_size), runtime.options.accumulate
        if per_rank == 1:
            small = space.smallest(head=goal.head)  # the smallest maps
            child = task.child(small).network(small)
            check_one_image(child, lambda: task.child(small).count(child, small), runtime, "SEARCH", options.batch_size)
        self.phases = []
        for i, (name, half) in enumerate(zip(self.strategy.steppers, halves)):
            seed = derive_seed(recipe.seed, i)
            if len(half) < options.batch_size:
                raise DataError(
                    f"SEARCH.BATCH_SIZE: {options.batch_size} is more than the {len(half)} images for the {name}; make it smaller"
                )
            loader = build_loader(recipe.data, half, space.max_input_size, per_rank, True, runtime.shard, seed)
            self.phases.append(SearchPhase(name, self.strategy, loader, parts, options.epochs))
        self.loaders = [phase.loader for phase in self.phases]
        self._begin, self._first, self._shown = time.monotonic(), -1, ""

    # -- as work -----------------------------------------------------------------------------------------------------

    def status(self, loop: Loop) -> str:
        if loop.step % _EVERY == 0 or not self._shown:
            phase, totals = self.phases[loop.phase], self._means(loop, loop.phase)
            costs = self.strategy.costs()
            numbers = [totals["cost"] or 0.0, costs["cost_expected"], costs["cost_argmax"]]
            tau = self.strategy.temperature(loop.epoch)
            self._shown = (
                f"{phase.name} loss {totals['loss'] or 0:.3f} acc {totals['right'] or 0:.3f} tau {tau:.2f} "
                f"{self.goal.objective} {'/'.join(short(cost) for cost in numbers)} H {self.strategy.entropy():.2f}"
            )
        return self._shown

    def end_epoch(self, loop: Loop) -> tuple[dict[str, Any], str]:
        self._check_ranks_agree(loop)
        weights, alphas = (self._means(loop, i) for i in range(2))
        tau = self.strategy.temperature(loop.epoch)
        record = {
            "phase": "search",
            "epoch": loop.epoch,
            "tau": tau,
            "weight_lr": self.phases[0].rate(loop.epoch, 0),
            "weight_loss": weights["loss"],
            "weight_accuracy": weights["right"],
            "alpha_loss": alphas["loss"],
            "alpha_accuracy": alphas["right"],
            "cost_sampled": weights["cost"] if alphas["cost"] is None else alphas["cost"],
            **self.strategy.report(loop.epoch),
            "skipped_steps": loop.dropped,
            "skipped_images": loop.skipped_images(),
        }
        means = {"weights": weights, "alphas": alphas}
        losses = ", ".join(f"{name} {m['loss']:.3f} ({m['right']:.3f})" for name, m in means.items() if m["loss"] is not None)
        costs = ", ".join(f"{name} {short(record[f'cost_{name}'] or 0)}" for name in ("sampled", "expected", "argmax"))
        line = f"epoch {loop.epoch + 1}/{self.epochs}: loss (accuracy): {losses or 'none'}; tau {tau:.2f}; "
        line += f"{self.goal.objective}: {costs}; entropy {record['entropy']:.2f}; {self._seconds_left(loop):.0f} s left"
        return record, line

    def _means(self, loop: Loop, phase: int) -> dict[str, float | None]:
        """Of a phase in this epoch: mean loss and accuracy over its images, and mean cost over its steps; None before the first."""
        totals = loop.totals[phase]
        images, steps = totals.get("images", 0.0), totals.get("steps", 0.0)
        means = {name: totals[name] / images if images else None for name in ("loss", "right")}
        parts = steps * self.runtime.options.accumulate * self.runtime.world
        return {**means, "cost": totals["cost"] / parts if steps else None}

    def _seconds_left(self, loop: Loop) -> float:
        done = sum(phase.steps for phase in self.phases if phase.runs(loop.epoch))  # the loop has not counted this epoch yet
        if self._first < 0:
            self._first = loop.steps_done - done
        passed = loop.steps_done - self._first
        return (time.monotonic() - self._begin) / max(1, passed) * (loop.total_steps - loop.steps_done)

    def _check_ranks_agree(self, loop: Loop) -> None:
        if self.runtime.world == 1:
            return
        alphas = torch.cat([alpha.detach().flatten() for alpha in self.supernet.alphas().values()])
        first = alphas.clone()
        dist.broadcast(first, src=0)
        differs = (first != alphas).any().float()
        dist.all_reduce(differs)
        if differs.item():
            raise RuntimeError(f"epoch {loop.epoch + 1}: the alphas differ between the processes")

    def state_dict(self) -> dict[str, Any]:
        return {"supernet": self.supernet.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
