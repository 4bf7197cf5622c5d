"""Times our networks beside timm's, interleaved in one run: forward on the CPU in eval mode.

    python benchmarks/zoo_speed.py [--threads 2] [--seconds 20]

Each round times one forward of ours and one of timm's, in turn first; the ratio is the median of the rounds' ratios,
so that what disturbs the machine for a while disturbs both. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from tabulate import tabulate

import mobile_cv_nas as nas

PAIRS = (("MobileNetV3_Large", "mobilenetv3_large_100"), ("FBNet_C", "fbnetc_100"))
BATCHES = (1, 16)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one row a network and batch: medians in milliseconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of one forward")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    import timm

    rows = []
    for ours, theirs in PAIRS:
        pair = (nas.fbnet_builder(ours).eval(), timm.create_model(theirs).eval())
        for batch in BATCHES:
            x = torch.randn(batch, 3, 224, 224)
            times = interleave([lambda m=m, x=x: m(x) for m in pair], args.seconds)
            medians = [statistics.median(t) * 1e3 for t in times]
            ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
            rows.append([ours, theirs, batch, *medians, ratio, len(times[0])])
    headers = ["ours", "timm's", "batch", "ours ms", "timm's ms", "ratio", "rounds"]
    print(f"torch {torch.__version__}, timm {timm.__version__}, {args.threads} threads, eval mode, 224 x 224")
    print(tabulate(rows, headers, floatfmt=("", "", "d", ".2f", ".2f", ".3f", "d")))
    return 0


def interleave(calls: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Seconds of every call in every round; the order within a round turns."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for call in calls:
            for _ in range(3):
                call()
        end = time.perf_counter() + seconds
        turn = 0
        while time.perf_counter() < end or turn < 5:
            for i in range(len(calls)):
                which = (i + turn) % len(calls)
                start = time.perf_counter()
                calls[which]()
                times[which].append(time.perf_counter() - start)
            turn += 1
    return times


if __name__ == "__main__":
    sys.exit(main())
