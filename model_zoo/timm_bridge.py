"""The zoo in timm's registry: `timm.create_model("fbnetv2_f4")`, where timm is installed.

Importing this module registers the FBNet families in lower case; `mobile_cv_nas` imports it as soon as timm is
imported. Names that timm has of its own (`fbnetv3_b`, `fbnetv3_d`, `fbnetv3_g`) stay timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import pretrained_cfg_for_features, resolve_pretrained_cfg
from timm.models._features import FeatureInfo
from torch import nn

from mobile_cv_nas.arch.layer import map_sizes
from mobile_cv_nas.errors import did_you_mean
from mobile_cv_nas.networks.backbone import FeatureBackbone
from mobile_cv_nas.networks.network import Network

from .card import Card, ZooError, all_cards, get_card
from .weights import load_weights

FAMILIES = ("FBNet", "FBNetV2", "FBNetV3")
TAG = "fb_in1k"  # of the released weights
OPTIONS = ("global_pool", "drop_rate", "drop_path_rate", "output_stride", "bn_eps", "bn_momentum", "device", "dtype")
__all__: list[str] = []  # timm's decorator appends what it registers


def _config(card: Card) -> dict[str, Any]:
    """What timm's registry says of a network and of its weights."""
    layers = card.arch.layers
    side = map_sizes(layers, card.input_size)[-2 if layers[-1].names[0].startswith("ir_pool") else -1]
    return {
        "url": card.weights.url if card.weights else None,
        "custom_load": card.weights is not None,  # the released names of weights are not the network's
        "num_classes": card.classes,
        "input_size": (card.in_channels, card.input_size, card.input_size),
        "pool_size": (side, side),
        "crop_pct": card.input_size / (card.resize or card.input_size),
        "interpolation": card.interpolation,
        "mean": card.mean,
        "std": card.std,
        "first_conv": "blocks.s0b0.conv",
        "classifier": "classifier",
        "license": card.weights.license if card.weights else None,
        "origin_url": card.published.source if card.published else None,
        "paper_name": card.paper.partition(", arXiv:")[0],
        "paper_ids": f"arXiv:{card.paper.partition('arXiv:')[2]}",
    }


class TimmNetwork(Network):
    """A `Network` of a card, as timm builds and loads it."""

    card_name = ""

    @torch.jit.ignore
    def load_pretrained(self, path: str) -> None:
        """Loads a file of weights of any form that the zoo reads; timm calls it with the file that it fetched."""
        load_weights(self, get_card(self.card_name), path)


def _make(
    card: Card, loads: bool, file: str | None, num_classes: int = 1000, in_chans: int = 3, global_pool: str = "avg", **options: Any
) -> nn.Module:
    """The network; `loads` its weights from `file`, or if that is None the card's own."""
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise ZooError(f"{card.name.lower()}: no option is called {unknown}{did_you_mean(unknown, OPTIONS)}")
    device = options.get("device")
    with torch.device(device) if device is not None else nullcontext():
        network = TimmNetwork(card.arch, num_classes or card.classes, in_chans)
        network.card_name = card.name
    if loads:
        load_weights(network, card, file)
    if num_classes == 0 or global_pool != "avg":
        network.reset_classifier(num_classes, global_pool)
    network.drop_rate = float(options.get("drop_rate", 0))
    network.set_drop_path(options.get("drop_path_rate", 0))
    network.set_output_stride(options.get("output_stride", network.maps.strides[-1]))
    _set_norms(network, {name: options[f"bn_{name}"] for name in ("eps", "momentum") if f"bn_{name}" in options})
    return network.to(dtype=options.get("dtype"))


def _set_norms(network: nn.Module, values: Mapping[str, float]) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, value in values.items():
                setattr(module, name, value)


def _features(network: Any, out_indices: Any = None) -> nn.Module:
    """A `FeatureBackbone` whose `feature_info` is timm's own class."""
    count = len(network.feature_info)
    indices = range(count)[-out_indices:] if isinstance(out_indices, int) else range(count) if out_indices is None else out_indices
    backbone: Any = FeatureBackbone(network, tuple(indices))
    backbone.feature_info = FeatureInfo(network.feature_info, tuple(index % count for index in indices))
    backbone.in_chans = network.in_chans
    backbone.pretrained_cfg = backbone.default_cfg = pretrained_cfg_for_features(network.pretrained_cfg)
    return backbone


def _loads(card: Card, cfg: Any, cache_dir: Any) -> bool:
    """Whether weights are the zoo's to load: the card's own, or a file on this machine; all others timm fetches and loads."""
    own = cfg.url == (card.weights.url if card.weights else None)
    ours = cfg.source is None and not cfg.state_dict and not cfg.hf_hub_id and (cfg.file or own)
    if ours and cache_dir:
        raise ZooError(f"{card.name.lower()}: cache_dir is of timm's downloads; the zoo's are kept in $MOBILE_CV_NAS_HOME")
    return bool(ours)


def _entrypoint(card: Card) -> Callable[..., nn.Module]:
    name = card.name.lower()

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        own = {key: options.pop(key, None) for key in ("pretrained_cfg", "pretrained_cfg_overlay")}
        cfg = resolve_pretrained_cfg(name, **own)
        loads = pretrained and _loads(card, cfg, options.get("cache_dir"))
        features = options.pop("features_only", False)
        staged = features and not options.keys() & {"feature_cls", "feature_cfg"}  # by our own class, else by one of timm's
        if staged:  # as timm has it: no classifier, whose options are then without meaning
            indices = options.pop("out_indices", None)
            options = {key: value for key, value in options.items() if key not in ("num_classes", "global_pool")}
        elif features:
            options |= {"features_only": True, "feature_cfg": {"flatten_sequential": True, **options.get("feature_cfg", {})}}
        network = build_model_with_cfg(
            partial(_make, card, loads, cfg.file if loads else None), name, pretrained and not loads, **own, **options
        )
        return _features(network, indices) if staged else network

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{card.name} of mobile_cv_nas, {card.input_size} x {card.input_size}."
    return build


_CARDS = [card for card in all_cards() if card.family in FAMILIES and card.table is not None and not timm.is_model(card.name.lower())]
# timm's decorator looks for this name
default_cfgs = generate_default_cfgs({f"{card.name.lower()}{f'.{TAG}' * (card.weights is not None)}": _config(card) for card in _CARDS})
for _card in _CARDS:
    globals()[_card.name.lower()] = register_model(_entrypoint(_card))
