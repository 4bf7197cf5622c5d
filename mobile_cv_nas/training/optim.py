"""Optimizers, the learning rate and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .options import TrainOptions


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD or RMSprop; weight decay on convolution and linear weights only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)
    return torch.optim.RMSprop(groups, lr=options.lr, momentum=options.momentum, alpha=options.rmsprop_decay, eps=options.rmsprop_eps)


def learning_rate(options: TrainOptions, step: int, steps_per_epoch: int) -> float:
    """Of a step, counted from 0: a linear rise over the warm-up, then a cosine to 0 at the end of the last epoch."""
    total = options.epochs * steps_per_epoch
    warmup = round(options.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return options.lr * (step + 1) / warmup
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class _Average:
    """The update of a moving average of parameters and buffers.

    The decay of the n-th step is min(decay, (1 + n) / (10 + n)), so that the first weights, which are random, are
    soon forgotten. Integer buffers (counts) are copied: their average means nothing.
    """

    def __init__(self, decay: float):
        self.decay = decay

    @torch.no_grad()
    def __call__(self, averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        n = int(steps)
        weight = 1 - min(self.decay, (1 + n) / (10 + n))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(current), weight)
        else:
            torch._foreach_copy_(list(averaged), list(current))


def build_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Torch's AveragedModel over weights and norm statistics, or None where `decay` is 0."""
    if decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=_Average(decay), use_buffers=True)
