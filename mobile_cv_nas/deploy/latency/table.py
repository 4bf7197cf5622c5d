"""`LatencyTable`: milliseconds of a network's parts on one device, from which the latency of an arch is a sum."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from ...arch import ArchDef, SearchSpace
from ...errors import FileError, InputError, did_you_mean
from ...files import atomic_write, read_bytes
from ...networks.additive import Expectations, layer_sum
from ...networks.cells import BlockCells, HeadCells
from ...networks.supernet import Supernet
from ...nn.heads import Classifier, HeadDef
from ...nn.operators import Operator
from .features import FEATURES

FORMAT = 1
METHODS = ("nets", "profiled", "scaled", "cells")
_QUANTUM = 2.0**-40  # ms; cells are whole multiples of it, so that sums of them are exact, in any order
_DIMS = ("c_in", "c_out", "side")


class LatencyError(InputError):
    """A cell that a table does not know."""


class _Built:
    """What was read off a table: the expectations of supernets, and the cells of single blocks."""

    def __init__(self) -> None:
        self.expectations = Expectations()
        self.cells: dict[Any, Any] = {}


@dataclass(frozen=True)
class LatencyTable:
    """What a network's parts cost in milliseconds, on one device and runtime, for one image or a batch of them.

    A cell is a sum over the operators of a block of coefficients times features (`features.FEATURES`), or, by the method `cells`, an entry.
    The latency of an arch is `constant` and the sum of its cells, the head's included.

    Args:
        device: what people call it.
        processor, runtime, version, threads, precision, batch: what was measured, how.
        date: year-month-day of the measurement.
        space: name of the space whose networks were measured; digest: of its content.
        statistic: of the calls of one network: min or median.
        method: how it was fitted: nets (whole networks), profiled (the runtime's times of operators), scaled (another
            table, by whole networks), or cells (entries).
        constant: milliseconds of every network.
        coefficients: {operator: {feature: milliseconds}}.
        ranges: {operator: {c_in, c_out, side: [lowest, highest]}} that was measured; beyond it a cell is an error. A classifier alone may
            have fewer outputs: its one linear layer on a pixel is the least cell of all, and of fewer outputs less still.
        entries: {cell: milliseconds}, a cell being `cell_key`.
        check: how it did on networks that it was not fitted to; see `check.Check`.
        note: what else a user should know.

    Raises:
        FileError: a value that cannot be.

    >>> table = LatencyTable.load("digits_onnxruntime_fp32")
    >>> table.space, table.unit
    ('digits', 'ms')
    """

    device: str
    processor: str
    runtime: str
    version: str
    threads: int
    precision: str
    batch: int
    date: str
    space: str
    digest: str
    statistic: str
    method: str
    constant: float
    coefficients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ranges: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    entries: Mapping[str, float] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    unit: str = "ms"

    if TYPE_CHECKING:  # no field: it is neither compared nor saved
        _built: ClassVar[_Built]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_built", _Built())
        _check_values(self)

    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        return LatencyTable.from_dict, (self.to_dict(),)  # without what was built for supernets

    # -- what it says ------------------------------------------------------------------------------------------------------------

    def latency(self, arch: ArchDef, num_classes: int = 1000, in_channels: int = 3, head: HeadDef | None = None) -> float:
        """Milliseconds of a network under a classifier of `num_classes`, or under `head`. Raises LatencyError, naming a cell outside."""
        return layer_sum(self, arch, head or HeadDef("classifier", num_classes), in_channels)

    def expected(self, supernet: Supernet, noise: bool = True) -> Tensor:
        """The expectation of the child's milliseconds under the current gates, head included; 0-d float64, differentiable in every alpha.

        Exact: at one-hot gates it is `latency` of the child to the last bit. `noise` False: under softmax(alpha). Cells are read once a
        supernet. Raises LatencyError, naming a cell of its space that is outside.
        """
        return self._built.expectations(self, supernet, noise)

    def block(self, cells: BlockCells) -> Any:
        """A `LayerSum`'s: (c_in, hidden, c_out) of a block."""
        if self.method == "cells":
            return self._entries(cells)
        if cells.c_in.size * cells.hidden.size * cells.c_out.size > 1:
            return self._sum(cells, cells.operators())
        key, known = cells.key(), self._built.cells
        if key not in known:  # archs that are drawn from a space have most blocks in common
            known[key] = self._sum(cells, cells.operators())
        return known[key]

    def head(self, cells: HeadCells) -> Any:
        """A `LayerSum`'s: (widths,) of a head's map."""
        if self.method == "cells":
            return self._entries(cells)
        return self._sum(cells, cells.operators())

    def _sum(self, cells: BlockCells | HeadCells, operators: list[Operator]) -> Any:
        total: Any = 0.0
        for one in operators:
            self._check_range(cells, one)
            for name, coefficient in self.coefficients[one.name].items():
                total = total + coefficient * FEATURES[name](one)
        return np.rint(np.asarray(total, float) / _QUANTUM) * _QUANTUM

    def _check_range(self, cells: BlockCells | HeadCells, one: Operator) -> None:
        known = self.ranges.get(one.name)
        if known is None or one.name not in self.coefficients:
            raise LatencyError(f"{self._named}: {cells.where((0, 0, 0))}: the operator {one.name} was never measured; {_remedy(cells)}")
        present = np.asarray(one.c_out) > 0
        for dim, values in zip(_DIMS, (one.c_in, one.c_out, np.sqrt(one.in_area))):
            low, high = known[dim]
            if dim == "c_out" and one.kind == "linear" and isinstance(cells, HeadCells) and issubclass(cells.head.kind, Classifier):
                low = 1
            outside = ((values < low) | (values > high)) & present
            if np.any(outside):
                index = tuple(int(i) for i in np.argwhere(outside)[0])
                value = int(np.broadcast_to(values, outside.shape)[index])
                where = cells.where(index or (0, 0, 0))
                remedy = _remedy(cells, value if dim == "c_in" else 0)
                raise LatencyError(f"{self._named}: {where}: {dim} {value} of {one.name} is outside of {low} to {high}; {remedy}")

    def _entries(self, cells: BlockCells | HeadCells) -> Any:
        found = []
        for index, key in cell_keys(cells):
            if key not in self.entries:
                raise LatencyError(f"{self._named}: {cells.where(index)}: the cell {key} was never measured; {_remedy(cells)}")
            found.append(round(self.entries[key] / _QUANTUM) * _QUANTUM)
        shape = (cells.width.size,) if isinstance(cells, HeadCells) else (cells.c_in.size, cells.hidden.size, cells.c_out.size)
        return np.array(found).reshape(shape)

    @property
    def _named(self) -> str:
        return f"the latency table of {self.device}, made for {self.space or 'a space without a name'}"

    # -- as a file ---------------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike) -> LatencyTable:
        """Reads a table's file, or a shipped one by its name, such as `fbnetv2_f_onnxruntime_fp32`. Raises FileError."""
        file = _found(os.fspath(path))
        try:
            content = json.loads(read_bytes(file, 256 * 2**20))
        except (ValueError, RecursionError) as error:
            raise error if isinstance(error, FileError) else FileError(f"{path}: no JSON: {' '.join(str(error).split())[:100]}") from None
        return cls.from_dict(content, str(path))

    @classmethod
    def from_dict(cls, content: Any, source: str = "table") -> LatencyTable:
        """The inverse of `to_dict`. Raises FileError."""
        known = {one.name for one in fields(cls)}
        if not isinstance(content, Mapping) or "format" not in content:
            raise FileError(f"{source}: no latency table: it has no key format; tools/latency.py fit writes one")
        if content["format"] != FORMAT:
            raise FileError(f"{source}: format {content['format']!r}: this version reads {FORMAT}; update the library or fit it anew")
        for key in content:
            if key not in known and key != "format":
                raise FileError(f"{source}: unknown key {key!r}{did_you_mean(key, known)}")
        needed = [one.name for one in fields(cls)][: [one.name for one in fields(cls)].index("coefficients")]
        missing = [key for key in needed if key not in content]
        if missing:
            raise FileError(f"{source}: the key {missing[0]} is missing; tools/latency.py fit writes it")
        values = {key: value for key, value in content.items() if key != "format"}
        try:
            return cls(**values)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise FileError(f"{source}: {' '.join(str(error).split())[:200]}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the file has them."""
        return {"format": FORMAT, **asdict(self)}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file that `load` reads. Raises FileError."""
        atomic_write(path, json.dumps(self.to_dict(), indent=1) + "\n")


def cell_keys(cells: BlockCells | HeadCells) -> Iterator[tuple[tuple[int, ...], str]]:
    """The index and the key of each cell, in order: `ir_k3_hs,16,64,24,stride 2,112`: block, widths in, hidden, out, stride, side."""
    if isinstance(cells, HeadCells):
        for i, width in enumerate(cells.width):
            yield (i,), f"head {cells.head.name},{cells.head.num_classes},map {cells.n},{int(width)},{','.join(map(str, cells.sides))}"
        return
    for i, c_in in enumerate(cells.c_in.flat):
        for j, hidden in enumerate(cells.hidden.flat):
            for k, c_out in enumerate(cells.c_out.flat):
                key = f"{cells.name},{int(c_in)},{int(hidden)},{int(c_out)},stride {cells.layer.stride},{cells.sides[0]}"
                yield (i, j, k), key


def digest_matches(table: LatencyTable, space: SearchSpace) -> bool:
    """Whether a table was made for this very space."""
    from .sample import digest

    return table.digest == digest(space)


def _remedy(cells: BlockCells | HeadCells, c_in: int = 0) -> str:
    """How to measure what a table lacks; `c_in` is what an operator reads where that is outside."""
    more = ""
    if isinstance(cells, HeadCells):
        head = cells.head
        options = [f" --option {k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in head.options.items()]
        more = f" sample --num-classes {head.num_classes}" + ("" if head.name == "classifier" else f" --head {head.name}{''.join(options)}")
    elif cells.layer.key == "s0b0" and c_in == cells.c_in.max():  # of the images
        more = f" sample --in-channels {c_in}"
    return f"measure networks that have it: tools/latency.py{more}"


def _found(name: str) -> Path:
    from ...configs import config_path

    path = Path(name).expanduser()
    if path.suffix == ".json" or "/" in name:
        return path
    folder = config_path("spaces/fbnetv2_f.yaml").parent.parent / "latency"
    shipped = {file.stem: file for file in sorted(folder.glob("*.json"))}
    if name not in shipped:
        raise FileError(f"{name}: no shipped latency table{did_you_mean(name, shipped, few=12)}; or give a .json file")
    return shipped[name]


def _check_values(table: LatencyTable) -> None:
    """Raises FileError where a value cannot be."""
    if table.method not in METHODS:
        raise FileError(f"key method: {table.method!r}{did_you_mean(table.method, METHODS, few=4)}")
    if table.unit != "ms":
        raise FileError(f"key unit: {table.unit!r}: tables are in ms")
    for operator, values in table.coefficients.items():
        for name, value in values.items():
            if name not in FEATURES:
                raise FileError(f"key coefficients: {operator}: {name!r} is no feature{did_you_mean(name, FEATURES, few=8)}")
            _check_time(f"coefficients: {operator}: {name}", value)
    for cell, value in table.entries.items():
        _check_time(f"entries: {cell}", value)
    _check_time("constant", table.constant)
    for operator, ranges in table.ranges.items():
        for dim in _DIMS:
            low, high = ranges[dim]
            if not 0 <= low <= high:
                raise FileError(f"key ranges: {operator}: {dim}: {low} to {high} is no range")


def _check_time(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise FileError(f"key {where}: {value!r} is no time; give a number of milliseconds, 0 or more")
