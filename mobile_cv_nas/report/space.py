"""What a search space holds: its choices and size, the range of its costs, its extreme children, and which networks it contains."""

from __future__ import annotations

import bisect
import math
import random
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..arch import ArchDef, SearchSpace
from ..arch.layer import map_sizes
from ..engine.progress import short
from ..errors import InputError
from ..nn.shapes import Cost

KINDS = {"input_size": "input size", "block": "block", "channels": "channels", "hidden": "hidden channels"}
_UNITS = {"macs": "MACs", "params": "parameters"}  # of the costs that are drawn
_SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass(frozen=True)
class SpaceInfo:
    """A space in figures; `str()` is a report of at most 80 columns.

    Attributes:
        space: what it is about.
        choices: by kind (`KINDS`), the numbers of options of its choices.
        size: exact number of members.
        blocks_only: size of the same space with the block types as its only choices.
        largest, smallest: members by MACs, with their costs.
        params: fewest and most parameters of a member.
        missing: by name of a network, what keeps it out of the space; empty for a member.
        drawn: ascending MACs and parameters of some members that were drawn with every choice uniform.
        target: a cost to place among those drawn, and what it counts (macs or params); None for none.
    """

    space: SearchSpace
    choices: Mapping[str, tuple[int, ...]]
    size: int
    blocks_only: int
    largest: tuple[ArchDef, Cost]
    smallest: tuple[ArchDef, Cost]
    params: tuple[int, int]
    missing: Mapping[str, list[str]]
    drawn: Mapping[str, tuple[int, ...]]
    target: tuple[float, str] | None = None

    def share_below(self, cost: float, objective: str = "macs") -> float:
        """The share of the drawn members that cost less."""
        return bisect.bisect_left(self.drawn[objective], cost) / len(self.drawn[objective])

    def quantile(self, share: float, objective: str = "macs") -> int:
        """The cost that this share of the drawn members does not exceed."""
        costs = self.drawn[objective]
        return costs[min(len(costs) - 1, max(0, math.ceil(share * len(costs)) - 1))]

    @property
    def ratio(self) -> int:
        """How many times larger the space is than with the block types as its only choices, rounded down."""
        return self.size // self.blocks_only

    def __str__(self) -> str:
        return "\n\n".join(part for part in (self._figures(), self._costs(), self._choices(), self._children(), self._networks()) if part)

    def _figures(self) -> str:
        from tabulate import tabulate

        sizes = ", ".join(map(str, self.space.input_sizes))
        rows = [
            ("space", self.space.name or "unnamed"),
            ("input sizes", sizes if len(sizes) < 60 else f"{len(self.space.input_sizes)} from {sizes[:3]} to {sizes[-3:]}"),
            ("layers", len(self.space.layers)),
            ("choices", sum(map(len, self.choices.values()))),
            ("members", f"{_power(self.size)}, exactly\n{_grouped(self.size)}" if self.size >= 10**6 else f"{self.size:,}"),
            ("block types alone", f"{_power(self.blocks_only)}; all choices together {_power(self.ratio)} times as many"),
            ("MACs", f"{self.smallest[1].macs:,} to {self.largest[1].macs:,}"),
            ("parameters", f"{self.params[0]:,} to {self.params[1]:,}"),
        ]
        return tabulate(rows, tablefmt="plain", disable_numparse=True)

    def _costs(self) -> str:
        from tabulate import tabulate

        if self.size == 1:
            return ""
        rows = [[name, *(short(self.quantile(share, key)) for share in _SHARES)] for key, name in _UNITS.items()]
        text = f"costs of {len(self.drawn['macs'])} networks drawn at random: shares of them have at most\n"
        text += tabulate(
            rows, ["", *(f"{share:.0%}" for share in _SHARES)], disable_numparse=True, colalign=("left", *["right"] * len(_SHARES))
        )
        return text + (f"\n{self._placed(*self.target)}" if self.target else "")

    def _placed(self, cost: float, objective: str) -> str:
        unit = _UNITS[objective]
        low, high = ((self.smallest[1].macs, self.largest[1].macs) if objective == "macs" else self.params)[:2]
        if not low <= cost <= high:
            return f"{short(cost)} {unit} is out of reach"
        share = self.share_below(cost, objective)
        where = (
            f"percentile {100 * share:.0f}"
            if 0 < share < 1
            else "beyond all of them: draw more, or search"
            if share
            else "below all of them"
        )
        return f"{short(cost)} {unit} is {where}"

    def _choices(self) -> str:
        from tabulate import tabulate

        rows = [(KINDS[kind], len(counts), _span(counts), sum(counts)) for kind, counts in self.choices.items() if counts]
        return tabulate(rows, ["choice of", "choices", "options each", "options in all"], colalign=("left", *["right"] * 3)) if rows else ""

    def _children(self) -> str:
        from tabulate import tabulate

        tables = [_blocks(arch) for arch, _ in (self.largest, self.smallest)]
        rows = [(layer.key, *large, "|", *small) for layer, large, small in zip(self.space.layers, *tables)]
        columns = ["map", "block", "c", "mid"]
        align = ["right", "left", "right", "right"]
        return "the largest and the smallest child by MACs: side of the map, block, output and\nhidden channels\n" + tabulate(
            rows, ["", *columns, "", *columns], tablefmt="plain", disable_numparse=True, colalign=("left", *align, "left", *align)
        )

    def _networks(self) -> str:
        from tabulate import tabulate

        def answer(wrong: list[str]) -> str:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            return textwrap.fill(f"no: {wrong[0]}{more}", 66) if wrong else "yes"

        rows = [(name, answer(wrong)) for name, wrong in self.missing.items()]
        return tabulate(rows, ["network", "in this space"]) if rows else ""


def space_info(
    space: SearchSpace,
    num_classes: int = 1000,
    networks: Mapping[str, ArchDef] | None = None,
    draws: int = 500,
    target: tuple[float, str] | None = None,
) -> SpaceInfo:
    """Measures a space: exact counts and costs, classifier of `num_classes` included.

    Args:
        space: to describe.
        num_classes: of the children.
        networks: by name, archs to look for in the space.
        draws: members whose costs show how they are distributed.
        target: a cost to place among them, and what it counts: (60e6, "macs").

    Raises InputError if `num_classes` is not positive, or the target is of another cost than MACs or parameters.
    """
    if target is not None and target[1] not in _UNITS:
        why = "it needs a latency table, which a space has not" if target[1] == "latency" else "a space is not measured by it"
        raise InputError(f"--target: {target[1]} cannot be placed: {why}; give MACs or parameters, such as 60M or '4M params'")
    if num_classes < 1:
        raise InputError(f"--num-classes: must be a positive int, not {num_classes}")
    choices: dict[str, tuple[int, ...]] = dict.fromkeys(KINDS, ())
    for choice in space.choices:
        choices[choice.name.rpartition(".")[2]] += (len(choice.options),)
    extremes = [(arch, arch.cost(num_classes)) for arch in (space.largest(num_classes), space.smallest(num_classes))]
    params = [find(num_classes, by="params").cost(num_classes).params for find in (space.smallest, space.largest)]
    return SpaceInfo(
        space,
        choices,
        space.size(),
        math.prod(len(layer.names) for layer in space.layers),
        extremes[0],
        extremes[1],
        (params[0], params[1]),
        {name: space.explain(arch) for name, arch in (networks or {}).items()},
        _drawn(space, num_classes, draws),
        target,
    )


def _drawn(space: SearchSpace, num_classes: int, draws: int) -> dict[str, tuple[int, ...]]:
    rng = random.Random(0)
    costs = [space.cost(space.sample(rng), num_classes) for _ in range(draws)]
    return {"macs": tuple(sorted(cost.macs for cost in costs)), "params": tuple(sorted(cost.params for cost in costs))}


def _blocks(arch: ArchDef) -> list[tuple[Any, ...]]:
    """Of each layer the side of its output, block, channels and hidden channels."""
    sides = map_sizes(arch.layers, arch.input_size)[1:]
    return [(side, x.names[0], x.channels[0], x.hidden[0] or "") for side, x in zip(sides, arch.layers)]


def _span(counts: tuple[int, ...]) -> str:
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _power(number: int) -> str:
    """A positive integer, from a million on as a power of ten with its digits cut, not rounded."""
    exponent = len(str(number)) - 1
    return f"{number // 10 ** (exponent - 1) / 10:.1f}e{exponent}" if exponent > 5 else f"{number:,}"


def _grouped(number: int) -> str:
    """All digits, in groups of three; in lines of at most 60."""
    return "\n".join(textwrap.wrap(f"{number:,}".replace(",", ", "), 60)).replace(", ", ",")
