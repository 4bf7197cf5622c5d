"""The supernet of a space: gates, forward, cost, derivation."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..arch.layer import map_sizes, reading
from ..arch.show import block_lines, html_table, text_table, total_line
from ..errors import InputError
from ..nn.choice import ChoiceTable, Gates
from ..nn.exact import ExactBuffers
from ..nn.heads import HeadDef
from ..nn.shapes import Cost, subsample, widened
from .effective import Effective
from .mixed import MixedBlock


class Supernet(ExactBuffers):
    """All networks of a space in one (paper, Section 3); made by `build_supernet`.

    Before any `sample` or `select` the gates are softmax(alpha). `sample` draws Gumbel-Softmax gates, `select` sets one-hot ones; gates are
    formed anew in each `forward` and `cost`, from the stored noise, so that each call has a graph of its own.

    Where there are several input sizes, a classifier reads the sum of their maps (paper, Section 3.2). Under another head every size
    runs by itself, and the outputs, at the size of the largest, are summed under the gates: a child of a small size
    is judged by the same pixels.

    Attributes:
        head, head_def: the head, and how it was asked for.
        off: numbers of the units that assigned gates leave out.

    Shapes: images (N, in_channels, S, S) at the space's largest input size to what the head gives: logits (N, num_classes) of a classifier.
    """

    _unit_rows: Tensor
    _unit_flags: Tensor

    def __init__(self, space: SearchSpace, head: HeadDef, in_channels: int, sharing: str, recompute: bool, resolution: str):
        super().__init__()
        self.space, self.resolution, self.in_channels = space, resolution, in_channels
        self.head_def, self._reads = head, head.reads(space.layers)
        if head.name == "ssdlite" and len(space.input_sizes) > 1:
            sizes = ", ".join(map(str, space.input_sizes))
            raise InputError(f"{space.name or 'the space'}: key input_size: {sizes}: a detector is searched at one size; leave one")
        self.table = ChoiceTable(space.choices)
        blocks: OrderedDict[str, MixedBlock] = OrderedDict()
        c_in, units = in_channels, 0
        for i, layer in enumerate(reading(space.layers, in_channels)):
            block = MixedBlock(layer, c_in, self.table, sharing, recompute)
            block.index, block.first_unit = i, units
            units += len(block.units)
            blocks[layer.key], c_in = block, block.width
        self.blocks = nn.ModuleDict(blocks)
        self._sides = [map_sizes(space.layers, size) for size in space.input_sizes]
        widths = [block.width for block in blocks.values()]
        self._widths = [widths[i] for i in self._reads]
        self._head_sides = [self._sides[-1][0], *(self._sides[-1][i + 1] for i in self._reads)]
        self.head = head.build(self._widths, self._head_sides)
        self.table.compile_tables()
        self.effective = Effective(space, self.table, in_channels, head)
        self._index_units()
        self.off: set[int] = set()

    def head_of(self, arch: ArchDef) -> Any:
        """The head as a child of that arch has it, on the meta device: names and shapes alone."""
        with torch.device("meta"):
            return self.head_def.build([arch.layers[i].channels[0] for i in self._reads], self._head_sides)

    def count_under(self, head: HeadDef) -> None:
        """From now on costs are of children under this head: its own kind, for another number of classes."""
        self.effective.head = head

    def _index_units(self) -> None:
        """A row and an indicator over the block names for each unit: its gate is the sum over the names it stands for."""
        rows, flags = [], []
        for block in self.mixed():
            row = self.table.row.get(f"{block.layer.key}.block", len(self.table.choices))
            for members in block.members.values():
                names = block.layer.names
                flags.append([float(n in members) for n in names] + [0.0] * (self.table.columns - len(names)))
                rows.append(row)
        self.register_buffer("_unit_rows", torch.tensor(rows), persistent=False)
        self.register_buffer("_unit_flags", torch.tensor(flags, dtype=torch.float64), persistent=False)
        lone = [len(block.layer.names) == 1 for block in self.mixed() for _ in block.units]
        self._lone = tuple(lone)

    def mixed(self) -> list[MixedBlock]:
        """One a layer, in order."""
        return [block for block in self.blocks.values() if isinstance(block, MixedBlock)]

    # -- parameters --------------------------------------------------------------------------------------------------------------

    def alphas(self) -> dict[str, nn.Parameter]:
        """The alpha of each choice, by the choice's name: (options,)."""
        return dict(zip((c.name for c in self.table.choices), self.alpha_parameters()))

    def alpha_parameters(self) -> list[nn.Parameter]:
        """One parameter a choice, in the order of `space.choices`."""
        return list(self.table.alpha.parameters())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but the alphas."""
        alphas = {id(p) for p in self.alpha_parameters()}
        return [p for p in self.parameters() if id(p) not in alphas]

    def with_alphas(self, alphas: nn.ParameterDict) -> Supernet:
        """The same weights and buffers, in the same memory, under other alphas (such as `table.alpha`), whose softmax its gates are."""
        shared: list[Any] = [self.space, *self.parameters(), *self.buffers()]
        memo = {id(one): one for one in shared} | {id(self.table.alpha): alphas, id(self.table.given): None}
        found = copy.deepcopy(self, memo)
        found.reset()
        return found

    # -- gates -------------------------------------------------------------------------------------------------------------------

    def sample(self, temperature: float) -> None:
        """Draws Gumbel-Softmax gates for every choice (Eq. 4); on all ranks the same. Raises InputError unless 0 < temperature < inf."""
        self.table.sample(temperature)

    def select(self, arch: ArchDef) -> None:
        """One-hot gates at an arch of the space; only its candidates, widths and input size are then run. Raises ArchError."""
        self.table.select(self.space.encode(arch))

    def choose(self, picks: Mapping[str, int]) -> None:
        """As `select`, from the index of an option for every choice."""
        self.table.select(picks)

    def assign(self, gates: Callable[[], Tensor], alive: Mapping[str, Collection[int]] | None = None) -> None:
        """Gates of the caller's making.

        Args:
            gates: gives (choices + 1, columns) float64, as `table.gates()` does, which may carry a graph; called anew in each pass.
            alive: of block choices, the options whose blocks are to be run; others must have gates of zero that need no gradient.
        """
        self.table.assign(gates)
        self.off = set()
        for block in self.mixed() if alive is not None else ():
            name = f"{block.layer.key}.block"
            if alive is not None and name in alive:
                names = {block.layer.names[i] for i in alive[name]}
                units = enumerate(block.members.values(), block.first_unit)
                self.off |= {number for number, members in units if not names.intersection(members)}

    def reset(self) -> None:
        """Back to the noise-free softmax of the alphas."""
        self.table.reset()

    def derive(self) -> ArchDef:
        """The arch at the largest alpha of every choice."""
        return self.space.decode({name: int(alpha.detach().argmax()) for name, alpha in self.alphas().items()})

    def probabilities(self) -> dict[str, Tensor]:
        """softmax(alpha) of each choice, float64, detached."""
        return {name: F.softmax(alpha.detach().double(), 0) for name, alpha in self.alphas().items()}

    def entropies(self) -> dict[str, float]:
        """Entropy of softmax(alpha) of each choice over that of the uniform one: 1 undecided, 0 decided."""
        found = self.probabilities().items()
        return {name: float(-torch.special.xlogy(p, p).sum() / math.log(len(p))) for name, p in found}

    def cost(self) -> Cost:
        """Expected cost of the child under the current gates, classifier included; float64, differentiable in every alpha."""
        return self.effective.cost(self.table.gates())

    def expected_cost(self) -> Cost:
        """The same under softmax(alpha), without noise or selection."""
        return self.effective.cost(self.table.gates(noise=False))

    def _table(self) -> tuple[str, list[list[str]]]:
        """Costs are expectations under the alphas, of the whole; parameters of a block are the supernet's own."""
        layers = self.space.layers
        lines = block_lines(layers, self.space.input_sizes, [None] * len(layers))
        for line, block in zip(lines, self.mixed(), strict=True):
            line[-1] = f"{sum(p.numel() for p in block.parameters()):,}"
        params = sum(p.numel() for p in self.head.parameters())
        head = ["head", self.head_def.name, "", str(self.head_def.num_classes), "", "", "", f"{params:,}"]
        with torch.no_grad():
            child = self.expected_cost()
        own = sum(p.numel() for p in self.weight_parameters())
        side = self.space.max_input_size
        title = f"Supernet {self.space.name or '(no name)'}, images {self.in_channels}x{side}x{side}"
        return title, [*lines, head, total_line("child, expected", child), [*total_line("supernet", child)[:-2], "", f"{own:,}"]]

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def shapes(self) -> list[tuple[float, float]]:
        """Effective channels and side (Eqs. 5 and 6) of the image and after each layer, under the current gates."""
        return self.effective.shapes(self.table.gates().detach())

    # -- forward -----------------------------------------------------------------------------------------------------------------

    def gates(self) -> Gates:
        """Everything the layers need of the choices for one pass."""
        if self.table.picked is not None:
            picked = self.table.picked
            blocks = [picked.get(f"{layer.key}.block", 0) for layer in self.space.layers]
            return Gates(picked=self.table.picks(), blocks=blocks, maps=self._masks(self.table.gates()))
        gates = self.table.gates()
        summed = (gates.index_select(0, self._unit_rows) * self._unit_flags).sum(1).float().unbind()
        residual, skip = self.effective.residual(gates)
        return Gates(
            tensors=self.table.tensors(gates),
            units=[None if lone else gate for lone, gate in zip(self._lone, summed)],
            residual=residual.float().unbind(),
            skip=skip.float().unbind(),
            sizes=self.effective.sizes(gates),
            maps=self._masks(gates),
            off=self.off if self.table.given is not None else (),
        )

    def _masks(self, gates: Tensor) -> list[Tensor]:
        """Of the maps that the head reads, if it needs them."""
        if not self.head.masks:
            return []
        return [mask.float() for mask in self.effective.masks(gates, dict(zip(self._reads, self._widths)))]

    def forward(self, x: Tensor) -> Any:
        gates, sizes = self.gates(), self.space.input_sizes
        if len(sizes) == 1:
            return self._run(x, gates)
        if x.shape[-1] != sizes[-1] or x.shape[-2] != sizes[-1]:
            found = "x".join(map(str, x.shape[-2:]))
            raise ValueError(f"this supernet takes images of {sizes[-1]}x{sizes[-1]}, its largest input size, not {found}")
        if gates.picked is not None:
            assert self.table.picked is not None
            return self._run(subsample(x, sizes[self.table.picked["input_size"]]), gates)
        if self.resolution == "sampled":
            return self._sampled(x, gates)
        if self.head.mixes:
            return self._mixed_sizes(x, gates)
        assert gates.sizes is not None
        outputs: Any = (weight * self._run(subsample(x, size), gates) for size, weight in zip(sizes, gates.sizes.float().unbind()))
        return sum(outputs)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps that the head reads, each at its widest, of images of one of the input sizes under the current gates."""
        return [widened(part, width) for part, width in zip(self._maps(x, self.gates()), self._widths, strict=True)]

    def _maps(self, x: Tensor, gates: Gates) -> list[Tensor]:
        found = []
        for i, block in enumerate(self.blocks.values()):
            x = block(x, gates)
            if i in self._reads:
                found.append(x)
        return found

    def _run(self, x: Tensor, gates: Gates) -> Any:
        """The outputs of images that have one of the input sizes; maps of logits have the size of the largest."""
        outputs, largest = self.head(self._maps(x, gates), gates, x.shape[-2:]), self.space.max_input_size
        if self.head.mixes or not isinstance(outputs, Tensor) or x.shape[-1] == largest or len(self.space.input_sizes) == 1:
            return outputs
        return F.interpolate(outputs, (largest, largest), mode="bilinear", align_corners=False)

    def _mixed_sizes(self, x: Tensor, gates: Gates) -> Any:
        """Every input size on its own pixels, layer by layer; the pool divides by the effective area."""
        assert gates.sizes is not None
        weights = gates.sizes.float().unbind()
        for i, block in enumerate(self.blocks.values()):
            merged: dict[int, tuple[int, int, Tensor]] = {}
            for sides, weight in zip(reversed(self._sides), reversed(weights)):
                side, out = sides[i], sides[i + 1]
                if side in merged:  # sizes that coincide at this depth are one, with the sum of their gates
                    weight = merged[side][2] + weight
                merged[side] = (side, out, weight)
            x = block(x, gates, list(merged.values()))
        areas = torch.tensor([sides[-1] ** 2 for sides in self._sides], dtype=gates.sizes.dtype, device=x.device)
        return self.head([x], replace(gates, area=gates.sizes @ areas))

    def _sampled(self, x: Tensor, gates: Gates) -> Tensor:
        """The most probable size under the noise (a draw from softmax(alpha)); where its alpha learns, also the next.

        The value is the first size's logits; the gradient reaches the gates of both through the logits, once. Its mean points where the
        gradient of the mixture does, and has n / 2(n - 1) of its norm for n sizes that are alike, all of it once the gates are hard. Both
        have the factor 1 / tau of a softmax at temperature tau, as the cost term has; Adam's steps do not depend on a common factor.
        """
        assert gates.sizes is not None
        learns = gates.sizes.requires_grad and torch.is_grad_enabled()
        top = gates.sizes.detach().topk(2 if learns else 1).indices.tolist()
        logits = [self._run(subsample(x, self.space.input_sizes[i]), gates) for i in top]
        if not learns:
            return logits[0]
        pair = gates.sizes[top] / gates.sizes[top].sum()
        through = (pair - pair.detach()).to(logits[0].dtype)
        return (1 + through[0]) * logits[0] + through[1] * logits[1]
