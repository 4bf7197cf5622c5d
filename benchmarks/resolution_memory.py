"""Memory and time of a supernet step over the number of input sizes, every size in each step (`resolution="all"`).

    python benchmarks/resolution_memory.py [--space fbnetv2_f] [--sizes 2 5 16] [--image-size 128] [--batch 16]

n sizes lie evenly between half the image size and all of it. They run with recomputation, beside the largest size alone without and
with it. The bound on the time of n sizes is sum_r (r/R)^2 times the recomputed step of the largest alone: all their pixels. It is met
early where sizes coincide at some depth, since those run once, and missed where maps are so small that handling the weights costs more
than the arithmetic. Saved memory is what autograd and checkpoints keep between forward and backward, in exact bytes; peak memory is all
that a step makes, gradients included.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from _measure import MIB, headline, machine, medians, peak_bytes, release, saved_bytes, take_turns
from tabulate import tabulate
from torch import Tensor

import mobile_cv_nas as nas

CLASSES = 100


def even_sizes(largest: int, number: int) -> list[int]:
    """`number` sizes from half of `largest` to all of it.

    >>> even_sizes(128, 5)
    [64, 80, 96, 112, 128]
    """
    if number == 1:
        return [largest]
    return [largest * (number - 1 + i) // (2 * number - 2) for i in range(number)]


@dataclass
class Row:
    """One supernet's figures: bytes, the median step in seconds, and sum_r (r/R)^2 over its sizes."""

    sharing: str
    sizes: int
    recompute: bool
    saved: int
    peak: int
    seconds: float
    pixels: float


class Bench:
    """One supernet and a batch.

    Args:
        space: whose layers are used, at other input sizes.
        sizes: ascending.
        sharing, recompute: of `build_supernet`.
        batch: number of images.
        device: where it runs.
    """

    def __init__(self, space: nas.SearchSpace, sizes: Sequence[int], sharing: str, recompute: bool, batch: int, device: torch.device):
        torch.manual_seed(0)
        self.sharing, self.recompute, self.sizes, self.device = sharing, recompute, sizes, device
        resized = nas.SearchSpace(space.name, sizes, space.layers)
        self.supernet = nas.build_supernet(resized, CLASSES, sharing=sharing, recompute=recompute).to(device)
        self.images = torch.randn(batch, 3, sizes[-1], sizes[-1], device=device)
        self.targets = torch.randint(CLASSES, (batch,), device=device)

    def loss(self) -> Tensor:
        """One forward pass under new gates."""
        self.supernet.sample(1.0)
        return F.cross_entropy(self.supernet(self.images), self.targets)

    def step(self) -> None:
        """Forward and backward to weights and alphas."""
        self.supernet.zero_grad()
        self.loss().backward()

    def memory(self) -> tuple[int, int]:
        """Saved and peak bytes."""
        saved = saved_bytes(self.loss, [*self.supernet.parameters(), *self.supernet.buffers()])
        return saved, peak_bytes(self.step, self.device)


def measure(args: argparse.Namespace, sharing: str) -> list[Row]:
    """The largest size alone, without and with recomputation, then each number of sizes with it."""
    space, device = nas.SearchSpace.load(args.space), torch.device(args.device)
    wanted = [(1, False), (1, True), *((number, True) for number in args.sizes)]
    benches, found = [], []
    for number, recompute in wanted:
        benches.append(Bench(space, even_sizes(args.image_size, number), sharing, recompute, args.batch, device))
        found.append(benches[-1].memory())
        benches[-1].supernet.zero_grad()
        release()
        print(f"{sharing}, {number} sizes: {found[-1][0] / MIB:.2f} MiB", file=sys.stderr)
    steps: list[Callable[[], object]] = [bench.step for bench in benches]
    seconds = medians(take_turns(steps, args.rounds, args.warmup))
    rows = []
    for bench, (saved, peak), median in zip(benches, found, seconds):
        pixels = sum((size / args.image_size) ** 2 for size in bench.sizes)
        rows.append(Row(sharing, len(bench.sizes), bench.recompute, saved, peak, median, pixels))
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line a supernet, at most 80 columns. "again" is recomputation, the area is sum_r (r/R)^2."""
    lines = []
    for row in rows:
        alone, recomputed = (next(r for r in rows if (r.sharing, r.sizes, r.recompute) == (row.sharing, 1, flag)) for flag in (False, True))
        bound = row.pixels * recomputed.seconds
        memory = f"{row.saved / MIB:.2f}", f"{row.saved / alone.saved:.4f}", f"{row.peak / MIB:.1f}"
        over = f"{row.seconds / bound:.3f}" if row.recompute else ""
        flag = "yes" if row.recompute else "no"
        lines.append([row.sharing, row.sizes, flag, *memory, f"{row.seconds:.3f}", f"{row.pixels:.2f}", over])
    headers = ["sharing", "sizes", "again", "saved\nMiB", "of\nalone", "peak\nMiB", "step\ns", "area", "time /\nbound"]
    return tabulate(lines, headers, disable_numparse=True, colalign=("left", "right", "left", *["right"] * 6))


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the table, writes resolution_memory.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnetv2_f", help="a space file, or the name of a shipped one; its sizes are replaced")
    parser.add_argument("--sharing", nargs="+", choices=["none", "full"], default=["none", "full"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 5, 16], help="numbers of input sizes")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each supernet")
    parser.add_argument("--warmup", type=int, default=0, help="steps before those, besides the ones that measure memory")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("output"), metavar="FOLDER", help="for the CSV")
    args = parser.parse_args(argv)
    if wrong := [number for number in args.sizes if not 2 <= number <= args.image_size // 2 + 1]:
        parser.error(f"--sizes {wrong[0]}: must be from 2 to {args.image_size // 2 + 1} for images of {args.image_size} pixels")
    torch.set_num_threads(args.threads)
    rows = [row for sharing in args.sharing for row in measure(args, sharing)]
    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / "resolution_memory.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    print(headline(machine(torch.device(args.device)), f"{args.space}, batch {args.batch} at {args.image_size}x{args.image_size}"))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
