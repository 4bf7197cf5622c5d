"""How well a table predicts networks that it was not fitted to, beside MACs alone and beside the measurement's own repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...arch import ArchDef
from ...errors import InputError
from .measure import Measurement
from .sample import Manifest, Sample
from .table import LatencyTable

FEWEST = 5  # networks that a check needs


@dataclass(frozen=True)
class Agreement:
    """Of predicted with measured milliseconds."""

    r2: float  # share of the variance that is explained
    tau: float  # Kendall's: 1 where all pairs are in the right order, -1 where none is
    error: float  # mean of |predicted / measured - 1|
    worst: float  # the largest of these


@dataclass(frozen=True)
class Check:
    """A table on held-out networks.

    Attributes:
        networks: names, in the order of the following.
        measured, predicted, by_macs: milliseconds.
        table, macs: how well each predicts; MACs by the line through random networks that the table is fitted to.
        repeat: the measurement's other passes, as a prediction of its first ones; None of a single pass.
    """

    networks: tuple[str, ...]
    measured: tuple[float, ...]
    predicted: tuple[float, ...]
    by_macs: tuple[float, ...]
    table: Agreement
    macs: Agreement
    repeat: Agreement | None

    @property
    def beats_macs(self) -> bool:
        """Whether the table's error is below that of MACs alone, and its order no worse."""
        return self.table.error < self.macs.error and self.table.tau >= self.macs.tau

    def to_dict(self) -> dict[str, Any]:
        """What a table keeps of it."""
        found: dict[str, Any] = {"networks": len(self.networks)}
        for name in ("table", "macs", "repeat"):
            one = getattr(self, name)
            found[name] = None if one is None else {key: round(value, 4) for key, value in asdict(one).items()}
        return found

    def __str__(self) -> str:
        from tabulate import tabulate

        rows = [("table", self.table), ("MACs alone", self.macs), *([("repeat", self.repeat)] if self.repeat else [])]
        lines = [(name, f"{a.r2:.3f}", f"{a.tau:.3f}", f"{a.error:.1%}", f"{a.worst:.1%}") for name, a in rows]
        text = tabulate(lines, ["", "R2", "tau", "mean error", "largest"], disable_numparse=True)
        return f"{len(self.networks)} networks, {min(self.measured):.3g} to {max(self.measured):.3g} ms, none of them fitted to\n{text}"


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """R2, Kendall's tau and relative errors of a prediction."""
    p, m = np.asarray(predicted, float), np.asarray(measured, float)
    pairs = np.sign(p[:, None] - p) * np.sign(m[:, None] - m)
    tau = pairs.sum() / (len(p) * (len(p) - 1))
    spread = ((m - m.mean()) ** 2).sum()
    relative = np.abs(p / m - 1)
    return Agreement(float(1 - ((p - m) ** 2).sum() / spread), float(tau), float(relative.mean()), float(relative.max()))


def line_of_macs(manifest: Manifest, times: Mapping[str, float]) -> tuple[float, float]:
    """Intercept and slope of milliseconds over MACs, by least squares of relative errors on the random networks to fit to.

    The extremes of the space, which a table needs, would spoil the line.
    """
    fit = [one for one in manifest.samples if one.part == "fit" and one.name in times]
    y = np.array([times[one.name] for one in fit])
    rows = np.array([[1.0, macs_of(one.arch, manifest)] for one in fit])
    intercept, slope = np.linalg.lstsq(rows / y[:, None], np.ones(len(y)), rcond=None)[0]
    return float(intercept), float(slope)


def macs_of(arch: ArchDef, manifest: Manifest) -> float:
    """Of a network under the head that was measured."""
    return float(arch.cost(in_channels=manifest.in_channels, head=manifest.head).macs)


def check_table(table: LatencyTable, manifest: Manifest, measurement: Measurement) -> Check:
    """A table beside what was measured of the networks that no table is fitted to. Raises InputError where there are too few."""
    times, head = measurement.least(), manifest.head
    held = [one for one in manifest.samples if one.part == "check" and one.name in times]
    if len(held) < FEWEST:
        raise InputError(f"{len(held)} networks of the part check were measured; a check needs {FEWEST} or more: tools/latency.py sample")
    measured = [times[one.name] for one in held]
    predicted = [table.latency(one.arch, in_channels=manifest.in_channels, head=head) for one in held]
    intercept, slope = line_of_macs(manifest, times)
    by_macs = [intercept + slope * macs_of(one.arch, manifest) for one in held]
    return Check(
        tuple(one.name for one in held),
        tuple(measured),
        tuple(predicted),
        tuple(by_macs),
        agreement(predicted, measured),
        agreement(by_macs, measured),
        _repeat(measurement, held),
    )


def _repeat(measurement: Measurement, held: Sequence[Sample]) -> Agreement | None:
    halves = measurement.halves()
    if halves is None:
        return None
    first, second = ([half[one.name] for one in held] for half in halves)
    return agreement(second, first)
