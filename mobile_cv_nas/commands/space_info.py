"""Prints what a search space holds: choices, exact size, costs, extreme children, and the FBNetV2s of its input sizes that it contains.

python tools/space_info.py fbnetv2_l --target 300M
python tools/space_info.py my_space.yaml --num-classes 10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..arch import SearchSpace
from ..cli import Parser, guarded
from ..model_zoo.card import get_arch, list_models
from ..report.space import space_info
from ..search.goal import parse_target


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints the report, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", help="a space file, or the name of a shipped one: fbnetv2_l, digits, ...")
    parser.add_argument("--num-classes", type=int, default=1000, help="classes of the children (1000)")
    parser.add_argument("--target", help="a cost to place among those of the space: 60M, 60e6 or '4M params'")
    args = parser.parse_args(argv)
    return guarded(lambda: _print(args))


def _print(args: argparse.Namespace) -> None:
    space = SearchSpace.load(args.space)
    networks = {name: get_arch(name) for name in list_models("FBNetV2*")}
    near = {name: arch for name, arch in networks.items() if arch.input_size in space.input_sizes}  # others cannot be in it
    target = parse_target(args.target) if args.target else None
    print(space_info(space, args.num_classes, near, target=target))
