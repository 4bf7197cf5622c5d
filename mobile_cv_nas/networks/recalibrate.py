"""Norm statistics of a network, renewed from images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Renews all norm statistics in place: reset, then the average over the batches.

    What a child inherits are the statistics of a mixture of archs; these are its own. The model ends in the mode it was in.

    Args:
        model: any module with batch norms.
        batches: of images (N, C, H, W), as the model takes them; without any the statistics are those of a new network.

    >>> import torch
    >>> norm = nn.BatchNorm2d(1)
    >>> recalibrate_batchnorm(norm, [torch.full((2, 1, 4, 4), 3.0)])
    >>> norm.running_mean
    tensor([3.])
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta, was_training = [norm.momentum for norm in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a cumulative average
    model.train()
    try:
        for images in batches:
            _pass(model, images)
    finally:
        model.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _pass(model: Any, images: Any) -> None:
    """A forward pass in training mode; of a detector through the maps alone, since it would ask for targets."""
    if isinstance(images, Tensor):
        model(images)
        return
    batch, _ = model.transform(list(images))
    model.head(list(model.backbone(batch.tensors).values()))
