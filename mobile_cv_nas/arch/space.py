"""`SearchSpace`: a table in which fields may be choices."""

from __future__ import annotations

import itertools
import math
import operator
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError, check_kind, did_you_mean, listed, shown
from ..nn.choice import Choice
from ..nn.heads import HeadDef
from ..nn.shapes import Cost
from .definition import ArchDef, arch_of, save_table
from .fields import ArchError, numbers
from .layer import Layer, has_hidden, map_sizes, reading
from .parse import MAX_SIZE, parse_table, read_table
from .show import block_lines, html_table, options_text, text_table

Picks = dict[str, int]
"""For each choice of a space, by name, the index of one option."""


class SearchSpace:
    """A set of archs: a table of blocks whose names, channels, expansions and input size may be choices.

    Attributes:
        name: of the space; its archs get it.
        input_sizes: ascending.
        layers: one a block, repeats written out.
        choices: every choice that has more than one option, in a fixed order: `input_size`, then for each layer
            `s0b1.block`, `s0b1.channels`, `s0b1.hidden`.
    """

    def __init__(self, name: str, input_sizes: Sequence[int], layers: Sequence[Layer]):
        sizes = list(input_sizes) if isinstance(input_sizes, (list, tuple)) else [input_sizes]
        options = numbers({"any": sizes}, f"{name or 'space'}: input_sizes", "an int", MAX_SIZE)
        self.name, self.input_sizes, self.layers = name, tuple(int(size) for size in options), tuple(layers)
        for layer in self.layers:
            check_kind(layer, Layer, f"{name or 'space'}: a layer", "SearchSpace.parse reads a table of blocks")
        found = [Choice("input_size", self.input_sizes)]
        for layer in self.layers:
            found += [
                Choice(f"{layer.key}.block", layer.names),
                Choice(f"{layer.key}.channels", layer.channels),
                Choice(f"{layer.key}.hidden", layer.hidden),
            ]
        self.choices = tuple(choice for choice in found if len(choice.options) > 1)

    @classmethod
    def parse(cls, obj: Any, source: str = "space") -> SearchSpace:
        """A space from a mapping, as in a file; `source` names it in errors. Raises ArchError."""
        table = parse_table(obj, source)
        return cls(table.name, table.input_sizes, table.layers)

    @classmethod
    def load(cls, path: str | os.PathLike) -> SearchSpace:
        """Reads a space file (or an arch file: a space with one member), or a shipped space by its name, such as `fbnetv2_l`.

        Raises ArchError, which names the shipped ones where a name is none of them, nor a file's.
        """
        return cls.parse(read_table(_found(path)), str(path))

    def save(self, path: str | os.PathLike) -> None:
        """Writes a file that `load` reads back as an equal space. Raises ArchError if it cannot be written."""
        save_table(path, self.to_dict(), self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The plain mapping that `parse` takes, repeats written out and hidden widths absolute."""
        stages: list[list[Any]] = [[] for _ in range(self.layers[-1].stage + 1)]
        for layer in self.layers:
            options = dict(layer.options)
            if layer.absolute and all(has_hidden(name) for name in layer.candidates):
                options["hidden"] = _field(layer.hidden)
            names = layer.names[0] if len(layer.names) == 1 else list(layer.names)
            stages[layer.stage].append([names, _field(layer.channels), layer.stride, 1, options])
        return {"name": self.name, "input_size": _field(self.input_sizes), "stages": stages}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and (self.input_sizes, self.layers) == (other.input_sizes, other.layers)

    __hash__ = None  # type: ignore[assignment]

    def _table(self) -> tuple[str, list[list[str]]]:
        inputs = options_text(self.input_sizes)
        title = f"SearchSpace {self.name or '(no name)'}, input {inputs}: {len(self.choices)} choices, {self.size():.3g} archs"
        return title, block_lines(self.layers, self.input_sizes, [None] * len(self.layers))

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    @property
    def max_input_size(self) -> int:
        """Side of the images that a supernet takes."""
        return self.input_sizes[-1]

    def size(self) -> int:
        """Number of distinct tables: n blocks, f widths and h hidden widths are n * f * h, and one more for a skip."""
        layers = (len(x.candidates) * len(x.channels) * len(x.hidden) + (x.skip is not None) for x in self.layers)
        return math.prod(layers) * len(self.input_sizes)

    # -- members -----------------------------------------------------------------------------------------------------------------

    def decode(self, picks: Mapping[str, int]) -> ArchDef:
        """The arch at one option of every choice; a skipped layer writes the width that reaches it."""
        layers: list[Layer] = []
        width: tuple[int, ...] = self.layers[0].c_in
        for layer in self.layers:
            name = layer.names[picks.get(f"{layer.key}.block", 0)]
            channels = layer.channels[picks.get(f"{layer.key}.channels", 0)]
            one = layer.one(name, channels, layer.hidden[picks.get(f"{layer.key}.hidden", 0)], width)
            layers.append(one)
            width = one.channels
        return arch_of(layers, self.input_sizes[picks.get("input_size", 0)], self.name)

    def deciding(self, picks: Mapping[str, int]) -> Picks:
        """Those of the picks on which the arch depends: not the widths of a layer that is skipped."""
        idle = set()
        for layer in self.layers:
            if picks.get(f"{layer.key}.block", 0) == layer.skip:
                idle |= {f"{layer.key}.channels", f"{layer.key}.hidden"}
        return {name: index for name, index in picks.items() if name not in idle}

    def encode(self, arch: ArchDef) -> Picks:
        """The inverse of `decode`; at a skip the first widths. Raises ArchError, naming what is not in the space."""
        picks, wrong = self._match(arch)
        if wrong:
            raise ArchError(f"{arch.name or 'arch'} is not in the space {self.name or ''}: " + "; ".join(wrong[:3]))
        return picks

    def contains(self, arch: ArchDef) -> bool:
        """Whether the network that `arch` builds is a member (initial values, such as zero_gamma, aside). Raises InputError of no arch."""
        return not self._match(arch)[1]

    def explain(self, arch: ArchDef) -> list[str]:
        """What keeps an arch out of the space, a line a field; empty for a member."""
        return self._match(arch)[1]

    def _match(self, arch: ArchDef) -> tuple[Picks, list[str]]:
        check_kind(arch, ArchDef, "the arch", "ArchDef.parse reads a mapping, ArchDef.load a file, and get_arch knows the zoo's names")
        picks: Picks = {choice.name: 0 for choice in self.choices}
        wrong: list[str] = []

        def take(name: str, options: Sequence[Any], value: Any, where: str) -> None:
            if value not in options:
                wrong.append(f"{where} {value} is not one of {listed(options, 12)}")
            elif name in picks:
                picks[name] = options.index(value)

        take("input_size", self.input_sizes, arch.input_size, "input_size")
        mine, theirs = ([(x.stage, x.block) for x in t.layers] for t in (self, arch))
        if mine != theirs:
            shapes = ([sum(s == stage for s, _ in places) for stage in range(places[-1][0] + 1)] for places in (mine, theirs))
            return picks, [*wrong, "blocks per stage are {1}, not {0}".format(*shapes)]
        for layer, one in zip(self.layers, arch.layers):
            where, name = f"stage {layer.stage}, block {layer.block}:", one.names[0]
            if layer.stride != one.stride:
                wrong.append(f"{where} stride {one.stride} is not {layer.stride}")
            take(f"{layer.key}.block", layer.names, name, f"{where} block")
            if name == "skip" and layer.skip is not None:
                if one.expand:
                    wrong.append(f"{where} a skip from width {one.c_in[0]} to {one.channels[0]} is not the identity")
            elif name in layer.names:
                take(f"{layer.key}.channels", layer.channels, one.channels[0], f"{where} channels")
                if has_hidden(name):
                    take(f"{layer.key}.hidden", layer.hidden, one.hidden[0], f"{where} hidden")
                wrong += _differences(layer, one, name, where)
        return picks, wrong

    def sample(self, rng: random.Random | int) -> ArchDef:
        """A member drawn with every choice uniform and independent, by a generator or from a seed. Raises InputError of neither."""
        draw: Any = rng
        if not hasattr(rng, "randrange"):
            try:
                draw = random.Random(operator.index(rng))
            except TypeError:
                raise InputError(f"sample: give a random.Random or an int as its seed, not {shown(rng)}") from None
        return self.decode({choice.name: draw.randrange(len(choice.options)) for choice in self.choices})

    # -- costs -------------------------------------------------------------------------------------------------------------------

    def cost(self, arch: ArchDef, num_classes: int = 1000, in_channels: int = 3, head: HeadDef | None = None) -> Cost:
        """`arch.cost`, exact."""
        return arch.cost(num_classes, in_channels, head)

    def largest(self, num_classes: int = 1000, by: str = "macs", in_channels: int = 3, head: HeadDef | None = None) -> ArchDef:
        """The member with the most MACs (`by="macs"`) or parameters (`by="params"`), classifier (or `head`) included; exact."""
        return self._extreme(by, in_channels, head or HeadDef("classifier", num_classes), largest=True)

    def smallest(self, num_classes: int = 1000, by: str = "macs", in_channels: int = 3, head: HeadDef | None = None) -> ArchDef:
        """The member with the fewest MACs or parameters, classifier (or `head`) included; exact."""
        return self._extreme(by, in_channels, head or HeadDef("classifier", num_classes), largest=False)

    def _extreme(self, by: str, in_channels: int, head: HeadDef, largest: bool) -> ArchDef:
        """Dynamic programming over (layer, input width): a skip hands on a wider input, so greedy choices are wrong."""
        if by not in ("macs", "params"):
            raise ValueError(f"by must be macs or params, not {by!r}")
        sign, first = (1 if largest else -1), ("macs", "params") if by == "macs" else ("params", "macs")

        def value(cost: Cost) -> tuple[int, ...]:
            return tuple(sign * getattr(cost, objective) for objective in first)

        which = len(self.input_sizes) - 1 if largest else 0  # costs grow with the maps
        sizes = map_sizes(self.layers, self.input_sizes[which])
        # For each width that may reach a layer: the best total so far, and the picks that lead there as a linked list.
        best: dict[int, tuple[tuple[int, ...], Any]] = {in_channels: ((0, 0), None)}
        indices = head.reads(self.layers)
        sides = [sizes[0], *(sizes[index + 1] for index in indices)]
        for i, (layer, size) in enumerate(zip(reading(self.layers, in_channels), sizes)):
            after: dict[int, tuple[tuple[int, ...], Any]] = {}
            for c_in, (total, node) in best.items():
                for c_out, gain, picks in _best_blocks(layer, c_in, size, value):
                    more = value(head.cost(indices.index(i), c_out, sides)) if i in indices else (0, 0)
                    reached = (total[0] + gain[0] + more[0], total[1] + gain[1] + more[1])
                    if c_out not in after or reached >= after[c_out][0]:
                        after[c_out] = (reached, (picks, node))
            best = after
        node, found = max(best.values(), key=lambda end: end[0])[1], {"input_size": which}
        while node is not None:
            picks, node = node
            found |= picks
        return self.decode(found)


def _found(path: str | os.PathLike) -> str | os.PathLike:
    """The file of a space: of a shipped one's name, or else `path` itself. Raises ArchError."""
    from ..configs import config_path  # here: a checkout without links finds it once the package is imported

    name, shipped = os.fspath(path), {file.stem: file for file in sorted(config_path("spaces/fbnetv2_l.yaml").parent.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    if Path(name).suffix or Path(name).name != name or Path(name).is_file():
        return path
    raise ArchError(f"{name}: no shipped space{did_you_mean(name, shipped)}; there are {', '.join(shipped)}; or give a .yaml file")


def _best_blocks(layer: Layer, c_in: int, size: int, value: Callable[[Cost], tuple[int, ...]]) -> Iterator[tuple[int, Any, Picks]]:
    """For each width that may leave a layer: the best value of a block that makes it, and its picks."""
    # Blocks that cost the same are one; the last of them stands for all.
    kinds = {(layer.arguments[n].kind, *layer.constants(n).items()): n for n in layer.candidates}
    for c, c_out in enumerate(layer.channels):
        rows = ((layer.cost(n, c_in, c_out, h, size), n, i) for n in kinds.values() for i, h in enumerate(layer.hidden))
        top, name, hidden = max(((value(cost), n, i) for cost, n, i in rows), key=lambda row: row[0])
        yield c_out, top, {f"{layer.key}.block": layer.names.index(name), f"{layer.key}.channels": c, f"{layer.key}.hidden": hidden}
    if layer.skip is not None:
        yield c_in, (0, 0), {f"{layer.key}.block": layer.skip}


def _differences(layer: Layer, one: Layer, name: str, where: str) -> list[str]:
    """Options in which the blocks of two layers differ, dimensions aside."""
    found = []
    mine, theirs = (asdict(t.arguments[name].args) for t in (layer, one))
    if has_hidden(name):
        mine["expand convolution"], theirs["expand convolution"] = layer.expand, one.expand
    if mine.get("se"):
        mine["squeeze"], theirs["squeeze"] = layer.squeeze(one.hidden[0]), one.squeeze(one.hidden[0])
    for key in sorted({*mine, *theirs} - {"zero_gamma"}):
        if mine.get(key) != theirs.get(key):
            found.append(f"{where} {key} is {theirs.get(key)}, not {mine.get(key)}")
    return found


def _field(options: Sequence[int]) -> Any:
    """A field as it is written: one int, a grid, or a set."""
    if len(options) == 1:
        return options[0]
    steps = {b - a for a, b in itertools.pairwise(options)}
    return [options[0], options[-1], steps.pop()] if len(steps) == 1 else {"any": list(options)}
