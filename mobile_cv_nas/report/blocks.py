"""The blocks that archs and spaces may name, and the options that their rows may give, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..nn.blocks import BLOCKS
from ..nn.options import OPTIONS
from ..nn.register import arguments_type, block_type, lacks

BLOCK_HEADERS = ["block", "class", "kernel", "activation", "squeeze-and-excite", "searchable"]
OPTION_HEADERS = ["option", "value", "of the blocks"]
NONE = "-"


def block_rows() -> list[list[str]]:
    """One row a registered block, those of `register_block` too, in the columns of BLOCK_HEADERS."""
    rows = []
    kind: Any
    for name, _ in BLOCKS:
        kind, given = block_type(name)
        values = {one.name: one.default for one in fields(arguments_type(kind))} | dict(given)
        shown = [NONE if values.get(key) is None else str(values[key]) for key in ("kernel", "activation", "se")]
        rows.append([name, kind.__name__, *shown, "no" if lacks(kind) else "yes"])
    return rows


def option_rows() -> list[list[str]]:
    """One row an option, in the columns of OPTION_HEADERS."""
    kinds = dict.fromkeys(block_type(name)[0] for name, _ in BLOCKS)
    rows = []
    for option, (words, _) in OPTIONS.items():
        takers = [kind.__name__ for kind in kinds if option in kind.options]
        if takers:
            rows.append([option, words, ", ".join(takers)])
    return rows


def block_tables(style: str = "simple") -> str:
    """Both tables as text, in a style of tabulate's."""
    from tabulate import tabulate

    tables: list[tuple[Sequence[Sequence[str]], Sequence[str]]] = [(block_rows(), BLOCK_HEADERS), (option_rows(), OPTION_HEADERS)]
    return "\n\n".join(tabulate(rows, headers, tablefmt=style, disable_numparse=True) for rows, headers in tables)
