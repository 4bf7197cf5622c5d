"""Times what an evolution does tens of thousands of times: decoding an arch of a space, and counting its cost.

    python benchmarks/decode_speed.py [--space fbnetv2_l] [--archs 50] [--rounds 20]

Every round draws and decodes fresh archs, and then counts each; the table shows milliseconds an arch, the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from tabulate import tabulate

import mobile_cv_nas as nas
from mobile_cv_nas.configs import config_path


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one row for decoding and one for counting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnetv2_l", help="name of a shipped space")
    parser.add_argument("--archs", type=int, default=50, help="archs a round")
    parser.add_argument("--rounds", type=int, default=20, help="rounds")
    args = parser.parse_args(argv)
    space = nas.SearchSpace.load(config_path(f"spaces/{args.space}.yaml"))
    decode: list[float] = []
    count: list[float] = []
    for turn in range(args.rounds):
        start = time.perf_counter()
        archs = [space.sample(turn * args.archs + index) for index in range(args.archs)]
        between = time.perf_counter()
        for arch in archs:
            space.cost(arch)
        decode.append((between - start) * 1e3 / args.archs)
        count.append((time.perf_counter() - between) * 1e3 / args.archs)
    rows = [["drawing and decoding an arch", statistics.median(decode)], ["counting its cost", statistics.median(count)]]
    print(f"{args.space}, {args.archs} archs a round, {args.rounds} rounds")
    print(tabulate(rows, ["", "ms"], floatfmt=".3f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
