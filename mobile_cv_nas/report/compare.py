"""Networks side by side: a table of what they score and cost, their blocks, and accuracy over cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..arch import ArchDef
from ..errors import InputError, decimal, listed
from .front import dominated, draw_front
from .network import BlockRow, block_rows
from .svg import Mark
from .tables import name_of

COSTS = {"macs": "MACs", "params": "parameters", "ms": "milliseconds", "bytes": "bytes of the weights"}
_BESIDE = 4  # networks in one table of blocks
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Compared:
    """A network that is compared with others.

    Attributes:
        name: to call it by.
        group: what it came from: a search for several targets, say.
        macs, params: of the whole network; None where they were never published.
        score_name: of the score that counts, as "top1".
        score: None where it is not known.
        error: one standard error of the score, or None.
        score_of: "test", "validation" or "published".
        images: what the score is of; only scores on the same images can be compared. "" where nobody knows.
        seconds: of its search and its training, as far as they are known; networks of one search share the search's.
        sizes: bytes of each of its files, by the ending of its name.
        ms: milliseconds of one image, where they were measured.
        arch: None where it was never published.
        file: what `nas.load` takes, or None; then `classes` and `in_channels` are those of a network of the arch.
        dominated: another on the same images costs no more and scores no less.
    """

    name: str
    group: str
    macs: int | None = None
    params: int | None = None
    score_name: str = ""
    score: float | None = None
    error: float | None = None
    score_of: str = ""
    images: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    ms: float | None = None
    arch: ArchDef | None = None
    file: Path | None = None
    classes: int = 1000
    in_channels: int = 3
    dominated: bool = False

    def cost(self, by: str) -> float | None:
        """Its cost in one of COSTS, None where that is not known."""
        if by in ("macs", "params"):
            return self.macs if by == "macs" else self.params
        return self.ms if by == "ms" else self.sizes.get("safetensors")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        arch = None if self.arch is None else self.arch.to_dict()
        rest = {name: value for name, value in vars(self).items() if name not in ("arch", "file")}
        return {**rest, "seconds": dict(self.seconds), "sizes": dict(self.sizes), "arch": arch}


def mark_dominated(found: Sequence[Compared], by: str = "macs") -> list[Compared]:
    """The networks, each with whether it is dominated by another whose score is of the same images."""
    marked = list(found)
    for images in {one.images for one in found if one.images}:
        among = [i for i, one in enumerate(found) if one.images == images and one.score is not None and one.cost(by) is not None]
        costs, scores = [found[i].cost(by) or 0.0 for i in among], [found[i].score or 0.0 for i in among]
        for i, worse in zip(among, dominated(costs, scores), strict=True):
            marked[i] = replace(found[i], dominated=worse)
    return marked


def compare_table(found: Sequence[Compared]) -> str:
    """A row a network; columns that no network fills are left out, and what cannot be compared is said below."""
    from tabulate import tabulate

    columns: dict[str, list[str]] = {
        "network": [one.name for one in found],
        "score": [_score(one) for one in found],
        "MACs": ["" if one.macs is None else f"{one.macs:,}" for one in found],
        "parameters": ["" if one.params is None else f"{one.params:,}" for one in found],
        "ms": ["" if one.ms is None else decimal(one.ms) for one in found],
        "files, MB": [", ".join(f"{name} {size / _MEGABYTE:.2f}" for name, size in one.sizes.items()) for one in found],
        "search, s": [_seconds(one, ("search", "derivation")) for one in found],
        "training, s": [_seconds(one, ("training",)) for one in found],
        "": ["dominated" if one.dominated else "" for one in found],
    }
    kept = {name: values for name, values in columns.items() if any(values)}
    words = ("network", "files, MB", "")
    align = ["left" if name in words else "right" for name in kept]
    text = tabulate(list(zip(*kept.values())), list(kept), disable_numparse=True, colalign=align)
    kinds = sorted({one.images for one in found if one.score is not None})
    if len(kinds) > 1:
        text += "\nThe scores are of different images, so that networks can be compared only within each kind: "
        text += "; ".join(
            f"{kind or 'unknown'}: {listed([o.name for o in found if o.images == kind and o.score is not None], 8)}" for kind in kinds
        )
    return text


def _score(one: Compared) -> str:
    if one.score is None:
        return ""
    error = "" if one.error is None else f" ± {one.error:.4f}"
    return f"{one.score_of} {name_of(one.score_name)} {one.score:.4f}{error}"


def _seconds(one: Compared, names: Sequence[str]) -> str:
    known = [one.seconds[name] for name in names if name in one.seconds]
    return f"{sum(known):,.0f}" if known else ""


# -- blocks --------------------------------------------------------------------------------------------------------------------


def compare_blocks(found: Sequence[Compared]) -> str:
    """The blocks of the networks side by side, stage by stage; an asterisk where they differ. Those without an arch are left out."""
    known = [one for one in found if one.arch is not None]
    return "\n\n".join(_blocks(known[i : i + _BESIDE]) for i in range(0, len(known), _BESIDE))


def _blocks(found: Sequence[Compared]) -> str:
    from tabulate import tabulate

    archs = [one.arch for one in found if one.arch is not None]
    cells = [_cells(arch) for arch in archs]
    rows = [["input", *(f"{arch.input_size}²" for arch in archs)]]
    for place in sorted(set().union(*cells)):
        rows.append([f"{place[0]}.{place[1]}", *(of.get(place, "") for of in cells)])
    for row in rows:
        row.append("*" if len(set(row[1:])) > 1 else "")
    return tabulate(rows, ["block", *(one.name for one in found), ""], disable_numparse=True)


def _cells(arch: ArchDef) -> dict[tuple[int, int], str]:
    """What is written of each block, by stage and place in it."""
    found: dict[tuple[int, int], str] = {}
    place = (-1, 0)
    for row in block_rows(arch):
        place = (row.stage, place[1] + 1 if row.stage == place[0] else 0)
        found[place] = _cell(row)
    return found


def _cell(row: BlockRow) -> str:
    if row.is_skip:
        return "skip"
    return f"{row.name} {row.width}" + (f" ({row.hidden})" if row.hidden else "") + f" {row.size}²"


# -- figure --------------------------------------------------------------------------------------------------------------------


def draw_compared(found: Sequence[Compared], path: str | os.PathLike, by: str = "macs") -> None:
    """Draws scores over cost: a colour a group, dominated networks grey. Raises InputError where too little is known."""
    known = [one for one in found if one.score is not None and one.cost(by) is not None]
    if not known:
        raise InputError(f"{os.fspath(path)}: of no network both score and {COSTS[by]} are known; nothing can be drawn")
    names = sorted({one.score_name for one in known})
    if len(names) > 1:
        raise InputError(f"{os.fspath(path)}: scores of several kinds ({listed(names)}); compare networks of one task")
    groups: dict[str, list[Mark]] = {}
    for one in known:
        mark = Mark(one.name.rpartition("/")[2], one.cost(by) or 0.0, one.score or 0.0, one.error or 0.0, one.dominated)
        groups.setdefault(one.group, []).append(mark)
    shown = [(name if len(groups) > 1 else "", marks) for name, marks in groups.items()]
    of = sorted({one.score_of for one in known})
    draw_front(shown, path, COSTS[by], f"{' or '.join(of)} {name_of(names[0])}")
