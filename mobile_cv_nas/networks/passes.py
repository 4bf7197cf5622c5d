"""What passes through a network outside its training share: its modes come back, and a detector is known as one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode, training or evaluation, that it was in: a part may be in another than the whole."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def is_detector(model: nn.Module) -> bool:
    """Whether a module is one of torchvision's detectors, as `build_detector` makes them: it resizes images and wants targets itself."""
    transform = getattr(model, "transform", None)
    if not isinstance(transform, nn.Module):
        return False  # torchvision need not be imported to say so
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    return isinstance(transform, GeneralizedRCNNTransform)
