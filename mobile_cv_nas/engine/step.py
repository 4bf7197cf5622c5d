"""One training step that happens in full or not at all, and alike on every process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .runtime import Runtime

RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # buffers that a forward pass changes


@dataclass(frozen=True)
class Loss:
    """What a batch gives a step.

    Attributes:
        total: 0-d, what the backward pass begins with: the mean over the batch.
        images: in the batch.
        terms: 0-d each, by name: parts of `total`; the step is dropped, and the term named, if one is not finite.
        sums: 0-d each, by name: added up over the batches of the step and over the processes.
    """

    total: Tensor
    images: int
    terms: Mapping[str, Tensor]
    sums: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a step: its sums over all processes, the offending term if it was dropped, the summed flags."""

    sums: dict[str, float]  # those of the losses, and "images"
    term: str | None
    flags: list[float]


class Stepper:
    """Parameters with their optimizer and loss scaler, and the norm statistics that a forward pass changes.

    Args:
        parameters: by name; only these are updated.
        optimizer: over those parameters.
        network: whose norm statistics are averaged over the processes, and put back when a step is dropped.
        runtime: precision and processes.
        clip: largest gradient norm; 0 for none.
        average: moving average of the weights, updated after each step.
        watched: look at the parameters after the update, and undo it if one is not finite. Weights show it in the next loss.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        network: nn.Module,
        runtime: Runtime,
        clip: float = 0.0,
        average: AveragedModel | None = None,
        watched: bool = False,
    ):
        self.parameters, self.optimizer, self.runtime = dict(parameters), optimizer, runtime
        self.network, self.clip, self.average, self.watched = network, clip, average, watched
        self.scaler = runtime.scaler()
        self.buffers = [buffer for name, buffer in network.named_buffers() if name.endswith(RUNNING)]

    def step(self, batches: Iterable[Any], parts: int, loss: Callable[[Any, int], Loss], flags: Callable[[], Sequence[float]]) -> Outcome:
        """Forward and backward over the `parts` batches, one reduction over the processes, one update.

        `loss` is called with each batch and its number. `flags` is asked at the end for numbers that all processes then know the
        sums of. If a term or a gradient is not finite, everything but the gradients stays as it was.
        """
        before = self._snapshot()
        self.optimizer.zero_grad(set_to_none=True)
        found: list[Loss] = []
        for number, batch in enumerate(batches):
            one = loss(batch, number)
            total = one.total / parts
            (total if self.scaler is None else self.scaler.scale(total)).backward()
            found.append(one)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.runtime.average([*gradients, *self.buffers])
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        sums, terms, (size, *summed) = self._reduce(found, norm, flags())
        term = self._bad_term(terms, size)
        if term is None:
            term = self._update(norm)
        elif self.scaler is not None:
            self.scaler.update()  # it counts the step as begun otherwise
        if term is not None:
            self._restore(before)
        return Outcome(sums, term, summed)

    def _reduce(
        self, found: Sequence[Loss], norm: Tensor, flags: Sequence[float]
    ) -> tuple[dict[str, float], dict[str, float], list[float]]:
        """Sums, terms, and the norm and the flags: all that a step must know of the device and the other processes, in one transfer."""
        names = [*found[0].sums, *found[0].terms, "images"]
        rows = []
        for one in found:
            values = [self.runtime.exact(value) for value in (*one.sums.values(), *one.terms.values())]
            rows.append(torch.stack([*values, values[0].new_tensor(one.images)]))
        size = self.runtime.exact(norm).view(1)
        rest = [size, size.new_tensor([float(flag) for flag in flags])]
        numbers = self.runtime.total(torch.cat([torch.stack(rows).sum(0), *rest]))
        by_name = dict(zip(names, numbers))
        sums = {name: by_name[name] for name in (*found[0].sums, "images")}
        return sums, {name: by_name[name] for name in found[0].terms}, numbers[len(names) :]

    def _bad_term(self, terms: Mapping[str, float], norm: float) -> str | None:
        bad = next((name for name, value in terms.items() if not math.isfinite(value)), None)
        if bad is not None or self.scaler is not None or math.isfinite(norm):  # a scaler drops its overflows by itself
            return bad
        names = [key for key, p in self.parameters.items() if p.grad is not None and not p.grad.isfinite().all()]
        return f"gradient of {names[0]}" if names else "gradient norm"

    def _update(self, norm: Tensor) -> str | None:
        """Updates the parameters; the name of the first that is then not finite, if they are watched."""
        if self.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip, norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        if not self.watched:
            return None
        flags = torch.stack([p.isfinite().all() for p in self.parameters.values()]).tolist()
        return next((name for name, ok in zip(self.parameters, flags) if not ok), None)

    # -- what a dropped step puts back -------------------------------------------------------------------------------

    def _snapshot(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._volatile()]

    @torch.no_grad()
    def _restore(self, before: list[Tensor]) -> None:
        state = self._volatile()
        for tensor, old in zip(state, before):
            tensor.copy_(old)
        if self.watched and len(state) > len(before):  # the first update made the optimizer's state
            self.optimizer.state.clear()

    def _volatile(self) -> list[Tensor]:
        """What a step may have changed by the time it is found to be bad."""
        tensors = list(self.buffers)
        if self.watched:
            tensors += self.parameters.values()
            for state in self.optimizer.state.values():
                tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return tensors

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, loss scaler and moving average; the network is its owner's to save."""
        return {name: part.state_dict() for name, part in self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts():
            part.load_state_dict(state[name])

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [("optimizer", self.optimizer), ("scaler", self.scaler), ("average", self.average)]
        return [(name, part) for name, part in parts if part is not None]
