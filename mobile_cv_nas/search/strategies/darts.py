"""DARTS: every candidate runs, weighted by softmax(alpha), without noise.

Source: Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019).
    gates         g = softmax(alpha)                                            Eq. 2
    weights       w <- w - lr dL_train(w, alpha)/dw
    first order   alpha <- Adam on L_val(w, alpha)
    second order  d/dalpha L_val(w', alpha) - xi d2/(dalpha dw) L_train(w, alpha) . dL_val/dw'    Eq. 7
                  with w' = w - xi (momentum * buffer + dL_train/dw + weight_decay * w), xi the weights' learning rate, and the product by
                  (dL_train(w+)/dalpha - dL_train(w-)/dalpha) / (2 eps), w+- = w +- eps dL_val/dw', eps = 0.01 / |dL_val/dw'|    Eq. 8
It departs from the paper in the space (widths are masks, as in `dmasking`, not cells), in the cost term, and in a warm-up of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...engine.step import Loss
from ...errors import InputError
from ..options import SearchOptions
from .alphas import AlphaStrategy
from .base import Setting

EPSILON = 0.01  # of the finite difference, over the norm of the gradient


class Darts(AlphaStrategy):
    """The mixture under softmax(alpha)."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.refuse_sampled_sizes("has no noise, and every step would run the same input size")
        if self.options.second_order and self.runtime.options.precision == "fp16":
            raise InputError("SEARCH.DARTS.SECOND_ORDER: its finite differences are lost in fp16; set RUNTIME.PRECISION bf16 or no")

    @classmethod
    def passes(cls, options: SearchOptions) -> dict[str, int]:
        return {"weights": 1, "alphas": 4 if options.second_order else 1}

    def begin(self, phase: str, epoch: int) -> None:
        super().begin(phase, epoch)
        if phase == "alphas" and self.options.second_order:
            for weight in self.steppers["weights"].parameters.values():
                weight.requires_grad_(True)

    def prepare(self, phase: str, epoch: int, step: int) -> None:
        self.supernet.reset()

    def loss(self, phase: str, batch: Any, key: tuple[int, ...]) -> Loss:
        if phase == "weights" or not self.options.second_order:
            return super().loss(phase, batch, key)
        alphas = list(self.steppers["alphas"].parameters.values())
        found, gradients = self._unrolled(batch, self._training_batch(key), key, alphas)
        term = self.cost_term()
        # A sum whose gradient is the one found, and whose value is the loss.
        through = torch.stack([((alpha - alpha.detach()) * gradient).sum() for alpha, gradient in zip(alphas, gradients)]).sum()
        total = found.total.detach() + through + term.float()
        sums = self.counted(found, 4 * self.whole_macs, 4)
        return Loss(total, found.images, {**found.terms, "cost term": term, "second order": through}, sums)

    def _training_batch(self, key: tuple[int, ...]) -> Any:
        """Of the images that the weights learn from; the same whenever this step is made."""
        loader, (epoch, step, part) = self.loaders["weights"], key
        place = (step * self.runtime.options.accumulate + part) % len(loader)
        (batch,) = loader.epoch(epoch, start=place, stop=place + 1)
        return [self.runtime.move(one) for one in batch]

    def _unrolled(self, val: Any, train: Any, key: tuple[int, ...], alphas: Sequence[Tensor]) -> tuple[Loss, list[Tensor]]:
        """The validation loss after a step of the weights, and its gradient with respect to the alphas."""
        optimizer: Any = self.steppers["weights"].optimizer
        group = optimizer.param_groups[0]
        weights: list[Any] = list(self.steppers["weights"].parameters.values())
        rate = group["lr"]
        direction = self._gradient(train, key, weights)
        with _moved(weights) as move, torch.no_grad():
            for weight, step in zip(weights, direction):
                buffer = optimizer.state[weight].get("momentum_buffer") if weight in optimizer.state else None
                step.add_(weight, alpha=group["weight_decay"])
                if buffer is not None:
                    step.add_(buffer, alpha=group["momentum"])
            move(direction, -rate)
            with torch.enable_grad():
                found = self.task_loss(val, key)
                gradients = torch.autograd.grad(found.total, [*alphas, *weights], allow_unused=True)
            first = [_filled(g, alpha) for g, alpha in zip(gradients, alphas)]
            slope = [_filled(g, weight) for g, weight in zip(gradients[len(alphas) :], weights)]
            self.runtime.average(slope)
            size = EPSILON / torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in slope])).clamp_min(1e-12)
            move(slope, float(size))
            plus = self._gradient(train, key, alphas)
            move(slope, -float(size))
            minus = self._gradient(train, key, alphas)
        return found, [g - rate * (p - m) / (2 * size) for g, p, m in zip(first, plus, minus)]

    def _gradient(self, batch: Any, key: tuple[int, ...], of: Sequence[Any]) -> list[Tensor]:
        """Of the loss of a training batch, averaged over the processes."""
        with torch.enable_grad():
            found = torch.autograd.grad(self.task_loss(batch, key).total, of, allow_unused=True)
        gradients = [_filled(g, p) for g, p in zip(found, of)]
        self.runtime.average(gradients)
        return gradients


def _filled(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient.clone()


@contextmanager
def _moved(weights: Sequence[Tensor]) -> Iterator[Any]:
    """Within it `move(directions, by)` puts the weights at that distance from where they were; afterwards they are there again."""
    before = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def move(directions: Sequence[Tensor], by: float) -> None:
        for weight, start, direction in zip(weights, before, directions):
            weight.copy_(start + by * direction)

    try:
        yield move
    finally:
        with torch.no_grad():
            for weight, start in zip(weights, before):
                weight.copy_(start)
