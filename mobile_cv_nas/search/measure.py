"""How the archs of a search are measured: with the supernet's weights on validation images, or by a short training."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..arch import ArchDef
from ..data.build import build_loader
from ..data.data_set import Data, Split
from ..engine.loop import Loop
from ..engine.progress import Pieces
from ..engine.run_folder import CHECKPOINTS
from ..engine.runtime import Runtime
from ..engine.stop import StopRequest
from ..networks.supernet import Supernet
from ..tasks.model import WEIGHTS
from ..tasks.task import Task
from ..training.options import Recipe
from ..training.trainer import Trainer
from ..weights.file import load_weights
from .derive import inherited_child, measure_arch
from .goal import Goal
from .judge import Judge, Score, Stopped, new_memory
from .options import SearchOptions

_FEW = 64  # images of each kind that tell how long a measurement takes
FINALISTS = "finalists"  # the folder of trainings that choose between archs


@dataclass(frozen=True)
class Measure:
    """What a judge asks.

    Args:
        supernet: that lends its weights.
        task: that the search learns.
        goal: of the search.
        options: of the search.
        data: training images renew norm statistics, validation images measure.
        recipe: of the trainings.
        child_task: what children are trained for.
        runtime: device, precision and processes.
    """

    supernet: Supernet
    task: Task
    goal: Goal
    options: SearchOptions
    data: Data
    recipe: Recipe
    child_task: Task
    runtime: Runtime

    def judge(self, loop: Loop, stop: StopRequest) -> Judge:
        """The judge of a run, whose memory is saved with the loop's results; trainings are left in its folder."""
        memory = loop.results.setdefault("judged", new_memory())
        space, folder = self.supernet.space, loop.folder / FINALISTS
        calibration, images = self._calibration(), self._ranking()

        def measure(arch: ArchDef) -> Score:
            return measure_arch(self.supernet, arch, self.task, calibration, images)

        def train(arch: ArchDef, epochs: int, name: str, earlier: str) -> Score:
            return self._train(arch, epochs, folder / name, folder / earlier if earlier else None, stop)

        def pause() -> None:
            wanted = self.runtime.sum([stop.requested, self.runtime.main and stop.due()])
            if wanted[0] or wanted[1]:
                loop.save()
                stop.saved()
            if wanted[0]:
                raise Stopped

        def macs(arch: ArchDef) -> int:
            return space.cost(arch, in_channels=self.task.in_channels, head=self.supernet.head_def).macs

        learnt = learning_images(self.data, self.options, self.recipe.seed)
        return Judge(measure, train, macs, (self._images(), len(learnt)), memory, pause, Pieces(self.runtime, "comparing").each)

    def seconds(self, arch: ArchDef) -> float:
        """That one measurement of an arch takes, from one with a few images."""
        few = replace(self, options=replace(self.options, recalibration_images=_FEW, ranking_images=_FEW))
        calibration, images = few._calibration(), few._ranking()
        for _ in range(2):  # the first starts the readers
            begin = time.monotonic()
            measure_arch(self.supernet, arch, self.task, calibration, images)
        return (time.monotonic() - begin) * self._images() / few._images()

    def _images(self) -> int:
        """That one measurement passes forward."""
        size, count = self._lots()
        return size * count + len(self._ranking().loader.split)

    def scores(self, archs: Sequence[ArchDef], images: Split | None = None) -> list[Score]:
        """Of archs with the supernet's weights and norm statistics of their own; on `images` in place of `judging_images`."""
        calibration, batches = self._calibration(), self._ranking(images)
        return [measure_arch(self.supernet, arch, self.task, calibration, batches) for arch in archs]

    def inherited(self, arch: ArchDef) -> nn.Module:
        """The child of an arch with the supernet's weights and norm statistics of its own."""
        return inherited_child(self.supernet, arch, self.task, self._calibration())

    def _train(self, arch: ArchDef, epochs: int, folder: Path, earlier: Path | None, stop: StopRequest) -> Score:
        """The score after a training into a folder; `earlier` is the folder whose weights it begins with."""
        recipe = replace(self.recipe, train=replace(self.recipe.train, epochs=epochs, eval_every=epochs, warmup_epochs=0.0))
        weights = load_weights(earlier / WEIGHTS)[0] if earlier is not None else None
        goes_on = (folder / CHECKPOINTS).is_dir()
        if self.runtime.main:
            folder.mkdir(parents=True, exist_ok=True)
        data, options, seed = self.data, self.options, self.recipe.seed
        data = replace(data, train=learning_images(data, options, seed), val=judging_images(data, options, seed), test=None)
        trainer = Trainer(self.child_task.child(arch), arch, data, recipe, self.runtime, weights)
        if not trainer.run(folder, goes_on, stop).finished:
            raise Stopped
        return self.child_task.rank(trainer.validation)

    def _calibration(self) -> list[Any]:
        """Random training images in batches, at the largest input size, that renew norm statistics."""
        return [images for images, _ in self._batches(self.data.train, *self._lots())]

    def _lots(self) -> tuple[int, int]:
        """Images a batch of `_calibration`, and batches."""
        count = min(self.options.recalibration_images, len(self.data.train))
        size = min(64, count)
        return size, count // size

    def _ranking(self, images: Split | None = None) -> Batches:
        """The validation images that archs are measured on: all, or as many random ones as SEARCH.RANKING_IMAGES says."""
        split = judging_images(self.data, self.options, self.recipe.seed) if images is None else images
        count = self.options.ranking_images
        if 0 < count < len(split):
            split = Split(split.source, tuple(random.Random(self.recipe.seed).sample(split.indices, count)))
        return self._batches(split, self.recipe.train.eval_batch_size)

    def _batches(self, split: Split, size: int, train: int | None = None) -> Batches:
        """Batches of a split on the device; `train` random ones, or all in order."""
        side = self.supernet.space.max_input_size
        loader = build_loader(self.recipe.data, split, side, size, train is not None, seed=self.recipe.seed)
        return Batches(loader, self.runtime, train)


def judging_images(data: Data, options: SearchOptions, seed: int) -> Split:
    """The images that candidates are compared on: never those whose scores are reported as a test.

    Without test images the validation images are what is reported; then they are of the training images from which the alphas, and no
    weight, learnt.
    """
    if data.test is not None:
        return data.val
    return data.train.halves(options.alpha_fraction, seed)[1].spread(len(data.val))


def learning_images(data: Data, options: SearchOptions, seed: int) -> Split:
    """The images that an arch by itself is trained on, to be compared: all but those of `judging_images`."""
    return data.train if data.test is not None else data.train.halves(options.alpha_fraction, seed)[0]


@dataclass(frozen=True)
class Batches:
    """The first batches of a loader, on a device; can be iterated again."""

    loader: Any
    runtime: Runtime
    stop: int | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for images, targets in self.loader.epoch(0, stop=self.stop):
            yield self.runtime.move(images), self.runtime.move(targets) if isinstance(targets, Tensor) else targets
