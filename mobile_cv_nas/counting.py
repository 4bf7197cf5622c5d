"""MACs and parameters of any module, measured by fvcore."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from .shapes import Cost

_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm")


def count(model: nn.Module, input_size: int, in_channels: int = 3) -> Cost:
    """MACs of one image and trainable parameters.

    MACs are fvcore's total less its norm entries: convolutions, linear layers, and the elements entering adaptive pools; what the
    mobile literature calls FLOPs, equal to the published figures to the unit.

    Args:
        model: takes (N, in_channels, input_size, input_size); its mode and its norm statistics stay as they are.
        input_size: side of the image in pixels.
        in_channels: of the image.

    Returns:
        `Cost` of exact ints.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts one of its losses when it is imported
        from fvcore.nn import FlopCountAnalysis

    parameter = next(model.parameters())
    image = torch.zeros(1, in_channels, input_size, input_size, device=parameter.device, dtype=parameter.dtype)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            analysis = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            operators = analysis.by_operator()
    finally:
        for module, mode in modes:
            module.training = mode
    macs = sum(int(number) for operator, number in operators.items() if operator not in _NORMS)
    return Cost(macs, sum(p.numel() for p in model.parameters() if p.requires_grad))
