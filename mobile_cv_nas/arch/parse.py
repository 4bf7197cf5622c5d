"""Reads a table of blocks, checks every field, and resolves it into layers. An arch is a table in which every field has one value."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FileError, did_you_mean, shown
from ..files import read_yaml
from ..nn.blocks import BLOCKS, Skip
from ..nn.options import OPTIONS
from ..nn.register import block_type, value_error
from ..nn.shapes import round_to
from .fields import ArchError, numbers
from .layer import DEFAULT_DIVISOR, DEFAULT_EXPANSION, Layer, check_layer, has_hidden, map_sizes

KEYS = ("name", "input_size", "stages", "defaults")
MAX_BLOCKS, MAX_SIZE, MAX_WIDTH = 512, 8192, 65536


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
        raise ArchError(f"{source}: must be a mapping with input_size and stages, not {shown(obj)}")
    for key in obj:
        if key not in KEYS:
            raise ArchError(f"{source}: unknown key {shown(key)}{did_you_mean(key, KEYS)}; the keys are {', '.join(KEYS)}")
    for key in ("input_size", "stages"):
        if key not in obj:
            raise ArchError(f"{source}: the key {key} is missing")
    name = "" if obj.get("name") is None else obj["name"]
    if not isinstance(name, str) or len(name) > 200 or not name.isprintable():
        raise ArchError(f"{source}: key name: must be a line of text, not {shown(name)}")
    sizes = numbers(obj["input_size"], f"{source}: key input_size", "an int", MAX_SIZE)
    defaults = {} if obj.get("defaults") is None else obj["defaults"]
    if not isinstance(defaults, Mapping):
        raise ArchError(f"{source}: key defaults: must be a mapping of options, not {shown(defaults)}")
    layers = _parse_stages(obj["stages"], defaults, source)
    for size in sizes:
        map_sizes(layers, int(size), source)
    return Table(name, tuple(int(size) for size in sizes), layers)


def _parse_stages(stages: Any, defaults: Mapping, source: str) -> tuple[Layer, ...]:
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        raise ArchError(f"{source}: key stages: must be a list of stages, each a list of blocks, not {shown(stages)}")
    layers: list[Layer] = []
    widths: tuple[int, ...] = (3,)
    used: set[str] = set()
    for s, rows in enumerate(stages):
        if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
            raise ArchError(f"{source}: stage {s}: must be a list of blocks with at least one, not {shown(rows)}")
        position = 0
        for r, row in enumerate(rows):
            where = f"{source}: stage {s}, block {r}"
            names, channels, stride, repeats, options = _parse_row(row, where)
            accepted = _accepted_options(names, options, defaults, where)
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
        raise ArchError(f"{source}: key defaults: no block takes the option {shown(unused[0])}{did_you_mean(unused[0], OPTIONS)}")
    return tuple(layers)


def _parse_row(row: Any, where: str) -> tuple[tuple[str, ...], tuple[int, ...], int, int, dict[str, Any]]:
    shape = "[name, channels, stride, repeats, {options}]"
    if not isinstance(row, Sequence) or isinstance(row, str) or not 2 <= len(row) <= 5:
        raise ArchError(f"{where}: a block is {shape}, not {shown(row)}")
    missing: list[Any] = [1, 1, {}][len(row) - 2 :]
    stride, repeats, options = [*row[2:], *missing]
    names = (row[0],) if isinstance(row[0], str) else row[0]
    if not isinstance(names, Sequence) or not names:
        raise ArchError(f"{where}: the name must be a block name or a list of them, not {shown(names)}")
    for name in names:
        if not isinstance(name, str) or name not in BLOCKS:
            known = [n for n, _ in BLOCKS]
            raise ArchError(f"{where}: unknown block {shown(name)}{did_you_mean(name, known)}; see mobile_cv_nas.BLOCKS for all names")
    if len(set(names)) < len(names):
        raise ArchError(f"{where}: a block name stands twice in {shown(list(names))}")
    where = f"{where} ({names[0]})" if len(names) == 1 else where
    channels = numbers(row[1], f"{where}: channels", "a positive int", MAX_WIDTH)
    for what, value, limit in (("stride", stride, 4), ("repeats", repeats, MAX_BLOCKS)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise ArchError(f"{where}: {what} must be an int from 1 to {limit}, not {shown(value)}")
    if not isinstance(options, Mapping):
        raise ArchError(f"{where}: the options must be a mapping, not {shown(options)}")
    return tuple(names), tuple(int(c) for c in channels), stride, repeats, dict(options)


def _accepted(names: Iterable[str], given: Mapping) -> tuple[frozenset[str], frozenset[str]]:
    """Options that every one of the blocks takes, and those that some take, a skip among several aside."""
    types = [block_type(name) for name in names]
    types = [one for one in types if one[0] is not Skip] or types
    taken = [frozenset(kind.options) for kind, _ in types]
    every, some = frozenset.intersection(*taken), frozenset.union(*taken)
    if not ("se" in every and "se" in given) and not any(bound.get("se") for _, bound in types):
        without = {"squeeze", "squeeze_from", "se_activation"}  # these blocks have no squeeze-and-excite
        every, some = every - without, some - without
    return every, some


def _accepted_options(names: Sequence[str], options: Mapping, defaults: Mapping, where: str) -> frozenset[str]:
    """What a row may give; raises if it gives something else, or two that exclude each other, or if a default suits some blocks alone."""
    accepted, some = _accepted(names, {**defaults, **options})
    for key in defaults:
        if key in some - accepted:
            takes = ", ".join(name for name in names if key in block_type(name)[0].options)
            raise ArchError(
                f"{where} ({', '.join(names)}): key defaults: {shown(key)} is an option of {takes} alone; "
                "leave it out there and give it in the rows whose blocks all take it"
            )
    for key in options:
        if key not in accepted:
            listed = f"it takes {', '.join(sorted(accepted))}" if accepted else "it takes none"
            raise ArchError(f"{where} ({', '.join(names)}): unknown option {shown(key)}{did_you_mean(key, accepted)}; {listed}")
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
        words = "" if key in ("expansion", "hidden") else value_error(key, value)
        if words:
            raise ArchError(f"{where}: key {key}: must be {words}, not {shown(value)}")
    hidden, expand, absolute = _hidden(names, options, c_in, where)
    fixed = {k: v for k, v in options.items() if k != "hidden" and (k != "expansion" or not absolute)}
    if "expansion" in fixed:  # one option of a choice is that option
        (ratio,) = numbers(fixed["expansion"], where, "a positive number", 100, integer=False)
        fixed["expansion"] = int(ratio) if ratio.denominator == 1 else float(ratio)
    if kinds[-1] is Skip and len(names) == 1:
        if len(c_in) > 1 or len(channels) > 1:
            raise ArchError(f"{where}: a skip that is no candidate among others needs fixed widths")
        expand = stride != 1 or c_in != channels
    layer = Layer(stage, block, names, channels, stride, c_in, hidden, expand, absolute, fixed)
    check_layer(layer, where)
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
