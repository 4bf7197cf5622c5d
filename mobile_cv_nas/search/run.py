"""A whole search, into a result folder: search, derive, draw; then train and test the child."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch import ArchDef, SearchSpace
from ..data.data_set import Data, Split
from ..engine.loop import Loop
from ..engine.run_folder import CHECKPOINTS, RunFolder, check_free, fingerprint, open_run, write_result
from ..engine.runtime import Runtime, start_runtime
from ..engine.stop import StopRequest
from ..errors import InputError
from ..files import atomic_open
from ..model_zoo.builder import find_arch
from ..networks.supernet import Supernet
from ..report.network import draw_arch
from ..report.search import draw_alphas, draw_curves
from ..report.space import find_space
from ..tasks.build import make_task
from ..tasks.task import LossOptions, Task
from ..training.check import check_training
from ..training.options import Recipe, changed
from ..training.trainer import Trainer, TrainResult, data_for, training_task
from .derive import Derived
from .goal import check_target, parse_target
from .judge import Score, Stopped
from .measure import FINALISTS, Measure, judging_images
from .options import SearchOptions
from .result import SearchResult
from .searcher import Searcher
from .strategies import NO_SUPERNET

Callback = Callable[[dict[str, Any]], None]
# What a search leaves in its folder beside what every run does.
MADE = ("child", FINALISTS, "arch.yaml", "search.pt", "arch.png", "alphas.png", "curves.png")


def search(
    space: SearchSpace | str | os.PathLike,
    train: Any,
    val: Any = None,
    test: Any = None,
    target: str | float = "400e3 macs",
    strategy: str = "dmasking",
    output: str | os.PathLike = "output",
    recipe: Recipe | None = None,
    *,
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
        target: what the arch shall cost: "60e6 macs", "4M params", or a number of MACs.
        strategy: of `search.strategies`.
        output: the folder, made if missing; a run in it, finished or not, is not replaced.
        recipe: everything beside the search: TrainOptions (of the child), DataOptions, HeadOptions, RuntimeOptions, seed.
        child: how the child is trained: changes to the recipe's TrainOptions, such as {"epochs": 20}; False does not train it.
        classes: names of the classes, where the Dataset has no `classes`.
        loss: (outputs, labels) to the mean loss of a batch, in place of the task's own; of the search and the child's training.
        callback: called with the record of each epoch, a dict.
        resume: go on from the newest checkpoint in the folder; the child of a finished search, for more epochs if it is given more.
        overwrite: replace a run in the folder.
        options: fields of SearchOptions: epochs=30, sharing="full", ...

    Returns:
        A SearchResult. SIGINT and SIGTERM end the run after a step, saved; its `finished` is then False.

    Raises:
        InputError: bad input, or a target out of reach; ArchError, DataError, FileError, CheckpointError, DeriveError say more.
        NotFinite: a loss, gradient or alpha is NaN or infinite.
    """
    recipe = recipe or Recipe()
    number, objective = parse_target(target)
    chosen = changed(SearchOptions(), {"target": number, "objective": objective, "strategy": strategy, **options})
    if isinstance(child, Mapping):
        recipe = replace(recipe, train=changed(recipe.train, child))
    data = data_for(recipe, train, val, test, classes)
    found = space if isinstance(space, SearchSpace) else find_space(space)
    run = SearchRun(found, data, chosen, recipe, loss=loss)
    return run.run(output, resume, train_child=child is not False, callback=callback, overwrite=overwrite)


class SearchRun:
    """A search and the training of its child, on some data.

    Args:
        space: what is searched.
        data: images with labels of the task's kind.
        options: how to search.
        recipe: how to train the child, and what both share.
        inherit: start the child from the supernet's weights.
        loss: in place of the task's own.
        source: what to call the space in errors.

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
        self.space, self.data, self.options, self.recipe, self.inherit = space, data, options, recipe, inherit
        losses = LossOptions(own=loss, seed=recipe.seed)
        self.task: Task = make_task(data.classes, recipe.head, recipe.data.mean, recipe.data.std, losses)
        self.child_task = training_task(data, recipe, loss)
        self.goal = check_target(options, space, self.task.head_def(space), self.task.in_channels, source or space.name or "the space")
        self.given = find_arch(options.arch)[0] if options.arch else None
        if inherit and options.strategy in NO_SUPERNET:
            raise InputError(f"TRAIN.INIT: {options.strategy} trains no supernet to inherit from; use scratch")
        self.runtime: Runtime = start_runtime(recipe.runtime)

    def run(
        self,
        output: str | os.PathLike,
        resume: bool = False,
        stop: StopRequest | None = None,
        train_child: bool = True,
        callback: Callback | None = None,
        config: str = "",
        overwrite: bool = False,
    ) -> SearchResult:
        """The whole of it, into a folder; see `search`. `stop` is asked between steps; without it signals are. `config` is kept there."""
        runtime = self.runtime
        if train_child:
            small = self.space.smallest(head=self.goal.head)  # a child with the smallest maps
            check_training(self.child_task.child(small), small, self.data, self.recipe, runtime)
        with contextlib.ExitStack() as stack:
            folder, goes_on = Path(output).expanduser(), False
            if runtime.main:
                folder = stack.enter_context(RunFolder(output))
                check_free(folder, resume, overwrite)
            searcher = Searcher(self.task, self.data, self.goal, self.options, self.recipe, runtime, self.space, self.given)
            if runtime.main:
                goes_on = open_run(folder, resume, overwrite, MADE)
                if config:
                    with atomic_open(folder / "config.yaml") as file:
                        file.write(config.encode())
            goes_on = runtime.gather(goes_on)[0]
            stop = stop or stack.enter_context(StopRequest(runtime.options.minutes))
            start = time.monotonic()
            measure = self._measure(searcher.supernet)
            found = self._search(searcher, measure, folder, stop, goes_on, callback)
            if found is None:
                return SearchResult(folder)
            derived, spent = found
            middle, trained = time.monotonic(), None
            if train_child:
                trained = self._train(measure, derived.arch, folder / "child", stop, callback)
                if not trained.finished:
                    return SearchResult(folder)
            cost = self.space.cost(derived.arch, in_channels=self.task.in_channels, head=self.goal.head)
            seconds = (middle - start, time.monotonic() - middle)
            about = (searcher.strategy.entropy(), spent)
            result = SearchResult(folder, True, derived.arch, cost, self.goal, derived, searcher.supernet, trained, seconds, *about)
            if runtime.main:
                write_result(folder, result.to_dict())
            return result

    def _search(
        self, searcher: Searcher, measure: Measure, folder: Path, stop: StopRequest, resume: bool, callback: Callback | None
    ) -> tuple[Derived, dict[str, int]] | None:
        """Searches, or goes on, and derives an arch; None if stopped on request. Leaves metrics, arch, supernet, figures.

        With the arch comes what the search has spent, as `SearchResult` names it.
        """
        parts = {"kind": "search", "space": json.dumps(self.space.to_dict()), "processes": self.runtime.world, "SEED": self.recipe.seed}
        recipe = self.recipe
        sections = {"data": recipe.data, "search": self.options, "head": recipe.head, "runtime": recipe.runtime}
        loop = Loop(searcher, folder, self.runtime, fingerprint(parts, **sections), callback)
        if resume:
            loop.restore()
        if not loop.run(stop):
            return None
        if "derived" not in loop.results:
            judge = measure.judge(loop, stop)
            try:
                derived = searcher.strategy.propose(judge)
            except Stopped:
                return None
            loop.results["derived"] = {**vars(derived), "arch": derived.arch.to_dict()}
            loop.save()
            stop.saved()
        else:
            derived = Derived(**{**loop.results["derived"], "arch": ArchDef.parse(loop.results["derived"]["arch"])})
        if self.runtime.main:
            self._write(searcher, folder, derived)
        judged, own = loop.results["judged"], searcher.spent
        return derived, {
            "search_images": round(own["images"]) + judged["trained_images"],
            "search_macs": round(own["macs"]) + judged["trained_macs"],
            "judged_images": judged["judged_images"],
            "judged_macs": judged["judged_macs"],
        }

    def measured(self, supernet: Supernet, archs: Sequence[ArchDef]) -> list[Score]:
        """Scores of archs with the weights of a supernet that was searched, as candidates get them."""
        return self._measure(supernet).scores(archs)

    def _measure(self, supernet: Supernet) -> Measure:
        return Measure(supernet, self.task, self.goal, self.options, self.data, self.recipe, self.child_task, self.runtime)

    def judges(self) -> Split:
        """The images that candidates are compared on; see `judging_images`."""
        return judging_images(self.data, self.options, self.recipe.seed)

    def _train(self, measure: Measure, arch: ArchDef, folder: Path, stop: StopRequest, callback: Callback | None) -> TrainResult:
        weights = None
        if self.inherit:
            weights = {name: value.cpu() for name, value in measure.inherited(arch).state_dict().items()}
        goes_on = (folder / CHECKPOINTS).is_dir()
        trainer = Trainer(self.child_task.child(arch), arch, self.data, self.recipe, self.runtime, weights)
        return trainer.run(folder, goes_on, stop, callback)

    def _write(self, searcher: Searcher, folder: Path, derived: Derived) -> None:
        derived.arch.save(folder / "arch.yaml")
        state = {name: value.cpu() for name, value in searcher.supernet.state_dict().items()}
        alphas = {name: alpha.detach().cpu() for name, alpha in searcher.supernet.alphas().items()}
        content = {"space": self.space.to_dict(), "num_classes": self.task.num_classes, "alphas": alphas, "supernet": state}
        with atomic_open(folder / "search.pt") as file:
            torch.save(content, file)
        records = read_records(folder)
        draw_arch(derived.arch, folder / "arch.png")
        if not records:
            return
        if "probabilities" in records[0]:
            draw_alphas(self.space.choices, records, folder / "alphas.png")
        warmup = searcher.strategy.warmup
        draw_curves(records, folder / "curves.png", self.goal.target, self.goal.tolerance, self.goal.unit, warmup)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a search, as metrics.jsonl in its folder has them."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["phase"] == "search"]
