"""The statistics of `compare_strategies.py`, its table, CSV and figure."""

from __future__ import annotations

import csv
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BOOTSTRAPS = 10_000
FLOOR = ("random archs", "sane random archs")  # the rows of the noise floor


def score(accuracy: float, images: int) -> float:
    """-ln(1 - accuracy); without a mistake, as with half a one."""
    return -math.log(max(1 - accuracy, 0.5 / images))


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; nan of a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), spread / math.sqrt(len(values))


def spreads(trainings: Sequence[Sequence[float]]) -> dict[str, float]:
    """Standard deviations of scores: `archs` of means over the trainings of an arch, `trainings` of the trainings of one arch."""
    within = [statistics.variance(of) for of in trainings if len(of) > 1]
    means = [statistics.fmean(of) for of in trainings]
    return {
        "archs": statistics.stdev(means) if len(means) > 1 else math.nan,
        "trainings": math.sqrt(statistics.fmean(within)) if within else math.nan,
    }


def bootstrap(mine: Mapping[Any, float], other: Mapping[Any, float], seed: int = 0) -> tuple[float, float, float]:
    """The difference of two means, and the bounds of its 95% interval by the bootstrap.

    Where both have scores of the same seeds, differences of the same seed are drawn (paired); else each side's scores.
    """
    rng = random.Random(seed)
    pairs = [mine[key] - other[key] for key in mine if key in other] if set(mine) == set(other) else []
    a, b = list(mine.values()), list(other.values())
    drawn = []
    for _ in range(BOOTSTRAPS):
        if pairs:
            drawn.append(statistics.fmean(rng.choices(pairs, k=len(pairs))))
        else:
            drawn.append(statistics.fmean(rng.choices(a, k=len(a))) - statistics.fmean(rng.choices(b, k=len(b))))
    drawn.sort()
    return statistics.fmean(a) - statistics.fmean(b), drawn[int(0.025 * BOOTSTRAPS)], drawn[int(0.975 * BOOTSTRAPS)]


def sigmas(mine: Sequence[float], other: Sequence[float]) -> float:
    """The difference of two means in standard errors of it."""
    (a, da), (b, db) = mean_error(mine), mean_error(other)
    error = math.hypot(da, db)
    return (a - b) / error if error > 0 else math.nan


def kendall(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b: 1 where both have the same order, -1 where the reverse; nan where one has no order or they are of other archs.

    A search that was done before the floor grew has ranked fewer of them.
    """
    if len(one) != len(other):
        return math.nan
    n, agree, ties = len(one), 0, [0, 0]
    for i in range(n):
        for j in range(i):
            a, b = (one[i] > one[j]) - (one[i] < one[j]), (other[i] > other[j]) - (other[i] < other[j])
            agree += a * b
            ties[0] += not a
            ties[1] += not b
    pairs = n * (n - 1) / 2
    scale = math.sqrt((pairs - ties[0]) * (pairs - ties[1]))
    return agree / scale if scale else math.nan


def rows_of(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A row a kind of arch: of the noise floor, and of each strategy, from its archs.

    Each arch has `accuracies` and `scores` (one a training), `macs`, `target`; those of a strategy also `seed`, `images`, `search_macs`,
    `child_macs` (of one training), `seconds`, `memory` and `tau`.
    """
    floor = [statistics.fmean(arch["scores"]) for arch in found.get(FLOOR[0], ())]
    paired = {arch["seed"]: statistics.fmean(arch["scores"]) for arch in found.get("random", ())}
    rows = []
    for kind, archs in found.items():
        means = [statistics.fmean(arch["scores"]) for arch in archs]
        value, error = mean_error(means)
        row: dict[str, Any] = {
            "archs": kind,
            "number": len(archs),
            "accuracy": statistics.fmean(a for arch in archs for a in arch["accuracies"]),
            "score": value,
            "error": error,
            **{f"std_{name}": spread for name, spread in spreads([arch["scores"] for arch in archs]).items()},
            "off_target": statistics.fmean(arch["macs"] / arch["target"] - 1 for arch in archs),
        }
        if kind != FLOOR[0] and floor:
            row["sigmas"] = sigmas(means, floor)
        if kind not in FLOOR:
            other = paired or dict(enumerate(floor, 1000))  # keys that no seed has: not paired
            if kind != "random" and other:
                mine = {arch["seed"]: mean for arch, mean in zip(archs, means)}
                row["difference"], row["low"], row["high"] = bootstrap(mine, other)
            for name in ("images", "search_macs", "seconds", "memory", "tau"):
                values = [arch[name] for arch in archs if arch.get(name) is not None and not math.isnan(arch[name])]
                row[name] = statistics.fmean(values) if values else math.nan
            row["cost"] = statistics.fmean(arch["search_macs"] / arch["child_macs"] for arch in archs)
        rows.append(row)
    return rows


HEADERS = {
    "archs": "archs",
    "number": "n",
    "accuracy": "top-1",
    "score": "score",
    "error": "± s.e.",
    "std_archs": "s.d. archs",
    "std_trainings": "s.d. trainings",
    "sigmas": "s.e. over random archs",
    "difference": "over random search",
    "low": "95% from",
    "high": "to",
    "tau": "tau",
    "images": "images",
    "search_macs": "MACs",
    "cost": "in child trainings",
    "seconds": "seconds",
    "memory": "MiB",
    "off_target": "off target",
}
_FORMATS = {
    "accuracy": ".4f",
    "images": ",.0f",
    "search_macs": ".3g",
    "cost": ".2f",
    "seconds": ",.0f",
    "memory": ",.0f",
    "off_target": "+.1%",
}


QUALITY = ("number", "accuracy", "score", "error", "std_archs", "std_trainings", "sigmas", "difference", "low", "high")
COST = ("images", "search_macs", "cost", "seconds", "memory", "tau", "off_target")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """As two tables of Markdown: what the archs are worth, and what finding them cost."""
    found = [row for row in rows if row["archs"] not in FLOOR]
    return "\n\n".join(_table(of, ("archs", *names)) for of, names in ((rows, QUALITY), (found, COST)) if of)


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    lines = ["| " + " | ".join(HEADERS[name] for name in names) + " |", "| ---" + " | ---:" * (len(names) - 1) + " |"]
    lines += ["| " + " | ".join(_cell(name, row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return format(value, _FORMATS.get(name, ".3f")) if isinstance(value, float) else str(value)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(HEADERS))
        writer.writeheader()
        writer.writerows({name: row.get(name, "") for name in HEADERS} for row in rows)


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Score with its standard error over the cost of a search in trainings of one child; the noise floor as a band."""
    from mobile_cv_nas.report.figures import FAINT, INK, SERIES, figure_file

    with figure_file(path, (8, 5), constrained=True) as figure:
        axes = figure.subplots()
        for number, row in enumerate(row for row in rows if row["archs"] not in FLOOR):
            colour, mark = SERIES[number % len(SERIES)], "os^Dv"[number // len(SERIES) % 5]
            cost = max(row["cost"], 0.05)  # of one that searches nothing
            axes.errorbar(cost, row["score"], yerr=_bar(row["error"]), fmt=mark, color=colour, capsize=3, label=row["archs"])
        for row, style in zip((row for row in rows if row["archs"] in FLOOR), ("-", "--")):
            axes.axhline(row["score"], color=FAINT, linewidth=1, linestyle=style, label=row["archs"])
            if not math.isnan(row["error"]):
                axes.axhspan(row["score"] - row["error"], row["score"] + row["error"], color=FAINT, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis("{x:g}")
        axes.set_xlabel("MACs of the search, in trainings of one child")
        axes.set_ylabel("-ln(1 - top-1) of the children, mean ± standard error")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle("Children over the cost of finding them", fontsize=12, fontweight="bold", color=INK)


def _bar(error: float) -> float | None:
    return None if math.isnan(error) else error
