"""Time and memory of one supernet step at full size: Table 2 of the FBNetV2 paper at 256x256, every input size, batch 2.

    python benchmarks/full_size_step.py [--space fbnetv2_l] [--batch 2] [--variants none-recompute full]

Each variant runs once, in a process of its own, so that its peak of resident memory is its own. A step draws gates, runs forward and
backward through every candidate at every input size, the expected cost included, and updates weights (SGD) and alphas (Adam).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from _measure import headline, machine
from tabulate import tabulate

import mobile_cv_nas as nas

VARIANTS = {
    "none": ("none", False),
    "none-recompute": ("none", True),
    "full": ("full", False),
    "full-recompute": ("full", True),
}
CLASSES = 100  # a tenth of ImageNet's, as the paper searches


def step(space_name: str, variant: str, batch: int) -> dict[str, float]:
    """One step in this process: its seconds, the peak of resident memory in GiB, before the step and after it, and the loss."""
    space = nas.SearchSpace.load(space_name)
    sharing, recompute = VARIANTS[variant]
    torch.manual_seed(0)
    supernet = nas.build_supernet(space, CLASSES, sharing=sharing, recompute=recompute)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(supernet.weight_parameters(), 0.1, momentum=0.9)]
    if supernet.alpha_parameters():
        optimizers.append(torch.optim.Adam(supernet.alpha_parameters(), 0.01))
    images = torch.randn(batch, 3, space.max_input_size, space.max_input_size)
    targets = torch.randint(CLASSES, (batch,))
    before = _peak()
    start = time.perf_counter()
    supernet.sample(5.0)
    loss = F.cross_entropy(supernet(images), targets)
    (loss + 1e-9 * supernet.cost().macs.float()).backward()
    for optimizer in optimizers:
        optimizer.step()
    return {"seconds": time.perf_counter() - start, "before": before, "peak": _peak(), "loss": loss.item()}


def _peak() -> float:
    """GiB of resident memory at most so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line a variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnetv2_l", help="a space file, or the name of a shipped one")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["none-recompute", "full"], metavar="VARIANT",
                        help=f"of {', '.join(VARIANTS)}: sharing, and whether candidates are run again in backward")  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--in-process", action="store_true", help="run the first variant here and print its figures as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.in_process:
        print(json.dumps(step(args.space, args.variants[0], args.batch)))
        return 0
    space = nas.SearchSpace.load(args.space)
    sizes = ", ".join(map(str, space.input_sizes))
    print(headline(machine(torch.device("cpu")), f"{space.name}, batch {args.batch}, input sizes {sizes}"))
    rows = []
    for variant in args.variants:
        command = [sys.executable, __file__, "--in-process", "--space", args.space, "--batch", str(args.batch)]
        command += ["--variants", variant, "--threads", str(args.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{variant}: the step ended with exit code {done.returncode}; -9 means that memory ran out", file=sys.stderr)
            return 1
        found = json.loads(done.stdout)
        sharing, recompute = VARIANTS[variant]
        rows.append([sharing, "yes" if recompute else "no", found["seconds"], found["peak"], found["before"], found["loss"]])
    print(tabulate(rows, ["sharing", "recompute", "step s", "peak GiB", "before GiB", "loss"], floatfmt=".2f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
