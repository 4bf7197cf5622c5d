"""From an arch to a network, from a space to a supernet: the same blocks, built of ints or of choices."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..arch.layer import map_sizes, reading
from ..arch.show import block_costs, block_lines, html_table, text_table, total_line
from ..nn.heads import Classifier, HeadDef
from ..nn.shapes import Cost
from .mixed import layer_dims
from .supernet import Supernet


class Network(nn.Module):
    """The plain network of one arch: blocks, and the classifier (global pool, one linear layer).

    Attributes:
        arch: what it was built from.
        blocks: nn.Sequential, children `s0b0`, `s1b0`, ... by stage and block.
        classifier: the head, an nn.Linear that pools first.

    Shapes: (N, in_channels, H, W) to logits (N, num_classes).
    """

    def __init__(self, arch: ArchDef, num_classes: int, in_channels: int):
        super().__init__()
        self.arch, self.in_channels = arch, in_channels
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        c_in = in_channels
        for layer in reading(arch.layers, in_channels):
            blocks[layer.key] = layer.make(layer.names[0], layer_dims(layer, c_in))
            c_in = layer.channels[0]
        self.blocks = nn.Sequential(blocks)
        self.classifier: nn.Module = HeadDef("classifier", num_classes).build([c_in], [])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier([self.blocks(x)])

    def _table(self) -> tuple[str, list[list[str]]]:
        arch, costs = self.arch, block_costs(self.arch.layers, self.arch.input_size, self.in_channels)
        lines = block_lines(arch.layers, [arch.input_size], costs)
        known = sum((cost for cost in costs if cost is not None), Cost(0, 0))
        head = self.classifier
        if isinstance(head, Classifier):
            side = map_sizes(arch.layers, arch.input_size)[-1]
            cost = HeadDef("classifier", head.out_features).cost(0, head.in_features, [arch.input_size, side])
            known += cost
            lines.append([*total_line("head", cost)[:1], "classifier", "", str(head.out_features), *total_line("", cost)[4:]])
        params = sum(p.numel() for p in self.parameters())
        title = f"Network {arch.name or '(no name)'}, images {self.in_channels}x{arch.input_size}x{arch.input_size}"
        return title, [*lines, total_line("total", Cost(known.macs, params))]

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())


def build_model(arch: ArchDef, num_classes: int = 1000, in_channels: int = 3) -> Network:
    """The plain network of an arch, freshly initialised; it contains no mask, gate or choice.

    Raises:
        ValueError: num_classes or in_channels is not a positive int.
    """
    _check(num_classes, in_channels)
    return Network(arch, num_classes, in_channels)


def build_supernet(
    space: SearchSpace,
    num_classes: int = 1000,
    in_channels: int = 3,
    sharing: str = "none",
    recompute: bool = False,
    resolution: str = "all",
    head: HeadDef | None = None,
) -> Supernet:
    """The supernet of a space (DMaskingNAS).

    Args:
        space: what to search.
        num_classes: of the classifier.
        in_channels: of the images.
        sharing: "none": every block type has weights of its own, as in the paper. "full": one block for all inverted residuals.
        recompute: run candidates again in the backward pass instead of keeping their activations.
        resolution: with several input sizes, "all": every size each step, as in the paper. "sampled": one size a step, two where
            the alphas learn, with a straight-through estimate.
        head: in place of the classifier.

    Raises:
        ValueError: an argument is not one of these.
    """
    _check(num_classes, in_channels)
    for what, value, known in (("sharing", sharing, ("none", "full")), ("resolution", resolution, ("all", "sampled"))):
        if value not in known:
            raise ValueError(f"{what} must be {' or '.join(known)}, not {value!r}")
    return Supernet(space, head or HeadDef("classifier", num_classes), in_channels, sharing, recompute, resolution)


def _check(num_classes: int, in_channels: int) -> None:
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{what} must be a positive int, not {value!r}")
