"""A whole search, into a result folder: search, derive, draw; then train and test the child."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch import ArchDef, SearchSpace
from ..data.build import build_loader
from ..data.data_set import Data, Split
from ..engine.loop import Loop
from ..engine.run_folder import CHECKPOINTS, RunFolder, check_free, fingerprint, open_run, write_result
from ..engine.runtime import Runtime, start_runtime
from ..engine.stop import StopRequest
from ..files import atomic_open
from ..networks.supernet import Supernet
from ..nn.shapes import Cost
from ..report.network import draw_arch
from ..report.search import draw_alphas, draw_curves
from ..report.space import find_space
from ..tasks.build import make_task
from ..tasks.model import Model, load
from ..tasks.task import LossOptions, Task
from ..training.check import check_training
from ..training.options import Recipe, changed
from ..training.trainer import Trainer, TrainResult, data_for, training_task
from .derive import Derived, derive_arch, inherited_child
from .goal import Goal, check_target, parse_target
from .options import SearchOptions
from .searcher import Searcher

Callback = Callable[[dict[str, Any]], None]
# What a search leaves in its folder beside what every run does.
MADE = ("child", "arch.yaml", "search.pt", "arch.png", "alphas.png", "curves.png")


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

    def model(self) -> Model:
        """The trained child."""
        return load(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as result.json has them."""
        if not self.finished or self.goal is None or self.derived is None:
            return {"finished": False, "folder": str(self.folder)}
        found: dict[str, Any] = dict(self.training.to_dict()) if self.training is not None else {"finished": True}
        found |= {"macs": self.cost.macs, "params": self.cost.params} if self.cost is not None else {}
        return {
            **found,
            "objective": self.goal.objective,
            "target": self.goal.target,
            "derived": self.derived.how,
            "candidates_within": self.derived.within,
            "candidates_compared": self.derived.compared,
            "entropy": self.entropy,
        }


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
            searcher = Searcher(self.space, self.task, self.data, self.goal, self.options, self.recipe, runtime)
            if runtime.main:
                goes_on = open_run(folder, resume, overwrite, MADE)
                if config:
                    with atomic_open(folder / "config.yaml") as file:
                        file.write(config.encode())
            goes_on = runtime.gather(goes_on)[0]
            stop = stop or stack.enter_context(StopRequest(runtime.options.minutes))
            start = time.monotonic()
            derived = self._search(searcher, folder, stop, goes_on, callback)
            if derived is None:
                return SearchResult(folder)
            middle, trained = time.monotonic(), None
            if train_child:
                trained = self._train(searcher, derived.arch, folder / "child", stop, callback)
                if not trained.finished:
                    return SearchResult(folder)
            cost = self.space.cost(derived.arch, in_channels=self.task.in_channels, head=self.goal.head)
            seconds = (middle - start, time.monotonic() - middle)
            entropy = searcher.strategy.entropy()
            result = SearchResult(folder, True, derived.arch, cost, self.goal, derived, searcher.supernet, trained, seconds, entropy)
            if runtime.main:
                write_result(folder, result.to_dict())
            return result

    def _search(self, searcher: Searcher, folder: Path, stop: StopRequest, resume: bool, callback: Callback | None) -> Derived | None:
        """Searches, or goes on, and derives an arch; None if stopped on request. Leaves metrics, arch, supernet, figures."""
        parts = {"kind": "search", "space": json.dumps(self.space.to_dict()), "processes": self.runtime.world, "SEED": self.recipe.seed}
        recipe = self.recipe
        sections = {"data": recipe.data, "search": self.options, "head": recipe.head, "runtime": recipe.runtime}
        loop = Loop(searcher, folder, self.runtime, fingerprint(parts, **sections), callback)
        if resume:
            loop.restore()
        if not loop.run(stop):
            return None
        if "derived" not in loop.results:
            derived = self._derive(searcher)
            loop.results["derived"] = {**vars(derived), "arch": derived.arch.to_dict()}
            loop.save()
            stop.saved()
        else:
            derived = Derived(**{**loop.results["derived"], "arch": ArchDef.parse(loop.results["derived"]["arch"])})
        if self.runtime.main:
            self._write(searcher, folder, derived)
        return derived

    def _derive(self, searcher: Searcher) -> Derived:
        o, supernet = self.options, searcher.supernet
        images = self._batches(supernet, self.judges(), self.recipe.train.eval_batch_size)
        return derive_arch(supernet, self.goal, self.task, self._calibration(supernet), images, o.draws, o.candidates, self.recipe.seed)

    def judges(self) -> Split:
        """The images that candidates are compared on: never those whose scores are reported as a test.

        Without test images the validation images are what is reported; then they are of the training images from which the alphas, and no
        weight, learnt.
        """
        if self.data.test is not None:
            return self.data.val
        return self.data.train.halves(self.options.alpha_fraction, self.recipe.seed)[1].spread(len(self.data.val))

    def _train(self, searcher: Searcher, arch: ArchDef, folder: Path, stop: StopRequest, callback: Callback | None) -> TrainResult:
        weights = None
        if self.inherit:
            child = inherited_child(searcher.supernet, arch, self.task, self._calibration(searcher.supernet))
            weights = {name: value.cpu() for name, value in child.state_dict().items()}
        goes_on = (folder / CHECKPOINTS).is_dir()
        trainer = Trainer(self.child_task.child(arch), arch, self.data, self.recipe, self.runtime, weights)
        return trainer.run(folder, goes_on, stop, callback)

    def _calibration(self, supernet: Supernet) -> list[Any]:
        """Random training images in batches, at the largest input size, that renew norm statistics."""
        count = min(self.options.recalibration_images, len(self.data.train))
        size = min(64, count)
        return [images for images, _ in self._batches(supernet, self.data.train, size, count // size)]

    def _batches(self, supernet: Supernet, split: Split, size: int, train: int | None = None) -> _Batches:
        """Batches of a split on the supernet's device; `train` random ones, or all in order."""
        side = supernet.space.max_input_size
        loader = build_loader(self.recipe.data, split, side, size, train is not None, seed=self.recipe.seed)
        return _Batches(loader, self.runtime, train)

    def _write(self, searcher: Searcher, folder: Path, derived: Derived) -> None:
        derived.arch.save(folder / "arch.yaml")
        state = {name: value.cpu() for name, value in searcher.supernet.state_dict().items()}
        alphas = {name: alpha.detach().cpu() for name, alpha in searcher.supernet.alphas().items()}
        content = {"space": self.space.to_dict(), "num_classes": self.task.num_classes, "alphas": alphas, "supernet": state}
        with atomic_open(folder / "search.pt") as file:
            torch.save(content, file)
        records = read_records(folder)
        draw_arch(derived.arch, folder / "arch.png")
        draw_alphas(self.space.choices, records, folder / "alphas.png")
        warmup = searcher.strategy.warmup
        draw_curves(records, folder / "curves.png", self.goal.target, self.goal.tolerance, self.goal.unit, warmup)


@dataclass(frozen=True)
class _Batches:
    """The first batches of a loader, on a device; can be iterated again."""

    loader: Any
    runtime: Runtime
    stop: int | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for images, targets in self.loader.epoch(0, stop=self.stop):
            yield self.runtime.move(images), self.runtime.move(targets) if isinstance(targets, Tensor) else targets


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a search, as metrics.jsonl in its folder has them."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["phase"] == "search"]
