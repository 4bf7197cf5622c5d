"""Images with masks: cross-entropy of each pixel that counts, mean IoU over all pixels of the data set."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..data.targets import IGNORED
from ..engine.runtime import Runtime
from ..engine.step import Loss
from ..errors import InputError
from ..networks.counting import count
from ..nn.heads import HeadDef
from ..nn.shapes import Cost
from ..report.test import Examination
from .dense import dense_content, dense_network
from .metrics import Confusion
from .prediction import Prediction
from .segmenters import build_segmenter
from .task import Batch, PredictOptions, Task, evaluating


@dataclass(frozen=True)
class Segmentation(Task):
    """A segmenter of `build_segmenter`. Masks may be larger than images (`label_size`): logits are resized to them."""

    kind = "segmentation"
    labels = "masks"
    main = "miou"
    hits = "pixel_accuracy"
    takes = ("loss", "label_smoothing")

    def input_size(self, arch: ArchDef) -> int:
        return self.head.input_size

    def child(self, arch: ArchDef) -> Task:
        return replace(self, head=replace(self.head, input_size=arch.input_size), label_size=self.label_size or self.head.input_size)

    def options(self) -> dict[str, Any]:
        """The arguments of `build_segmenter` that the head's options set."""
        head = self.head
        options: dict[str, Any] = {"frozen_stages": head.frozen_stages, "frozen_norm": head.frozen_norm}
        options |= {"channels": head.channels} if head.channels else {}
        options |= {"output_stride": head.output_stride} | ({"in_channels": self.in_channels} if self.in_channels != 3 else {})
        return options | ({"low_stride": head.low_stride} if head.name == "lraspp" else {})

    def network(self, arch: ArchDef, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        def build(backbone: Any) -> nn.Module:
            return build_segmenter(self.head.name, backbone, self.num_classes, **self.options())

        return dense_network(arch, weights, build, self.in_channels)

    def count(self, network: nn.Module, arch: ArchDef) -> Cost:
        return count(network, self.head.input_size, self.in_channels)

    def head_def(self, space: SearchSpace) -> HeadDef:
        head, stride = self.head, math.prod(layer.stride for layer in space.layers)
        if head.name != "lraspp":
            raise InputError(f"HEAD.NAME: {head.name!r} cannot be searched for; use lraspp, or none for a classifier")
        if stride != head.output_stride:
            raise InputError(
                f"HEAD.OUTPUT_STRIDE: {head.output_stride}, but the space ends at stride {stride}; set {stride}: a search does not dilate"
            )
        if space.max_input_size != head.input_size:
            raise InputError(f"HEAD.INPUT_SIZE: {head.input_size}, but the largest of the space is {space.max_input_size}; set that")
        found = HeadDef("lraspp", self.num_classes, {"channels": head.channels or 128, "low_stride": head.low_stride})
        found.reads(space.layers)
        return found

    def loss(self, model: Any, batch: Batch, key: tuple[int, ...], runtime: Runtime) -> Loss:
        images, masks = batch
        with runtime.autocast():
            logits = _at(_logits(model(images)), masks)
        counted = (masks != IGNORED).sum().clamp(min=1)  # a batch may hold nothing that counts
        right = (logits.detach().argmax(1) == masks).sum() / counted * len(masks)
        value = self._criterion(logits.float(), masks, counted)
        return Loss(value, len(masks), {self.loss_name: value}, {"loss": runtime.exact(value) * len(masks), "right": right})

    def _criterion(self, logits: Tensor, masks: Tensor, counted: Tensor) -> Tensor:
        if self.losses.own is not None:
            return self.losses.own(logits, masks)
        smoothing = self.losses.label_smoothing
        summed = nn.functional.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
        return summed / counted

    def evaluate(
        self, network: nn.Module, batches: Iterable[Batch], runtime: Runtime | None = None, kept: Examination | None = None
    ) -> dict[str, float]:
        """{"loss": mean cross-entropy, "pixel_accuracy", "miou"} over the pixels that count."""
        confusion, loss = Confusion(self.num_classes), 0.0
        with evaluating(network):
            for images, masks in batches:
                if runtime is not None:
                    images, masks = runtime.move(images), runtime.move(masks)
                with runtime.autocast() if runtime is not None else contextlib.nullcontext():
                    logits = _at(_logits(network(images)), masks)
                loss += float(nn.functional.cross_entropy(logits.float(), masks, ignore_index=IGNORED, reduction="sum"))
                guess = logits.argmax(1)
                confusion.update(guess, masks)
                if kept is not None:
                    wrong = ((guess != masks) & (masks != IGNORED)).flatten(1).sum(1) / (masks != IGNORED).flatten(1).sum(1).clamp(min=1)
                    kept.images += [(share, None, None) for share in wrong.tolist()]
        sums = [loss, *confusion.matrix.flatten().tolist()]
        total, *counts = sums if runtime is None else runtime.sum(sums)
        confusion.matrix = torch.tensor(counts, dtype=torch.float64).long().view_as(confusion.matrix)
        if kept is not None:
            kept.confusion = confusion.matrix
            kept.per_class = dict(zip(self.classes, confusion.iou().tolist(), strict=True))
        pixels = max(1, int(confusion.matrix.sum()))
        return {"loss": total / pixels, "pixel_accuracy": confusion.pixel_accuracy(), "miou": confusion.miou()}

    def predict(self, network: nn.Module, pictures: Sequence[Any], inputs: Sequence[Tensor], options: PredictOptions) -> list[Prediction]:
        return [self._predict(network, picture, image) for picture, image in zip(pictures, inputs, strict=True)]

    def _predict(self, network: nn.Module, picture: Any, image: Tensor) -> Prediction:
        """The class of each pixel: the logits of the squeezed image are brought back to its own size."""
        logits = _logits(network(image[None])).float()
        size = tuple(image.shape[-2:]) if picture is None else (picture.height, picture.width)
        best = torch.full(size, -math.inf, device=logits.device)
        mask = torch.zeros(size, dtype=torch.int64, device=logits.device)
        for label in range(logits.shape[1]):  # one by one: all classes of a large photograph would need gigabytes
            plane = nn.functional.interpolate(logits[:, label : label + 1], size, mode="bilinear", align_corners=False)[0, 0]
            mask[plane > best] = label
            best = torch.maximum(best, plane)
        found = shares(mask)
        names = [self.classes[label] for label, _ in found]
        return Prediction(names, [share for _, share in found], [label for label, _ in found], None, mask.cpu(), self.classes, picture)

    def content(self, arch: ArchDef) -> dict[str, Any]:
        return dense_content(self, arch)


def shares(mask: Tensor) -> list[tuple[int, float]]:
    """The labels of a mask and their shares of its pixels, the largest first."""
    labels, counts = mask.unique(return_counts=True)
    pairs = zip(labels.tolist(), (counts.cpu().double() / mask.numel()).tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def _logits(output: Any) -> Tensor:
    """Of torchvision's segmenters, which give a mapping, and of a supernet."""
    return output["out"] if isinstance(output, Mapping) else output


def _at(logits: Tensor, masks: Tensor) -> Tensor:
    """(N, classes, h, w) resized to the masks (N, H, W)."""
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits
    return nn.functional.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
