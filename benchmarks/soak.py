"""Resident memory over many search steps on the demo: it must not grow.

python benchmarks/soak.py [--steps 500] [--warmup 100] [--config-file configs/search/digits.yaml]

A real search: both phases, the loader, the metrics and TensorBoard, a checkpoint at each epoch. Compared are the medians of 25 steps
after the warm-up and of the last 25. Exit code 0 if the growth is below 2%, else 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mobile_cv_nas.search.monitor import Monitor

from mobile_cv_nas.arch import SearchSpace
from mobile_cv_nas.commands.options import data_from as build_data
from mobile_cv_nas.config import load_config
from mobile_cv_nas.engine.checkpoint import StopRequest, save_checkpoint
from mobile_cv_nas.engine.runtime import MetricsLog, start_runtime
from mobile_cv_nas.search import Searcher

LIMIT, WINDOW = 0.02, 25
CONFIG = Path(__file__).parents[1] / "configs" / "search" / "digits.yaml"


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Watch(Monitor):
    """Measures after each step, and asks to stop after `steps`."""

    def __init__(self, searcher: Searcher, log: MetricsLog, stop: StopRequest, steps: int):
        super().__init__(searcher, log)
        self.stop, self.steps = stop, steps
        self.sizes: list[int] = []

    def step(self, searcher: Searcher) -> None:
        super().step(searcher)
        self.sizes.append(resident())
        self.stop.requested = len(self.sizes) >= self.steps - 1  # the step after the wish is the last


def measure(config: str, steps: int, folder: Path) -> list[int]:
    """Bytes resident after each of `steps` steps of a search."""
    # Enough epochs, and alphas that learn from the first epoch on, so that the warm-up has seen all there is.
    cfg = load_config(config, ["OUTPUT_DIR", str(folder), "SEARCH.EPOCHS", str(steps), "SEARCH.WARMUP_FRACTION", "0"])
    searcher = Searcher(cfg, SearchSpace.load(cfg.SEARCH.SPACE), build_data(cfg), start_runtime(cfg))
    log, stop = MetricsLog(folder, True), StopRequest(cfg.CHECKPOINT.MINUTES)
    watch = Watch(searcher, log, stop, steps)

    def save() -> None:
        state: dict[str, Any] = {"searcher": searcher.state_dict(), "log": log.position}
        save_checkpoint(folder, state, searcher.steps_done, cfg.CHECKPOINT.KEEP)

    try:
        searcher.run(stop, save, watch)
    finally:
        watch.close()
        log.close()
    return watch.sizes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="after the warm-up")
    parser.add_argument("--warmup", type=int, default=100, help="steps before the first measurement")
    parser.add_argument("--config-file", default=str(CONFIG))
    args = parser.parse_args()
    if args.steps < 2 * WINDOW:
        parser.error(f"--steps: at least {2 * WINDOW}")
    with tempfile.TemporaryDirectory() as folder:
        sizes = measure(args.config_file, args.warmup + args.steps, Path(folder))
    after = sizes[args.warmup :]
    first, last = statistics.median(after[:WINDOW]), statistics.median(after[-WINDOW:])
    growth = last / first - 1
    print(f"{len(after)} steps after {args.warmup} of warm-up, {torch.get_num_threads()} threads")
    print(f"resident: {first / 2**20:.1f} MiB after the warm-up, {last / 2**20:.1f} MiB at the end, peak {max(after) / 2**20:.1f} MiB")
    print(f"growth {growth:+.2%}, limit {LIMIT:.0%}: {'passed' if growth < LIMIT else 'FAILED'}")
    return 0 if growth < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
