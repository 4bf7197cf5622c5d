"""Images of one class each: cross-entropy, top-1 and top-5."""

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
from ..networks.build import build_model
from ..networks.counting import count
from ..nn.heads import HeadDef
from ..nn.shapes import Cost
from ..report.test import Examination
from ..weights.fit import fit_weights
from .metrics import Confusion
from .prediction import Prediction
from .task import Batch, PredictOptions, Task, evaluating


@dataclass(frozen=True)
class Classification(Task):
    """A network with the global pool and one linear layer."""

    kind = "classification"
    labels = "classes"
    main = hits = "top1"
    takes = ("loss", "label_smoothing", "mixup")

    def network(self, arch: ArchDef, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        network = build_model(arch, self.num_classes, self.in_channels)
        if weights is not None:
            fit_weights(network, weights, "the weights to start from", new_classifier=True)
        return network

    def count(self, network: nn.Module, arch: ArchDef) -> Cost:
        return count(network, arch.input_size, self.in_channels)

    def head_def(self, space: SearchSpace) -> HeadDef:
        return HeadDef("classifier", self.num_classes)

    def loss(self, model: Any, batch: Batch, key: tuple[int, ...], runtime: Runtime) -> Loss:
        images, labels = batch
        targets = labels
        if self.losses.mixup > 0:
            images, targets = self._mix(images, labels, (runtime.rank, *key))
        with runtime.autocast():
            logits = model(images)
        value = self._criterion(logits.float(), targets)
        right = (logits.detach().argmax(1) == labels).sum()
        return Loss(value, len(labels), {self.loss_name: value}, {"loss": runtime.exact(value) * len(labels), "right": right})

    def _criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of logits (N, classes) under labels (N,), or under shares of the classes (N, classes)."""
        if self.losses.own is not None:
            return self.losses.own(logits, targets)
        smoothing = self.losses.label_smoothing
        if not self.losses.class_weights:
            return nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        # Torch's own weights would weigh the smoothed part by other classes, and divide by the batch's: parts of a step would differ.
        weights = logits.new_tensor(self.losses.class_weights)
        own = weights[targets] if targets.ndim == 1 else targets @ weights
        return (nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing) * own).mean()

    def _mix(self, images: Tensor, labels: Tensor, key: Sequence[int]) -> tuple[Tensor, Tensor]:
        from torchvision.transforms import v2

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(self.losses.seed, *key))
            return v2.MixUp(alpha=self.losses.mixup, num_classes=self.num_classes)(images, labels)

    def evaluate(
        self, network: nn.Module, batches: Iterable[Batch], runtime: Runtime | None = None, kept: Examination | None = None
    ) -> dict[str, float]:
        """{"loss": mean cross-entropy, "top1", "top5": shares of correct images; top-5 of more than five classes only}.

        Raises ValueError if there is no image at all.
        """
        sums = [0.0] * 4  # top-1, top-5, loss, images
        confusion = Confusion(self.num_classes, ignored=None)
        with evaluating(network):
            for logits, labels in outputs(network, batches, runtime):
                best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
                losses = nn.functional.cross_entropy(logits, labels, reduction="none")
                batch = [best[:, 0].sum(), best.sum(), losses.sum(), torch.tensor(len(labels), device=labels.device)]
                sums = [a + b for a, b in zip(sums, torch.stack([v.float() for v in batch]).tolist(), strict=True)]
                if kept is not None:
                    guess = logits.argmax(1)
                    confusion.update(guess, labels)
                    kept.images += zip(losses.tolist(), labels.tolist(), guess.tolist(), strict=True)
        if kept is not None:
            kept.confusion = confusion.over_all(runtime)
            right = kept.confusion.diagonal().double() / kept.confusion.sum(1)
            kept.per_class = dict(zip(self.classes, right.tolist(), strict=True))
        top1, top5, total, images_seen = runtime.sum(sums) if runtime is not None else sums
        if not images_seen:
            raise ValueError("no images to evaluate on")
        scores = {"loss": total / images_seen, "top1": top1 / images_seen}
        return {**scores, "top5": top5 / images_seen} if self.num_classes > 5 else scores  # of fewer all are among the first five

    def predict(self, network: nn.Module, pictures: Sequence[Any], inputs: Sequence[Tensor], options: PredictOptions) -> list[Prediction]:
        sizes = sorted({tuple(one.shape) for one in inputs})
        if len(sizes) > 1:
            raise InputError(
                f"images of {sizes[0]} and {sizes[1]}: float tensors of one size go together; predict the others by themselves"
            )
        probabilities = network(torch.stack(list(inputs))).float().softmax(1)
        best = probabilities.topk(min(options.top, self.num_classes), dim=1)
        return [
            Prediction([self.classes[i] for i in indices], scores, indices, classes=self.classes, picture=picture)
            for picture, scores, indices in zip(pictures, best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def outputs(network: nn.Module, batches: Iterable[Batch], runtime: Runtime | None) -> Iterable[tuple[Tensor, Tensor]]:
    """Logits in float32 and labels of each batch; with a `runtime` on its device and in its precision."""
    for images, labels in batches:
        if runtime is not None:
            images, labels = runtime.move(images), runtime.move(labels)
        with runtime.autocast() if runtime is not None else contextlib.nullcontext():
            logits = network(images)
        yield logits.float(), labels
