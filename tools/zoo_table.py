"""Builds every network of the zoo, alone and with each head, prints its figures and writes model_zoo/README.md.

python tools/zoo_table.py
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mobile_cv_nas.cli import guarded
from mobile_cv_nas.commands.zoo_table import heads_rows, markdown, render, table4_rows, zoo_rows
from mobile_cv_nas.files import atomic_write

README = Path(__file__).resolve().parents[1] / "model_zoo" / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints the tables, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=README, metavar="FILE", help="Markdown file to write (model_zoo/README.md)")
    args = parser.parse_args(argv)
    return guarded(lambda: _write(args.output))


def _write(output: str | Path) -> None:
    zoo, table4, heads = zoo_rows(), table4_rows(), heads_rows()
    print(render(zoo, table4, heads, shutil.get_terminal_size((120, 24)).columns))
    atomic_write(output, markdown(zoo, table4, heads))
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    sys.exit(main())
