"""What a search optimises: the supernet, its loss, and how children are built, inherit and are scored; a class for each kind of label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from ..arch import ArchDef, SearchSpace
from ..config.keys import ConfigError
from ..networks.build import build_model, build_supernet
from ..networks.supernet import Supernet, inherit_weights
from ..nn.heads import LRASPP, Classifier, Head
from ..tasks.dense import PixelCrossEntropy, evaluate_masks
from ..tasks.evaluate import evaluate


class ClassSearch:
    """Images of one class each: cross-entropy, scored by top-1."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.head: Head = Classifier(num_classes)

    def supernet(self, space: SearchSpace, search: CfgNode) -> Supernet:
        """Freshly initialised, as `search`, which is `cfg.SEARCH`, says."""
        return build_supernet(space, self.num_classes, sharing=search.SHARING, recompute=search.RECOMPUTE, resolution=search.RESOLUTION)

    def loss(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, and the sum of right answers (an image counts 1)."""
        return F.cross_entropy(logits, targets), (logits.argmax(1) == targets).sum()

    def child(self, arch: ArchDef) -> nn.Module:
        """The plain network of an arch, as it will be trained."""
        return build_model(arch, self.num_classes)

    def inherit(self, child: Any, supernet: Any) -> None:
        """Copies a child's weights from the supernet."""
        inherit_weights(child, supernet)

    def score(self, child: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """The score, the higher the better, and the loss less than 0, for ties."""
        score = evaluate(child, batches)
        return score.top1, -score.loss


class SegmentSearch(ClassSearch):
    """Images with masks: cross-entropy of each pixel, scored by mean IoU, under an LR-ASPP head."""

    head: LRASPP

    def __init__(self, cfg: CfgNode, space: SearchSpace, num_classes: int):
        super().__init__(num_classes)
        head, stride = cfg.HEAD, 1
        for layer in space.layers:
            stride *= layer.stride
        if head.NAME != "lraspp":
            raise ConfigError(f"HEAD.NAME: {head.NAME!r} cannot be searched for; use lraspp, or none for a classifier")
        if stride != head.OUTPUT_STRIDE:
            raise ConfigError(
                f"HEAD.OUTPUT_STRIDE: {head.OUTPUT_STRIDE}, but the space ends at stride {stride}; set {stride}: a search does not dilate"
            )
        if space.max_input_size != head.INPUT_SIZE:
            raise ConfigError(f"HEAD.INPUT_SIZE: {head.INPUT_SIZE}, but the largest of the space is {space.max_input_size}; set that")
        self.head = LRASPP(num_classes, head.CHANNELS or 128, head.LOW_STRIDE)
        self.head.reads(space.layers)
        self._objective = PixelCrossEntropy(cfg)

    def supernet(self, space: SearchSpace, search: CfgNode) -> Supernet:
        from .segment import SegmentationSupernet

        return SegmentationSupernet(space, self.head, search.SHARING, search.RECOMPUTE, search.RESOLUTION)

    def loss(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self._objective.of(logits, targets)

    def child(self, arch: ArchDef) -> nn.Module:
        from .segment import build_child

        return build_child(arch, self.head)

    def inherit(self, child: Any, supernet: Any) -> None:
        from .segment import inherit_segmenter

        inherit_segmenter(child, supernet)

    def score(self, child: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        scores = evaluate_masks(child, batches, self.num_classes)
        return scores["miou"], -scores["loss"]


def search_task(cfg: CfgNode, space: SearchSpace, num_classes: int) -> ClassSearch:
    """The task that `cfg.HEAD` names. Raises ConfigError or InputError where head and space do not go together."""
    return SegmentSearch(cfg, space, num_classes) if cfg.HEAD.NAME else ClassSearch(num_classes)
