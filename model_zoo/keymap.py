"""Key names: ours beside those of the released checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from mobile_cv_nas.networks.build import Network
from mobile_cv_nas.nn.blocks import IRPool, Skip

RELEASED_PREFIX = "backbone.stages."
_BLOCK = re.compile(r"s(\d+)b(\d+)")
# beginnings of a block's keys, ours and theirs; the first that fits
_RULES = {
    IRPool: (("se.reduce.", "pw_se.se.0.conv."), ("se.expand.", "pw_se.se.1."), ("pwl.", "pwl.conv.")),
    Skip: (("proj.", "conv."),),
    nn.Module: (("se.reduce.", "se.se.0.conv."), ("se.expand.", "se.se.1.")),
}


def released_names(network: Network) -> dict[str, str]:
    """Our state-dict keys to those of the released checkpoints, in our order.

    Theirs: block `s4b0` is `backbone.stages.xif4_0`, a norm is `bn`, the classifier a 1x1 convolution `head.conv`.
    """
    names = {}
    for child, block in network.blocks.named_children():
        match = _BLOCK.fullmatch(child)
        if match is None:
            raise ValueError(f"block {child!r}: a zoo network's blocks are called s<stage>b<block>")
        rules = next(rules for kind, rules in _RULES.items() if isinstance(block, kind))
        for key in block.state_dict():
            names[f"blocks.{child}.{key}"] = f"{RELEASED_PREFIX}xif{match[1]}_{match[2]}.{_renamed(key, rules)}"
    for key in network.classifier.state_dict():
        names[f"classifier.{key}"] = f"head.conv.{key}"
    return names


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in rules:
        if key.startswith(ours):
            key = theirs + key.removeprefix(ours)
            break
    return re.sub(r"(^|\.)norm\.", r"\1bn.", key)


def to_released(state: Mapping[str, torch.Tensor], network: Network) -> dict[str, torch.Tensor]:
    """A state dict of ours under the released names and shapes (the classifier is (classes, C, 1, 1) there)."""
    released = {theirs: state[ours] for ours, theirs in released_names(network).items()}
    released["head.conv.weight"] = released["head.conv.weight"][:, :, None, None]
    return released


def from_released(state: Mapping[str, torch.Tensor], network: Network) -> dict[str, torch.Tensor]:
    """The inverse of `to_released`; keys it does not know keep their names, for the check that follows."""
    ours = {theirs: key for key, theirs in released_names(network).items()}
    renamed = {ours.get(key, key): value for key, value in state.items()}
    weight = renamed.get("classifier.weight")
    if weight is not None and weight.ndim == 4 and weight.shape[2:] == (1, 1):
        renamed["classifier.weight"] = weight.flatten(1)
    return renamed
