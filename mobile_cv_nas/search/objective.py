"""What a search trades accuracy against: MACs, parameters, milliseconds by a latency table, or a sum over layers of one's own.

An objective says what a network costs, exactly, and what a supernet's child is expected to cost, differentiably. A function of one's own
joins by `register_objective`; `memory` (search/memory.py) is one that is no sum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from ..arch import ArchDef, SearchSpace
from ..deploy.latency.table import LatencyTable
from ..errors import InputError, decimal, did_you_mean, shown
from ..networks.additive import Expectations, layer_sum
from ..networks.cells import LayerSum
from ..networks.extreme import extreme
from ..networks.supernet import Supernet
from ..nn.heads import HeadDef
from .memory import PeakMemory
from .options import SearchOptions


class Objective(Protocol):
    """What a search limits."""

    @property
    def unit(self) -> str:
        """What people call one of it, in figures and tables."""

    @property
    def digits(self) -> int:
        """After the point, where a value is written out; of a value below 1 more, see `written`."""

    def cost(self, arch: ArchDef, head: HeadDef, in_channels: int) -> float:
        """Of one network."""

    def expected(self, supernet: Supernet, noise: bool) -> Tensor:
        """Of the child, 0-d float64, differentiable in the alphas: under the current gates, or (`noise` False) under softmax(alpha)."""

    def ends(self, space: SearchSpace, head: HeadDef, in_channels: int) -> tuple[float, float]:
        """The least and the most that a network of a space costs."""


@dataclass(frozen=True)
class Counted:
    """MACs or parameters: ints, in closed form."""

    name: str
    unit: str
    digits: int = 0

    def cost(self, arch: ArchDef, head: HeadDef, in_channels: int) -> float:
        return getattr(arch.cost(in_channels=in_channels, head=head), self.name)

    def expected(self, supernet: Supernet, noise: bool) -> Tensor:
        return getattr(supernet.cost() if noise else supernet.expected_cost(), self.name)

    def ends(self, space: SearchSpace, head: HeadDef, in_channels: int) -> tuple[float, float]:
        low, high = (find(by=self.name, in_channels=in_channels, head=head) for find in (space.smallest, space.largest))
        return self.cost(low, head, in_channels), self.cost(high, head, in_channels)


@dataclass(frozen=True)
class Summed:
    """A sum over layers, by one tensor a layer; see `networks.additive`."""

    function: LayerSum
    unit: str
    digits: int = 2
    _built: Expectations = field(default_factory=Expectations, compare=False, repr=False)

    def cost(self, arch: ArchDef, head: HeadDef, in_channels: int) -> float:
        return layer_sum(self.function, arch, head, in_channels)

    def expected(self, supernet: Supernet, noise: bool) -> Tensor:
        return self._built(self.function, supernet, noise)

    def ends(self, space: SearchSpace, head: HeadDef, in_channels: int) -> tuple[float, float]:
        found = (extreme(self.function, space, head, in_channels, largest) for largest in (False, True))
        low, high = (self.cost(arch, head, in_channels) for arch in found)
        return low, high


def written(value: float, measure: Objective) -> str:
    """A value for people, with its objective's digits: 60,000,000; 8.00; 0.0452."""
    return decimal(value, measure.digits) if measure.digits else f"{value:,.0f}"


_UNITS = {"macs": {"mac": 1.0, "macs": 1.0}, "params": {"params": 1.0, "parameters": 1.0}, "latency": {"ms": 1.0, "us": 1e-3, "s": 1e3}}
_UNITS["memory"] = {"bytes": 1.0, "kb": 1e3, "mb": 1e6, "kib": 1024.0, "mib": 1024.0**2}
_REGISTERED: dict[str, Objective] = {
    "macs": Counted("macs", "MACs"),
    "params": Counted("params", "parameters"),
    "memory": PeakMemory(),
}


def objectives() -> list[str]:
    """The names of all."""
    return [*_UNITS]


def register_objective(name: str, function: LayerSum, unit: str, digits: int = 2) -> None:
    """Makes a cost of your own one that a search can limit: `nas.search(..., target="3 mJ")`, or `limits={name: "3 mJ"}`.

    Args:
        name: letters, digits and underscores; not yet taken.
        function: with `constant`, `block(cells)` and `head(cells)`; see `networks.cells.LayerSum`. A network's cost is the constant and
            the sum over its blocks and over the maps that its head reads.
        unit: what a target is written in: letters, not the unit of another objective, and none that multiplies a number: k, m, g, b.
        digits: after the point, in tables.

    Raises:
        InputError: says what is wrong.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w{1,100}", name) or name in _UNITS:
        raise InputError(f"objective {shown(name)}: give a name of letters, digits and underscores that is not {', '.join(_UNITS)}")
    taken = {word for words in (*_UNITS.values(), _SCALE) for word in words if word}  # "3 g" is 3e9
    if not isinstance(unit, str) or not re.fullmatch(r"[A-Za-z]{1,20}", unit) or unit.lower() in taken:
        raise InputError(f"objective {name}: unit {shown(unit)}: give letters that are not one of {', '.join(sorted(taken))}")
    for part in ("constant", "block", "head"):
        if not hasattr(function, part):
            raise InputError(f"objective {name}: {type(function).__name__} has no {part}; see mobile_cv_nas.networks.cells.LayerSum")
    _UNITS[name] = {unit.lower(): 1.0}
    _REGISTERED[name] = Summed(function, unit, digits)


def forget_objective(name: str) -> None:
    """Takes back a `register_objective`."""
    del _UNITS[name], _REGISTERED[name]


def objective_of(name: str, table: Any = "", key: str = "SEARCH.OBJECTIVE") -> Objective:
    """An objective by its name; `latency` is by a `table`: a file, the name of a shipped one, or a LatencyTable. Raises InputError."""
    if name == "latency":
        return Summed(table_of(table), "ms")
    if name not in _REGISTERED:
        raise InputError(f"{key}: {name!r} is no objective{did_you_mean(name, _UNITS, few=8)}")
    return _REGISTERED[name]


def table_of(table: Any) -> LatencyTable:
    """A table given as such, as a plain mapping, or by its file or name. Raises InputError."""
    if isinstance(table, LatencyTable):
        return table
    if isinstance(table, Mapping):
        return LatencyTable.from_dict({"format": 1, **table}, "SEARCH.TABLE")
    if not table:
        raise InputError("SEARCH.TABLE: empty; latency is searched for by a table of tools/latency.py: name its file, or a shipped one")
    return LatencyTable.load(table)


def with_table(options: SearchOptions) -> SearchOptions:
    """The options with the content of their latency table in place of its name, so that a run goes on by the same. Raises InputError."""
    if options.objective != "latency" and "latency" not in parse_limits(options.limits):
        return options
    return replace(options, table=table_of(options.table).to_dict())


_TARGET = re.compile(r"\s*([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([kmgb](?![a-z]))?\s*([a-z]*)\s*", re.IGNORECASE)
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def parse_target(text: str | float, objective: str = "macs") -> tuple[float, str]:
    """A target and its objective: 60e6, "60e6", "60M", "60e6 macs", "4M params", "8 ms", "256 kB". Raises InputError."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        found, word = float(text), ""
    else:
        match = _TARGET.fullmatch(str(text))
        if match is None:
            raise InputError(f"target {text!r}: give a number and what of, such as 60e6, 60M, '4M params' or '8 ms'")
        found, word = float(match[1].replace("_", "")) * _SCALE[(match[2] or "").lower()], match[3].lower()
    known = {name: (scale, one) for one, words in _UNITS.items() for name, scale in {one: 1.0, **words}.items()}
    if word and word not in known:
        raise InputError(f"target {text!r}: {word!r} is no objective{did_you_mean(word, _UNITS, few=8)}")
    scale, objective = known[word] if word else (1.0, objective)
    if not found > 0:
        raise InputError(f"target {text!r}: give a number above 0")
    return found * scale, objective


def parse_limits(limits: Any) -> dict[str, float]:
    """Limits by objective: {"macs": "60M", "latency": "8 ms"}, or texts "macs: 60M". Raises InputError."""
    rows = limits.items() if isinstance(limits, Mapping) else [str(text).partition(":")[::2] for text in limits]
    found: dict[str, float] = {}
    for name, text in rows:
        name = str(name).strip()
        if name not in _UNITS:
            raise InputError(f"SEARCH.LIMITS: {name!r} is no objective{did_you_mean(name, _UNITS, few=8)}")
        value, objective = parse_target(text, name)
        if objective != name:
            raise InputError(f"SEARCH.LIMITS: {name}: {text.strip()!r} is a limit of {objective}")
        if name in found:
            raise InputError(f"SEARCH.LIMITS: {name}: given twice")
        found[name] = value
    return found
