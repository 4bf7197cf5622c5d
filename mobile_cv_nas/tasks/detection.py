"""Images with boxes: the detector's own losses, COCO's average precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..data.loader import derive_seed
from ..engine.runtime import Runtime
from ..engine.step import Loss
from ..errors import InputError
from ..networks.counting import count_detector
from ..networks.supernet import Supernet
from ..nn.heads import HeadDef
from ..nn.shapes import Cost
from ..report.test import Examination
from .dense import dense_content, dense_network
from .detectors import build_detector, searched_detector, ssdlite_strides
from .metrics import average_precision, precision_by_class
from .prediction import Prediction
from .task import Batch, PredictOptions, Task, evaluating


@dataclass(frozen=True)
class Detection(Task):
    """A detector of `build_detector`, which resizes and normalises images itself."""

    kind = "detection"
    labels = "boxes"
    main = "ap50"
    loss_name = "sum of the detector's losses"

    def input_size(self, arch: ArchDef) -> int:
        return self.head.input_size

    def options(self) -> dict[str, Any]:
        """The arguments of `build_detector` that the head's options set."""
        head = self.head
        options: dict[str, Any] = {"frozen_stages": head.frozen_stages, "frozen_norm": head.frozen_norm}
        options |= {"channels": head.channels} if head.channels else {}
        options |= {"input_size": head.input_size, "image_mean": list(self.mean), "image_std": list(self.std)}
        options |= {"in_channels": self.in_channels} if self.in_channels != 3 else {}
        more = {"strides": list(head.strides), "anchor_scale": head.anchor_scale, "min_ratio": head.min_ratio}
        return options | {name: value for name, value in more.items() if value}

    def network(self, arch: ArchDef, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        def build(backbone: Any) -> nn.Module:
            return build_detector(self.head.name, backbone, self.num_classes, **self.options())

        return dense_network(arch, weights, build, self.in_channels)

    def count(self, network: nn.Module, arch: ArchDef) -> Cost:
        return count_detector(network, self.head.input_size, in_channels=self.in_channels)

    def head_def(self, space: SearchSpace) -> HeadDef:
        head = self.head
        if head.name != "ssdlite":
            raise InputError(f"HEAD.NAME: {head.name!r} cannot be searched for; use ssdlite")
        if space.input_sizes != (head.input_size,):
            sizes = ", ".join(map(str, space.input_sizes))
            raise InputError(
                f"HEAD.INPUT_SIZE: {head.input_size}, but the space has {sizes}; a detector is searched at one size: set both alike"
            )
        strides = tuple(head.strides) or ssdlite_strides()
        found = HeadDef("ssdlite", self.num_classes, {"channels": head.channels or 128, "strides": strides})
        found.reads(space.layers)
        return found

    def learner(self, supernet: Supernet) -> nn.Module:
        return searched_detector(supernet, self.num_classes, self.options())

    def loss(self, model: Any, batch: Batch, key: tuple[int, ...], runtime: Runtime) -> Loss:
        images, targets = batch
        with torch.random.fork_rng(devices=[]), runtime.autocast():
            torch.manual_seed(derive_seed(self.losses.seed, runtime.rank, *key))  # Faster R-CNN trains on some of the boxes
            losses = model(images, targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        return Loss(total, len(images), {self.loss_name: total}, {"loss": runtime.exact(total) * len(images), "right": total.new_zeros(())})

    def evaluate(
        self, network: nn.Module, batches: Iterable[Batch], runtime: Runtime | None = None, kept: Examination | None = None
    ) -> dict[str, float]:
        """{"ap", "ap50", "ap75"}: COCO's average precision."""
        found = []
        with evaluating(network):
            for images, targets in batches:
                with runtime.autocast() if runtime is not None else contextlib.nullcontext():
                    predictions = network(runtime.move(images) if runtime is not None else images)
                plain = [{name: value.float().cpu() for name, value in prediction.items()} for prediction in predictions]
                found += list(zip(targets, plain, strict=True))
        everything = [pair for part in (runtime.gather(found) if runtime is not None else [found]) for pair in part]
        targets, predictions = [t for t, _ in everything], [p for _, p in everything]
        if kept is not None:
            kept.per_class = precision_by_class(targets, predictions, self.classes)
        return average_precision(targets, predictions, self.classes)

    def rank(self, scores: Mapping[str, float]) -> tuple[float, float]:
        return scores["ap50"], scores["ap"]

    def predict(self, network: nn.Module, pictures: Sequence[Any], inputs: Sequence[Tensor], options: PredictOptions) -> list[Prediction]:
        for image in inputs:
            short, long = sorted(image.shape[-2:])
            if short * self.head.input_size < long:  # nothing is left of it at that size
                raise InputError(f"an image of {image.shape[-1]}x{image.shape[-2]} pixels is too narrow for a detector; cut it")
        return [self._predict(found, picture, options.score) for found, picture in zip(network(list(inputs)), pictures, strict=True)]

    def _predict(self, found: Mapping[str, Tensor], picture: Any, least: float) -> Prediction:
        order = found["scores"].argsort(descending=True)
        order = order[found["scores"][order] >= least]
        boxes, labels, scores = (found[name][order].tolist() for name in ("boxes", "labels", "scores"))
        names = [self.classes[label - 1] for label in labels]
        rows = [(box[0], box[1], box[2], box[3]) for box in boxes]
        return Prediction(names, scores, [label - 1 for label in labels], rows, None, self.classes, picture)

    def content(self, arch: ArchDef) -> dict[str, Any]:
        return dense_content(self, arch)
