"""fbnet_builder: a network by name, with or without weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mobile_cv_nas.arch import ArchDef
from mobile_cv_nas.networks.backbone import FeatureBackbone
from mobile_cv_nas.networks.build import build_model

from .card import Card, ZooError, get_card
from .weights import load_weights, read_state

_LOG = logging.getLogger(__name__)


def fbnet_builder(
    name_or_arch: str | os.PathLike | ArchDef,
    pretrained: bool | str = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    weights: str | os.PathLike | None = None,
    progress: bool = True,
) -> nn.Module:
    """Builds a network: (N, in_channels, H, W) to logits (N, num_classes), or with `features_only` to a list of maps.

    Args:
        name_or_arch: a name (`list_models()`), an ArchDef, or the path of an arch file.
        pretrained: load the network's published weights: from the cache, else downloaded. "timm": those on timm's hub, for the network that
            timm has under this name (`get_card(name).source("timm")`).
        num_classes: None is what the weights have; without weights what the card has, or 1000 of an arch. Another number than that of the
            weights makes the head new, and a warning says so.
        in_channels: of the images, in the same way, or 3 of an arch. To another number than that of the weights the stem is adapted as
            timm does.
        features_only: return a `FeatureBackbone` without the classifier.
        out_indices: which maps, by position in the network's list of strides; None is all of them.
        weights: a file to load; goes before `pretrained`.
        progress: show a bar while downloading.

    Raises:
        ZooError: unknown name, arch never published, `out_indices` out of place.
        WeightsError: no weights, none to be had, or weights that do not fit.
        ArchError: a faulty arch file.
    """
    arch, card = find_arch(name_or_arch, pretrained)
    if out_indices is not None and not features_only:
        raise ZooError("out_indices picks among feature maps: give features_only=True with it")
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ZooError(f"{what} is {value!r}: it must be an int of 1 or more, or None for what the weights or the card have")
    own = (card.classes, card.in_channels) if card is not None else (1000, 3)
    state = None
    if pretrained or weights is not None:
        with torch.device("meta"):  # only its names and shapes are needed
            like = build_model(arch, *own)
        state = read_state(like, card, weights, progress)
        stem, conv = next((name, module) for name, module in like.named_modules() if isinstance(module, nn.Conv2d))
        own = len(state["classifier.bias"]), state[f"{stem}.weight"].shape[1] * conv.groups
        if features_only:
            num_classes = None  # the head is left out
    network = build_model(arch, own[0] if num_classes is None else num_classes, own[1] if in_channels is None else in_channels)
    if state is not None:
        load_weights(network, card, state=state)
    return FeatureBackbone(network, out_indices) if features_only else network


def find_arch(name_or_arch: str | os.PathLike | ArchDef, pretrained: bool | str = False) -> tuple[ArchDef, Card | None]:
    """The arch of a name, an arch file or an ArchDef, and the card of a name; where `pretrained` names a library, of its weights."""
    if isinstance(name_or_arch, ArchDef):
        arch, card = name_or_arch, None
    else:
        text = os.fspath(name_or_arch)
        is_file = not isinstance(name_or_arch, str) or os.sep in text or Path(text).suffix in (".yaml", ".yml")
        card = None if is_file else get_card(text)
        arch = ArchDef.load(text) if card is None else card.arch
    if not isinstance(pretrained, str):
        return arch, card
    if card is None:
        raise ZooError(f"pretrained is {pretrained!r}, and an arch alone has no published weights: name a network of the zoo")
    found = card.source(pretrained)
    if found.name != card.name:
        _LOG.info("%s: %s's network of this name is %s", card.name, pretrained, found.name)
    return found.arch, found
