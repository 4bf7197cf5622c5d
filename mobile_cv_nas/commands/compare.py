"""Compares networks: runs, each target of a search for several, files, and networks of the zoo.

python tools/compare.py output/digits Digits
python tools/compare.py output/family FBNetV2_F1 FBNetV2_F4 --cost params --picture front.png
python tools/compare.py output/one output/two --time eager --json compared.json

Prints a table (score with one standard error, MACs, parameters, size of each file, seconds of search and training), then the blocks side by
side. A network is dominated where another, judged on the same images, costs no more and scores no less; the picture shows it in grey.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..cli import Parser, guarded
from ..deploy.benchmark import RUNTIMES, measure, prepare
from ..errors import InputError
from ..files import atomic_write
from ..networks.build import build_model
from ..report.compare import COSTS, Compared, compare_blocks, compare_table, draw_compared, mark_dominated
from ..tasks.compared import compared
from ..tasks.load import load


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a result folder, weights, an exported file, or a name of the zoo")
    parser.add_argument("--cost", choices=list(COSTS), default="macs", help="what dominates, and what the picture has below (macs)")
    parser.add_argument("--picture", metavar="FILE", help="draw score over cost into this PNG")
    parser.add_argument("--json", metavar="FILE", help="write all of it into this file")
    parser.add_argument("--time", metavar="RUNTIME", help=f"measure milliseconds of one image, in one thread: {', '.join(RUNTIMES)}")
    parser.add_argument("--rounds", type=int, default=30, help="calls that count (30)")
    parser.add_argument("--no-blocks", action="store_true", help="the table alone")
    args = parser.parse_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    if args.cost == "ms" and not args.time:
        raise InputError("--cost ms: milliseconds are measured with --time RUNTIME; give it")
    found = [one for source in args.sources for one in compared(source)]
    if args.time:
        found = _timed(found, args.time, args.rounds)
    found = mark_dominated(found, args.cost)
    print(compare_table(found))
    if not args.no_blocks and len(found) > 1:
        print()
        print(compare_blocks(found))
    if args.json:
        atomic_write(args.json, json.dumps([one.to_dict() for one in found], indent=1))
    if args.picture:
        draw_compared(found, args.picture, args.cost)


def _timed(found: Sequence[Compared], runtime: str, rounds: int) -> list[Compared]:
    """The networks with milliseconds, measured in turn; those without an arch or weights as they are."""
    with tempfile.TemporaryDirectory() as folder:
        timed = [i for i, one in enumerate(found) if one.arch is not None]
        contenders = []
        for i in timed:
            one = found[i]
            assert one.arch is not None
            model = load(one.file) if one.file is not None else build_model(one.arch, one.classes, one.in_channels).eval()
            contenders += prepare(str(i), model, [runtime], 1, 1, Path(folder))
        times = {int(one.source): one.cpu[1] for one in measure(contenders, rounds, 1)}
    return [replace(one, ms=times.get(i, one.ms)) for i, one in enumerate(found)]
