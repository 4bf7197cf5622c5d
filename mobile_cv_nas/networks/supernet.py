"""The supernet of a space: gates, forward, cost, derivation; and the weights a child inherits."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..arch.parse import map_sizes, reading
from ..nn.choice import ChoiceTable, Gates
from ..nn.heads import Classifier, Head, as_head
from ..nn.shapes import Cost, subsample
from .effective import Effective
from .mixed import MixedBlock


class Supernet(nn.Module):
    """All networks of a space in one (paper, Section 3); made by `build_supernet`.

    Before any `sample` or `select` the gates are softmax(alpha). `sample` draws Gumbel-Softmax gates, `select` sets one-hot ones; gates are
    formed anew in each `forward` and `cost`, from the stored noise, so that each call has a graph of its own.

    Shapes: images (N, in_channels, S, S) at the space's largest input size to logits (N, num_classes).
    """

    _unit_rows: Tensor
    _unit_flags: Tensor

    def __init__(self, space: SearchSpace, num_classes: int | Head, in_channels: int, sharing: str, recompute: bool, resolution: str):
        super().__init__()
        self.space, self.resolution, self.in_channels = space, resolution, in_channels
        self.table = ChoiceTable(space.choices)
        blocks: OrderedDict[str, MixedBlock] = OrderedDict()
        c_in, units = in_channels, 0
        for i, layer in enumerate(reading(space.layers, in_channels)):
            block = MixedBlock(layer, c_in, self.table, sharing, recompute)
            block.index, block.first_unit = i, units
            units += len(block.units)
            blocks[layer.key], c_in = block, block.width
        self.blocks = nn.ModuleDict(blocks)
        self._make_head(c_in, as_head(num_classes))
        self.table.compile_tables()
        self.effective = Effective(space, self.table, in_channels, num_classes)
        self._index_units()
        self._sides = [map_sizes(space.layers, size) for size in space.input_sizes]

    def _make_head(self, width: int, head: Head) -> None:
        assert isinstance(head, Classifier)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, head.num_classes)

    def _index_units(self) -> None:
        """A row and an indicator over the block names for each unit: its gate is the sum over the names it stands for."""
        rows, flags = [], []
        for block in self._mixed():
            row = self.table.row.get(f"{block.layer.key}.block", len(self.table.choices))
            for members in block.members.values():
                names = block.layer.names
                flags.append([float(n in members) for n in names] + [0.0] * (self.table.columns - len(names)))
                rows.append(row)
        self.register_buffer("_unit_rows", torch.tensor(rows), persistent=False)
        self.register_buffer("_unit_flags", torch.tensor(flags, dtype=torch.float64), persistent=False)
        lone = [len(block.layer.names) == 1 for block in self._mixed() for _ in block.units]
        self._lone = tuple(lone)

    def _mixed(self) -> list[Any]:
        return list(self.blocks.values())

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

    # -- gates -------------------------------------------------------------------------------------------------------------------

    def sample(self, temperature: float) -> None:
        """Draws Gumbel-Softmax gates for every choice (Eq. 4); on all ranks the same. Raises ValueError unless temperature > 0."""
        self.table.sample(temperature)

    def select(self, arch: ArchDef) -> None:
        """One-hot gates at an arch of the space; only its candidates, widths and input size are then run. Raises ArchError."""
        self.table.select(self.space.encode(arch))

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

    def shapes(self) -> list[tuple[float, float]]:
        """Effective channels and side (Eqs. 5 and 6) of the image and after each layer, under the current gates."""
        return self.effective.shapes(self.table.gates().detach())

    # -- forward -----------------------------------------------------------------------------------------------------------------

    def gates(self) -> Gates:
        """Everything the layers need of the choices for one pass."""
        if self.table.picked is not None:
            picked = self.table.picked
            blocks = [picked.get(f"{layer.key}.block", 0) for layer in self.space.layers]
            return Gates(picked=self.table.picks(), blocks=blocks)
        gates = self.table.gates()
        summed = (gates.index_select(0, self._unit_rows) * self._unit_flags).sum(1).float().unbind()
        residual, skip = self.effective.residual(gates)
        return Gates(
            tensors=self.table.tensors(gates),
            units=[None if lone else gate for lone, gate in zip(self._lone, summed)],
            residual=residual.float().unbind(),
            skip=skip.float().unbind(),
            sizes=self.effective.sizes(gates),
        )

    def forward(self, x: Tensor) -> Tensor:
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
        return self._all_sizes(x, gates)

    def _run(self, x: Tensor, gates: Gates) -> Tensor:
        """Logits of images that have one of the input sizes."""
        for block in self.blocks.values():
            x = block(x, gates)
        x = self.pool(x).flatten(1)
        weight = self.classifier.weight
        return F.linear(x, weight[:, : x.shape[1]], self.classifier.bias)

    def _all_sizes(self, x: Tensor, gates: Gates) -> Tensor:
        """Every input size on its own pixels, layer by layer (paper, Section 3.2); the pool divides by the effective area."""
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
        pooled = x.sum((2, 3)) / (gates.sizes @ areas).to(x.dtype)
        return self.classifier(pooled)

    def _sampled(self, x: Tensor, gates: Gates) -> Tensor:
        """The most probable size under the noise (a draw from softmax(alpha)); where its alpha learns, also the next.

        The value is the first size's logits; the gradient reaches the gates of both through the logits, once.
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


def inherit_weights(child: nn.Module, supernet: Supernet) -> nn.Module:
    """Copies a child's weights and norm statistics from the supernet: prefixes of channels, centres of kernels.

    Args:
        child: from `build_model`, with an arch of the supernet's space and as many classes; changed in place.
        supernet: where the weights come from.

    Returns:
        The child.

    Raises:
        ArchError: the child's arch is not in the supernet's space.
        ValueError: classes or image channels differ.
    """
    arch: Any = getattr(child, "arch", None)
    if not isinstance(arch, ArchDef):
        raise ValueError("the child has no arch: build it with build_model")
    supernet.space.encode(arch)
    classes = supernet.classifier.out_features
    if child.classifier.out_features != classes:  # type: ignore[union-attr]
        raise ValueError(f"the child has {child.classifier.out_features} classes, the supernet {classes}")  # type: ignore[union-attr]
    with torch.no_grad():
        inherit_blocks(arch, child.blocks, supernet)  # type: ignore[arg-type]
        copy_part(child.classifier.state_dict(), supernet.classifier.state_dict(), "classifier")  # type: ignore[union-attr]
    return child


def inherit_blocks(arch: ArchDef, blocks: Iterable[nn.Module], supernet: Supernet) -> None:
    """Copies the weights of an arch's blocks; a part of `inherit_weights`."""
    for layer, block, source in zip(arch.layers, blocks, supernet._mixed()):
        if layer.names[0] == "skip" and source.layer.skip is not None:
            continue
        copy_part(block.state_dict(), source.unit(layer.names[0]).state_dict(), layer.key)


def copy_part(target: dict[str, Tensor], source: dict[str, Tensor], where: str) -> None:
    """Copies into each tensor of `target` the corner of its namesake that has its shape. Raises ValueError if it has none."""
    for name, value in target.items():
        found = source[name][_corner(source[name].shape, value.shape)]
        if found.shape != value.shape:
            raise ValueError(f"{where}.{name}: the child has {tuple(value.shape)}, the supernet {tuple(source[name].shape)}")
        value.copy_(found)


def _corner(full: Sequence[int], part: Sequence[int]) -> tuple[slice, ...]:
    """Prefixes of the first two dimensions (channels), the centre of the others (kernel taps)."""
    starts = [0 if i < 2 else (f - p) // 2 for i, (f, p) in enumerate(zip(full, part))]
    return tuple(slice(start, start + p) for start, p in zip(starts, part))
