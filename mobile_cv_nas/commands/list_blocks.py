"""Prints the blocks that archs and spaces may name, and the options that a row of them may give.

python tools/list_blocks.py
python tools/list_blocks.py --markdown
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..cli import Parser, guarded
from ..report.blocks import block_tables


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints the tables, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="as tables of Markdown")
    args = parser.parse_args(argv)
    return guarded(lambda: print(block_tables("pipe" if args.markdown else "simple")))
