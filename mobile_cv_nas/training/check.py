"""What would end a training, known before it begins: of the child before a search, which may take days."""

from __future__ import annotations

from ..arch import ArchDef
from ..data.data_set import Data, DataError
from ..engine.one_image import check_one_image
from ..engine.runtime import Runtime
from ..tasks.task import Task
from .options import Recipe


def check_training(task: Task, arch: ArchDef, data: Data, recipe: Recipe, runtime: Runtime) -> None:
    """Raises InputError, DataError or ConfigError where a recipe cannot train the network of an arch on some data."""
    total = recipe.train.batch_size
    each = runtime.batch_size(total)
    if not len(data.train):
        raise DataError("the data set has no training images: it does for tests; add a train folder")
    if len(data.train) < total:
        raise DataError(
            f"TRAIN.BATCH_SIZE: {len(data.train)} training images are fewer than the {total} of one step; lower it to {len(data.train)} "
            "or less, or add images to the train split"
        )
    if each == 1:
        network = task.network(arch)
        check_one_image(network, lambda: task.count(network, arch), runtime, "TRAIN", total)
