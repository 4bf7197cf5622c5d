"""One optimizer step that happens in full or not at all, and alike on every rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..engine.runtime import NotFinite, average_buffers


@dataclass
class Totals:
    """Sums over the images of a phase so far; `cost` is over steps."""

    loss: float = 0.0
    correct: float = 0.0
    images: float = 0.0
    cost: float = 0.0
    steps: int = 0

    def add(self, loss: float, correct: float, images: float, cost: float) -> None:
        """Adds one step's sums."""
        self.loss, self.correct, self.images = self.loss + loss, self.correct + correct, self.images + images
        self.cost, self.steps = self.cost + cost, self.steps + 1

    @property
    def mean_loss(self) -> float | None:
        """Mean cross-entropy, None before the first image."""
        return self.loss / self.images if self.images else None

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy, None before the first image."""
        return self.correct / self.images if self.images else None

    @property
    def mean_cost(self) -> float | None:
        """Mean cost under the sampled gates, None before the first step."""
        return self.cost / self.steps if self.steps else None


@dataclass
class Phase:
    """What a phase of an epoch trains, and with what.

    Args:
        name: "weights" or "alphas".
        parameters: by name; only these have gradients while the phase runs.
        optimizer: over those parameters.
        model: what is called (a compiled supernet, say).
        buffers: running statistics that a forward pass changes; averaged over the ranks.
        loss: of logits (float32) and targets: the mean loss, and the sum of right answers.
        cost: gives (the term added to the cross-entropy or None, the cost under the gates), both 0-d tensors.
        autocast: makes the context of a forward pass.
        scaler: of the loss, for fp16; None otherwise.
        clip: largest gradient norm; 0 for none.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    model: Callable[[Tensor], Tensor]
    buffers: Sequence[Tensor]
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    cost: Callable[[], tuple[Tensor | None, Tensor]]
    autocast: Callable[[], AbstractContextManager]
    scaler: torch.amp.GradScaler | None
    clip: float = 0.0

    def step(self, parts: Iterable[tuple[Tensor, Tensor]], count: int, totals: Totals, flags: list[float]) -> list[float]:
        """Forward and backward over the `count` parts of a batch, one reduction over the ranks, one update.

        Args:
            parts: (images, targets) each, on the device.
            totals: the step is added here.
            flags: numbers of this rank; their sums over the ranks are returned.

        Raises:
            NotFinite: names the term; nothing was changed but gradients.
        """
        before = self._snapshot()
        self.optimizer.zero_grad(set_to_none=True)
        device = next(iter(self.parameters.values())).device
        sums = torch.zeros(5, dtype=torch.float64, device=device)  # loss, correct, images, cost, penalty
        for images, targets in parts:
            self._backward(images, targets, count, sums)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        summed = torch.cat([sums, torch.tensor(flags, dtype=torch.float64, device=device)])
        world = average([*gradients, *self.buffers], summed)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        loss, correct, images_seen, cost, penalty, *rest = torch.cat([summed, norm.double().view(1)]).tolist()
        *flags, size = rest
        size = size if self.scaler is None else 0.0  # a scaler drops its overflows by itself
        term = self._bad_term({"cross-entropy": loss, "cost term": penalty, "gradient": size})
        if term is None:
            if self.clip:
                torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip, norm)
            self._update()
            bad = [name for name, ok in self._finite_parameters() if not ok]
            term = f"alpha of {bad[0]}" if bad else None
        elif self.scaler is not None:
            self.scaler.update()  # it counts the step as begun otherwise
        if term is not None:
            self._restore(before)
            raise NotFinite(term)
        totals.add(loss, correct, images_seen, cost / world)
        return flags

    def _backward(self, images: Tensor, targets: Tensor, count: int, sums: Tensor) -> None:
        with self.autocast():
            logits = self.model(images)
        loss, correct = self.loss(logits.float(), targets)
        with torch.no_grad():
            sums[:3] += torch.stack([loss.double() * len(targets), correct.double(), sums.new_tensor(len(targets))])
        term, cost = self.cost()
        total = loss / count
        if term is not None:
            total = total + term.float() / count
            sums[4] += term.detach() / count
        sums[3] += cost.detach() / count
        (total if self.scaler is None else self.scaler.scale(total)).backward()

    def _update(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _bad_term(self, numbers: dict[str, float]) -> str | None:
        bad = next((name for name, value in numbers.items() if not math.isfinite(value)), None)
        if bad == "gradient":
            names = [key for key, p in self.parameters.items() if p.grad is not None and not p.grad.isfinite().all()]
            return f"gradient of {names[0]}" if names else "gradient norm"
        return bad

    def _finite_parameters(self) -> list[tuple[str, bool]]:
        if self.name != "alphas":  # a weight that is not finite shows in the next loss
            return []
        flags = torch.stack([p.isfinite().all() for p in self.parameters.values()]).tolist()
        return list(zip(self.parameters, flags, strict=True))

    def _snapshot(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._volatile()]

    @torch.no_grad()
    def _restore(self, before: list[Tensor]) -> None:
        state = self._volatile()
        for tensor, old in zip(state, before):
            tensor.copy_(old)
        if self.name == "alphas" and len(state) > len(before):  # the first update made the optimizer's state
            self.optimizer.state.clear()

    def _volatile(self) -> list[Tensor]:
        """What a step may have changed by the time it is found to be bad."""
        tensors = list(self.buffers)
        if self.name == "alphas":
            tensors += self.parameters.values()
            for state in self.optimizer.state.values():
                tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return tensors


def average(tensors: Sequence[Tensor], sums: Tensor) -> int:
    """Averages `tensors` and sums `sums` over the processes, in place; returns the number of processes.

    All end with the same bits, running statistics included, so that any of them could write the checkpoint.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return 1
    average_buffers(tensors)
    dist.all_reduce(sums)
    return dist.get_world_size()
