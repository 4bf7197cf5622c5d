"""What exporting takes of a configuration: images to calibrate on, batches to score on, and the files at the end of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from ..data.build import build_loader
from ..data.data_set import Split
from ..data.options import DataOptions
from ..deploy.calibrate import HELD_OUT
from ..deploy.export import export
from ..deploy.result import Export
from ..errors import require
from ..files import atomic_write
from ..tasks.load import load
from ..tasks.model import Model
from .options import data_for, export_options

_NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "executorch": ("executorch", "torchao"), "coreml": ("coremltools",)}
_EXTRAS = {"onnx": "onnx", "pte": "executorch", "mlpackage": "coreml"}
_BATCH = 32


class Batches:
    """Images and labels of a split as validation prepares them; may be gone through several times.

    Args:
        options: of the data.
        split: of it.
        model: what they are prepared for.
        batch: images at once.
    """

    def __init__(self, options: DataOptions, split: Split, model: Model, batch: int = _BATCH):
        size = model.task.input_size(model.arch)
        self._loader = build_loader(options, split, size, batch, False, label_size=model.task.label_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._loader.epoch()


def images_of(options: DataOptions, split: Split, model: Model, count: int) -> list[Tensor]:
    """So many images of a split, evenly spread over it, and some more to judge by."""
    return [image for images, _ in Batches(options, split.spread(count + HELD_OUT), model) for image in images]


def check_exports(cfg: CfgNode) -> None:
    """Raises InputError before a run whose files could not be written at its end."""
    for one in export_options(cfg).formats:
        for module in _NEEDS[_EXTRAS[one]]:
            require(module, _EXTRAS[one])


def export_result(cfg: CfgNode, folder: Path) -> list[Export]:
    """The files that EXPORT asks for, beside the weights in a folder, with their report, export.json."""
    wanted = export_options(cfg)
    if not wanted.formats:
        return []
    model = load(folder)
    options, data = data_for(cfg, model, str(folder))
    judged = data.test or data.val
    images = images_of(options, data.train, model, wanted.images) if wanted.int8 else None
    found = []
    for one in wanted.formats:
        target, test = folder / f"model.{one}", Batches(options, judged, model)
        if one == "mlpackage":
            found.append(export(model, target))
            continue
        found.append(export(model, target, int8=images, images=wanted.images, test=test))
    atomic_write(folder / "export.json", json.dumps([one.to_dict() for one in found], indent=1))
    return found


def print_exports(cfg: CfgNode, folder: Path) -> None:
    """Writes the files that EXPORT asks for, and prints their reports."""
    for one in export_result(cfg, folder):
        print(one)
