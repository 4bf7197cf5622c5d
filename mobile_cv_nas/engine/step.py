"""One training step that happens in full or not at all, alike on every process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..tasks.task import Batch, Objective
from ..training.optim import build_average, build_optimizer
from .runtime import Runtime, average_buffers


class Outcome(NamedTuple):
    """Sums over the images of a step on all processes, the offending term if it was dropped, the summed flags."""

    loss: float
    correct: float
    images: float
    term: str | None
    flags: list[float]


class Stepper:
    """A network with its optimizer, loss scaler and moving average; all of its state is in `state_dict()`.

    Args:
        cfg: the configuration; TRAIN is used here.
        network: what is trained.
        objective: its loss.
        runtime: device, precision and processes.

    Attributes:
        network: the same weights on the device.
        average: torch's AveragedModel of it, or None.
    """

    def __init__(self, cfg: CfgNode, network: nn.Module, objective: Objective, runtime: Runtime):
        self.cfg, self.runtime = cfg, runtime
        self.network = runtime.place(network)
        self.average = build_average(self.network, cfg.TRAIN.EMA_DECAY)
        self.model = runtime.compile(runtime.distribute(self.network))
        self.optimizer, self.scaler = build_optimizer(self.network, cfg), runtime.scaler()
        self.buffers = list(self.network.buffers())
        self.objective = objective

    @property
    def result(self) -> nn.Module:
        """The network to test: the moving average if there is one."""
        return self.network if self.average is None else self.average.module

    def step(self, batches: Sequence[Batch], rate: float, key: tuple[int, ...], flags: Callable[[], list]) -> Outcome:
        """Forward and backward over `batches`, one update at learning rate `rate`.

        `key` seeds what is random in the step. `flags` is asked at the end of it, for numbers that all processes then
        know the sums of. If the loss or a gradient is not finite, everything but the gradients stays as it was.
        """
        before = [buffer.clone() for buffer in self.buffers]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, dtype=torch.float64, device=self.runtime.device)
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1 or self.runtime.world == 1
            with contextlib.nullcontext() if last else self.model.no_sync():
                sums += self._backward(batch, len(batches), (*key, i))
        average_buffers(self.buffers)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        loss, correct, count, size, *summed = self._reduce(sums, norm, flags())
        term = self._bad_term(loss, size)
        if term is None:
            self._update(norm)
        else:
            torch._foreach_copy_(self.buffers, before)
        return Outcome(loss, correct, count, term, summed)

    def _backward(self, batch: Batch, parts: int, key: tuple[int, ...]) -> Tensor:
        """Sums of the loss and of right answers, and the number of images."""
        loss, right, images = self.objective.loss(self.model, batch, key)
        (loss / parts if self.scaler is None else self.scaler.scale(loss / parts)).backward()
        return torch.stack([loss.detach().double() * images, right.double(), loss.new_tensor(images, dtype=torch.float64)])

    def _reduce(self, sums: Tensor, norm: Tensor, flags: list) -> list[float]:
        """All that a step must know of the device and of the other processes, in one transfer."""
        wishes = sums.new_tensor([float(flag) for flag in flags])
        values = torch.cat([sums, norm.detach().double().view(1), wishes])
        if self.runtime.world > 1:
            torch.distributed.all_reduce(values)
        return values.tolist()

    def _bad_term(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return self.objective.loss_name
        if self.scaler is not None or math.isfinite(norm):  # a scaler drops its overflows by itself
            return None
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return f"gradient of {name}"
        return "gradient norm"

    def _update(self, norm: Tensor) -> None:
        if self.cfg.TRAIN.CLIP_GRAD > 0:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.cfg.TRAIN.CLIP_GRAD, norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts():
            part.load_state_dict(state[name])

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [
            ("network", self.network),
            ("optimizer", self.optimizer),
            ("scaler", self.scaler),
            ("average", self.average),
        ]
        return [(name, part) for name, part in parts if part is not None]
