"""The task that a recipe trains: its loss, and what an image weighs in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..data.data_set import Data
from ..errors import InputError
from ..tasks.build import make_task
from ..tasks.task import LossOptions, Task
from .options import Recipe


def training_task(data: Data, recipe: Recipe, loss: Callable[[Any, Any], Tensor] | None = None) -> Task:
    """The task that a recipe trains on some data."""
    options = recipe.train
    losses = LossOptions(options.label_smoothing, recipe.data.mixup, class_weights(data, options.class_weights), loss, recipe.seed)
    task = make_task(data.classes, recipe.head, recipe.data.mean, recipe.data.std, losses)
    given = {"loss": loss is not None, "label_smoothing": options.label_smoothing, "mixup": recipe.data.mixup}
    unused = [name for name, value in given.items() if value and name not in task.takes]
    if unused:
        raise InputError(f"{unused[0]}: not of {task.kind}, whose loss has none; leave it out")
    return task


def class_weights(data: Data, how: str) -> tuple[float, ...]:
    """Weights of images by class: () where all are alike, else inverse to the number of training images, 1 on average of these."""
    if how == "none":
        return ()
    source = data.train.source
    if source.kind != "classes":
        raise InputError(f"TRAIN.CLASS_WEIGHTS: {how}: for images of one class each; leave it out")
    counts = [0] * data.num_classes
    for index in data.train.indices:
        counts[int(source.labels[index])] += 1
    there = sum(count > 0 for count in counts)
    return tuple(len(data.train) / (there * count) if count else 0.0 for count in counts)
