"""Norm statistics of a network, renewed from images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, check_kind, listed, shown
from .passes import is_detector, keeping_modes


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Renews all norm statistics in place: reset, then the average over the batches.

    What a child inherits are the statistics of a mixture of archs; these are its own. Every module ends in the mode it was in.

    Args:
        model: any module with batch norms.
        batches: of images (N, C, H, W), or of (images, labels), as loaders give them; for a detector also of lists of images (C, H, W).
            Without any the statistics are those of a new network.

    Raises:
        InputError: something else was given. After any error the statistics are what they were.

    >>> import torch
    >>> norm = nn.BatchNorm2d(1)
    >>> recalibrate_batchnorm(norm, [torch.full((2, 1, 4, 4), 3.0)])
    >>> norm.running_mean
    tensor([3.])
    """
    check_kind(model, nn.Module, "recalibrate_batchnorm: the model", "give a network, or the .network of a loaded model")
    if not isinstance(batches, Iterable) or (isinstance(batches, Tensor) and batches.ndim == 4):
        raise InputError(f"recalibrate_batchnorm: batches must be a list of batches or a loader, such as [images], not {_words(batches)}")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)}) for norm in norms]
    detector = is_detector(model)
    with keeping_modes(model):
        model.train()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's sign for a cumulative average
            for batch in batches:
                _pass(model, _images(batch, detector), detector)
        except BaseException:
            for norm, (_, buffers) in zip(norms, before, strict=True):
                for name, buffer in buffers.items():
                    norm.get_buffer(name).copy_(buffer)
            raise
        finally:
            for norm, (momentum, _) in zip(norms, before, strict=True):
                norm.momentum = momentum


def _images(batch: Any, detector: bool) -> Any:
    """The images of a batch: a tensor, or for a detector a list."""
    pair = isinstance(batch, (tuple, list)) and len(batch) > 0
    first = batch[0] if pair else batch
    images = first if pair and (getattr(first, "ndim", 0) == 4 or isinstance(first, (tuple, list))) else batch
    if detector and isinstance(images, (tuple, list, Tensor)):
        images = list(images)
        if images and all(isinstance(image, Tensor) and image.ndim == 3 for image in images):
            return images
    elif not detector and isinstance(images, Tensor):
        return images
    takes = "a list of images (C, H, W) or (images, targets)" if detector else "images (N, C, H, W) or (images, labels)"
    raise InputError(f"recalibrate_batchnorm: a batch must be {takes}, not {_words(batch)}")


def _words(value: Any) -> str:
    """What was given, without the numbers of a tensor."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {listed(map(_words, value), 2) or 'none'}"
    return shown(value)


def _pass(model: Any, images: Any, detector: bool) -> None:
    """A forward pass in training mode; of a detector through the maps alone, since it would ask for targets."""
    if not detector:
        model(images)
        return
    batch, _ = model.transform(images)
    model.head(list(model.backbone(batch.tensors).values()))
