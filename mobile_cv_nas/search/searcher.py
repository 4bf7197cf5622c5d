"""A search in progress: the phases of an epoch, its records, and what is shown of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

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
from ..nn.choice import ChoiceTable
from ..tasks.task import SupernetOptions, Task
from ..training.options import Recipe
from .goal import Goal
from .options import SearchOptions
from .pace import paced
from .strategies import find_strategy
from .strategies.alphas import AlphaStrategy
from .strategies.base import Setting, Strategy

_EVERY = 5  # steps between updates of the numbers beside the bar


def _loss(name: str, means: Mapping[str, float | None]) -> str:
    return name + " none" if means["loss"] is None else f"{name} {means['loss']:.3f} ({means['right']:.3f})"


@dataclass(frozen=True)
class Turn:
    """One target of a search: its goal, its alphas, and the strategy that lets them decide. `name` is "" where it is the only one."""

    name: str
    goal: Goal
    alphas: nn.ParameterDict
    strategy: Any
    table: ChoiceTable

    def take(self) -> None:
        """From now on the supernet's alphas are those of this target."""
        self.table.alpha = self.alphas


class SearchPhase:
    """A phase of a strategy over the images that it learns from; see `engine.loop.Phase`.

    Args:
        name: of the phase, as the strategy has it.
        turns: the targets that it serves, a step each in turn.
        loader: of its images.
        parts: batches a step.
        epochs: of the search.
    """

    def __init__(self, name: str, turns: Sequence[Turn], loader: Loader, parts: int, epochs: int):
        self.kind, self.turns, self.loader, self.epochs = name, tuple(turns), loader, epochs
        self.turn, first = turns[0], turns[0]
        self.name = f"{name} for {first.name}" if name != "weights" and first.name else name
        self.strategy, self.stepper = first.strategy, first.strategy.steppers[name]
        self.steps = len(loader) // parts
        self.rate_key = "SEARCH.WEIGHT_LR" if name == "weights" else "SEARCH.ALPHA_LR"

    def runs(self, epoch: int) -> bool:
        return self.strategy.runs(self.kind, epoch)

    def rate(self, epoch: int, step: int) -> float:
        return self.strategy.rate(self.kind, (epoch * self.steps + step) / (self.epochs * self.steps))

    def begin(self, epoch: int) -> None:
        for turn in self.turns:
            turn.strategy.begin(self.kind, epoch)

    def prepare(self, epoch: int, step: int) -> None:
        self.turn = self.turns[(epoch * self.steps + step) % len(self.turns)]
        self.turn.take()
        self.turn.strategy.prepare(self.kind, epoch, step)

    def loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        return self.turn.strategy.loss(self.kind, batch, key)


class Searcher:
    """The work of a search.

    Several targets share the weights, of which each step draws the gates of one target, in turn; each has alphas of its own, and steps
    for them in every epoch.

    Args:
        task: what is learnt.
        data: the training images are split into those for the weights and those for the alphas, if the strategy has both.
        goals: the costs to aim at, by the name of each; "" is the name of the only one.
        options: how to search.
        recipe: how images are read, and the seed.
        runtime: device, precision and ranks.
        space: what is searched.
        given: the arch that SEARCH.ARCH names.

    Attributes:
        supernet: the network that is trained.
        turns: one a goal.
        strategy: how the first is searched for.
    """

    name, section, extends = "search", "SEARCH", False

    def __init__(
        self,
        task: Task,
        data: Data,
        goals: Mapping[str, Goal],
        options: SearchOptions,
        recipe: Recipe,
        runtime: Runtime,
        space: SearchSpace,
        given: ArchDef | None = None,
    ):
        kind = find_strategy(options.strategy)
        _check_runtime(kind.one_path, options.strategy, runtime)
        if issubclass(kind, AlphaStrategy):
            options = paced(options, data.train, recipe.seed)
        self.space, self.task, self.data, self.options, self.runtime = space, task, data, options, runtime
        self.on_nan = options.on_nan
        seed_everything(recipe.seed)
        shared = SupernetOptions(kind.sharing or options.sharing, options.recompute, options.resolution)
        self.supernet: Supernet = runtime.place(task.supernet(space, shared))  # type: ignore[assignment]
        self.supernet.count_under(next(iter(goals.values())).head)
        self.turns = self._turns(goals, kind, recipe.seed, given)
        self.strategy = self.turns[0].strategy
        self.epochs = self.strategy.epochs
        names = tuple(self.strategy.steppers)
        # Without test images the second half judges archs (`judging_images`): no weight may learn from it.
        split_off = len(names) > 1 or data.test is None
        splits = data.train.halves(options.alpha_fraction, recipe.seed) if split_off else (data.train,)
        shares = {name: len(split) for name, split in zip(names, splits)}
        if shares and (least := min(shares.values())) < options.batch_size:
            raise DataError(
                f"SEARCH.BATCH_SIZE: {options.batch_size}: of the {len(data.train)} training images "
                f"{' and '.join(f'{count} are for the {name}' for name, count in shares.items())}; "
                f"set it to {least} or less, or add images to the train split"
            )
        per_rank, parts = runtime.batch_size(options.batch_size), runtime.options.accumulate
        if per_rank == 1:
            small = space.smallest(head=self.turns[0].goal.head)  # the smallest maps
            child = task.child(small).network(small)
            check_one_image(child, lambda: task.child(small).count(child, small), runtime, "SEARCH", options.batch_size)
        self.phases: list[SearchPhase] = []
        self.loaders: list[Loader] = []
        for i, (name, split) in enumerate(zip(names, splits)):
            seed = derive_seed(recipe.seed, i)
            loader = build_loader(recipe.data, split, space.max_input_size, per_rank, True, runtime.shard, seed)
            self.loaders.append(loader)
            served = [self.turns] if name == "weights" else [[turn] for turn in self.turns]
            self.phases += [SearchPhase(name, turns, loader, parts, self.epochs) for turns in served]
        for turn in self.turns:
            turn.strategy.loaders = dict(zip(names, self.loaders))
        self.spent = {"images": 0.0, "macs": 0.0}  # passed forward and backward; of a forward pass, three of which make up for both
        self._begin, self._first, self._shown, self._shown_at = time.monotonic(), -1, "", 0

    def _turns(self, goals: Mapping[str, Goal], kind: type[Strategy], seed: int, given: ArchDef | None) -> list[Turn]:
        """Each target's alphas, equal at first, and a strategy for them; that of the first trains the weights."""
        table, turns = self.supernet.table, []
        sets = [table.alpha, *(copy.deepcopy(table.alpha) for _ in range(len(goals) - 1))]
        for (name, goal), alphas in zip(goals.items(), sets, strict=True):
            table.alpha = alphas
            setting = Setting(self.supernet, self.task, goal, self.options, self.runtime, seed, given)
            turns.append(Turn(name, goal, alphas, kind(setting), table))
        if turns[0].strategy.steppers:
            for turn in turns[1:]:
                turn.strategy.steppers["weights"] = turns[0].strategy.steppers["weights"]
        return turns

    # -- as work -----------------------------------------------------------------------------------------------------

    def status(self, loop: Loop) -> str:
        if loop.steps_done >= self._shown_at + _EVERY or not self._shown:  # a line in a log file is asked for now and then only
            self._shown_at = loop.steps_done
            phase, totals = self.phases[loop.phase], self._means(loop, loop.phase)
            turn = phase.turn
            turn.take()
            costs, tau, entropy = turn.strategy.costs(), turn.strategy.temperature(loop.epoch), turn.strategy.entropy()
            argmax, expected = costs.get("cost_argmax"), costs.get("cost_expected")
            parts = [
                f"acc {totals['right'] or 0:.3f} {turn.goal.objective}",
                "" if argmax is None else f"{short(argmax)} of {short(turn.goal.target)}",
                "" if entropy is None else f"H {entropy:.2f}",
                "" if tau is None else f"tau {tau:.2f}",
                f"{phase.name} loss {totals['loss'] or 0:.3f} sampled {short(totals['cost'] or 0.0)}",
                "" if expected is None else f"expected {short(expected)}",
            ]
            self._shown = " ".join(part for part in parts if part)
        return self._shown

    def end_epoch(self, loop: Loop) -> tuple[dict[str, Any], str]:
        self._check_ranks_agree(loop)
        weights = self._means(loop, 0)
        for key, name in (("images", "passed"), ("macs", "macs")):
            self.spent[key] += sum(totals.get(name, 0.0) for totals in loop.totals)
        tau = self.strategy.temperature(loop.epoch)
        record: dict[str, Any] = {
            "phase": "search",
            "epoch": loop.epoch,
            "tau": tau,
            "weight_lr": self.phases[0].rate(loop.epoch, 0),
            "weight_loss": weights["loss"],
            "weight_accuracy": weights["right"],
        }
        texts = []
        for turn in self.turns:
            part, text = self._of_target(loop, turn, weights)
            record |= {f"{turn.name}/{key}" if turn.name else key: value for key, value in part.items()}
            texts.append(text)
        record |= {**self.spent, "skipped_steps": loop.dropped, "skipped_images": loop.skipped_images()}
        hardness = "" if tau is None else f"tau {tau:.2f}; "
        line = f"epoch {loop.epoch + 1}/{self.epochs}: loss (accuracy): {_loss('weights', weights)}; {hardness}"
        return record, line + "; ".join(texts) + f"; {self._seconds_left(loop):.0f} s left"

    def _of_target(self, loop: Loop, turn: Turn, weights: Mapping[str, float | None]) -> tuple[dict[str, Any], str]:
        """What a record keeps of one target, and the same for people."""
        turn.take()
        number = next((i for i, phase in enumerate(self.phases) if phase.kind != "weights" and phase.turn is turn), None)
        alphas = {"loss": None, "right": None, "cost": None} if number is None else self._means(loop, number)
        part = {
            "alpha_loss": alphas["loss"],
            "alpha_accuracy": alphas["right"],
            "cost_sampled": weights["cost"] if alphas["cost"] is None else alphas["cost"],
            **turn.strategy.report(loop.epoch),
        }
        loss = "" if alphas["loss"] is None else f"{_loss('alphas', alphas)}; "
        known = {name: part.get(f"cost_{name}") for name in ("sampled", "expected", "argmax")}
        costs = ", ".join(f"{name} {short(cost)}" for name, cost in known.items() if cost is not None)
        named, entropy = f"{turn.name}: " if turn.name else "", f"; entropy {part['entropy']:.2f}" if "entropy" in part else ""
        return part, f"{named}{loss}{turn.goal.objective}: {costs}{entropy}"

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
        alphas = torch.cat([alpha.detach().flatten() for turn in self.turns for alpha in turn.alphas.parameters()])
        first = alphas.clone()
        dist.broadcast(first, src=0)
        differs = (first != alphas).any().float()
        dist.all_reduce(differs)
        if differs.item():
            raise RuntimeError(f"epoch {loop.epoch + 1}: the alphas differ between the processes")

    def state_dict(self) -> dict[str, Any]:
        self.turns[0].take()
        alphas = [turn.alphas.state_dict() for turn in self.turns[1:]]
        strategies = [turn.strategy.state_dict() for turn in self.turns]
        return {"supernet": self.supernet.state_dict(), "alphas": alphas, "strategies": strategies, "spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.turns[0].take()
        self.supernet.load_state_dict(state["supernet"])
        for turn, alphas in zip(self.turns[1:], state["alphas"], strict=True):
            turn.alphas.load_state_dict(alphas)
        for turn, remembered in zip(self.turns, state["strategies"], strict=True):
            turn.strategy.load_state_dict(remembered)
        self.spent = state["spent"]


def _check_runtime(one_path: bool, strategy: str, runtime: Runtime) -> None:
    """Raises InputError for a device that no search runs on, and where one that runs another path each step cannot run so."""
    if runtime.device.type == "mps":
        raise InputError("RUNTIME.DEVICE: mps has no float64, in which a search forms its gates and costs; use cpu, or train on it only")
    if not one_path:
        return
    if runtime.options.compile:
        raise InputError(f"RUNTIME.COMPILE: {strategy} runs another path each step, and each would be compiled; leave it out")
    if runtime.options.sync_bn:
        raise InputError(f"RUNTIME.SYNC_BN: {strategy} runs parts of the norms, which torch's synchronised ones cannot; leave it out")
