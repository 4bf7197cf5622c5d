"""Prints what a search space holds: choices, exact size, range of costs, extreme children, and the FBNetV2s it contains.

python tools/space_info.py fbnetv2_l
python tools/space_info.py my_space.yaml --num-classes 10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..cli import Parser, guarded
from ..model_zoo.card import get_arch, list_models
from ..report.space import find_space, space_info


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints the report, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", help="a space file, or the name of a shipped one: fbnetv2_l, digits, ...")
    parser.add_argument("--num-classes", type=int, default=1000, help="classes of the children (1000)")
    args = parser.parse_args(argv)
    return guarded(lambda: _print(args))


def _print(args: argparse.Namespace) -> None:
    networks = {name: get_arch(name) for name in list_models("FBNetV2*")}
    print(space_info(find_space(args.space), args.num_classes, networks))
