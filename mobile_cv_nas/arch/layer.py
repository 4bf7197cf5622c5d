"""`Layer`: one block of a table, resolved: its candidates, widths, and what each would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from ..errors import InputError, shown
from ..nn.blocks import BLOCKS, Block, Dims, IRPool, Shape, Skip
from ..nn.register import arguments_type, block_type, make_block
from ..nn.shapes import Cost, round_to
from ..nn.whole import WholeCandidate
from .fields import ArchError

DEFAULT_EXPANSION, DEFAULT_DIVISOR = 6, 8


class Candidate(NamedTuple):
    """A block that may stand in a layer: its class, what its constructor is given beside the dimensions, and its whole `Arguments`."""

    kind: type[Block]
    given: Mapping[str, Any]
    args: Any


@dataclass(frozen=True)
class Layer:
    """One block of a table, with everything it may be.

    Attributes:
        stage, block: position; repeats are counted, so that `key` is unique.
        names: candidate block names.
        channels: output widths a candidate may have (a skip hands on its input width instead).
        stride: of the block.
        c_in: widths that may arrive.
        hidden: hidden widths a candidate may have; (0,) for blocks without.
        expand: whether an expand convolution (of a skip: the projection) exists.
        absolute: whether an arch writes the hidden width, rather than the expansion.
        options: the row's other options.
    """

    stage: int
    block: int
    names: tuple[str, ...]
    channels: tuple[int, ...]
    stride: int
    c_in: tuple[int, ...]
    hidden: tuple[int, ...]
    expand: bool
    absolute: bool
    options: Mapping[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        """Without what `arguments` keeps: it is of the blocks that are registered where it is read again."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def key(self) -> str:
        return f"s{self.stage}b{self.block}"

    @property
    def skip(self) -> int | None:
        """Index of the skip among several candidates."""
        return self.names.index("skip") if "skip" in self.names and len(self.names) > 1 else None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The names without a skip that is the identity."""
        return tuple(n for n in self.names if n != "skip") if len(self.names) > 1 else self.names

    @property
    def c_out(self) -> tuple[int, ...]:
        """Widths that may leave."""
        return tuple(sorted({*self.channels, *(self.c_in if self.skip is not None else ())}))

    @cached_property
    def arguments(self) -> dict[str, Candidate]:
        """Per candidate its class and arguments, dimensions aside."""
        options = tuple((key, value) for key, value in self.options.items() if key not in Block.sizes)
        return {name: _candidate(name, BLOCKS.get(name), options) for name in self.candidates}

    def constants(self, name: str) -> dict[str, int]:
        """The numbers that the cost of a candidate depends on, beside its shape."""
        one = self.arguments[name]
        return one.kind.constants(one.args, self.expand)

    def make(self, name: str, dims: Dims, **changed: Any) -> Block:
        """A candidate, built; `changed` takes the place of its arguments. Raises InputError if a user's block cannot be."""
        one = self.arguments[name]
        return make_block(name, one.kind, dims, {**one.given, **changed})

    def squeeze(self, hidden: int) -> int:
        """Squeeze width at a hidden width: a quarter of it, or of the input's, by the released rules."""
        if "squeeze" in self.options:
            return self.options["squeeze"]
        divisor = self.options.get("divisor", DEFAULT_DIVISOR)
        if self.options.get("squeeze_from") == "input":
            return round_to(int(hidden * (0.25 / self.options.get("expansion", DEFAULT_EXPANSION))), divisor)
        pools = any(issubclass(one.kind, IRPool) for one in self.arguments.values())
        return round_to(hidden * 0.25 if pools else int(hidden * 0.25), divisor)

    def out_size(self, size: int) -> int:
        """Side of the output map for an input of side `size`."""
        one = next(iter(self.arguments.values()))
        return one.kind.out_size(size, self.stride, one.args)

    def cost(self, name: str, c_in: int, c_out: int, hidden: int, in_size: int) -> Cost:
        """Exact cost of one candidate at the given widths, for maps of side `in_size`."""
        kind = self.arguments[name].kind
        if kind.cost is Block.cost:
            raise InputError(f"{self.key}: the block {name} has no cost: define {kind.__name__}.cost(s, n), see mobile_cv_nas.nn.blocks")
        squeeze = self.squeeze(hidden) if hidden else 0
        shape = Shape(c_in, c_out, hidden, squeeze, hidden * squeeze, in_size**2, self.out_size(in_size) ** 2)
        return kind.cost(shape, SimpleNamespace(**self.constants(name)))

    def one(self, name: str, channels: int, hidden: int, c_in: tuple[int, ...]) -> Layer:
        """The layer of an arch in which this one has taken a candidate and widths; c_in is what reaches it."""
        if name == "skip" and self.skip is not None:
            return replace(self, names=(name,), channels=c_in, c_in=c_in, hidden=(0,), expand=False, absolute=False, options={})
        sized: dict[str, Any] = {"hidden": (hidden,)} if has_hidden(name) else {"hidden": (0,), "expand": True, "absolute": False}
        if name == "skip":
            sized = {}
        return replace(self, names=(name,), channels=(channels,), c_in=c_in, **sized)


@lru_cache(maxsize=4096)
def _candidate(name: str, entry: Any, options: tuple[tuple[str, Any], ...]) -> Candidate:
    """What `arguments` holds; `entry` is what the name stands for now, so that another block of that name is another entry."""
    kind: Any
    kind, bound = block_type(name)
    given = {**bound, **{k: v for k, v in options if k not in kind.sizes}}
    return Candidate(kind, given, arguments_type(kind)(**given))


def reading(layers: Sequence[Layer], in_channels: int) -> tuple[Layer, ...]:
    """The layers of a table, resolved for images of three channels, for images of `in_channels`: the hidden widths stay."""
    first, c_in = layers[0], (in_channels,)
    expand = first.expand
    if first.names == ("skip",):
        expand = first.stride != 1 or first.channels != c_in
    elif not first.absolute and any(has_hidden(name) for name in first.names):
        expand = first.hidden != c_in
    return (replace(first, c_in=c_in, expand=expand), *layers[1:])


def map_sizes(layers: Sequence[Layer], size: int, source: str = "arch") -> list[int]:
    """Sides of the maps: of the image, then after each layer."""
    found = [size]
    for layer in layers:
        found.append(layer.out_size(found[-1]))
        if found[-1] < 1:
            raise ArchError(f"{source}: stage {layer.stage}: key input_size: maps of {size} pixels vanish there; give a larger input")
    return found


def has_hidden(name: str) -> bool:
    """Whether a block of that name has a hidden width."""
    return "hidden" in block_type(name)[0].options


def check_layer(layer: Layer, where: str) -> None:
    kinds = {one.kind for one in layer.arguments.values()}
    if len(layer.names) > 1 and kinds & {IRPool, Skip}:
        raise ArchError(f"{where}: ir_pool gives a map of one pixel and cannot share a place with other blocks")
    sizes = {one.kind.out_size(65, layer.stride, one.args) for one in layer.arguments.values()}
    if len(sizes) > 1:
        raise ArchError(f"{where}: key padding: the blocks {', '.join(layer.candidates)} give maps of different sizes with it")
    if WholeCandidate in kinds:
        _check_whole(layer, where)
    groups = layer.options.get("groups", 1)
    if groups > 1:
        for what, options in (("input width", layer.c_in), ("hidden width", layer.hidden), ("channels", layer.channels)):
            if len(options) > 1 or options[0] % groups:
                raise ArchError(f"{where}: key groups: needs a fixed {what} that {groups} divides, not {shown(list(options))}")
    if layer.options.get("squeeze_from") == "input" and layer.absolute:
        raise ArchError(f"{where}: key squeeze_from: input needs a fixed input width and a fixed expansion; give squeeze, or hidden")
    keeps = layer.skip is not None or (layer.stride == 1 and next(iter(kinds)).residual and set(layer.c_in) & set(layer.channels))
    if keeps and layer.out_size(65) != 65:
        raise ArchError(f"{where}: key padding: a block that may add or hand on its input must keep the map's size; leave padding out")


def _check_whole(layer: Layer, where: str) -> None:
    """Whole candidates make their own hidden width of a fixed input width, which their groups divide."""
    if len(layer.c_in) > 1:
        raise ArchError(f"{where}: a block with an expansion in its name needs a fixed input width, not {shown(list(layer.c_in))}")
    for name, one in layer.arguments.items():
        groups = getattr(one.args, "groups", 1)
        if one.kind is WholeCandidate and groups > 1 and (layer.c_in[0] % groups or any(c % groups for c in layer.channels)):
            raise ArchError(f"{where}: {name} needs input width and channels that {groups} divides")
        if one.kind is WholeCandidate and groups > 1 and len(layer.channels) > 1:
            raise ArchError(f"{where}: {name} needs fixed channels, since it has groups")
