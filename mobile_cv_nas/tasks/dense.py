"""What detectors and segmenters share: how one is built from weights, and what its weight file keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..arch import ArchDef
from ..networks.backbone import FeatureBackbone
from ..networks.build import build_model
from ..weights.file import WeightsError
from ..weights.fit import fit_weights

_SOURCE = "the weights to start from"


def dense_network(arch: ArchDef, weights: Mapping[str, Tensor] | None, build: Callable[[Any], nn.Module], in_channels: int) -> nn.Module:
    """A detector or segmenter, at random, from a state dict of its own, or on the backbone of a classifier's."""
    if weights is None:
        return build(arch)
    if any(name.startswith("backbone.") for name in weights):
        network = build(arch)
        fit_weights(network, weights, _SOURCE)
        return network
    classifier = weights.get("classifier.weight")
    if classifier is None:
        raise WeightsError(f"{_SOURCE}: neither a classifier's nor those of a head of this library")
    backbone = build_model(arch, len(classifier), in_channels)
    fit_weights(backbone, weights, _SOURCE)
    return build(FeatureBackbone(backbone))


def dense_content(task: Any, arch: ArchDef) -> dict[str, Any]:
    """What a weight file keeps of a detector's or a segmenter's task."""
    head = {"name": task.head.name, "input_size": task.head.input_size, "options": task.options()}
    return {"task": task.kind, "head": head}
