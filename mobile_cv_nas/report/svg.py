"""Figures as SVG text for a page: lines, points, the bars of a network, a matrix; their colours are the page's own (see page.html.j2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ..engine.progress import short
from .network import KERNEL_COLOURS, POOL_COLOUR, BlockRow

_WIDTH, _HEIGHT = 360, 230  # of a chart, in pixels: as wide as a phone, so that its letters are never scaled down
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34
Point = tuple[float, float]


def _text(x: float, y: float, text: object, anchor: str = "middle", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(str(text))}</text>'


def _svg(width: float, height: float, label: str, parts: Sequence[str], kind: str = "chart") -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg class="{kind}" role="img" aria-label="{escape(label)}" {size}>{"".join(parts)}</svg>'


@dataclass(frozen=True)
class _Axis:
    """One axis: from values to pixels, with the values to name on it."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        found = self._decades() if self.log else []
        return found if len(found) > 2 else self._even()

    def _decades(self) -> list[float]:
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        inside = [m * 10.0**e for e in exponents for m in (1, 2, 5) if self.low <= m * 10.0**e <= self.high]
        return inside[:: math.ceil(len(inside) / 6)] if inside else []

    def _even(self) -> list[float]:
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= 5)
        first = math.ceil(self.low / step - 1e-9)
        return [round((first + i) * step, 12) for i in range(12) if (first + i) * step <= self.high * (1 + 1e-9)]


def _span(values: Sequence[float], log: bool = False, margin: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return (low / 1.3, high * 1.3) if low == high else (low / (high / low) ** margin, high * (high / low) ** margin)
    rest = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - rest, high + rest


def _frame(x: _Axis, y: _Axis, x_label: str, format_x: Callable[[float], str], format_y: Callable[[float], str]) -> list[str]:
    parts = []
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(_LEFT - 5, at + 3.5, format_y(tick), "end", "tick"))
    for tick in x.ticks():
        parts.append(_text(x.at(tick), _HEIGHT - _BOTTOM + 14, format_x(tick), kind="tick"))
    return [*parts, _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, kind="tick")]


def lines(
    series: Mapping[str, Sequence[Point]],
    label: str,
    x_label: str = "epoch",
    log: bool = False,
    aim: tuple[float, float] | None = None,
    shaded: float = 0.0,
) -> str:
    """A chart of lines by name; `aim` is a target and its tolerance (a share), `shaded` the x up to which the ground is shaded."""
    known = {name: [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)] for name, points in series.items()}
    known = {name: points for name, points in known.items() if points}
    if not known:
        return ""
    values = [y for points in known.values() for _, y in points] + ([aim[0] * (1 - aim[1]), aim[0] * (1 + aim[1])] if aim else [])
    places = [x for points in known.values() for x, _ in points]
    first, last = min(places), max(places)
    x = _Axis(first - 0.5, last + 0.5, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_span(values, log), _HEIGHT - _BOTTOM, _TOP, log)
    parts = []
    if shaded > 0:
        parts.append(f'<rect class="shade" x="{_LEFT}" y="{_TOP}" width="{x.at(shaded) - _LEFT:.1f}" height="{_HEIGHT - _BOTTOM - _TOP}"/>')
    parts += _frame(x, y, x_label, lambda value: f"{value:g}", short)
    if aim:
        top, bottom = y.at(aim[0] * (1 + aim[1])), y.at(aim[0] * (1 - aim[1]))
        parts.append(f'<rect class="aim" x="{_LEFT}" y="{top:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" height="{bottom - top:.1f}"/>')
    for number, points in enumerate(known.values()):
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
        if len(points) > 1:
            parts.append(f'<polyline class="line s{number % 6}" points="{path}"/>')
        else:
            parts.append(f'<circle class="dot s{number % 6}" r="3" cx="{x.at(points[0][0]):.1f}" cy="{y.at(points[0][1]):.1f}"/>')
    return _svg(_WIDTH, _HEIGHT, label, parts) + legend(list(known))


def legend(names: Sequence[str]) -> str:
    """The names of a chart's lines, as text that wraps."""
    keys = [f'<span><i class="key s{number % 6}"></i>{escape(name)}</span>' for number, name in enumerate(names)]
    return f'<div class="legend">{"".join(keys)}</div>'


@dataclass(frozen=True)
class Mark:
    """A network in a chart of accuracy over cost; `error` is one standard error of its score, `faint` marks a dominated one."""

    name: str
    cost: float
    score: float
    error: float = 0.0
    faint: bool = False


def points(marks: Sequence[Mark], x_label: str, label: str) -> str:
    """A chart of scores over costs; the costs on a logarithmic axis where they span more than a factor of four."""
    costs = [mark.cost for mark in marks]
    scores = [value for mark in marks for value in (mark.score - mark.error, mark.score + mark.error)]
    log = max(costs) > 4 * min(costs)
    x = _Axis(*_span(costs, log, 0.2), _LEFT, _WIDTH - _RIGHT, log)
    y = _Axis(*_span(scores, margin=0.15), _HEIGHT - _BOTTOM, _TOP)
    parts = _frame(x, y, x_label, short, lambda value: f"{value:.4g}")
    for mark in marks:
        kind, at, up = "faint" if mark.faint else "s0", x.at(mark.cost), y.at(mark.score)
        if mark.error:
            ends = f'y1="{y.at(mark.score - mark.error):.1f}" y2="{y.at(mark.score + mark.error):.1f}"'
            parts.append(f'<line class="line {kind}" x1="{at:.1f}" x2="{at:.1f}" {ends}/>')
        parts.append(f'<circle class="dot {kind}" r="4" cx="{at:.1f}" cy="{up:.1f}"><title>{escape(mark.name)}</title></circle>')
        right = at < (_LEFT + _WIDTH) / 2
        parts.append(_text(at + (7 if right else -7), up - 5, mark.name, "start" if right else "end", "tick"))
    return _svg(_WIDTH, _HEIGHT, label, parts)


# -- networks and matrices -----------------------------------------------------------------------------------------------------


def network(rows: Sequence[BlockRow], label: str) -> str:
    """A network block by block: kernel size is colour, expansion height, to scale; a skip is a gap (as `draw_arch`)."""
    step, left, top, tall = 34.0, 66.0, 26.0, 120.0
    most = max([row.expansion for row in rows] + [2.0])
    ground, width = top + tall, left + step * len(rows) + 8
    parts = [_text(left - 8, top + 4, f"{most:g}×", "end", "tick"), _text(left - 8, ground, "0", "end", "tick")]
    parts += [_text(left - 8, ground + 18 * (i + 1), name, "end", "tick") for i, name in enumerate(("channels", "SE", "hswish"))]
    begin = 0
    for i, row in enumerate(rows):
        x, high = left + step * i, tall * (row.expansion or 1) / most
        title = f"{row.name}: {row.width_in} to {row.width} channels, {row.hidden or 'no'} hidden, map {row.size}×{row.size}"
        box = f'x="{x + 4:.1f}" y="{ground - high:.1f}" width="{step - 8:.0f}" height="{high:.1f}"'
        colour = KERNEL_COLOURS.get(row.kernel, POOL_COLOUR)
        paint = 'class="gap"' if row.is_skip else f'class="block" fill="{colour}" fill-opacity="{1 if row.hidden else 0.45}"'
        parts.append(f"<rect {box} {paint}><title>{escape(title)}</title></rect>")
        parts.append(_text(x + step / 2, ground + 18, row.width, kind="faint tick" if row.is_skip else "tick"))
        for level, marked in ((2, row.se), (3, row.hswish)):
            if not row.is_skip:
                parts.append(_text(x + step / 2, ground + 18 * level, "●" if marked else "–", kind="tick" if marked else "faint tick"))
        if i + 1 == len(rows) or rows[i + 1].stage != row.stage:
            parts.append(_text(left + step * (begin + i + 1) / 2, top - 10, f"{row.size}²", kind="tick"))
            begin = i + 1
            if begin < len(rows):
                parts.append(f'<line class="part" x1="{x + step:.1f}" x2="{x + step:.1f}" y1="{top - 16}" y2="{ground}"/>')
    return _svg(width, ground + 62, label, parts, "wide")


def kernel_legend(rows: Sequence[BlockRow]) -> str:
    """What the colours of `network` stand for."""
    kernels = sorted({row.kernel for row in rows if not row.is_skip}, key=lambda kernel: kernel or 99)
    keys = []
    for kernel in kernels:
        name = f"{kernel}×{kernel}" if kernel else "pool"
        keys.append(f'<span><i class="key" style="background:{KERNEL_COLOURS.get(kernel, POOL_COLOUR)}"></i>{name}</span>')
    if any(row.is_skip for row in rows):
        keys.append('<span><i class="key gap"></i>skip</span>')
    return f'<div class="legend">{"".join(keys)}<span>height: expansion; pale: plain convolution</span></div>'


def matrix(counts: Sequence[Sequence[int]], classes: Sequence[str], label: str) -> str:
    """Shares of each true class (rows) by predicted class; written into the cells where there are at most 20."""
    few = len(classes) <= 20
    cell = 26 if few else max(4, 520 // len(classes))
    named = len(classes) <= 40
    left = 12 + 6.2 * max(len(name[:16]) for name in classes) if named else 8.0
    side = cell * len(classes)
    parts = []
    for row, line in enumerate(counts):
        total = sum(line) or 1
        for column, count in enumerate(line):
            share = count / total
            if share < 0.0005:
                continue
            x, y = left + cell * column, 4 + cell * row
            title = f"<title>{escape(classes[row])} taken for {escape(classes[column])}: {count} of {total}</title>"
            parts.append(
                f'<rect class="s0 cell" x="{x:.1f}" y="{y}" width="{cell}" height="{cell}" fill-opacity="{share:.3f}">{title}</rect>'
            )
            if few and share >= 0.005:
                text = "1" if share > 0.995 else f"{share:.2f}".lstrip("0")
                parts.append(_text(x + cell / 2, y + cell / 2 + 3.5, text, kind="tick strong" if share > 0.5 else "tick"))
    if named:
        for i, name in enumerate(classes):
            parts.append(_text(left - 5, 4 + cell * i + cell / 2 + 3.5, name[:16], "end", "tick"))
            at = f"{left + cell * i + cell / 2 + 3:.1f} {side + 12}"
            parts.append(f'<text class="tick" text-anchor="end" transform="translate({at}) rotate(-60)">{escape(name[:16])}</text>')
    parts.append(f'<rect class="frame" x="{left:.1f}" y="4" width="{side}" height="{side}"/>')
    return _svg(left + side + 8, side + (left if named else 12) + 10, label, parts, "wide")
