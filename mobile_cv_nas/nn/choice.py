"""Choices, their alphas, and everything a step needs of them, computed for the whole network at once.

A `Choice` is one decision with its options. A `Dist` is what a layer sees of it: the options of one dimension of that layer, and a
slot in the `Gates` of the step, where its mask (widths), taps (kernels) or marginal (activations, squeeze-and-excite) lies. All gates
come from one softmax over one padded matrix, all masks from one gather: the number of operations does not grow with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, real, shown
from .exact import ExactBuffers

SKIP = object()  # the value of a property for a block that is not there


@dataclass(frozen=True)
class Choice:
    """One decision of a space.

    Attributes:
        name: `s2b0.channels`: stage 2, block 0; or `input_size`.
        options: block names as the row has them; widths and sizes in ascending order.

    >>> from mobile_cv_nas import SearchSpace
    >>> SearchSpace.parse({"input_size": [8, 16, 8], "stages": [[["conv_k3", 8, 2]]]}).choices
    (Choice(name='input_size', options=(8, 16)),)
    """

    name: str
    options: tuple[Any, ...]


@dataclass(frozen=True)
class Dist:
    """One dimension of a layer that a choice decides: its options, and where the step's tensor for it lies."""

    slot: int
    options: tuple[Any, ...]

    @property
    def max(self) -> Any:
        """The last option: the widest, for widths and kernels."""
        return self.options[-1]


def largest(dim: int | Dist) -> int:
    """The width that a dimension takes up in memory."""
    return dim.max if isinstance(dim, Dist) else dim


@dataclass(frozen=True)
class Gates:
    """The gates of one forward pass.

    Attributes:
        tensors: per slot, a mask (C,), taps (k, k) or a marginal (options,); empty when a single arch is selected.
        picked: per slot, the index of the selected option; None when the gates are soft.
        blocks: per layer, the index of the selected block name; empty when the gates are soft.
        units: per unit of the network, the gate that weights its output (0-d), None for a lone unit.
        residual: per layer, the weight of its input in its output (0-d): agreement and skip.
        skip: per layer, the gate of its skip (0-d).
        sizes: (sizes,) the gates of the input sizes.
        maps: of each map that the head reads, its mask (C,); empty unless the head needs them.
        off: units that are left out, since nothing asks for their output or its gradient.
        area: 0-d, expected pixels of the last map, where the maps of several input sizes are summed.
        update: whether norm layers update their running statistics (False while activations are recomputed).
    """

    tensors: Sequence[Tensor] = ()
    picked: Sequence[int] | None = None
    blocks: Sequence[int] = ()
    units: Sequence[Tensor | None] = ()
    residual: Sequence[Tensor] = ()
    skip: Sequence[Tensor] = ()
    sizes: Tensor | None = None
    maps: Sequence[Tensor] = ()
    off: Collection[int] = ()
    area: Tensor | None = None
    update: bool = True

    def value(self, dim: Any) -> Any:
        """The option a dimension is fixed at, its last one under soft gates, or `dim` itself if it is no choice."""
        if not isinstance(dim, Dist):
            return dim
        return dim.max if self.picked is None else dim.options[self.picked[dim.slot]]

    def tensor(self, dim: Any) -> Tensor | None:
        """The mask, taps or marginal of a dimension under soft gates; None where it has one value."""
        return self.tensors[dim.slot] if isinstance(dim, Dist) and self.picked is None else None

    def frozen(self) -> Gates:
        """The same gates for a second pass that leaves running statistics alone."""
        return replace(self, update=False)


# As the annotation of an argument of `forward`: TorchScript compiles plain networks only, and cannot compile `Gates`.
if TYPE_CHECKING:
    MaybeGates = Gates | None
else:
    MaybeGates = Any


class ChoiceTable(ExactBuffers):
    """All choices of a supernet: their alphas, noise and selection, and the tensors that layers asked for.

    Args:
        choices: every choice that has more than one option, each once.

    The matrix of gates has a row a choice and one more row that is (1, 0, ...): what is not a choice reads its one or zero there.
    """

    noise: Tensor
    temperature: Tensor
    _ends: Tensor
    _index: Tensor
    _one_hot: Tensor
    _mask_index: Tensor
    _marginal_rows: Tensor
    _skipped: Tensor
    _indicators: Tensor
    _rings: Tensor

    def __init__(self, choices: Sequence[Choice]):
        super().__init__()
        self.choices = tuple(choices)
        self.row = {choice.name: i for i, choice in enumerate(self.choices)}
        self.columns = max([2, *(len(choice.options) for choice in self.choices)])
        self.alpha = nn.ParameterDict({_key(c.name): nn.Parameter(torch.zeros(len(c.options))) for c in self.choices})
        self.picked: dict[str, int] | None = None
        self.given: Callable[[], Tensor] | None = None
        self._masks: list[tuple[int, tuple[int, ...]]] = []
        self._marginals: list[tuple[int, list[int], Tensor]] = []
        self._slots: list[_Slot] = []
        total, index = 0, torch.zeros(len(self.choices) + 1, self.columns, dtype=torch.long)
        for i, choice in enumerate(self.choices):
            index[i, : len(choice.options)] = torch.arange(total, total + len(choice.options)) + 2
            total += len(choice.options)
        index[-1, 0] = 1  # entries 0 and 1 of the flat logits are -inf and 0
        self.register_buffer("_index", index.flatten(), persistent=False)
        self.register_buffer("_ends", torch.tensor([-torch.inf, 0.0]), persistent=False)
        self.register_buffer("noise", torch.zeros(index.shape, dtype=torch.float64), persistent=False)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64), persistent=False)
        self.register_buffer("_one_hot", torch.zeros(index.shape, dtype=torch.float64), persistent=False)

    # -- what layers ask for while the network is built --------------------------------------------------------------------------

    def width(self, name: str, options: Sequence[int], of: Callable[[int], int] = int) -> int | Dist:
        """The width `of(option)` under a choice: an int where it cannot vary, else a `Dist` with a mask."""
        widths = tuple(of(option) for option in options)
        if len(set(widths)) == 1:
            return widths[0]
        self._masks.append((self.row[name], widths))
        return self._slot(_Slot("mask", len(self._masks) - 1, name, widths, widths))

    def marginal(self, name: str, values: Sequence[Any], options: tuple[Any, ...], taps: bool = False) -> Any:
        """A property of the block type (kernel, activation, squeeze-and-excite), given that the block has it.

        Args:
            name: the block-type choice.
            values: the property of each of its options; `SKIP` where the option has none.
            options: the distinct values; for kernels in ascending order.
            taps: give a (k, k) map of kernel taps instead of a vector over the options.

        Returns:
            The value itself if there is only one, else a `Dist`.
        """
        if len(options) == 1:
            return options[0]
        indicator = torch.zeros(self.columns, options[-1] // 2 + 1 if taps else len(options), dtype=torch.float64)
        for i, value in enumerate(values):
            if value is not SKIP and taps:
                indicator[i, : value // 2 + 1] = 1  # a kernel has the rings 0 ... k // 2
            elif value is not SKIP:
                indicator[i, options.index(value)] = 1
        without = [i for i, value in enumerate(values) if value is SKIP]
        self._marginals.append((self.row[name], without, indicator))
        return self._slot(_Slot("taps" if taps else "marginal", len(self._marginals) - 1, name, tuple(values), options))

    def _slot(self, slot: _Slot) -> Dist:
        self._slots.append(slot)
        return Dist(len(self._slots) - 1, slot.options)

    def compile_tables(self) -> None:
        """Turns what was asked for into index tensors; called once, when the network is complete."""
        where: list[int] = []
        self._lengths: list[int] = []
        for row, widths in self._masks:
            alive = [next(i for i, width in enumerate(widths) if width > channel) for channel in range(max(widths))]
            where += [row * self.columns + i for i in alive]
            self._lengths.append(len(alive))
        self.register_buffer("_mask_index", torch.tensor(where, dtype=torch.long), persistent=False)
        rows = [row for row, _, _ in self._marginals]
        self.register_buffer("_marginal_rows", torch.tensor(rows, dtype=torch.long), persistent=False)
        skipped = torch.zeros(len(rows), self.columns, dtype=torch.bool)
        for i, (_, without, _) in enumerate(self._marginals):
            skipped[i, without] = True
        self.register_buffer("_skipped", skipped, persistent=False)
        widest = max([0, *(indicator.shape[1] for _, _, indicator in self._marginals)])  # stacked, they need one width
        indicators = [F.pad(indicator, (0, widest - indicator.shape[1])) for _, _, indicator in self._marginals]
        self.register_buffer("_indicators", torch.stack(indicators) if indicators else skipped, persistent=False)
        kernels = [slot.options[-1] for slot in self._slots if slot.kind == "taps"]
        reach = max([1, *kernels]) // 2
        side = torch.arange(-reach, reach + 1).abs()
        self.register_buffer("_rings", torch.maximum(side[:, None], side[None, :]), persistent=False)

    # -- the state of the gates --------------------------------------------------------------------------------------------------

    def sample(self, temperature: float) -> None:
        """Draws Gumbel noise for every choice, the same on every rank of a distributed run (Eq. 4)."""
        tau = real(temperature)
        if not 0 < tau < torch.inf:
            raise InputError(
                f"temperature must be positive and finite, not {shown(temperature)}: the paper anneals it from 5.0 towards 0.1"
            )
        tiny = torch.finfo(torch.float64).tiny
        noise = -torch.empty(self.noise.shape, dtype=torch.float64).exponential_().clamp_(min=tiny).log_()
        noise = noise.to(self.noise.device)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(noise, src=0)
        # New tensors rather than new contents: a graph that is still to be run backward keeps the old ones.
        self.noise = noise
        self.temperature = torch.full_like(self.temperature, tau)
        self.picked = self.given = None

    def select(self, picks: Mapping[str, int]) -> None:
        """Sets one-hot gates; `picks` gives the option's index for each choice."""
        one_hot = torch.zeros(self.noise.shape, dtype=torch.float64)
        one_hot[-1, 0] = 1
        for name, option in picks.items():
            one_hot[self.row[name], option] = 1
        self._one_hot = one_hot.to(self.noise.device)
        self.picked, self.given = dict(picks), None

    def assign(self, gates: Callable[[], Tensor]) -> None:
        """Gates of the caller's making: (choices + 1, columns) float64, called anew in each pass, so that each has a graph of its own."""
        self.picked, self.given = None, gates

    def reset(self) -> None:
        """Back to the gates before any `sample` or `select`: the softmax of the alphas, without noise."""
        self.noise = torch.zeros_like(self.noise)
        self.temperature = torch.ones_like(self.temperature)
        self.picked = self.given = None

    # -- what a step needs -------------------------------------------------------------------------------------------------------

    def logits(self) -> Tensor:
        """(choices + 1, columns) float64: the alphas, -inf beyond a choice's options."""
        flat = torch.cat([self._ends, *(self.alpha[_key(choice.name)] for choice in self.choices)])
        return flat.double().index_select(0, self._index).view(self.noise.shape)

    def gates(self, noise: bool = True) -> Tensor:
        """(choices + 1, columns) float64: the gates of every choice (Eq. 4), or softmax(alpha) without noise."""
        if noise and self.picked is not None:
            return self._one_hot
        if noise and self.given is not None:
            return self.given()
        logits = self.logits()
        return F.softmax((logits + self.noise) / self.temperature if noise else logits, dim=1)

    def tensors(self, gates: Tensor) -> list[Tensor]:
        """Per slot the mask, taps or marginal under `gates`, in float32."""
        masks: Sequence[Tensor] = ()
        if self._masks:
            # The mask at a channel is the probability of the options that keep it: a sum of gates from some option on (Eq. 3).
            alive = gates.flip(1).cumsum(1).flip(1).flatten()
            masks = alive.index_select(0, self._mask_index).float().split(self._lengths)
        marginals: Sequence[Tensor] = ()
        taps: Sequence[Tensor] = ()
        if self._marginals:
            summed = torch.bmm(self._conditioned(gates).unsqueeze(1), self._indicators).squeeze(1).float()
            marginals = summed.unbind(0)
            taps = summed[:, self._rings].unbind(0) if any(slot.kind == "taps" for slot in self._slots) else ()
        found: list[Tensor] = []
        for slot in self._slots:
            if slot.kind == "taps":
                side, tap = taps[slot.position].shape[0], taps[slot.position]
                crop = (side - slot.options[-1]) // 2
                found.append(tap[crop : side - crop, crop : side - crop] if crop else tap)
            else:
                found.append((masks if slot.kind == "mask" else marginals)[slot.position])
        return found

    def _conditioned(self, gates: Tensor) -> Tensor:
        """(marginals, columns): the gates of block types, given that a block has the property."""
        if self.given is None:
            # By leaving the others out of the softmax: no 0 / 0 when their gate is one.
            logits = (self.logits() + self.noise) / self.temperature
            return F.softmax(logits.index_select(0, self._marginal_rows).masked_fill(self._skipped, -torch.inf), dim=1)
        chosen = gates.index_select(0, self._marginal_rows).masked_fill(self._skipped, 0)
        total = chosen.sum(1, keepdim=True)
        there = self._there.index_select(0, self._marginal_rows) & ~self._skipped
        even = there.to(gates.dtype) / there.sum(1, keepdim=True)
        return torch.where(total > 0, chosen / torch.where(total > 0, total, 1), even)

    @property
    def _there(self) -> Tensor:
        """(choices + 1, columns): whether a choice has that option."""
        return (self._index != 0).view(self.noise.shape)

    def picks(self) -> list[int]:
        """Per slot the index, among the options of its `Dist`, of what is selected (0 where the block is skipped)."""
        assert self.picked is not None
        values = [slot.values[self.picked[slot.name]] for slot in self._slots]
        return [0 if value is SKIP else slot.options.index(value) for slot, value in zip(self._slots, values)]


class _Slot(NamedTuple):
    kind: str  # "mask", "marginal" or "taps"
    position: int  # among the tensors of its kind
    name: str  # of the choice
    values: tuple[Any, ...]  # for each option of the choice
    options: tuple[Any, ...]  # of the Dist


def _key(name: str) -> str:
    return name.replace(".", "_")
