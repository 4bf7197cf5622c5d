"""How one network is trained: resumable to the bit, on one or many processes."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..arch import ArchDef
from ..data.build import build_data, build_loader, data_of
from ..data.data_set import Data
from ..data.loader import Loader
from ..data.options import DataOptions
from ..data.transforms import preprocess
from ..engine.about import about_run, identity, write_about
from ..engine.loop import OWN_LOSS, Loop
from ..engine.randomness import seed_everything
from ..engine.run_folder import RunFolder, check_free, fingerprint, open_run, remove, write_result
from ..engine.runtime import Runtime, start_runtime
from ..engine.step import Loss, Stepper
from ..engine.stop import StopRequest
from ..errors import InputError
from ..files import atomic_write
from ..model_zoo.builder import find_arch
from ..nn.shapes import Cost
from ..report.tables import name_of
from ..report.test import TEST, Examination, worst_images, write_test
from ..tasks.build import task_class
from ..tasks.load import load
from ..tasks.model import WEIGHTS, Model, save_model
from ..tasks.task import Task
from .check import check_training
from .losses import training_task
from .optim import build_average, build_optimizer, learning_rate
from .options import Recipe, changed
from .quantised import Quantised
from .start import check_head, prepared_as, starting_state

# What a training leaves in its folder beside what every run does.
EXPORTS = ("export.json", "model.onnx", "model.pte", "model.mlpackage")  # of the weights
MADE = ("arch.yaml", WEIGHTS, TEST, *EXPORTS)


@dataclass(frozen=True)
class TrainResult:
    """What a training ends with.

    Attributes:
        folder: where everything is.
        finished: False where it was stopped on request; its state is saved, and the rest of this is empty.
        scores: of the test images; empty where there are none.
        validation: the main score on the validation images.
        cost: of the network.
        skipped_images: that could not be read.
        seconds: of the training, over all parts of an interrupted one.
    """

    folder: Path
    finished: bool = True
    scores: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=lambda: Cost(0, 0))
    skipped_images: int = 0
    seconds: float = 0.0

    @property
    def weights(self) -> Path:
        """The file of the trained model."""
        return self.folder / WEIGHTS

    def model(self) -> Model:
        """The trained model."""
        return load(self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as result.json has them."""
        if not self.finished:
            return {"finished": False, "folder": str(self.folder)}
        found = {"finished": True, **self.scores, **{f"val_{name}": value for name, value in self.validation.items()}}
        return {**found, "macs": self.cost.macs, "params": self.cost.params, "skipped_images": self.skipped_images}


def train(
    arch: ArchDef | Model | str | os.PathLike,
    train: Any,
    val: Any = None,
    test: Any = None,
    output: str | os.PathLike = "output",
    recipe: Recipe | None = None,
    *,
    classes: Sequence[str] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> TrainResult:
    """Trains a network, validates it each epoch, tests it, and leaves arch, weights, metrics and result in a folder.

    Args:
        arch: an ArchDef, the path of an arch file, or a name of the zoo; or a Model, to fine-tune it: its mean, std and resize are taken
            where the recipe has its defaults, classes in another order are matched by name, and of other classes the classifier is new.
        train: the folder of a data set, or a torch Dataset of (image, label); see `data.build.data_of` for what these may be.
        val, test: further Datasets. Without `val` a share of `train` is split off; without `test` nothing is tested.
        output: the folder, made if missing; a run in it, finished or not, is not replaced.
        recipe: everything else: TrainOptions, DataOptions, HeadOptions (of a detector or a segmenter), RuntimeOptions, seed.
        classes: names of the classes, where the Dataset has no `classes`.
        loss: (outputs, labels) to the mean loss of a batch, in place of the task's own.
        callback: called with the record of each epoch, a dict.
        resume: go on from the newest checkpoint in the folder; a finished training goes on where `epochs` is more than it had.
        overwrite: replace a run in the folder.
        options: fields of TrainOptions that differ from the recipe's: epochs=10, lr=0.1, ...

    Returns:
        A TrainResult. SIGINT and SIGTERM end the run after a step, saved; its `finished` is then False.

    Raises:
        InputError: bad input; DataError, FileError, CheckpointError, ArchError, ZooError say more.
        NotFinite: a loss or gradient that is not finite, with on_nan "stop".
    """
    recipe = recipe or Recipe()
    recipe = replace(recipe, train=changed(recipe.train, options))
    weights: Mapping[str, Tensor] | None = None
    if isinstance(arch, Model):
        check_head(arch, recipe.head.name, "arch")
        given = [one.name for one in fields(DataOptions) if getattr(recipe.data, one.name) != getattr(DataOptions(), one.name)]
        recipe = replace(recipe, data=prepared_as(arch, recipe.data, given))
    data = data_for(recipe, train, val, test, classes)
    if isinstance(arch, Model):
        data, weights = starting_state(data, arch, "arch", len(recipe.data.mean))
    found, runtime = arch.arch if isinstance(arch, Model) else find_arch(arch)[0], start_runtime(recipe.runtime)
    task = training_task(data, recipe, loss)
    with RunFolder(output) if runtime.main else contextlib.nullcontext(Path(output)) as folder:
        if runtime.main:
            check_free(folder, resume, overwrite)
        trainer = Trainer(task, found, data, recipe, runtime, weights)
        return trainer.run(folder, resume, callback=callback, overwrite=overwrite)


def data_for(recipe: Recipe, train: Any, val: Any = None, test: Any = None, classes: Sequence[str] | None = None) -> Data:
    """The data that a caller names: a folder, read as the recipe says, or torch Datasets. Raises DataError."""
    labels = task_class(recipe.head.name).labels
    if isinstance(train, (str, os.PathLike)) and val is test is classes is None:
        return build_data(replace(recipe.data, root=os.fspath(train)), labels)
    data = data_of(train, val, test, classes, recipe.data)
    if data.train.source.kind != labels:
        raise InputError(
            f"train: its labels are {data.train.source.kind}, but {recipe.head.name or 'a classifier'} learns {labels}; set HeadOptions"
        )
    return data


class Trainer:
    """A network, its data and its recipe; both the work and the one phase of a loop.

    Args:
        task: head, loss and scores.
        arch: of the network, or of its backbone.
        data: with labels of the task's kind.
        recipe: how to train.
        runtime: device, precision and processes.
        weights: a state dict to start from; random without.

    Raises:
        InputError: the recipe cannot train on these data: fewer images than a batch, or one image in a forward pass.
        WeightsError: weights that do not fit.
    """

    name, section, extends, rate_key = "training", "TRAIN", True, "TRAIN.LR or set TRAIN.CLIP_GRAD"

    def __init__(
        self, task: Task, arch: ArchDef, data: Data, recipe: Recipe, runtime: Runtime, weights: Mapping[str, Tensor] | None = None
    ):
        self.task, self.arch, self.data, self.recipe, self.runtime = task, arch, data, recipe, runtime
        self.options, self.epochs, self.on_nan = recipe.train, recipe.train.epochs, recipe.train.on_nan
        check_training(task, arch, data, recipe, runtime)
        self.loader = self._loader(data.train, runtime.batch_size(self.options.batch_size), True)
        self.val = self._loader(data.val, self.options.eval_batch_size, False)
        self.test = None if data.test is None else self._loader(data.test, self.options.eval_batch_size, False)
        self.loaders = [loader for loader in (self.loader, self.val, self.test) if loader is not None]
        self.steps = len(self.loader) // runtime.options.accumulate
        seed_everything(recipe.seed)
        network = task.network(arch, weights)
        self.cost = task.count(network, arch)
        self.network = runtime.place(network)
        average = build_average(self.network, self.options.ema_decay)
        if self.options.qat and (weights is None or task.labels != "classes"):
            raise InputError("TRAIN.QAT: for a classifier that goes on from trained weights; name them, or leave it out")
        self.model = Quantised(self.network) if self.options.qat else runtime.compile(self.network)
        optimizer = build_optimizer(self.network, self.options)
        parameters = dict(self.network.named_parameters())
        self.stepper = Stepper(parameters, optimizer, self.network, runtime, self.options.clip_grad, average)
        self.phases = [self]
        self.validation: dict[str, float] = {}

    def _loader(self, split: Any, batch_size: int, train: bool) -> Loader:
        size, labels = self.task.input_size(self.arch), self.task.label_size
        return build_loader(self.recipe.data, split, size, batch_size, train, self.runtime.shard, self.recipe.seed, labels)

    @property
    def result(self) -> nn.Module:
        """The network to test: the moving average if there is one."""
        average = self.stepper.average
        return self.network if average is None else average.module

    # -- as the phase of an epoch ------------------------------------------------------------------------------------

    def runs(self, epoch: int) -> bool:
        return True

    def rate(self, epoch: int, step: int) -> float:
        return learning_rate(self.options, epoch * self.steps + step, self.steps)

    def begin(self, epoch: int) -> None:
        self.model.train()

    def prepare(self, epoch: int, step: int) -> None:
        pass

    def loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        return self.task.loss(self.model, batch, key, self.runtime)

    # -- as work -----------------------------------------------------------------------------------------------------

    def status(self, loop: Loop) -> str:
        means = "".join(f", {name_of(key)} {value:.3f}" for key, value in self._means(loop).items())
        return f"epoch {loop.epoch + 1}{means}, lr {self.rate(loop.epoch, min(loop.step, self.steps - 1)):.4f}"

    def end_epoch(self, loop: Loop) -> tuple[dict[str, Any], str]:
        means, number = self._means(loop), loop.epoch + 1
        record: dict[str, Any] = {"epoch": number, **means, "lr": self.rate(loop.epoch, self.steps - 1)}
        line = f"epoch {number}/{self.epochs}: " + ", ".join(f"{name_of(key)} {value:.4f}" for key, value in means.items())
        if number == self.epochs or number % self.options.eval_every == 0:
            self.validation = self.task.evaluate(self.result, self.val.epoch(), self.runtime)
            record |= {f"val_{key}": value for key, value in self.validation.items()}
            line += f", val {name_of(self.task.main)} {self.validation[self.task.main]:.4f}"
        return record | {"dropped_steps": loop.dropped, "skipped_images": loop.skipped_images()}, line

    def _means(self, loop: Loop) -> dict[str, float]:
        """Loss and share of right answers of the epoch so far."""
        totals = loop.totals[0]
        names = {"loss": "loss", self.task.hits: "right"} if self.task.hits else {"loss": "loss"}
        images = totals.get("images", 0.0)
        return {name: totals[key] / images if images else math.nan for name, key in names.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "validation": self.validation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.validation = state["validation"]

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(
        self,
        folder: Path,
        resume: bool = False,
        stop: StopRequest | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        overwrite: bool = False,
        config: str = "",
    ) -> TrainResult:
        """Trains into a folder, whose lock is the caller's; see `train`. `stop` is asked between steps; without it signals are.

        `config` is kept as config.yaml once the run may begin: a checkpoint that refuses it keeps its own.
        """
        parts = {
            "kind": self.task.kind,
            "arch": json.dumps(self.arch.to_dict()),
            "label_size": self.task.label_size,
            "SEED": self.recipe.seed,
            OWN_LOSS: self.task.losses.own is not None,  # which one cannot be told
        }
        recipe = self.recipe
        sections = {"data": recipe.data, "train": recipe.train, "head": self.task.head, "runtime": recipe.runtime}
        loop = Loop(self, folder, self.runtime, fingerprint(parts, **sections), callback)
        if self.runtime.gather(open_run(folder, resume, overwrite, MADE) if self.runtime.main else None)[0]:
            loop.restore()
        if self.runtime.main:
            self.arch.save(folder / "arch.yaml")
            if config:
                atomic_write(folder / "config.yaml", config)
        with contextlib.closing(loop):
            with contextlib.ExitStack() as stack:
                stop = stop or stack.enter_context(StopRequest(self.runtime.options.minutes))
                begun = loop.steps_done
                if not loop.run(stop):
                    return TrainResult(folder, finished=False)
            if self.runtime.main and loop.steps_done > begun:
                remove(folder, EXPORTS)  # of the weights that an extended run had before
            return self._finish(folder, loop)

    def _finish(self, folder: Path, loop: Loop) -> TrainResult:
        """Tests the result and writes it."""
        task, recipe, runtime, kept = self.task, self.recipe, self.runtime, Examination()
        scores = {} if self.test is None else task.evaluate(self.result, self.test.epoch(), runtime, kept)
        worst = [] if self.test is None else worst_images(kept, self.test, runtime)
        validation = {task.main: self.validation[task.main]}  # the last epoch is always validated
        result = TrainResult(folder, True, scores, validation, self.cost, loop.skipped_images(), loop.seconds)
        if runtime.main:
            source = self.data.train.source
            transform = preprocess(recipe.data, task.input_size(self.arch), task.labels, task.label_size, source.in_memory)
            about = {"own_inputs": True} if source.normalised else {}
            save_model(result.weights, self.result, self.arch, task, transform, about)
            if self.test is not None:
                write_test(folder / TEST, scores, kept, worst, self.test, task.classes)
            seconds = {"training": result.seconds}
            write_about(folder, about_run(runtime, self.data, loop.mark, seconds))
            write_result(folder, {**result.to_dict(), **identity(loop.mark, seconds)})
        return result
