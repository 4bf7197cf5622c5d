"""A whole search, into a result folder: search, derive, draw; then train and test the child."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..data.data_set import Data, Split
from ..data.digest import data_digest
from ..engine.about import about_run
from ..engine.loop import OWN_LOSS, Loop
from ..engine.run_folder import CHECKPOINTS, RunFolder, check_free, fingerprint
from ..engine.runtime import Runtime, start_runtime
from ..engine.stop import StopRequest
from ..errors import InputError, listed, require
from ..model_zoo.builder import find_arch
from ..networks.supernet import Supernet
from ..nn.shapes import Cost
from ..report.run import CHILD
from ..tasks.build import make_task
from ..tasks.task import LossOptions, Task
from ..training.check import check_training
from ..training.losses import training_task
from ..training.options import Recipe, changed
from ..training.trainer import Trainer, TrainResult, data_for
from .derive import Derived
from .facts import cost_facts
from .folder import prepare, write_configs, write_results, write_target
from .goal import check_target, counted_head, each_target, parse_target
from .judge import Score, Stopped
from .measure import Measure, judging_images
from .objective import with_table
from .options import SearchOptions
from .pace import pace_remark
from .result import SearchResult
from .saved import Target, save_search
from .searcher import Searcher, Turn
from .strategies import NO_SUPERNET, find_strategy
from .strategies.alphas import AlphaStrategy

_LOG = logging.getLogger(__name__)
Callback = Callable[[dict[str, Any]], None]


def search(
    space: SearchSpace | str | os.PathLike,
    train: Any,
    val: Any = None,
    test: Any = None,
    target: str | float | None = None,
    strategy: str = "dmasking",
    output: str | os.PathLike = "output",
    recipe: Recipe | None = None,
    *,
    targets: Sequence[str | float] = (),
    child: Mapping[str, Any] | bool = True,
    classes: Sequence[str] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    callback: Callback | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> SearchResult:
    """Searches a space on some images, derives an arch near the target, trains it and tests it; all of it is left in a folder.

    Args:
        space: a SearchSpace, the path of a space file, or the name of a shipped one.
        train, val, test: the folder of a data set, or torch Datasets of (image, label); see `data.build.data_of`. The search learns from
            `train` alone; `val` validates the child, and `test` tests it.
        target: what the arch shall cost: "60e6 macs", "4M params", "8 ms" by the latency table `table`, "256 kB" of maps, or a number of
            MACs; 400,000 MACs if nothing is said.
        strategy: of `search.strategies`.
        output: the folder, made if missing; a run in it, finished or not, is not replaced.
        recipe: everything beside the search: TrainOptions (of the child), DataOptions, HeadOptions, RuntimeOptions, seed.
        targets: several such, in place of `target`: one search with shared weights gives a network for each, in a folder of its own.
        child: how the child is trained: changes to the recipe's TrainOptions, such as {"epochs": 20}; False does not train it.
        classes: names of the classes, where the Dataset has no `classes`.
        loss: (outputs, labels) to the mean loss of a batch, in place of the task's own; of the search and the child's training.
        callback: called with the record of each epoch, a dict.
        resume: go on from the newest checkpoint in the folder; the child of a finished search, for more epochs if it is given more.
        overwrite: replace a run in the folder.
        options: fields of SearchOptions: epochs=30, sharing="full", table="phone.json", limits={"params": "4M"}, ...

    Returns:
        A SearchResult. SIGINT and SIGTERM end the run after a step, saved; its `finished` is then False.

    Raises:
        InputError: bad input, or a target out of reach; ArchError, DataError, FileError, CheckpointError, DeriveError say more.
        NotFinite: a loss, gradient or alpha is NaN or infinite.
    """
    recipe = recipe or Recipe()
    chosen = changed(SearchOptions(), {**_aims(target, targets), "strategy": strategy, **options})
    if isinstance(child, Mapping):
        recipe = replace(recipe, train=changed(recipe.train, child))
    data = data_for(recipe, train, val, test, classes)
    found = space if isinstance(space, SearchSpace) else SearchSpace.load(space)
    run = SearchRun(found, data, chosen, recipe, loss=loss)
    return run.run(output, resume, train_child=child is not False, callback=callback, overwrite=overwrite)


def _aims(target: str | float | None, targets: Sequence[str | float]) -> dict[str, Any]:
    """The options that a target, or several, mean. Raises InputError."""
    if target is not None and targets:
        raise InputError("target: given beside targets; name either")
    if not targets:
        number, objective = parse_target(SearchOptions().target if target is None else target)
        return {"target": number, "objective": objective}
    found = [parse_target(one) for one in targets]
    if len({objective for _, objective in found}) > 1:
        raise InputError(f"targets: {listed(targets, 8)}: of several objectives; one search has one")
    return {"targets": tuple(number for number, _ in found), "objective": found[0][1]}


class SearchRun:
    """A search and the training of its children, on some data.

    Args:
        space: what is searched.
        data: images with labels of the task's kind.
        options: how to search.
        recipe: how to train a child, and what both share.
        inherit: start a child from the supernet's weights.
        loss: in place of the task's own.
        source: what to call the space in errors.

    Attributes:
        goals: by name; the name is the folder of a target where there are several, "" where there is one.

    Raises:
        InputError: space, head and data do not go together, or no arch can meet the target.
    """

    def __init__(
        self,
        space: SearchSpace,
        data: Data,
        options: SearchOptions,
        recipe: Recipe,
        inherit: bool = False,
        loss: Callable[[Any, Any], Tensor] | None = None,
        source: str = "",
    ):
        options = with_table(options)
        self.space, self.data, self.options, self.recipe, self.inherit = space, data, options, recipe, inherit
        losses = LossOptions(own=loss, seed=recipe.seed)
        self.task: Task = make_task(data.classes, recipe.head, recipe.data.mean, recipe.data.std, losses)
        self.child_task = training_task(data, recipe, loss)
        head, named = counted_head(self.task.head_def(space), options), source or space.name or "the space"
        self.goals = {name: check_target(one, space, head, self.task.in_channels, named) for name, one in each_target(options).items()}
        self.given = find_arch(options.arch)[0] if options.arch else None
        if inherit and options.strategy in NO_SUPERNET:
            raise InputError(f"TRAIN.INIT: {options.strategy} trains no supernet to inherit from; use scratch")
        self.runtime: Runtime = start_runtime(recipe.runtime)

    @property
    def remark(self) -> str:
        """What is to be said of the options before a run, which says it; "" where nothing is."""
        alphas = issubclass(find_strategy(self.options.strategy), AlphaStrategy)
        return pace_remark(self.options, self.data.train, self.recipe.seed) if alphas else ""

    def run(
        self,
        output: str | os.PathLike,
        resume: bool = False,
        stop: StopRequest | None = None,
        train_child: bool = True,
        callback: Callback | None = None,
        configs: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> SearchResult:
        """The whole of it, into a folder; see `search`. `stop` is asked between steps; without it signals are.

        `configs` are kept as config.yaml: "" of the whole, and by its name of each of several targets; a checkpoint that
        refuses to go on keeps its own.
        """
        runtime = self.runtime
        require("jinja2", "search")
        if train_child:
            small = self.space.smallest(head=next(iter(self.goals.values())).head)  # a child with the smallest maps
            check_training(self.child_task.child(small), small, self.data, self.recipe, runtime)
        with contextlib.ExitStack() as stack:
            folder, goes_on = Path(output).expanduser(), False
            if runtime.main:
                folder = stack.enter_context(RunFolder(output))
                check_free(folder, resume, overwrite)
            searcher = Searcher(self.task, self.data, self.goals, self.options, self.recipe, runtime, self.space, self.given)
            if runtime.main:  # an earlier run is removed only when this one can begin
                goes_on = prepare(folder, resume, list(self.goals), overwrite)
            goes_on = runtime.gather(goes_on)[0]
            stop = stop or stack.enter_context(StopRequest(runtime.options.minutes))
            start = time.monotonic()
            loop = stack.enter_context(contextlib.closing(self._loop(searcher, folder, callback, goes_on)))
            begun = any((folder / name / CHILD / CHECKPOINTS).is_dir() for name in self.goals)
            if runtime.main and not begun:  # else the child's checkpoint may refuse it still, and keeps its own
                write_configs(folder, configs or {})
            derived = self._search(searcher, loop, stop)
            if derived is None:
                return SearchResult(folder)
            middle, found = time.monotonic(), []
            for turn, one in zip(searcher.turns, derived, strict=True):
                turn.take()
                trained = self.train_child(searcher.supernet, one.arch, folder / turn.name / CHILD, stop, callback) if train_child else None
                if runtime.main and begun:
                    write_configs(folder, configs or {})
                if trained is not None and not trained.finished:
                    return SearchResult(folder)
                cost = self.child_cost(one.arch)
                supernet = searcher.supernet if len(searcher.turns) == 1 else searcher.supernet.with_alphas(turn.alphas)
                result = SearchResult(folder / turn.name, True, one.arch, cost, turn.goal, one, supernet, trained)
                found.append(replace(result, entropy=turn.strategy.entropy(), facts=self._facts(turn, searcher, one.arch)))
            seconds = (middle - start, time.monotonic() - middle)
            result = replace(found[0], seconds=seconds, spent=_spent(searcher, loop))
            if len(found) > 1:
                result = SearchResult(folder, True, supernet=searcher.supernet, seconds=seconds, targets=tuple(found), spent=result.spent)
            searcher.turns[0].take()
            if runtime.main:
                spent = {"search": loop.results["seconds"], "training": sum(one.training.seconds for one in found if one.training)}
                write_results(result, about_run(runtime, self.data, loop.mark, spent), self.task, loop.steps_done)
            return result

    def _facts(self, turn: Turn, searcher: Searcher, arch: ArchDef) -> dict[str, Any]:
        if not self.runtime.main:
            return {}
        return cost_facts(turn.goal, searcher.supernet, arch, partial(self.child, arch), turn.strategy.expected)

    def _loop(self, searcher: Searcher, folder: Path, callback: Callback | None, resume: bool) -> Loop:
        if self.runtime.main and self.remark:
            _LOG.warning("%s", self.remark)
        parts = {"kind": "search", "space": json.dumps(self.space.to_dict()), "processes": self.runtime.world, "SEED": self.recipe.seed}
        parts[OWN_LOSS] = self.task.losses.own is not None
        recipe = self.recipe
        sections = {"data": recipe.data, "search": self.options, "head": recipe.head, "runtime": recipe.runtime}
        loop = Loop(searcher, folder, self.runtime, fingerprint(parts, **sections), callback)
        if resume:
            loop.restore()
        return loop

    def _search(self, searcher: Searcher, loop: Loop, stop: StopRequest) -> list[Derived] | None:
        """Searches, or goes on, and derives an arch a target; None if stopped on request. Leaves metrics, archs, supernet, figures."""
        if not loop.run(stop):
            return None
        done = loop.results.setdefault("derived", [])
        judge = self.measure(searcher.supernet).judge(loop, stop) if len(done) < len(searcher.turns) else None
        for turn in searcher.turns[len(done) :]:
            turn.take()
            try:
                derived = turn.strategy.propose(judge)
            except Stopped:
                return None
            done.append({**vars(derived), "arch": derived.arch.to_dict()})
            loop.results["seconds"] = loop.seconds
            loop.save()
            stop.saved()
        found = [Derived(**{**one, "arch": ArchDef.parse(one["arch"])}) for one in done]
        if self.runtime.main:
            targets = []
            for turn, one in zip(searcher.turns, found, strict=True):
                turn.take()
                alphas = {name: alpha.detach().cpu().clone() for name, alpha in searcher.supernet.alphas().items()}
                targets.append(Target(turn.name, turn.goal, alphas))
                write_target(loop.folder, turn.name, list(self.goals), one.arch, turn.goal, self.space, turn.strategy.warmup)
            if self.options.strategy not in NO_SUPERNET:
                digest = data_digest(self.data)
                save_search(loop.folder, searcher.supernet, targets, self.task, self.options, self.recipe, digest)
        return found

    def measured(self, supernet: Supernet, archs: Sequence[ArchDef], images: Split | None = None) -> list[Score]:
        """Scores of archs with the weights of a supernet that was searched, as candidates get them; on `images`, by default on `judges`."""
        return self.measure(supernet).scores(archs, images)

    def measure(self, supernet: Supernet) -> Measure:
        """How archs are measured with the weights of a supernet."""
        goal = next(iter(self.goals.values()))
        return Measure(supernet, self.task, goal, self.options, self.data, self.recipe, self.child_task, self.runtime)

    def judges(self) -> Split:
        """The images that candidates are compared on; see `judging_images`."""
        return judging_images(self.data, self.options, self.recipe.seed)

    def train_child(
        self, supernet: Supernet, arch: ArchDef, folder: Path, stop: StopRequest | None = None, callback: Callback | None = None
    ) -> TrainResult:
        """Trains and tests the network of an arch, into a folder; goes on where a checkpoint is there."""
        weights = None
        if self.inherit:
            weights = {name: value.cpu() for name, value in self.measure(supernet).inherited(arch).state_dict().items()}
        goes_on = (folder / CHECKPOINTS).is_dir()
        trainer = Trainer(self.child_task.child(arch), arch, self.data, self.recipe, self.runtime, weights)
        return trainer.run(folder, goes_on, stop, callback)

    def child(self, arch: ArchDef) -> nn.Module:
        """The network of an arch, untrained."""
        return self.child_task.child(arch).network(arch).eval()

    def child_cost(self, arch: ArchDef) -> Cost:
        """Exact, of the child that is trained, with the classes of the images."""
        return self.space.cost(arch, in_channels=self.task.in_channels, head=self.task.head_def(self.space))


def _spent(searcher: Searcher, loop: Loop) -> dict[str, int]:
    """What a search has spent, as `SearchResult` names it."""
    judged, own = loop.results["judged"], searcher.spent
    return {
        "search_images": round(own["images"]) + judged["trained_images"],
        "search_macs": round(own["macs"]) + judged["trained_macs"],
        "judged_images": judged["judged_images"],
        "judged_macs": judged["judged_macs"],
    }
