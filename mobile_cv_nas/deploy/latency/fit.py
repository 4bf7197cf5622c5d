"""A latency table from measured networks: non-negative least squares, on whole networks or on the runtime's own times of operators."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...arch.layer import map_sizes, reading
from ...errors import InputError, require
from ...networks.cells import BlockCells, HeadCells
from ...nn.operators import Operator
from .features import FEATURES
from .measure import Measurement
from .sample import Manifest, Sample
from .table import LatencyTable

log = logging.getLogger(__name__)

_DIMS = ("c_in", "c_out", "in_area", "out_area")
FEWEST = 8  # networks
_VECTORS = (1, 4, 8, 16)  # channels that onnxruntime may fill up to, by processor
Column = tuple[str, str]  # operator and feature
# Of whole networks: few columns, since each network is one equation.
_WHOLE: dict[str, tuple[str, ...]] = {
    "conv": ("padded",),
    "pointwise": ("one", "padded", "read", "written", "weights", "ragged"),
    "depthwise": ("one", "padded", "written", "ragged"),
    "linear": ("one", "weights"),
    "pool": ("one", "read", "ragged"),
    "scale": ("read",),
    "resize": ("written",),
}
_OTHER = ("written",)  # additions and activations
# Of single operators: each network has dozens of equations.
_PROFILED = ("one", "macs", "padded", "read", "written", "weights", "ragged", "ragged_macs")
_CONVOLUTIONS = ("Conv", "FusedConv", "QLinearConv", "ConvInteger")
_LINEAR = ("Gemm", "FusedGemm", "MatMul", "QGemm", "QLinearMatMul", "FusedMatMul")
_POOLS = ("GlobalAveragePool", "QLinearGlobalAveragePool", "ReduceMean")
_SCALES = ("Mul", "QLinearMul")


def operators_of(one: Sample, manifest: Manifest) -> list[Operator]:
    """The operators of a network, its head included, in the order of execution."""
    layers, sizes = reading(one.arch.layers, manifest.in_channels), map_sizes(one.arch.layers, one.arch.input_size)
    found: list[Operator] = []
    for layer, before, after in zip(layers, sizes, sizes[1:]):
        widths = [np.full((1, 1, 1), float(v)) for v in (layer.c_in[0], layer.hidden[0], layer.channels[0])]
        if layer.names[0] != "skip" or layer.expand:
            found += BlockCells(layer, layer.names[0], (before, after), *widths).operators()
    reads = manifest.head.reads(one.arch.layers)
    sides = (sizes[0], *(sizes[i + 1] for i in reads))
    for n, i in enumerate(reads):
        found += HeadCells(manifest.head, n, np.array([float(layers[i].channels[0])]), sides).operators()
    return [o._replace(**{dim: np.asarray(getattr(o, dim), float).item() for dim in _DIMS}) for o in found]


def fit_table(manifest: Manifest, measurement: Measurement, like: LatencyTable | None = None, note: str = "") -> LatencyTable:
    """A table fitted to the networks of all parts but "check".

    Args:
        manifest: of the networks.
        measurement: of them. Where it has profiles, each operator is fitted to its own times; else whole networks are.
        like: a table of a similar device, of which calls, pointwise convolutions, depthwise ones of each kernel and all else get a factor:
            a dozen random networks are enough then. A kernel that none of them has gets the mean factor of the others.
        note: for the users of the table.

    Raises:
        InputError: too few of the networks were measured, names are not those of the manifest, or `like` is a table of entries.
    """
    times = measurement.least()
    known = {one.name for one in manifest.samples}
    strange = [name for name in times if name not in known]
    if strange:
        raise InputError(f"{strange[0]}: no network of the manifest; the names are those of the files, such as {manifest.samples[0].name}")
    samples = [one for one in manifest.samples if one.part != "check" and one.name in times]
    if len(samples) < FEWEST:
        raise InputError(f"{len(samples)} networks to fit to were measured; give {FEWEST} or more")
    operators, measured = [operators_of(one, manifest) for one in samples], [times[one.name] for one in samples]
    profiles = [(found, measurement.profiles[one.name]) for one, found in zip(samples, operators) if one.name in measurement.profiles]
    ranges = _ranges([one for found in operators for one in found])
    if like is not None:
        if like.method == "cells":
            raise InputError("--like: a table of entries has no coefficients to scale; name one that was fitted")
        method, ranges = "scaled", _joined(ranges, like.ranges)
        coefficients, constant = _calibrated({k: dict(v) for k, v in like.coefficients.items()}, operators, measured, _part)
    elif profiles:
        method = "profiled"
        coefficients, constant = _calibrated(_profiled(profiles), operators, measured, _call)
    else:
        method = "nets"
        coefficients, constant = _whole(operators, measured)
    m = measurement
    return LatencyTable(
        m.device, m.processor, m.runtime, m.version, m.threads, m.precision, m.batch, m.date, manifest.space, manifest.digest,
        m.statistic, method, constant, {name: coefficients.get(name, {}) for name in ranges}, ranges, note=note,
    )  # fmt: skip


def _joined(ranges: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The ranges of both: what the other table was fitted to is known in proportion."""
    found = {}
    for name in sorted({*ranges, *others}):
        both = [one[name] for one in (ranges, others) if name in one]
        found[name] = {dim: (min(one[dim][0] for one in both), max(one[dim][1] for one in both)) for dim in both[0]}
    return found


def _ranges(operators: Sequence[Operator]) -> dict[str, dict[str, tuple[int, int]]]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for one in operators:
        own = found.setdefault(one.name, {})
        for dim, value in (("c_in", one.c_in), ("c_out", one.c_out), ("side", one.in_area**0.5)):
            low, high = own.get(dim, (round(value), round(value)))
            own[dim] = (min(low, round(value)), max(high, round(value)))
    return {name: found[name] for name in sorted(found)}


def nnls(rows: Any, values: Any, ridge: float = 0.0) -> Any:
    """Non-negative x that minimises |rows x - values|^2 + ridge |x norms|^2, with the norms of the columns."""
    solver: Any = require("scipy.optimize", "search")
    rows, values = np.asarray(rows, float), np.asarray(values, float)
    norms = np.sqrt((rows**2).sum(0))
    norms[norms == 0] = 1.0
    a, b = rows / norms, values
    if ridge:
        a, b = np.vstack([a, ridge**0.5 * np.eye(len(norms))]), np.concatenate([b, np.zeros(len(norms))])
    return solver.nnls(a, b)[0] / norms


def _columns(operators: Sequence[Sequence[Operator]]) -> list[Column]:
    names = sorted({one.name for found in operators for one in found})
    kinds = {one.name: one.kind for found in operators for one in found}
    return [(name, feature) for name in names for feature in _WHOLE.get(kinds[name], _OTHER)]


def _row(operators: Sequence[Operator], columns: Sequence[Column]) -> list[float]:
    sums: dict[Column, float] = dict.fromkeys(columns, 0.0)
    for one in operators:
        for feature, of in FEATURES.items():
            if (one.name, feature) in sums:
                sums[one.name, feature] += float(of(one))
    return [sums[column] for column in columns]


def _by_operator(columns: Sequence[Column], values: Sequence[float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (name, feature), value in zip(columns, values):
        if value > 0:
            found.setdefault(name, {})[feature] = float(value)
    return found


def _whole(operators: Sequence[Sequence[Operator]], times: Sequence[float]) -> tuple[dict[str, dict[str, float]], float]:
    """Coefficients and constant from whole networks, by the middle of relative and absolute errors."""
    columns, y = _columns(operators), np.asarray(times)
    rows = np.array([[1.0, *_row(found, columns)] for found in operators]) / np.sqrt(y)[:, None]
    x = nnls(rows, np.sqrt(y), ridge=1e-3 * float(y.mean()))
    return _by_operator(columns, x[1:]), float(x[0])


# -- profiles ------------------------------------------------------------------------------------------------------------------


def _profiled(parts: Sequence[tuple[Sequence[Operator], Sequence[Any]]]) -> dict[str, dict[str, float]]:
    """Coefficients of each operator from the times of nodes, and of what has no node of its own from the rest of each network."""
    pairs: dict[str, list[tuple[Operator, float]]] = {}
    rests = []
    for operators, nodes in parts:
        found, rest = match(operators, nodes)
        rests.append((operators, rest))
        for one, spent in found:
            pairs.setdefault(one.name, []).append((one, spent))
    coefficients = {name: _of_nodes(rows) for name, rows in pairs.items()}
    columns = [c for c in _columns([o for o, _ in rests]) if c[0] not in pairs or c[1] in ("ragged",) or c == ("scale", "read")]
    columns += [("scale", "one")] * any(one.name == "scale" for o, _ in rests for one in o)
    x = nnls([_row(o, columns) for o, _ in rests], [rest for _, rest in rests], ridge=1e-3)
    for name, own in _by_operator(columns, x).items():
        for feature, value in own.items():
            mine = coefficients.setdefault(name, {})
            mine[feature] = mine.get(feature, 0.0) + value
    return coefficients


def _of_nodes(rows: Sequence[tuple[Operator, float]]) -> dict[str, float]:
    """Small and large operators count alike in the middle of their relative and their absolute errors."""
    y = np.array([spent for _, spent in rows])
    weights = 1 / np.sqrt(y + 0.005)
    a = np.array([[float(FEATURES[name](one)) for name in _PROFILED] for one, _ in rows])
    x = nnls(a * weights[:, None], y * weights, ridge=1e-3)
    return {name: float(value) for name, value in zip(_PROFILED, x) if value > 0}


def match(operators: Sequence[Operator], nodes: Sequence[Any]) -> tuple[list[tuple[Operator, float]], float]:
    """The time of each operator that a node of its own computes, and the sum of all other nodes.

    Raises InputError where the nodes are not those of the network.
    """
    found, used = [], set()
    for types, kinds in (
        (_CONVOLUTIONS, ("conv", "pointwise", "depthwise", "linear")),
        (_LINEAR, ("linear",)),
        (_POOLS, ("pool",)),
        (_SCALES, ("scale",)),
    ):
        mine = [i for i, node in enumerate(nodes) if node[0] in types]
        theirs = [one for one in operators if one.kind in kinds]
        if types is _CONVOLUTIONS:  # a layer on one pixel is a convolution, that of a classifier is not
            theirs = theirs[: len(mine)] if len(theirs) == len(mine) + _last_linear(theirs) else theirs
        elif types is _LINEAR:
            theirs = theirs[-len(mine) :] if mine else []
        if len(mine) != len(theirs):
            if types is _CONVOLUTIONS:
                raise InputError(
                    f"a profile has {len(mine)} convolutions, and its network {len(theirs)}; measure the files of this manifest"
                )
            continue
        found += _paired([nodes[i] for i in mine], theirs)
        used |= set(mine)
    return found, sum(float(node[3]) for i, node in enumerate(nodes) if i not in used)


def _paired(nodes: Sequence[Any], operators: Sequence[Operator]) -> list[tuple[Operator, float]]:
    """Each node's operator and time, by their shapes. Raises InputError where a node is none of the operators."""
    most: list[Operator] = []
    for vector in _VECTORS:
        found = _found(nodes, operators, vector)
        if len(found) == len(nodes):
            return [(one, float(node[3])) for one, node in zip(found, nodes)]
        most = max(most, found, key=len)
    kind, reads, writes, _ = nodes[len(most)]
    raise InputError(f"a profile has a {kind} of {reads[:2]} to {writes}, which its network has not; measure the files of this manifest")


def _found(nodes: Sequence[Any], operators: Sequence[Operator], vector: int) -> list[Operator]:
    """Of each node the first operator of its shapes that is left, up to a node that has none.

    In a backbone it is the next one; the operators of a head are listed map by map, and run in another order.
    """
    left, found = list(operators), []
    for node in nodes:
        one = next((one for one in left if _is_of(node, one, vector)), None)
        if one is None:
            break
        left.remove(one)
        found.append(one)
    return found


def _is_of(node: Any, one: Operator, vector: int) -> bool:
    """Whether a node's shapes are an operator's, their channels filled up to whole vectors or not.

    What a profile does not say is no contradiction: int8 leaves weights out, and may have the channels last.
    """
    _, reads, writes, _ = node
    weights = [shape for shape in reads[1:2] if len(shape) == 4 and one.kind in ("conv", "pointwise", "depthwise", "linear")]
    c_in, c_out = ({round(c), -(-round(c) // vector) * vector} for c in (one.c_in, one.c_out))

    def fits(axis: int) -> bool:
        given = not reads or len(reads[0]) != 4 or reads[0][axis] in c_in
        return given and (len(writes) != 4 or (writes[axis] in c_out and math.prod(writes) == writes[0] * writes[axis] * one.out_area))

    return all(shape[2] == one.kernel for shape in weights) and any(fits(axis) for axis in ((1,) if weights else (1, 3)))


def _last_linear(operators: Sequence[Operator]) -> int:
    return int(bool(operators) and operators[-1].kind == "linear")


def _call(name: str, feature: str) -> str:
    """Calls, or the rest: a profiler adds to each call."""
    return "call" if feature == "one" else "rest"


def _part(name: str, feature: str) -> str:
    """Calls, or a kind of operators: what differs between runtimes, kernels above all."""
    return "call" if feature == "one" else name if name.startswith(("pointwise", "depthwise")) else "rest"


def _calibrated(
    coefficients: dict[str, dict[str, float]],
    operators: Sequence[Sequence[Operator]],
    times: Sequence[float],
    part: Callable[[str, str], str],
) -> tuple[dict[str, dict[str, float]], float]:
    """The coefficients scaled to whole networks, and the constant.

    Each `part` has a factor. Activations that are computed inside of a convolution have no time of their own in a profile, and get a
    coefficient. By absolute errors: the smallest networks are the extremes of a space.
    """
    free = sorted({one.name for found in operators for one in found if one.name not in coefficients})
    parts = sorted({part(name, feature) for name, own in coefficients.items() for feature in own})
    rows = []
    for found in operators:
        spent, loose = dict.fromkeys(parts, 0.0), dict.fromkeys(free, 0.0)
        for one in found:
            for feature, value in coefficients.get(one.name, {}).items():
                spent[part(one.name, feature)] += value * float(FEATURES[feature](one))
            if one.name in loose:
                loose[one.name] += float(FEATURES["written"](one))
        rows.append([1.0, *spent.values(), *loose.values()])
    constant, *found_values = (float(value) for value in nnls(rows, times))
    factors = dict(zip([*parts, *free], found_values))
    ran = {name: factors[name] for name, column in zip(parts, np.transpose(rows)[1:]) if column.any()}
    factors |= {name: _alike(name, ran) for name in parts if name not in ran}
    scaled = {name: {feature: value * factors[part(name, feature)] for feature, value in own.items()} for name, own in coefficients.items()}
    return scaled | {name: {"written": factors[name]} for name in free}, constant


def _alike(part: str, factors: Mapping[str, float]) -> float:
    """The factor of a part that no network ran, for which least squares have nothing but 0: the mean of its kind, or that of the rest."""
    kind = part.rstrip("0123456789")
    others = [name for name in factors if name.rstrip("0123456789") == kind] or [name for name in factors if name == "rest"]
    log.warning("%s: no measured network has it; scaled as %s; measure networks that have it", part, " and ".join(others) or "it was")
    return statistics.fmean(factors[name] for name in others) if others else 1.0


def with_check(table: LatencyTable, check: Any) -> LatencyTable:
    """The table with how it did."""
    return replace(table, check=check.to_dict())
