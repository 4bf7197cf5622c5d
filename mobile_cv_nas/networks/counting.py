"""MACs and parameters of any module, and of detectors, measured by fvcore."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.shapes import Cost

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


class _OneImage(nn.Module):
    """What a detector of `build_detector` computes of one image, given its number of proposals: nothing depends on the pixels."""

    def __init__(self, detector: nn.Module, proposals: int | None):
        super().__init__()
        self.detector, self.proposals = detector, proposals

    def forward(self, x: Tensor) -> Any:
        detector: Any = self.detector
        maps = list(detector.backbone(x).values())
        if not hasattr(detector, "roi_heads"):
            return detector.head(maps)
        roi = detector.roi_heads
        number = detector.rpn.post_nms_top_n() if self.proposals is None else self.proposals
        pooled = x.new_zeros(number, maps[0].shape[1], *roi.box_roi_pool.output_size)
        return detector.rpn.head(maps), roi.box_predictor(roi.box_head(pooled))


def count_detector(detector: nn.Module, input_size: int, proposals: int | None = None, in_channels: int = 3) -> Cost:
    """MACs of one square image and trainable parameters of a detector, as `count`.

    Backbone, pyramid and the layers on its maps count once, a box head once a proposal. Interpolation in the pyramid counts by
    its output, as fvcore has it; resizing of images, pooling of regions and suppression of boxes do not.

    Args:
        detector: of `build_detector`.
        input_size: side of the image in pixels.
        proposals: of faster_rcnn; None is the most that it keeps in evaluation.
        in_channels: of the image.
    """
    return count(_OneImage(detector, proposals), input_size, in_channels)
