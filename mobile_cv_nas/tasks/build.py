"""Which task a head, or a weight file, means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import InputError, did_you_mean
from ..weights.file import WeightsError
from .classification import Classification
from .detection import Detection
from .options import DETECTORS, SEGMENTERS, HeadOptions
from .segmentation import Segmentation
from .task import LossOptions, Task

TASKS: dict[str, type[Task]] = {kind.kind: kind for kind in (Classification, Detection, Segmentation)}


def task_class(head: str) -> type[Task]:
    """The task of a head's name; "" is a classifier's. Raises InputError."""
    if head in DETECTORS:
        return Detection
    if head in SEGMENTERS:
        return Segmentation
    if head:
        raise InputError(f"HEAD.NAME: {head!r}: no such head{did_you_mean(head, (*DETECTORS, *SEGMENTERS), few=8)}")
    return Classification


def make_task(
    classes: Sequence[str], head: HeadOptions, mean: Sequence[float], std: Sequence[float], losses: LossOptions | None = None
) -> Task:
    """The task that learns these classes with this head, on images of this mean and standard deviation (in 0..1, one a channel)."""
    return task_class(head.name)(tuple(classes), head, tuple(mean), tuple(std), losses or LossOptions())


def task_of(content: Mapping[str, Any], source: object) -> Task:
    """The task of a weight file, from what the file keeps. Raises WeightsError if it cannot be read."""
    saved = content.get("head")
    head = HeadOptions()
    if saved is not None:
        kinds = {"name": str, "input_size": int, "options": dict}
        if not isinstance(saved, dict) or not all(isinstance(saved.get(name), kind) for name, kind in kinds.items()):
            raise WeightsError(f"{source}: what it says of its head cannot be read; save it again")
        known = {one.name for one in fields(HeadOptions)}
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in saved["options"].items() if name in known}
        head = HeadOptions(**{**options, "name": saved["name"], "input_size": saved["input_size"]})
    mean, std = content.get("mean", (0.485, 0.456, 0.406)), content.get("std", (0.229, 0.224, 0.225))
    return make_task(content.get("classes", ()), head, mean, std)
