"""What the expected latency costs in a step of a search: `table.expected(supernet)` and its gradient, beside a step of the alphas.

    python benchmarks/latency_step.py [SPACE] [--table fbnetv2_f_onnxruntime_fp32] [--batch 16] [--sharing full] [--device cuda]

Prints the number of cells, the time that reading them takes once, and both times with their ratio; CPU time, the least of the rounds, of a
GPU the time of the clock. The step is at the input sizes of the space; with several it takes one of them (SEARCH.RESOLUTION sampled).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import headline, machine
from supernet_step import CLASSES, Step

import mobile_cv_nas as nas
from mobile_cv_nas.networks.additive import Expectation


def least(call: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Seconds of the fastest round."""
    found = []
    for _ in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(clock() - start)
    return min(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default=str(Path(__file__).parent.parent / "configs/spaces/fbnetv2_f.yaml"))
    parser.add_argument("--table", default="fbnetv2_f_onnxruntime_fp32")
    parser.add_argument("--num-classes", type=int, default=CLASSES)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sharing", default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device, space, table = torch.device(options.device), nas.SearchSpace.load(options.space), nas.LatencyTable.load(options.table)
    supernet = nas.build_supernet(space, options.num_classes, sharing=options.sharing, resolution="sampled").to(device)
    start = time.process_time()
    built = Expectation(table, supernet)
    cells, read = sum(group.cells.numel() for group in built.groups), time.process_time() - start
    images = torch.randn(options.batch, 3, space.max_input_size, space.max_input_size, device=device)
    step = Step(supernet, images, phase="alphas")
    step.labels %= options.num_classes

    def expected() -> None:
        table.expected(supernet).backward()

    one, both = (least(call, rounds, device) for call, rounds in ((expected, 10 * options.rounds), (step, options.rounds)))
    cells_read = f"{space.name}, {cells:,} cells read in {read:.2f} s"
    print(headline(cells_read, f"{options.sharing}, batch {options.batch}", machine(device)))
    print(f"expected latency and its gradient {1e3 * one:.1f} ms, a step of the alphas {1e3 * both:.0f} ms: {one / both:.2%}")


if __name__ == "__main__":
    main()
