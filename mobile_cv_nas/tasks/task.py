"""What a run trains: a network, its data, its loss and its scores. One class for each kind of label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..arch import ArchDef
from ..commands.options import loader_from as build_loader
from ..data import Data, DataError, Loader, derive_seed
from ..engine.runtime import Runtime, seed_everything
from ..networks.build import build_model
from ..networks.counting import count
from ..nn.shapes import Cost
from ..weights.file import fit_weights, save_weights
from .evaluate import evaluate

Batch = tuple[Any, Any]  # images and labels, as a Loader gives them


class Objective(Protocol):
    """A loss, and what it is called in errors."""

    loss_name: str

    def loss(self, model: nn.Module, batch: Batch, key: tuple[int, ...]) -> tuple[Tensor, Tensor, int]:
        """The mean loss of a batch, the sum of right answers (an image counts 1), the number of images. `key` seeds randomness."""


class Task:
    """Base of all tasks; `build` and the methods below it are a task's own.

    Args:
        cfg: the complete configuration.
        arch: of the network, or of its backbone.
        data: images with labels of the task's kind.
        weights: to start from, or None for random ones.
        runtime: device, precision and processes.

    Attributes:
        kind: of the run, in its checkpoints.
        hits: what the share of right answers in training is called, "" where there is none.
        main: the score that the progress line shows.
        objective: the loss.
        network: freshly built.
        loaders: of training, validation and test.
        steps: of the optimizer, an epoch.
        cost: MACs of one image and parameters.
    """

    kind = ""
    hits = ""
    main = ""
    objective: Objective

    def __init__(self, cfg: CfgNode, arch: ArchDef, data: Data, weights: Mapping[str, Tensor] | None, runtime: Runtime):
        self.cfg, self.arch, self.data, self.runtime = cfg, arch, data, runtime
        batch, size, shard = runtime.batch_size(cfg.TRAIN.BATCH_SIZE), self.input_size, runtime.shard
        sizes: dict[str, Any] = {"label_size": self.label_size}
        self.loaders: tuple[Loader, Loader, Loader] = (
            build_loader(cfg, data.train, size, batch, True, shard, **sizes),
            build_loader(cfg, data.val, size, cfg.TEST.BATCH_SIZE, False, shard, **sizes),
            build_loader(cfg, data.test, size, cfg.TEST.BATCH_SIZE, False, shard, **sizes),
        )
        self.steps = len(self.loaders[0]) // cfg.RUNTIME.ACCUMULATE
        if not self.steps:
            raise DataError(f"{len(data.train)} training images are fewer than TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}")
        seed_everything(cfg.SEED)
        self.network = self.build(weights)
        self.cost = self.count()

    @property
    def input_size(self) -> int:
        return self.arch.input_size

    @property
    def label_size(self) -> int | None:
        """Side of the masks; None where there are none, or that of the images."""
        return None

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same, beside the configuration."""
        return {"kind": self.kind, "arch": json.dumps(self.arch.to_dict())}

    def build(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        """The network, from `weights` or at random; sets `objective`."""
        raise NotImplementedError

    def count(self) -> Cost:
        return count(self.network, self.input_size)

    def evaluate(self, network: nn.Module, loader: Loader) -> dict[str, float]:
        """Scores over the images of all processes; a call that all of them make."""
        raise NotImplementedError

    def save(self, path: Path, network: nn.Module) -> None:
        """Writes the weights and what is needed to use them."""
        raise NotImplementedError


class CrossEntropy:
    """The loss of logits (N, classes) under labels (N,), smoothed and mixed as `cfg` says; see `Objective.loss`."""

    loss_name = "cross-entropy"

    def __init__(self, cfg: CfgNode, classes: int, runtime: Runtime):
        self.cfg, self.classes, self.runtime = cfg, classes, runtime
        self.criterion = nn.CrossEntropyLoss(label_smoothing=cfg.TRAIN.LABEL_SMOOTHING)

    def loss(self, model: nn.Module, batch: Batch, key: tuple[int, ...]) -> tuple[Tensor, Tensor, int]:
        images, labels = batch
        targets = labels
        if self.cfg.DATA.MIXUP > 0:
            images, targets = self._mix(images, labels, key)
        images, labels, targets = map(self.runtime.move, (images, labels, targets))
        with self.runtime.autocast():
            logits = model(images)
        return self.criterion(logits.float(), targets), (logits.detach().argmax(1) == labels).sum(), len(labels)

    def _mix(self, images: Tensor, labels: Tensor, key: Sequence[int]) -> tuple[Tensor, Tensor]:
        from torchvision.transforms import v2

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.cfg.SEED, self.runtime.rank, *key))
            return v2.MixUp(alpha=self.cfg.DATA.MIXUP, num_classes=self.classes)(images, labels)


class Classification(Task):
    """Images of one class each: cross-entropy, top-1 and top-5."""

    kind = "training"
    hits = main = "top1"

    def build(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        self.objective = CrossEntropy(self.cfg, self.data.num_classes, self.runtime)
        network = build_model(self.arch, self.data.num_classes)
        if weights is not None:
            fit_weights(network, weights, "the weights to start from", new_classifier=True)
        return network

    def evaluate(self, network: nn.Module, loader: Loader) -> dict[str, float]:
        score = evaluate(network, loader.epoch(), self.runtime)
        return {"loss": score.loss, "top1": score.top1, "top5": score.top5}

    def save(self, path: Path, network: nn.Module) -> None:
        data = self.cfg.DATA
        save_weights(path, network.state_dict(), self.arch, self.data.classes, mean=data.MEAN, std=data.STD)


NAMES = {"top1": "top-1", "top5": "top-5", "miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
NAMES |= {"ap": "box AP", "ap50": "box AP50", "ap75": "box AP75"}


def name_of(key: str) -> str:
    """What people call a score."""
    return NAMES.get(key, key)
