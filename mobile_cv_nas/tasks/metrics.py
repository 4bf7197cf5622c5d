"""How good predicted boxes and masks are: average precision and intersection over union."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.targets import IGNORED, Boxes, pycocotools
from ..engine.runtime import Runtime


def average_precision(targets: Sequence[Boxes], predictions: Sequence[Mapping[str, Any]], categories: Sequence[str]) -> dict[str, float]:
    """COCO's box AP, as pycocotools computes it: {"ap": mean over IoU 0.50 to 0.95, "ap50", "ap75"}, each in 0..1.

    `predictions[i]` is of the image of `targets[i]`: boxes (n, 4) x0, y0, x1, y1, labels (n,) with 1 the first category,
    scores (n,), as tensors or arrays; of each image the 100 of the highest scores count. Predictions that are not finite
    are left out. All 0 where nothing is predicted or there is nothing to find. Raises DataError without pycocotools.
    """
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets and {len(predictions)} predictions; give one prediction an image")
    truths = [record for image, target in enumerate(targets, 1) for record in _truths(image, target)]
    found = [record for image, prediction in enumerate(predictions, 1) for record in _found(image, prediction)]
    if not truths or not found:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    images = [{"id": image, "width": target.size[0], "height": target.size[1]} for image, target in enumerate(targets, 1)]
    named = [{"id": label, "name": name} for label, name in enumerate(categories, 1)]
    evaluation = pycocotools("cocoeval").COCOeval
    with contextlib.redirect_stdout(io.StringIO()):  # they print progress
        run = evaluation(_coco(images, truths, named), _coco(images, found, named), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    # -1 where no category has an object that is not a crowd
    return {name: max(0.0, float(value)) for name, value in zip(("ap", "ap50", "ap75"), run.stats)}


def precision_by_class(targets: Sequence[Boxes], predictions: Sequence[Mapping[str, Any]], categories: Sequence[str]) -> dict[str, float]:
    """AP50 of each category; NaN where no image holds an object of it."""
    found = {}
    for label, name in enumerate(categories, 1):
        theirs = [
            {key: torch.as_tensor(prediction[key])[torch.as_tensor(prediction["labels"]) == label] for key in ("boxes", "labels", "scores")}
            for prediction in predictions
        ]
        mine = [
            replace(target, boxes=target.boxes[kept], labels=target.labels[kept], crowd=target.crowd[kept])
            for target in targets
            for kept in [target.labels == label]
        ]
        there = any(bool((~target.crowd.astype(bool)).any()) for target in mine)
        found[name] = average_precision(mine, theirs, categories)["ap50"] if there else float("nan")
    return found


def _coco(images: list[dict[str, Any]], records: list[dict[str, Any]], categories: list[dict[str, Any]]) -> Any:
    for number, record in enumerate(records, 1):  # from 1 on: to pycocotools 0 means no match
        record["id"] = number
    coco = pycocotools("coco").COCO()
    coco.dataset = {"images": images, "annotations": records, "categories": categories}
    coco.createIndex()
    return coco


def _records(image: int, boxes: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    sizes = boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([boxes[:, :2], sizes], axis=1).tolist()
    areas = sizes.prod(axis=1).tolist()
    return [
        {"image_id": image, "category_id": label, "bbox": row, "area": area, "iscrowd": 0}
        for row, area, label in zip(rows, areas, labels.tolist())
    ]


def _truths(image: int, target: Boxes) -> list[dict[str, Any]]:
    records = _records(image, target.boxes.astype(np.float64), target.labels)
    return [record | {"iscrowd": int(crowd)} for record, crowd in zip(records, target.crowd)]


def _found(image: int, prediction: Mapping[str, Any]) -> list[dict[str, Any]]:
    boxes, labels, scores = (torch.as_tensor(prediction[key]).detach().cpu().numpy() for key in ("boxes", "labels", "scores"))
    if not len(boxes) == len(labels) == len(scores):
        raise ValueError(f"prediction {image - 1}: {len(boxes)} boxes, {len(labels)} labels and {len(scores)} scores")
    boxes, scores = boxes.astype(np.float64).reshape(-1, 4), scores.astype(np.float64)
    keep = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    records = _records(image, boxes[keep], labels[keep])
    return [record | {"score": score} for record, score in zip(records, scores[keep].tolist())]


class Confusion:
    """Counts of pixels, or of images, by true and predicted class.

    `matrix` is int64 (classes, classes) on the CPU, rows true: the sum of several processes' is that of all pixels.

    Args:
        num_classes: of both.
        ignored: the target under which nothing is counted; None where each is a class, as of images: the 256th class of 1,000 is 255.
    """

    def __init__(self, num_classes: int, ignored: int | None = IGNORED):
        self.num_classes, self.ignored = num_classes, ignored
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds a batch: predicted and true classes, (N, H, W) or (N,) of integers; nothing is counted where the target is `ignored`."""
        if pred.shape != target.shape:
            raise ValueError(f"predictions of shape {tuple(pred.shape)} and targets of shape {tuple(target.shape)}; make them equal")
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignored is None else target != self.ignored
        true, guess = target[counted].long(), pred[counted].long()
        for name, values in (("target", true), ("prediction", guess)):
            if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < self.num_classes:
                raise ValueError(f"a {name} of {int(values.min())} to {int(values.max())} for {self.num_classes} classes")
        counts = torch.bincount(true * self.num_classes + guess, minlength=self.num_classes**2)
        self.matrix += counts.view(self.num_classes, self.num_classes).cpu()

    def over_all(self, runtime: Runtime | None) -> Tensor:
        """The counts of all processes; a call that all of them make."""
        if runtime is None:
            return self.matrix
        return torch.tensor(runtime.sum(self.matrix.flatten().tolist()), dtype=torch.float64).long().view_as(self.matrix)

    def iou(self) -> Tensor:
        """Intersection over union of each class, float64; NaN for a class that is neither there nor predicted."""
        both = self.matrix.diagonal().double()
        return both / (self.matrix.sum(0) + self.matrix.sum(1) - both)

    def miou(self) -> float:
        """The mean IoU of the classes that are there or predicted; 0 before any pixel."""
        values = self.iou()
        values = values[~values.isnan()]
        return float(values.mean()) if len(values) else 0.0

    def pixel_accuracy(self) -> float:
        """The share of pixels whose class is right; 0 before any pixel."""
        total = int(self.matrix.sum())
        return int(self.matrix.diagonal().sum()) / total if total else 0.0
