"""Writes report.html of a result folder: a search or a training on one page, in one file that needs no other.

python tools/report.py output/digits [--output report.html]

A search leaves it in its folder; this writes it anew, with what was added since, such as the test of tools/test_net.py with
TEST.OUTPUT output/digits/test.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..cli import Parser, guarded
from ..report.html import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, writes the page, prints its path; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="the result folder of a search, of one of its targets, or of a training")
    parser.add_argument("--output", metavar="FILE", help="the file to write (RUN/report.html)")
    args = parser.parse_args(argv)
    return guarded(lambda: print(write_report(args.run, args.output)))
