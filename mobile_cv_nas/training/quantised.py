"""Training under the rounding of int8, so that what an export rounds later is learnt around."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.blocks import Block
from ..nn.layers import ConvNormAct, SqueezeExcite

_ROUNDED = (ConvNormAct, SqueezeExcite, Block)  # whose outputs an export keeps in int8


class Quantised(nn.Module):
    """A network as int8 computes it, with gradients passed straight through the rounding (Jacob et al., CVPR 2018, section 3).

    Weights of convolutions and linear layers are signed with a scale an output channel; what layers and blocks read and give is unsigned,
    with one range, that of the batch. An export does the same, with ranges of its calibration images. A norm scales each output channel,
    so that rounding before it is rounding of the folded weight; its statistics stay as they are, as after folding.

    The network itself keeps its float weights: nothing of this is in its state dict or in its own forward.

    Args:
        network: a classifier. Shapes: images (N, C, H, W) to logits (N, classes).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> Quantised:
        """Training mode, but for the norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        layers = {name: module for name, module in self.network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
        weights = {f"{name}.weight": rounded_weight(module.weight) for name, module in layers.items()}
        with _rounding(self.network):
            return torch.func.functional_call(self.network, weights, (rounded(images),))


def rounded(x: Tensor) -> Tensor:
    """A tensor on the 256 steps between its least and largest value, 0 among them; the gradient is that of the identity."""
    low, high = x.detach().amin().clamp(max=0).float(), x.detach().amax().clamp(min=0).float()
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)


def rounded_weight(weight: Tensor) -> Tensor:
    """A weight (out, ...) on the 255 steps from -m to m, the largest of an output channel; the gradient is that of the identity."""
    scale = (weight.detach().flatten(1).abs().amax(1) / 127).clamp(min=1e-12)
    zeros = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)


@contextlib.contextmanager
def _rounding(network: nn.Module) -> Iterator[None]:
    """Rounds the output of every layer and block meanwhile."""

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return rounded(output)

    handles = [module.register_forward_hook(hook) for module in network.modules() if isinstance(module, _ROUNDED)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
