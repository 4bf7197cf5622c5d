"""How archs, spaces and networks print: a table of one line a block, as text and for notebooks."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import InputError
from ..nn.shapes import Cost
from .layer import Layer, map_sizes, reading

HEADERS = ("block", "type", "map", "channels", "hidden", "stride", "MACs", "parameters")


def options_text(options: Sequence[Any]) -> str:
    """The options of a field: the one, a grid as low..high:step, or all of a set."""
    if len(options) == 1:
        return str(options[0] or "")
    whole = all(isinstance(option, int) for option in options)
    steps = {b - a for a, b in itertools.pairwise(options)} if whole else set()
    if len(options) > 2 and len(steps) == 1:
        return f"{options[0]}..{options[-1]}:{steps.pop()}"
    return "|".join(map(str, options))


def block_lines(layers: Sequence[Layer], sizes: Sequence[int], costs: Iterable[Cost | None]) -> list[list[str]]:
    """A line a block, under `HEADERS`; the map is the side of the output, at each input size."""
    sides = list(zip(*(map_sizes(layers, size)[1:] for size in sizes)))
    lines = []
    for layer, side, cost in zip(layers, sides, costs, strict=True):
        macs, params = ("", "") if cost is None else (f"{cost.macs:,.0f}", f"{cost.params:,.0f}")
        fields = (options_text(sorted(set(side))), options_text(layer.channels), options_text(layer.hidden))
        lines.append([layer.key, "|".join(layer.names), *fields, str(layer.stride), macs, params])
    return lines


def block_costs(layers: Sequence[Layer], size: int, in_channels: int) -> list[Cost | None]:
    """Exact, of each block of an arch; None for a block of a user's own that has none."""
    found: list[Cost | None] = []
    c_in = in_channels
    for layer, side in zip(reading(layers, in_channels), map_sizes(layers, size)):
        try:
            found.append(layer.cost(layer.names[0], c_in, layer.channels[0], layer.hidden[0], side))
        except InputError:
            found.append(None)
        c_in = layer.channels[0]
    return found


def text_table(title: str, lines: Sequence[Sequence[str]]) -> str:
    """Title, headers and lines, for a terminal."""
    from tabulate import tabulate

    headers, kept, align = _filled(lines)
    return f"{title}\n{tabulate(kept, headers=headers, colalign=align, disable_numparse=True)}"


def html_table(title: str, lines: Sequence[Sequence[str]]) -> str:
    """The same for a notebook."""
    headers, kept, align = _filled(lines)

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} style="text-align:{s}">{html.escape(c)}</{tag}>' for c, s in zip(cells, align)) + "</tr>"

    body = "".join(row(line, "td") for line in kept)
    return f"<table><caption>{html.escape(title)}</caption><thead>{row(headers, 'th')}</thead><tbody>{body}</tbody></table>"


def _filled(lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]], list[str]]:
    """Headers, lines and alignments of the columns that are not empty."""
    kept = [i for i in range(len(HEADERS)) if any(line[i] for line in lines)]
    align = ["left" if i < 2 else "right" for i in kept]
    return [HEADERS[i] for i in kept], [[line[i] for i in kept] for line in lines], align


def total_line(what: str, cost: Cost) -> list[str]:
    """The last line."""
    return [what, *[""] * (len(HEADERS) - 3), f"{cost.macs:,.0f}", f"{cost.params:,.0f}"]
