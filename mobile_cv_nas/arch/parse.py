"""Reads a table of blocks, checks every field, and resolves it into layers. An arch is a table in which every field has one value."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..errors import FileError
from ..files import read_yaml
from ..nn.blocks import BLOCKS, Block, IRPool, Shape, Skip, block_type
from ..nn.options import OPTIONS
from ..nn.shapes import Cost, round_to
from .fields import ArchError, nearest, numbers, show

KEYS = ("name", "input_size", "stages", "defaults")
MAX_BLOCKS, MAX_SIZE, MAX_WIDTH = 512, 8192, 65536
DEFAULT_EXPANSION, DEFAULT_DIVISOR = 6, 8


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
    def arguments(self) -> dict[str, tuple[type[Block], dict[str, Any]]]:
        """Per candidate its class and constructor arguments, dimensions aside."""
        found = {}
        for name in self.candidates:
            kind, bound = block_type(name)
            found[name] = (kind, {**bound, **{k: v for k, v in self.options.items() if k not in kind.sizes}})
        return found

    def constants(self, name: str) -> dict[str, int]:
        """The numbers that the cost of a candidate depends on, beside its shape."""
        kind, arguments = self.arguments[name]
        return kind.constants(expand=self.expand, **arguments)

    def squeeze(self, hidden: int) -> int:
        """Squeeze width at a hidden width: a quarter of it, or of the input's, by the released rules."""
        if "squeeze" in self.options:
            return self.options["squeeze"]
        divisor = self.options.get("divisor", DEFAULT_DIVISOR)
        if self.options.get("squeeze_from") == "input":
            return round_to(int(hidden * (0.25 / self.options.get("expansion", DEFAULT_EXPANSION))), divisor)
        pools = any(issubclass(kind, IRPool) for kind, _ in self.arguments.values())
        return round_to(hidden * 0.25 if pools else int(hidden * 0.25), divisor)

    def out_size(self, size: int) -> int:
        """Side of the output map for an input of side `size`."""
        kind, arguments = next(iter(self.arguments.values()))
        return kind.out_size(size, self.stride, **arguments)

    def cost(self, name: str, c_in: int, c_out: int, hidden: int, in_size: int) -> Cost:
        """Exact cost of one candidate at the given widths, for maps of side `in_size`."""
        kind, _ = self.arguments[name]
        squeeze = self.squeeze(hidden) if hidden else 0
        shape = Shape(c_in, c_out, hidden, squeeze, hidden * squeeze, in_size**2, self.out_size(in_size) ** 2)
        return kind.cost(shape, **self.constants(name))


@dataclass(frozen=True)
class Table:
    """A parsed file."""

    name: str
    input_sizes: tuple[int, ...]
    layers: tuple[Layer, ...]


def read_table(path: str | os.PathLike) -> Any:
    """The object in an arch or space file. Raises ArchError, naming the file."""
    try:
        return read_yaml(path)
    except FileError as error:
        raise ArchError(str(error)) from None


def parse_table(obj: Any, source: str) -> Table:
    """Checks and resolves the object of a file. Raises ArchError."""
    if not isinstance(obj, Mapping):
        raise ArchError(f"{source}: must be a mapping with input_size and stages, not {show(obj)}")
    for key in obj:
        if key not in KEYS:
            raise ArchError(f"{source}: unknown key {show(key)}{nearest(key, KEYS)}; the keys are {', '.join(KEYS)}")
    for key in ("input_size", "stages"):
        if key not in obj:
            raise ArchError(f"{source}: the key {key} is missing")
    name = "" if obj.get("name") is None else obj["name"]
    if not isinstance(name, str) or len(name) > 200 or not name.isprintable():
        raise ArchError(f"{source}: key name: must be a line of text, not {show(name)}")
    sizes = numbers(obj["input_size"], f"{source}: key input_size", "an int", MAX_SIZE)
    defaults = {} if obj.get("defaults") is None else obj["defaults"]
    if not isinstance(defaults, Mapping):
        raise ArchError(f"{source}: key defaults: must be a mapping of options, not {show(defaults)}")
    layers = _parse_stages(obj["stages"], defaults, source)
    for size in sizes:
        map_sizes(layers, int(size), source)
    return Table(name, tuple(int(size) for size in sizes), layers)


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


def _parse_stages(stages: Any, defaults: Mapping, source: str) -> tuple[Layer, ...]:
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        raise ArchError(f"{source}: key stages: must be a list of stages, each a list of blocks, not {show(stages)}")
    layers: list[Layer] = []
    widths: tuple[int, ...] = (3,)
    used: set[str] = set()
    for s, rows in enumerate(stages):
        if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
            raise ArchError(f"{source}: stage {s}: must be a list of blocks with at least one, not {show(rows)}")
        position = 0
        for r, row in enumerate(rows):
            where = f"{source}: stage {s}, block {r}"
            names, channels, stride, repeats, options = _parse_row(row, where)
            accepted = _accepted_options(names, options, where)
            used |= accepted & set(defaults)
            either = {"hidden", "expansion"} if {"hidden", "expansion"} & set(options) else set()
            taken = {k: v for k, v in defaults.items() if k in accepted - either}
            if len(layers) + repeats > MAX_BLOCKS:
                raise ArchError(f"{where}: more than {MAX_BLOCKS} blocks in all")
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                layers.append(_resolve(s, position, names, channels, step, widths, {**taken, **options}, where))
                widths = layers[-1].c_out
                position += 1
    unused = [key for key in defaults if key not in used]
    if unused:
        raise ArchError(f"{source}: key defaults: no block takes the option {show(unused[0])}{nearest(unused[0], OPTIONS)}")
    return tuple(layers)


def _parse_row(row: Any, where: str) -> tuple[tuple[str, ...], tuple[int, ...], int, int, dict[str, Any]]:
    shape = "[name, channels, stride, repeats, {options}]"
    if not isinstance(row, Sequence) or isinstance(row, str) or not 2 <= len(row) <= 5:
        raise ArchError(f"{where}: a block is {shape}, not {show(row)}")
    missing: list[Any] = [1, 1, {}][len(row) - 2 :]
    stride, repeats, options = [*row[2:], *missing]
    names = (row[0],) if isinstance(row[0], str) else row[0]
    if not isinstance(names, Sequence) or not names:
        raise ArchError(f"{where}: the name must be a block name or a list of them, not {show(names)}")
    for name in names:
        if not isinstance(name, str) or name not in BLOCKS:
            known = [n for n, _ in BLOCKS]
            raise ArchError(f"{where}: unknown block {show(name)}{nearest(name, known)}; see mobile_cv_nas.BLOCKS for all names")
    if len(set(names)) < len(names):
        raise ArchError(f"{where}: a block name stands twice in {show(list(names))}")
    where = f"{where} ({names[0]})" if len(names) == 1 else where
    channels = numbers(row[1], f"{where}: channels", "a positive int", MAX_WIDTH)
    for what, value, limit in (("stride", stride, 4), ("repeats", repeats, MAX_BLOCKS)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise ArchError(f"{where}: {what} must be an int from 1 to {limit}, not {show(value)}")
    if not isinstance(options, Mapping):
        raise ArchError(f"{where}: the options must be a mapping, not {show(options)}")
    return tuple(names), tuple(int(c) for c in channels), stride, repeats, dict(options)


def _accepted(names: Iterable[str]) -> frozenset[str]:
    """Options that every one of the blocks takes, a skip among several aside."""
    kinds = [block_type(name)[0] for name in names]
    kinds = [kind for kind in kinds if kind is not Skip] or kinds
    return frozenset.intersection(*(frozenset(kind.options) for kind in kinds))


def has_hidden(name: str) -> bool:
    """Whether a block of that name has a hidden width."""
    return "hidden" in block_type(name)[0].options


def _accepted_options(names: Sequence[str], options: Mapping, where: str) -> frozenset[str]:
    """What a row may give; raises if it gives something else, or two that exclude each other."""
    accepted = _accepted(names)
    if "se" not in options and not any(block_type(name)[1].get("se") for name in names):
        accepted -= {"squeeze", "squeeze_from", "se_activation"}  # these blocks have no squeeze-and-excite
    for key in options:
        if key not in accepted:
            listed = f"it takes {', '.join(sorted(accepted))}" if accepted else "it takes none"
            raise ArchError(f"{where} ({', '.join(names)}): unknown option {show(key)}{nearest(key, accepted)}; {listed}")
    if "hidden" in options and "expansion" in options:
        raise ArchError(f"{where}: key hidden: give either hidden (a width) or expansion (a ratio), not both")
    return accepted


def _resolve(
    stage: int, block: int, names: tuple[str, ...], channels: tuple[int, ...], stride: int, c_in: tuple[int, ...],
    options: dict[str, Any], where: str,
) -> Layer:  # fmt: skip
    kinds = [block_type(name)[0] for name in names]
    if len(names) > 1 and "skip" in names:
        if stride != 1:
            raise ArchError(f"{where}: skip is a candidate at stride 1 only; write the repeats after the first as a row of their own")
        if stage == block == 0:
            raise ArchError(f"{where}: the first block reads the image and cannot be skipped; take skip out of its names")
    for key, value in options.items():
        if key not in ("expansion", "hidden") and (key not in OPTIONS or not OPTIONS[key][1](value)):
            words = OPTIONS[key][0] if key in OPTIONS else "of a known kind"
            raise ArchError(f"{where}: key {key}: must be {words}, not {show(value)}")
    hidden, expand, absolute = _hidden(names, options, c_in, where)
    fixed = {k: v for k, v in options.items() if k != "hidden" and (k != "expansion" or not absolute)}
    if kinds[-1] is Skip and len(names) == 1:
        if len(c_in) > 1 or len(channels) > 1:
            raise ArchError(f"{where}: a skip that is no candidate among others needs fixed widths")
        expand = stride != 1 or c_in != channels
    layer = Layer(stage, block, names, channels, stride, c_in, hidden, expand, absolute, fixed)
    _check_layer(layer, where)
    return layer


def _hidden(names: Sequence[str], options: Mapping, c_in: tuple[int, ...], where: str) -> tuple[tuple[int, ...], bool, bool]:
    """Hidden widths, whether an expand convolution exists, and whether an arch is to write the width."""
    if not any(has_hidden(name) for name in names):
        return (0,), True, False
    if "hidden" in options:
        found = numbers(options["hidden"], f"{where}: key hidden", "a positive int", MAX_WIDTH)
        return tuple(int(h) for h in found), True, True
    ratios = numbers(options.get("expansion", DEFAULT_EXPANSION), f"{where}: key expansion", "a positive number", 100, integer=False)
    divisor = options.get("divisor", DEFAULT_DIVISOR)
    widths = tuple(sorted({round_to(c_in[-1] * float(ratio), divisor) for ratio in ratios}))
    if widths[-1] > MAX_WIDTH:
        raise ArchError(f"{where}: key expansion: a hidden width of {widths[-1]} is above {MAX_WIDTH}")
    if len(ratios) == 1 and len(c_in) == 1:
        return widths, widths[0] != c_in[0], False
    return widths, True, True


def _check_layer(layer: Layer, where: str) -> None:
    kinds = {kind for kind, _ in layer.arguments.values()}
    if len(layer.names) > 1 and kinds & {IRPool, Skip}:
        raise ArchError(f"{where}: ir_pool gives a map of one pixel and cannot share a place with other blocks")
    sizes = {kind.out_size(65, layer.stride, **arguments) for kind, arguments in layer.arguments.values()}
    if len(sizes) > 1:
        raise ArchError(f"{where}: key padding: the blocks {', '.join(layer.candidates)} give maps of different sizes with it")
    groups = layer.options.get("groups", 1)
    if groups > 1:
        for what, options in (("input width", layer.c_in), ("hidden width", layer.hidden), ("channels", layer.channels)):
            if len(options) > 1 or options[0] % groups:
                raise ArchError(f"{where}: key groups: needs a fixed {what} that {groups} divides, not {show(list(options))}")
    if layer.options.get("squeeze_from") == "input" and layer.absolute:
        raise ArchError(f"{where}: key squeeze_from: input needs a fixed input width and a fixed expansion; give squeeze, or hidden")
    keeps = layer.skip is not None or (layer.stride == 1 and next(iter(kinds)).residual and set(layer.c_in) & set(layer.channels))
    if keeps and layer.out_size(65) != 65:
        raise ArchError(f"{where}: key padding: a block that may add or hand on its input must keep the map's size; leave padding out")
