"""Kills searches at random moments, resumes them, and compares what they leave with an uninterrupted search, bit for bit.

python benchmarks/crash_resume.py [--kills 25] [--processes 2] [--seed 0]

Each of the runs is a whole search, with the training of its child, on the CPU. It is killed (SIGKILL) at least once at a moment
drawn from the time an uninterrupted run takes, started again with --resume, killed up to twice more, and left to end. With
two processes one of them, drawn by lot, is killed; the other is then ended as torchrun ends it. Compared are arch.yaml, the
metrics and results, the supernet's weights and alphas and the child's weights. Exit code 0 if all runs are identical, else 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (this and the next so that no run needs seconds for it)
import sklearn.datasets  # noqa: F401
import torch
import torch.utils.tensorboard

from mobile_cv_nas.cli import main as command_line
from mobile_cv_nas.commands.search_net import run

SPACE = """
name: tiny
input_size: 8
stages:
  - [[conv_k3_hs, 4, 1, 1]]
  - [[[ir_k3, ir_k5_se_hs], [4, 8, 4], 2, 1, {expansion: [1, 3, 1]}],
     [[ir_k3_hs, ir_k3_se, skip], [4, 8, 4], 1, 1, {expansion: [1, 2, 1]}]]
"""
OPTIONS = {
    "RUNTIME.DEVICE": "cpu",
    "DATA.AUGMENT": "affine",
    "SEARCH.EPOCHS": "4",
    "SEARCH.TARGET": "12000",
    "SEARCH.TOLERANCE": "0.2",
    "SEARCH.CANDIDATES": "3",
    "SEARCH.DRAWS": "100",
    "TRAIN.EPOCHS": "2",
    "TRAIN.EMA_DECAY": "0.9",
    "CHECKPOINT.MINUTES": "0.001",
}
FILES = ("arch.yaml", "metrics.jsonl", "result.json", "child/arch.yaml", "child/metrics.jsonl", "child/result.json")
WEIGHTS = "child/model.safetensors"


def start(folder: Path, processes: int) -> list[BaseProcess]:
    """Starts what tools/search_net.py --resume does, in processes forked from this one: it has done the imports, and nothing else."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    places = [{**common, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)] if processes > 1 else [{}]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_search, args=(folder, place)) for place in places]
    for worker in workers:
        worker.start()
    return workers


def _search(folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment, CUDA_VISIBLE_DEVICES="")
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    options = [*(text for pair in OPTIONS.items() for text in pair), "OUTPUT_DIR", str(folder)]
    options += ["SEARCH.SPACE", str(folder.parent / "space.yaml")]
    sys.exit(command_line(run, ["--resume", *options]))


def finish(workers: list[BaseProcess], folder: Path) -> None:
    """Waits for the end of a run. Raises RuntimeError, with its log, if it fails."""
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"{folder.name} failed:\n{folder.with_suffix('.log').read_text(encoding='utf-8')[-3000:]}")


def disturb(folder: Path, processes: int, seconds: float, rng: random.Random) -> int:
    """A run that is killed one to three times and then ends; returns the number of kills."""
    wanted, kills = rng.randint(1, 3), 0
    while kills < wanted:
        moment = time.monotonic() + rng.uniform(0, seconds)
        workers = start(folder, processes)
        while time.monotonic() < moment and all(worker.is_alive() for worker in workers):
            time.sleep(min(0.01, max(0.0, moment - time.monotonic())))
        if not all(worker.is_alive() for worker in workers):  # it was faster
            finish(workers, folder)
            if kills:
                return kills
            continue  # the next start finds a finished search, which may be killed as well
        victims = rng.sample(workers, len(workers))
        for victim in victims:
            os.kill(victim.pid or 0, signal.SIGKILL)
            victim.join()
        kills += 1
    finish(start(folder, processes), folder)
    return kills


def difference(folder: Path, whole: Path) -> str:
    """What differs between two finished runs; empty if nothing does."""
    different = [name for name in (*FILES, WEIGHTS) if (folder / name).read_bytes() != (whole / name).read_bytes()]
    ours, theirs = (torch.load(path / "search.pt", weights_only=True) for path in (folder, whole))
    pairs = [("supernet", ours["supernet"], theirs["supernet"])]
    pairs += [("alphas", a["alphas"], b["alphas"]) for a, b in zip(ours["targets"], theirs["targets"], strict=True)]
    for part, a, b in pairs:
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            different.append(f"{part} of search.pt")
    return ", ".join(different)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="runs, each killed at least once")
    parser.add_argument("--processes", type=int, default=1, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that runs agree to the bit, and that nothing but this thread is forked
    rng, identical, kills = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "space.yaml").write_text(SPACE, encoding="utf-8")
        begun = time.monotonic()
        finish(start(root / "whole", args.processes), root / "whole")
        seconds = time.monotonic() - begun
        print(f"an uninterrupted run of {args.processes} process(es) takes {seconds:.1f} s", flush=True)
        for i in range(args.kills):
            folder = root / f"run_{i + 1}"
            count = disturb(folder, args.processes, seconds, rng)
            found = difference(folder, root / "whole")
            identical, kills = identical + (not found), kills + count
            print(f"run {i + 1}: killed {count}x, {'differs in ' + found if found else 'identical'}", flush=True)
        print(f"{identical} of {args.kills} identical ({kills} kills in {time.monotonic() - begun:.0f} s)")
    return 0 if identical == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
