"""`ArchDef`: one concrete network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..errors import FileError
from ..files import atomic_write
from ..nn.heads import HeadDef
from ..nn.shapes import Cost
from .fields import ArchError
from .layer import Layer, has_hidden, map_sizes, reading
from .parse import parse_table, read_table
from .show import block_costs, block_lines, html_table, text_table, total_line


@dataclass(frozen=True)
class BlockDef:
    """One block of an arch, read by `ArchDef`, which checks it.

    Attributes:
        name: registered in `BLOCKS`.
        channels: of its output.
        stride: of the map, 1 or more.
        options: what its row gives beside these, such as {"hidden": 64}.

    >>> BlockDef("ir_k3", 16, stride=2, options={"expansion": 3}).channels
    16
    """

    name: str
    channels: int
    stride: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.name, self.channels, self.stride, tuple(sorted(self.options.items()))))


@dataclass(frozen=True)
class ArchDef:
    """A concrete network without its classifier; valid once it exists.

    Args:
        input_size: side of the images, in pixels.
        stages: blocks by stage, repeats written out: `BlockDef`s, or rows as in a file. Lists become tuples.
        name: what to call it; two archs that differ in it alone are equal.

    Raises:
        ArchError: says which stage, block and key, and the remedy.
    """

    input_size: int
    stages: tuple[tuple[BlockDef, ...], ...]
    name: str = field(default="", compare=False)
    layers: tuple[Layer, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        source = str(self.name or "arch")
        found = type(self).parse({"name": self.name, "input_size": self.input_size, "stages": _rows(self.stages)}, source)
        for key, value in vars(found).items():  # as a file would give them: tuples and ints, each option once
            object.__setattr__(self, key, value)

    @classmethod
    def parse(cls, obj: Any, source: str = "arch") -> ArchDef:
        """An arch from a mapping, as in a file; `source` names it in errors."""
        table = parse_table(obj, source)
        return arch_of(_single(table.layers, table.input_sizes, source), table.input_sizes[0], table.name)

    @classmethod
    def load(cls, path: str | os.PathLike) -> ArchDef:
        """Reads an arch file. Raises ArchError."""
        return cls.parse(read_table(path), str(path))

    def save(self, path: str | os.PathLike) -> None:
        """Writes a file that `load` reads back as an equal arch. Raises ArchError if it cannot be written."""
        save_table(path, self.to_dict(), self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The plain mapping that `parse` takes."""
        return {"name": self.name, "input_size": self.input_size, "stages": _rows(self.stages)}

    def _table(self) -> tuple[str, list[list[str]]]:
        costs = block_costs(self.layers, self.input_size, 3)
        total = sum((cost for cost in costs if cost is not None), Cost(0, 0))
        lines = block_lines(self.layers, [self.input_size], costs)
        title = f"ArchDef {self.name or '(no name)'}, input {self.input_size}x{self.input_size}, without a head"
        return title, [*lines, total_line("total", total)]

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def cost(self, num_classes: int = 1000, in_channels: int = 3, head: HeadDef | None = None) -> Cost:
        """Exact MACs and parameters in closed form: what `mobile_cv_nas.count` measures.

        `num_classes` is of the classifier; a `head` takes its place.
        """
        sizes = map_sizes(self.layers, self.input_size)
        total, c_in = Cost(0, 0), in_channels
        head = head or HeadDef("classifier", num_classes)
        indices = head.reads(self.layers)
        sides = [sizes[0], *(sizes[index + 1] for index in indices)]
        for i, (layer, size) in enumerate(zip(reading(self.layers, in_channels), sizes)):
            total += layer.cost(layer.names[0], c_in, layer.channels[0], layer.hidden[0], size)
            c_in = layer.channels[0]
            if i in indices:
                total += head.cost(indices.index(i), c_in, sides)
        return total


def arch_of(layers: Sequence[Layer], input_size: int, name: str) -> ArchDef:
    """The arch whose layers have one value each, and were checked as those of a table."""
    stages: list[list[BlockDef]] = []
    for layer in layers:
        options = dict(layer.options)
        if layer.absolute and has_hidden(layer.names[0]):
            options["hidden"] = layer.hidden[0]
        stages += [[] for _ in range(layer.stage + 1 - len(stages))]
        stages[layer.stage].append(BlockDef(layer.names[0], layer.channels[0], layer.stride, options))
    arch = object.__new__(ArchDef)  # the table is not read a second time
    found = {"input_size": int(input_size), "stages": tuple(map(tuple, stages)), "name": name, "layers": tuple(layers)}
    for key, value in found.items():
        object.__setattr__(arch, key, value)
    return arch


def _rows(stages: Any) -> Any:
    """Stages as `parse_table` reads them; what is none is left to it."""
    if not isinstance(stages, (list, tuple)):
        return stages
    return [[_row(block) for block in stage] if isinstance(stage, (list, tuple)) else stage for stage in stages]


def _row(block: Any) -> Any:
    if not isinstance(block, BlockDef):
        return block
    options = dict(block.options) if isinstance(block.options, Mapping) else block.options
    return [block.name, block.channels, block.stride, 1, options]


def _single(layers: tuple[Layer, ...], sizes: Sequence[int], source: str) -> tuple[Layer, ...]:
    for layer in layers:
        for what, options in (("name", layer.names), ("channels", layer.channels), ("hidden", layer.hidden)):
            if len(options) > 1:
                where = f"{source}: stage {layer.stage}, block {layer.block}: key {what}"
                raise ArchError(f"{where}: an arch has one value where this has {len(options)} options; load it as a SearchSpace")
    if len(sizes) > 1:
        raise ArchError(f"{source}: key input_size: an arch has one value where this has {len(sizes)}; load it as a SearchSpace")
    return layers


def save_table(path: str | os.PathLike, obj: Mapping[str, Any], layers: Sequence[Layer]) -> None:
    """Writes an arch or a space: one block a line, equal repeats in one row, the largest map's side beside each stage."""
    top = obj["input_size"]
    sizes = map_sizes(layers, top if isinstance(top, int) else max(top["any"]) if isinstance(top, Mapping) else top[1])
    lines = [f"name: {_flow(obj['name'])}"] if obj.get("name") else []
    lines += [f"input_size: {_flow(top)}", "stages:"]
    index = 0
    for rows in obj["stages"]:
        lines.append(f"  - # {sizes[index]}x{sizes[index]} to {sizes[index + len(rows)]}x{sizes[index + len(rows)]}")
        index += len(rows)
        for row in _merge(rows):
            lines.append(f"    - {_flow(row if row[4] else row[:4])}")
    try:
        atomic_write(path, "\n".join(lines) + "\n")
    except FileError as error:
        raise ArchError(str(error)) from None


def _merge(rows: Sequence[list[Any]]) -> list[list[Any]]:
    merged: list[list[Any]] = []
    for row in rows:
        last = merged[-1] if merged else None
        if last and row[2] == 1 and [row[0], row[1], row[4]] == [last[0], last[1], last[4]]:
            last[3] += 1
        else:
            merged.append(list(row))
    return merged


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
