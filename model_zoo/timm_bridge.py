"""The zoo in timm's registry: `timm.create_model("fbnetv2_f4")`, where timm is installed.

Importing this module registers the FBNet families in lower case; `mobile_cv_nas` imports it as soon as timm is
imported. Names that timm has of its own (`fbnetv3_b`, `fbnetv3_d`, `fbnetv3_g`) stay timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from timm.models import register_model
from timm.models._features import FeatureInfo
from torch import nn

from mobile_cv_nas.networks.backbone import FeatureBackbone, stride_maps
from mobile_cv_nas.networks.build import Network
from mobile_cv_nas.nn.heads import Pooled

from .builder import fbnet_builder
from .card import Card, ZooError, all_cards

FAMILIES = ("FBNet", "FBNetV2", "FBNetV3")
__all__: list[str] = []  # timm's decorator appends what it registers


def _config(card: Card) -> dict[str, Any]:
    """What timm.data.resolve_model_data_config reads."""
    return {
        "architecture": card.name.lower(),
        "num_classes": card.classes,
        "input_size": (card.in_channels, card.input_size, card.input_size),
        "crop_pct": card.input_size / (card.resize or card.input_size),
        "interpolation": card.interpolation,
        "mean": card.mean,
        "std": card.std,
        "first_conv": "blocks.s0b0.conv",
        "classifier": "classifier",
        "license": card.weights.license if card.weights else None,
    }


def _features(network: Network, out_indices: Any) -> nn.Module:
    """A `FeatureBackbone` whose `feature_info` is timm's own class."""
    maps = stride_maps(network)
    count = len(maps.strides)
    indices = range(count)[-out_indices:] if isinstance(out_indices, int) else (out_indices or range(count))
    backbone: Any = FeatureBackbone(network, tuple(indices))
    info = [{"num_chs": channels, "reduction": stride, "module": f"blocks.{block}"} for channels, stride, block in zip(*maps, strict=True)]
    backbone.feature_info = FeatureInfo(info, tuple(index % count for index in indices))
    return backbone


def _local_file(overlay: Any, card: Card) -> str | None:
    """The weights of `pretrained_cfg_overlay={"file": PATH}`, timm's way to name a local file."""
    if not overlay:
        return None
    if set(overlay) != {"file"}:
        raise ZooError(f"{card.name.lower()}: pretrained_cfg_overlay takes the key file only, not {', '.join(overlay)}")
    return overlay["file"]


def _entrypoint(card: Card) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        weights = _local_file(options.pop("pretrained_cfg_overlay", None), card)
        if options.pop("pretrained_cfg", None) or options.pop("cache_dir", None):
            raise ZooError(f"{card.name.lower()}: pretrained_cfg and cache_dir are not for this zoo; leave them out")
        num_classes, in_chans = options.pop("num_classes", card.classes), options.pop("in_chans", card.in_channels)
        features_only, out_indices = options.pop("features_only", False), options.pop("out_indices", None)
        if options:
            raise ZooError(f"{card.name.lower()}: no option is called {', '.join(options)}")
        network: Any = fbnet_builder(card.name, pretrained, num_classes or card.classes, in_chans, weights=weights if pretrained else None)
        if features_only:
            network = _features(network, out_indices)
        elif num_classes == 0:  # timm's way to ask for pooled features
            network.classifier = Pooled()
        network.pretrained_cfg = network.default_cfg = _config(card)
        network.num_classes = num_classes
        return network

    build.__name__ = build.__qualname__ = card.name.lower()
    build.__doc__ = f"{card.name} of mobile_cv_nas, {card.input_size} x {card.input_size}."
    return build


for _card in all_cards():
    if _card.family in FAMILIES and _card.table is not None and not timm.is_model(_card.name.lower()):
        globals()[_card.name.lower()] = register_model(_entrypoint(_card))
