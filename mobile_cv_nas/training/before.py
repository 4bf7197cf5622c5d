"""What is said before any long work: the data, the device, the steps, and the time and memory that they will take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.data_set import Data, Split
from ..data.remarks import median_side
from ..engine.memory import peak_memory
from ..engine.progress import short
from ..engine.runtime import Runtime
from ..engine.timing import long, seconds_a_step
from ..errors import listed
from ..nn.shapes import Cost
from ..report.tables import table
from .options import TrainOptions
from .trainer import Trainer

TRAINING = "the training"


@dataclass(frozen=True)
class Stage:
    """A part of a run: its steps in all, the seconds of one, and seconds beside them, such as of validation."""

    name: str
    steps: int
    seconds: float
    beside: float = 0.0

    @property
    def total(self) -> float:
        return self.steps * self.seconds + self.beside


@dataclass(frozen=True)
class Start:
    """What is known before a run; `str()` is a table of at most 80 columns or so.

    Attributes:
        data: with classes and splits.
        sizes: sides of the images that the network takes.
        runtime: device and processes.
        stages: of the run, in order.
        memory: bytes that the first steps took; None where the system does not say.
        rows: more to be shown, before the stages.
        folder: of the result.
    """

    data: Data
    sizes: Sequence[int]
    runtime: Runtime
    stages: Sequence[Stage]
    memory: int | None
    rows: Sequence[tuple[str, str]]
    folder: Path

    @property
    def seconds(self) -> float:
        """That the whole is expected to take."""
        return sum(stage.total for stage in self.stages)

    def __str__(self) -> str:
        data = self.data
        splits = {"training": data.train, "validation": data.val, "test": data.test}
        images = ", ".join(f"{len(split):,} {name}" for name, split in splits.items() if split is not None)
        whole = ", ".join(f"{stage.name} {long(stage.total)}" for stage in self.stages if stage.total)
        rows = [
            ("classes", f"{data.num_classes}: {_names(data.classes)}"),
            ("images", images if data.test is not None else f"{images}, no test"),
            ("input size", _sizes(self.sizes, data.train)),
            ("device", device(self.runtime)),
            *self.rows,
            *((f"steps, {stage.name}", f"{stage.steps:,} of {stage.seconds:.3g} s") for stage in self.stages if stage.steps),
            ("time, about", f"{long(self.seconds)} ({whole})" if len(self.stages) > 1 else long(self.seconds)),
            *([("memory", f"{short(self.memory)}B so far")] if self.memory else []),
            ("result folder", str(self.folder)),
        ]
        return table(rows)


def training_start(trainer: Trainer, folder: str | os.PathLike) -> Start:
    """Before a training, measured on a few steps of `trainer`, which is then of no more use."""
    cost = trainer.cost
    stage = training_stage(trainer)
    memory = peak_memory(trainer.runtime.device)
    rows = [("network", costs(cost))]
    size = trainer.task.input_size(trainer.arch)
    return Start(trainer.data, (size,), trainer.runtime, (stage,), memory, rows, Path(folder))


def training_stage(trainer: Trainer, name: str = TRAINING) -> Stage:
    """Steps and seconds of a training with its validations and the test."""
    options, runtime, data = trainer.options, trainer.runtime, trainer.data
    seconds = seconds_a_step(trainer, runtime, "TRAIN")
    images = _evaluated(options, data)
    forward = seconds / 3 / (options.batch_size / runtime.world)  # a backward pass takes about two forward passes
    return Stage(name, trainer.steps * options.epochs, seconds, images / runtime.world * forward)


def costs(cost: Cost) -> str:
    """MACs and parameters for people."""
    return f"{short(cost.macs)} MACs, {short(cost.params)} parameters"


def device(runtime: Runtime) -> str:
    """What computes, in words."""
    name = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else runtime.device.type
    threads = f", {torch.get_num_threads()} threads" if runtime.device.type == "cpu" else ""
    return f"{name}{threads}" + (f", {runtime.world} processes" if runtime.world > 1 else "")


def _evaluated(options: TrainOptions, data: Data) -> int:
    """Images of all validations and of the test."""
    times = -(-options.epochs // options.eval_every)
    return times * len(data.val) + (0 if data.test is None else len(data.test))


def _names(classes: Sequence[str]) -> str:
    return listed([name if len(name) <= 12 else f"{name[:10]}.." for name in classes], 4)


def _sizes(sizes: Sequence[int], split: Split) -> str:
    text = ", ".join(map(str, sizes)) if len(sizes) <= 6 else f"{len(sizes)} from {sizes[0]} to {sizes[-1]}"
    side = median_side(split)
    return f"{text} (shorter side of the images: {side})" if side else text
