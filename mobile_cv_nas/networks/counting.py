"""MACs and parameters of any module, and of detectors, measured by fvcore."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, check_kind, positive_int, shown
from ..nn.shapes import Cost
from .passes import is_detector, keeping_modes

_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm")


def count(model: nn.Module, input_size: int | Sequence[int], in_channels: int = 3) -> Cost:
    """MACs of one image and parameters, frozen ones too.

    MACs are fvcore's total less its norm entries: convolutions, linear layers, and the elements entering adaptive pools; what the
    mobile literature calls FLOPs, equal to the published figures to the unit.

    Args:
        model: takes (N, in_channels, height, width), or a detector, which is counted as `count_detector` does; its modes and its norm
            statistics stay as they are.
        input_size: side of the image in pixels, or (height, width).
        in_channels: of the image.

    Returns:
        `Cost` of exact ints.

    Raises:
        InputError: an argument is not one of these.
    """
    check_kind(model, nn.Module, "count: the model", "give a network, such as build_model makes, or the .network of a loaded model")
    if is_detector(model):
        return count_detector(model, input_size, in_channels=in_channels)
    height, width = _sides(input_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore scripts one of its losses when it is imported
        from fvcore.nn import FlopCountAnalysis

    like = next(model.parameters(), torch.zeros(()))  # a module without parameters is counted on the CPU
    image = like.new_zeros(1, positive_int(in_channels, "count: in_channels"), height, width)
    with keeping_modes(model), torch.no_grad():
        model.eval()
        analysis = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        operators = analysis.by_operator()
    macs = sum(int(number) for operator, number in operators.items() if operator not in _NORMS)
    return Cost(macs, sum(p.numel() for p in model.parameters()))


def _sides(input_size: Any) -> tuple[int, int]:
    """Height and width of an image."""
    try:
        height, width = input_size if isinstance(input_size, (tuple, list)) else (input_size, input_size)
        return positive_int(height, "height"), positive_int(width, "width")
    except ValueError:  # more or fewer than two, or no such ints
        raise InputError(f"count: input_size must be an int or (height, width), in pixels, not {shown(input_size)}") from None


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


def count_detector(detector: nn.Module, input_size: int | Sequence[int], proposals: int | None = None, in_channels: int = 3) -> Cost:
    """MACs of one image and parameters of a detector, as `count`. The image is taken as resized already: its size is what is counted.

    Backbone, pyramid and the layers on its maps count once, a box head once a proposal. Interpolation in the pyramid counts by
    its output, as fvcore has it; resizing of images, pooling of regions and suppression of boxes do not.

    Args:
        detector: of `build_detector`.
        input_size: side of the resized image in pixels, or (height, width).
        proposals: of faster_rcnn; None is the most that it keeps in evaluation.
        in_channels: of the image.

    Raises:
        InputError: a detector with masks or keypoints, whose layers these are not all.
    """
    roi: Any = getattr(detector, "roi_heads", None)
    if roi is not None and (roi.has_mask() or roi.has_keypoint()):
        raise InputError("count: a detector with masks or keypoints has heads that are not counted; give one of build_detector")
    return count(_OneImage(detector, proposals), input_size, in_channels)
