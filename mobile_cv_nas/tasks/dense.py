"""Training of detectors and segmenters, and their weight files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..arch import ArchDef
from ..commands.options import data_from as build_data
from ..commands.options import loader_from as build_loader
from ..config.keys import DETECTORS
from ..data import Loader, derive_seed
from ..engine.runtime import Runtime, count_skipped, start_runtime
from ..networks.backbone import FeatureBackbone
from ..networks.build import build_model
from ..networks.counting import count, count_detector
from ..nn.shapes import Cost
from ..weights.file import WeightsError, fit_weights, load_weights, save_weights, weights_arch
from .detectors import build_detector, build_segmenter
from .metrics import Confusion, average_precision
from .task import Batch, Task, name_of


class _Dense(Task):
    """What a detector and a segmenter share: a head on the backbone of an arch, saved with all it takes to build it again."""

    @property
    def input_size(self) -> int:
        return self.cfg.HEAD.INPUT_SIZE

    def build(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        self.options = head_options(self.cfg)
        whole = weights is not None and any(name.startswith("backbone.") for name in weights)
        backbone = self.arch if weights is None or whole else _backbone(self.arch, weights)
        network = build_head(self.cfg.HEAD.NAME, backbone, self.data.num_classes, self.options)
        if whole:
            assert weights is not None
            fit_weights(network, weights, "the weights to start from")
        return network

    def save(self, path: Path, network: nn.Module) -> None:
        data = self.cfg.DATA
        head = {"name": self.cfg.HEAD.NAME, "input_size": self.input_size, "options": self.options, "interpolation": data.INTERPOLATION}
        save_weights(path, network.state_dict(), self.arch, self.data.classes, mean=data.MEAN, std=data.STD, head=head)


class Detection(_Dense):
    """Images with boxes: the detector's own losses, COCO's average precision."""

    kind = "detection"
    main = "ap50"

    def build(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        self.objective = DetectorLosses(self.cfg.SEED, self.runtime)
        return super().build(weights)

    def count(self) -> Cost:
        return count_detector(self.network, self.input_size)

    def evaluate(self, network: nn.Module, loader: Loader) -> dict[str, float]:
        return evaluate_boxes(network, loader.epoch(), self.data.classes, self.runtime)


@torch.no_grad()
def evaluate_boxes(network: nn.Module, batches: Any, classes: Sequence[str], runtime: Runtime) -> dict[str, float]:
    """COCO's average precision over the images of all processes."""
    was_training, found = network.training, []
    network.eval()
    for images, targets in batches:
        with runtime.autocast():
            predictions = network(runtime.move(images))
        plain = [{name: value.float().cpu() for name, value in prediction.items()} for prediction in predictions]
        found += list(zip(targets, plain, strict=True))
    network.train(was_training)
    everything = [pair for part in runtime.gather(found) for pair in part]
    return average_precision([t for t, _ in everything], [p for _, p in everything], classes)


class DetectorLosses:
    """The sum of what a torchvision detector returns in training; see `Objective.loss`."""

    loss_name = "sum of the detector's losses"

    def __init__(self, seed: int, runtime: Runtime):
        self.seed, self.runtime = seed, runtime

    def loss(self, model: nn.Module, batch: Batch, key: tuple[int, ...]) -> tuple[Tensor, Tensor, int]:
        images, targets = map(self.runtime.move, batch)
        with torch.random.fork_rng(devices=[]), self.runtime.autocast():
            torch.manual_seed(derive_seed(self.seed, self.runtime.rank, *key))  # Faster R-CNN trains on some of the boxes
            losses = model(images, targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        return total, total.new_zeros(()), len(images)


class Segmentation(_Dense):
    """Images with masks: cross-entropy of each pixel that counts, mean IoU over all pixels of the data set.

    Masks may be larger than images (`label_size`): logits are resized to them, so that networks of different input sizes are judged alike.
    """

    kind = "segmentation"
    hits = "pixel_accuracy"
    main = "miou"

    def __init__(self, cfg: CfgNode, *args: Any, label_size: int | None = None):
        self._label_size = label_size
        super().__init__(cfg, *args)

    @property
    def label_size(self) -> int:
        return self._label_size or self.input_size

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "label_size": self.label_size}

    def build(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        self.objective = PixelCrossEntropy(self.cfg, self.runtime)
        return super().build(weights)

    def evaluate(self, network: nn.Module, loader: Loader) -> dict[str, float]:
        return evaluate_masks(network, loader.epoch(), self.data.num_classes, self.runtime)


class PixelCrossEntropy:
    """The loss of {"out": logits (N, classes, H, W)} under masks (N, H', W'), 255 left out; see `Objective.loss`."""

    loss_name = "cross-entropy"

    def __init__(self, cfg: CfgNode, runtime: Runtime | None = None):
        self.runtime = runtime
        self.criterion = nn.CrossEntropyLoss(label_smoothing=cfg.TRAIN.LABEL_SMOOTHING, ignore_index=255, reduction="sum")

    def loss(self, model: nn.Module, batch: Batch, key: tuple[int, ...]) -> tuple[Tensor, Tensor, int]:
        assert self.runtime is not None
        images, masks = map(self.runtime.move, batch)
        with self.runtime.autocast():
            logits = logits_at(model(images)["out"], masks)
        return *self.of(logits, masks), len(masks)

    def of(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and right answers of logits that have the size of the masks."""
        counted = (masks != 255).sum().clamp(min=1)  # a batch may hold nothing that counts
        right = (logits.detach().argmax(1) == masks).sum() / counted * len(masks)
        return self.criterion(logits.float(), masks) / counted, right


def logits_at(logits: Tensor, masks: Tensor) -> Tensor:
    """(N, classes, h, w) resized to the masks (N, H, W)."""
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits
    return nn.functional.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def evaluate_masks(network: nn.Module, batches: Any, num_classes: int, runtime: Runtime | None = None) -> dict[str, float]:
    """Mean cross-entropy, pixel accuracy and mean IoU over the pixels that count; `runtime` as of `evaluate`."""
    was_training, confusion, loss = network.training, Confusion(num_classes), 0.0
    network.eval()
    for images, masks in batches:
        if runtime is not None:
            images, masks = runtime.move(images), runtime.move(masks)
        with runtime.autocast() if runtime is not None else contextlib.nullcontext():
            logits = logits_at(network(images)["out"], masks)
        loss += float(nn.functional.cross_entropy(logits.float(), masks, ignore_index=255, reduction="sum"))
        confusion.update(logits.argmax(1), masks)
    network.train(was_training)
    sums = [loss, *confusion.matrix.flatten().tolist()]
    total, *counts = sums if runtime is None else runtime.sum(sums)
    confusion.matrix = torch.tensor(counts, dtype=torch.float64).long().view_as(confusion.matrix)
    pixels = max(1, int(confusion.matrix.sum()))
    return {"loss": total / pixels, "pixel_accuracy": confusion.pixel_accuracy(), "miou": confusion.miou()}


# -- building and weight files --------------------------------------------------------------------------


def head_options(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of `build_detector` or `build_segmenter` that `cfg` sets."""
    head = cfg.HEAD
    options: dict[str, Any] = {"frozen_stages": head.FROZEN_STAGES, "frozen_norm": head.FROZEN_NORM, "channels": head.CHANNELS or None}
    if head.NAME in DETECTORS:
        options |= {"input_size": head.INPUT_SIZE, "strides": head.STRIDES or None}
        options |= {"image_mean": cfg.DATA.MEAN, "image_std": cfg.DATA.STD}
        options |= {"anchor_scale": head.ANCHOR_SCALE or None, "min_ratio": head.MIN_RATIO or None}
    else:
        options |= {"output_stride": head.OUTPUT_STRIDE}
        options |= {"low_stride": head.LOW_STRIDE} if head.NAME == "lraspp" else {}
    return {name: value for name, value in options.items() if value is not None}


def build_head(head: str, backbone: ArchDef | nn.Module, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """A detector or segmenter by the name of its head."""
    return (build_detector if head in DETECTORS else build_segmenter)(head, backbone, classes, **options)


def _backbone(arch: ArchDef, weights: Mapping[str, Tensor]) -> FeatureBackbone:
    """The features of a classifier with these weights."""
    classifier = weights.get("classifier.weight")
    if classifier is None:
        raise WeightsError("the weights to start from: neither a classifier's nor those of a head of this library")
    network = build_model(arch, len(classifier))
    fit_weights(network, weights, "the weights to start from")
    return FeatureBackbone(network)


_SAVED = {"name": str, "input_size": int, "options": dict}  # of a head, and more that has a default


def load_head(path: str | os.PathLike) -> tuple[nn.Module, dict[str, Any]]:
    """The detector or segmenter in a weight file of this library, in eval mode, and what was saved with it.

    Raises FileError, WeightsError or ArchError.
    """
    state, content = load_weights(path)
    head = content.get("head")
    if head is None:
        raise WeightsError(f"{path}: the weights of a classifier, not of a detector or segmenter; see tools/train_detector.py")
    if not isinstance(head, dict) or not all(isinstance(head.get(name), kind) for name, kind in _SAVED.items()):
        raise WeightsError(f"{path}: what it says of its head cannot be read; save it again")
    network = build_head(head["name"], weights_arch(content, path), len(content["classes"]), head["options"])
    fit_weights(network, state, str(path))
    return network.eval(), content


def run_head_test(cfg: CfgNode) -> str | None:
    """Tests the detector or segmenter of MODEL.WEIGHTS on TEST.SPLIT: a table, or None on all processes but the first.

    Raises WeightsError if head or classes are not those of `cfg` and of the data.
    """
    from tabulate import tabulate

    if not cfg.MODEL.WEIGHTS.endswith(".safetensors"):
        raise WeightsError(f"MODEL.WEIGHTS: {cfg.MODEL.WEIGHTS!r}: name the model.safetensors of a trained detector or segmenter")
    network, content = load_head(cfg.MODEL.WEIGHTS)
    name, size = content["head"]["name"], content["head"]["input_size"]
    data, runtime = build_data(cfg), start_runtime(cfg)
    if name != cfg.HEAD.NAME or content["classes"] != list(data.classes):
        what = f"a {name} of {len(content['classes'])} classes ({', '.join(content['classes'][:3])}, ...)"
        wanted = f"HEAD.NAME is {cfg.HEAD.NAME}, and the data has {data.num_classes} ({', '.join(data.classes[:3])}, ...)"
        raise WeightsError(f"{cfg.MODEL.WEIGHTS}: {what}, but {wanted}; make them the same")
    cfg = cfg.clone()
    cfg.DATA.MEAN, cfg.DATA.STD = content["mean"], content["std"]
    cost = count_detector(network, size) if name in DETECTORS else count(network, size)
    loader = build_loader(cfg, getattr(data, cfg.TEST.SPLIT), size, cfg.TEST.BATCH_SIZE, False, runtime.shard)
    network = runtime.place(network)
    if name in DETECTORS:
        scores = evaluate_boxes(network, loader.epoch(), data.classes, runtime)
    else:
        scores = evaluate_masks(network, loader.epoch(), data.num_classes, runtime)
    rows: list[tuple[str, Any]] = [("network", f"{name} on {content['arch'].get('name') or 'an unnamed arch'}")]
    rows += [(f"{cfg.TEST.SPLIT} {name_of(key)}", f"{value:.4f}") for key, value in scores.items()]
    rows += [("MACs", f"{cost.macs:,}"), ("parameters", f"{cost.params:,}")]
    rows.append(("skipped images", count_skipped(runtime, [loader])))
    return tabulate(rows, disable_numparse=True) if runtime.main else None
