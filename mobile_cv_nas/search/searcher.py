"""A search in progress: the phases of an epoch, its records, and what is shown of it."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from ..arch import ArchDef, SearchSpace
from ..data.build import build_loader
from ..data.data_set import Data, DataError
from ..data.loader import Loader, derive_seed
from ..engine.loop import Loop
from ..engine.one_image import check_one_image
from ..engine.progress import short
from ..engine.randomness import seed_everything
from ..engine.runtime import Runtime
from ..engine.step import Loss
from ..errors import InputError
from ..networks.supernet import Supernet
from ..tasks.task import SupernetOptions, Task
from ..training.options import Recipe
from .goal import Goal
from .options import SearchOptions
from .pace import paced
from .strategies import find_strategy
from .strategies.alphas import AlphaStrategy
from .strategies.base import PHASES, Setting

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
        self.strategy.prepare(self.name, epoch, step)

    def loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        return self.strategy.loss(self.name, batch, key)


class Searcher:
    """The work of a search.

    Args:
        task: what is learnt.
        data: the training images are split into those for the weights and those for the alphas, if the strategy has both.
        goal: the cost to aim at.
        options: how to search.
        recipe: how images are read, and the seed.
        runtime: device, precision and ranks.
        space: what is searched.
        given: the arch that SEARCH.ARCH names.

    Attributes:
        supernet: the network that is trained.
        strategy: how it is.
    """

    name, section, extends = "search", "SEARCH", False

    def __init__(
        self,
        task: Task,
        data: Data,
        goal: Goal,
        options: SearchOptions,
        recipe: Recipe,
        runtime: Runtime,
        space: SearchSpace,
        given: ArchDef | None = None,
    ):
        kind = find_strategy(options.strategy)
        if issubclass(kind, AlphaStrategy):
            options = paced(options, data.train, recipe.seed, runtime.main)
        self.space, self.task, self.data, self.goal, self.options, self.runtime = space, task, data, goal, options, runtime
        self.on_nan = options.on_nan
        _check_runtime(kind.one_path, options.strategy, runtime)
        seed_everything(recipe.seed)
        shared = SupernetOptions(kind.sharing or options.sharing, options.recompute, options.resolution)
        self.supernet: Supernet = runtime.place(task.supernet(space, shared))  # type: ignore[assignment]
        self.strategy = kind(Setting(self.supernet, task, goal, options, runtime, recipe.seed, given))
        self.epochs = self.strategy.epochs
        names = tuple(self.strategy.steppers)
        # Without test images the second half judges archs (`judging_images`): no weight may learn from it.
        split_off = len(names) > 1 or data.test is None
        splits = data.train.halves(options.alpha_fraction, recipe.seed) if split_off else (data.train,)
        per_rank, parts = runtime.batch_size(options.batch_size), runtime.options.accumulate
        if per_rank == 1:
            small = space.smallest(head=goal.head)  # the smallest maps
            child = task.child(small).network(small)
            check_one_image(child, lambda: task.child(small).count(child, small), runtime, "SEARCH", options.batch_size)
        self.phases = []
        for i, (name, split) in enumerate(zip(names, splits)):
            seed = derive_seed(recipe.seed, i)
            if len(split) < options.batch_size:
                raise DataError(
                    f"SEARCH.BATCH_SIZE: {options.batch_size} is more than the {len(split)} images for the {name}; make it smaller"
                )
            loader = build_loader(recipe.data, split, space.max_input_size, per_rank, True, runtime.shard, seed)
            self.phases.append(SearchPhase(name, self.strategy, loader, parts, self.epochs))
        self.loaders = [phase.loader for phase in self.phases]
        self.strategy.loaders = dict(zip(names, self.loaders))
        self.spent = {"images": 0.0, "macs": 0.0}  # passed forward and backward; of a forward pass, three of which make up for both
        self._begin, self._first, self._shown = time.monotonic(), -1, ""

    # -- as work -----------------------------------------------------------------------------------------------------

    def status(self, loop: Loop) -> str:
        if loop.step % _EVERY == 0 or not self._shown:
            phase, totals = self.phases[loop.phase], self._means(loop, self.phases[loop.phase].name)
            costs = [totals["cost"] or 0.0, *self.strategy.costs().values()]
            tau, entropy = self.strategy.temperature(loop.epoch), self.strategy.entropy()
            self._shown = (
                f"{phase.name} loss {totals['loss'] or 0:.3f} acc {totals['right'] or 0:.3f}{'' if tau is None else f' tau {tau:.2f}'} "
                f"{self.goal.objective} {'/'.join(short(cost) for cost in costs)}{'' if entropy is None else f' H {entropy:.2f}'}"
            )
        return self._shown

    def end_epoch(self, loop: Loop) -> tuple[dict[str, Any], str]:
        self._check_ranks_agree(loop)
        weights, alphas = (self._means(loop, name) for name in PHASES)
        for key, name in (("images", "passed"), ("macs", "macs")):
            self.spent[key] += sum(totals.get(name, 0.0) for totals in loop.totals)
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
            "images": self.spent["images"],
            "macs": self.spent["macs"],
            "skipped_steps": loop.dropped,
            "skipped_images": loop.skipped_images(),
        }
        means = {"weights": weights, "alphas": alphas}
        losses = ", ".join(f"{name} {m['loss']:.3f} ({m['right']:.3f})" for name, m in means.items() if m["loss"] is not None)
        known = {name: record.get(f"cost_{name}") for name in ("sampled", "expected", "argmax")}
        costs = ", ".join(f"{name} {short(cost)}" for name, cost in known.items() if cost is not None)
        line = f"epoch {loop.epoch + 1}/{self.epochs}: loss (accuracy): {losses or 'none'}; " + ("" if tau is None else f"tau {tau:.2f}; ")
        line += f"{self.goal.objective}: {costs}; " + (f"entropy {record['entropy']:.2f}; " if "entropy" in record else "")
        return record, line + f"{self._seconds_left(loop):.0f} s left"

    def _means(self, loop: Loop, phase: str) -> dict[str, float | None]:
        """Of a phase in this epoch: mean loss and accuracy over its images, and mean cost over its steps; None before the first."""
        names = [one.name for one in self.phases]
        totals = loop.totals[names.index(phase)] if phase in names else {}
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
        return {"supernet": self.supernet.state_dict(), "strategy": self.strategy.state_dict(), "spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
        self.strategy.load_state_dict(state["strategy"])
        self.spent = state["spent"]


def _check_runtime(one_path: bool, strategy: str, runtime: Runtime) -> None:
    """Raises InputError where a strategy that runs another path each step cannot run so."""
    if not one_path:
        return
    if runtime.options.compile:
        raise InputError(f"RUNTIME.COMPILE: {strategy} runs another path each step, and each would be compiled; leave it out")
    if runtime.options.sync_bn:
        raise InputError(f"RUNTIME.SYNC_BN: {strategy} runs parts of the norms, which torch's synchronised ones cannot; leave it out")
