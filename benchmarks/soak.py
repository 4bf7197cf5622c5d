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

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import recipe_of, search_options
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data.build import build_data
from mobile_cv_nas.engine.loop import Loop
from mobile_cv_nas.engine.run_folder import open_run
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.search.run import SearchRun
from mobile_cv_nas.search.searcher import Searcher

LIMIT, WINDOW = 0.02, 25
CONFIG = Path(__file__).parents[1] / "configs" / "search" / "digits.yaml"


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(config: str, steps: int, folder: Path) -> list[int]:
    """Bytes resident after each of `steps` steps of a search."""
    # Enough epochs, and alphas that learn from the first epoch on, so that the warm-up has seen all there is.
    cfg = load_config(config, ["OUTPUT_DIR", str(folder), "SEARCH.EPOCHS", str(steps), "SEARCH.WARMUP_FRACTION", "0"])
    recipe = recipe_of(cfg)
    run = SearchRun(nas.SearchSpace.load(cfg.SEARCH.SPACE), build_data(recipe.data), search_options(cfg), recipe)
    searcher = Searcher(run.task, run.data, run.goals, run.options, recipe, run.runtime, run.space)
    stop, sizes = StopRequest(cfg.CHECKPOINT.MINUTES), []

    def watched(phase: Any) -> Any:
        real = phase.stepper.step

        def step(*args: Any) -> Any:
            outcome = real(*args)
            sizes.append(resident())
            stop.requested = len(sizes) >= steps - 1  # the step after the wish is the last
            return outcome

        return step

    for phase in searcher.phases:
        phase.stepper.step = watched(phase)
    open_run(folder, resume=False)
    Loop(searcher, folder, run.runtime, {}).run(stop)
    return sizes


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
