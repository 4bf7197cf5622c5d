"""Spaces and networks for the tests of the core."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mobile_cv_nas as nas

SPACES = Path(__file__).parent.parent / "configs" / "spaces"

# Small enough to enumerate, with every kind of choice: input size, block type (three kernels, both activations, three kinds of
# squeeze-and-excite, skip, a convolution among inverted residuals), channels, hidden width, and a pool at the end.
TINY: dict[str, Any] = {
    "name": "tiny",
    "input_size": [16, 24, 8],
    "stages": [
        [["conv_k3_hs", 8, 2]],
        [[["ir_k3", "ir_k5_se_hs", "skip"], [8, 16, 8], 1, 1, {"expansion": [1, 2, 1]}]],
        [
            [["ir_k3_sehsig", "ir_k7_se_hs"], [8, 16, 8], 2, 1, {"expansion": [1, 3, 2]}],
            [["ir_k3", "conv_k3_hs", "skip"], [8, 16, 8], 1, 1],
        ],
        [["ir_pool_hs", [24, 32, 8], 1, 1, {"expansion": 2}]],
    ],
}

# One size, wider choices, consecutive skips, and a plain convolution at the end.
DEEP: dict[str, Any] = {
    "name": "deep",
    "input_size": 24,
    "stages": [
        [["conv_k3", [8, 12, 4], 2]],
        [
            [["ir_k3", "ir_k5_hs", "ir_k3_se", "ir_k5_sehsig_hs", "ir_k7", "skip"], [8, 24, 4], 1, 3, {"expansion": [0.75, 3.25, 0.5]}],
        ],
        [
            [["ir_k3", "ir_k5_hs", "ir_k3_se_hs"], [16, 32, 8], 2, 1, {"hidden": {"any": [12, 40, 96]}}],
            [["ir_k3", "ir_k5_se", "skip"], [16, 48, 16], 1, 2, {"hidden": [16, 64, 16], "zero_gamma": True}],
        ],
        [["conv_k1_hs", [32, 64, 16], 1]],
    ],
}

# The hidden width of a pooled block is chosen too, with and without squeeze-and-excite.
POOLED: dict[str, Any] = {
    **TINY,
    "name": "pooled",
    "stages": [
        *TINY["stages"][:2],
        [["ir_k3", [8, 16, 8], 2, 1]],
        [["ir_pool_hs", [24, 32, 8], 1, 1, {"hidden": [16, 32, 8]}]],
    ],
}

# TensorFlow's padding, which depends on the map's size: even and odd ones at every stride, and several kernels at a stride.
SAME: dict[str, Any] = {**TINY, "name": "same", "input_size": {"any": [15, 18, 24]}, "defaults": {"padding": "same"}}


def parsed(table: dict[str, Any], **changes: Any) -> nas.SearchSpace:
    return nas.SearchSpace.parse({**table, **changes})


def members(space: nas.SearchSpace) -> Iterator[tuple[dict[str, int], nas.ArchDef]]:
    """Every combination of options, with its arch."""
    for combination in itertools.product(*(range(len(choice.options)) for choice in space.choices)):
        picks = dict(zip((choice.name for choice in space.choices), combination, strict=True))
        yield picks, space.decode(picks)


def samples(space: nas.SearchSpace, number: int, seed: int = 0) -> list[nas.ArchDef]:
    rng = random.Random(seed)
    return [space.sample(rng) for _ in range(number)]


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Norm statistics, gains and all biases away from their initial values, so that nothing cancels by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
            bias = getattr(module, "bias", None)
            if isinstance(bias, torch.Tensor):
                bias.normal_(0, 0.3, generator=generator)


def random_alphas(supernet: nas.Supernet, scale: float = 1.0, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for alpha in supernet.alpha_parameters():
            alpha.normal_(0, scale, generator=generator)


def decide(supernet: nas.Supernet, arch: nas.ArchDef) -> None:
    """Alphas so far apart that the noise-free softmax is one-hot at an arch: masks and blends run, and must equal the child."""
    picks = supernet.space.encode(arch)
    supernet.reset()
    with torch.no_grad():
        for name, alpha in supernet.alphas().items():
            alpha.fill_(-1e4)
            alpha[picks[name]] = 1e4


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
