"""What a training step of a supernet costs, against its largest child.

    python benchmarks/supernet_step.py [SPACE] [--size 96] [--batch 16] [--modes child,none,none+recompute,full] [--device cuda]

Prints a table of times, saved bytes, images a second and ratios to the largest child, and the share of a step that is spent on gates,
masks, effective shapes and cost, and outside convolution and norm; `--json FILE` writes the same. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import MIB, headline, machine, medians, saved_bytes, take_turns
from tabulate import tabulate
from torch import Tensor, nn

import mobile_cv_nas as nas

MODES = ("child", "none", "none+recompute", "full")
CLASSES = 1000


class Step:
    """One training step of a network: forward, task and cost loss, backward for weights and alphas, both optimizers.

    Of the phases of a search, `weights` and `alphas` train their own alone, the others without gradients.

    Args:
        net: a child or a supernet.
        images: (N, 3, S, S).
        precision: "float32" or "bf16".
        compiled: through torch.compile.
        phase: "both", "weights" or "alphas"; a child has weights only.
    """

    def __init__(self, net: nn.Module, images: Tensor, precision: str = "float32", compiled: bool = False, phase: str = "both"):
        self.net, self.images, self.precision, self.phase = net, images, precision, phase
        self.run = torch.compile(net) if compiled else net
        self.labels = torch.arange(len(images), device=images.device) % CLASSES
        fused = images.device.type == "cuda"
        weights, alphas = list(net.parameters()), []
        if isinstance(net, nas.Supernet):
            weights, alphas = net.weight_parameters(), net.alpha_parameters()
            self.target = float(net.expected_cost().macs.detach()) * 0.8
        self.optimizers: list[Any] = []
        if alphas and phase != "weights":
            self.optimizers.append(torch.optim.Adam(alphas, 0.01, fused=fused))
        if phase != "alphas":
            self.optimizers.append(torch.optim.SGD(weights, 0.1, 0.9, weight_decay=1e-4, fused=fused))
        for idle in {"weights": alphas, "alphas": weights}.get(phase, []):
            idle.requires_grad_(False)

    def loss(self) -> Tensor:
        """The loss of the search: cross-entropy plus the normalised cost."""
        if isinstance(self.net, nas.Supernet):
            self.net.sample(2.0)
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = F.cross_entropy(self.run(self.images).float(), self.labels)
        if isinstance(self.net, nas.Supernet) and self.phase != "weights":
            loss = loss + (self.net.cost().macs / self.target - 1).abs().float()
        return loss

    def __call__(self) -> None:
        self.loss().backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def overhead(net: nas.Supernet) -> None:
    """The part of a step that is neither features nor weights: noise, gates, masks, effective shapes and cost, and their gradients."""
    net.sample(2.0)
    gates = net.gates()
    tensors = [*gates.tensors, *gates.residual, *(unit for unit in gates.units if unit is not None), net.cost().macs]
    if tensors[-1].requires_grad:  # not where weights alone are trained
        torch.autograd.backward(tensors, [torch.ones_like(tensor) for tensor in tensors])
    for alpha in net.alpha_parameters():
        alpha.grad = None


def outside_share(step: Step) -> float:
    """Share of a step's own time, by torch's profiler, that is in neither convolutions, linear layers nor norms."""
    cuda = step.images.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if cuda else [])
    with torch.profiler.profile(activities=kinds) as profile:
        step()
    inside = total = 0.0
    for event in profile.key_averages():
        time = event.self_device_time_total if cuda else event.self_cpu_time_total
        total += time
        inside += time if any(word in event.key.lower() for word in ("conv", "batch_norm", "addmm", "gemm", "bn_")) else 0
    return 1 - inside / total


def build(space: nas.SearchSpace, mode: str, device: torch.device) -> nn.Module:
    """The network of a mode."""
    torch.manual_seed(0)
    if mode == "child":
        net: nn.Module = nas.build_model(space.largest(CLASSES), CLASSES)
    else:
        net = nas.build_supernet(space, CLASSES, sharing=mode.split("+")[0], recompute="recompute" in mode)
    return net.to(device)


def measure(space: nas.SearchSpace, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a mode, all modes taking turns in one run."""
    device = torch.device(options.device)
    images = torch.randn(options.batch, 3, space.max_input_size, space.max_input_size, device=device)
    lists = [options.modes.split(","), options.phases.split(","), options.precisions.split(",")]
    lists += [(False, True)[: 1 + also] for also in (options.compile, options.channels_last)]
    variants = [variant for variant in itertools.product(*lists) if variant[0] != "child" or variant[1] == lists[1][0]]
    steps = []
    for mode, phase, precision, compiled, last in variants:
        layout = torch.channels_last if last else torch.contiguous_format
        net = build(space, mode, device).to(memory_format=layout)
        steps.append(Step(net, images.to(memory_format=layout), precision, compiled, phase if mode != "child" else "both"))
    memory = [saved_bytes(step.loss, [*step.net.parameters(), *step.net.buffers(), step.images]) for step in steps]
    times = medians(take_turns([*steps, *(_gates(step) for step in steps)], options.rounds))
    rows = []
    for i, ((mode, _, precision, compiled, last), step) in enumerate(zip(variants, steps, strict=True)):
        row: dict[str, Any] = {"mode": mode, "phase": step.phase, "precision": precision, "compiled": compiled}
        row |= {"channels_last": last, "seconds": times[i], "saved_bytes": memory[i]}
        row |= {"time_ratio": times[i] / times[0], "saved_ratio": memory[i] / memory[0], "images_per_second": options.batch / times[i]}
        row["gates_share"] = times[len(steps) + i] / times[i] if isinstance(step.net, nas.Supernet) else 0.0
        row["outside_share"] = outside_share(step)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            row["peak_bytes"] = torch.cuda.max_memory_allocated()
        rows.append(row)
    return rows


def _gates(step: Step) -> Any:
    return (lambda: overhead(step.net)) if isinstance(step.net, nas.Supernet) else (lambda: None)  # type: ignore[arg-type]


def select_ratio(space: nas.SearchSpace, images: Tensor, rounds: int) -> float:
    """Time of a selected arch's forward in the supernet over the child's own, for a member in the middle of the space."""
    import random

    arch = space.sample(random.Random(0))
    supernet, child = nas.build_supernet(space, CLASSES, sharing="full").eval(), nas.build_model(arch, CLASSES).eval()
    supernet.select(arch)
    supernet, child = supernet.to(images.device), child.to(images.device)
    images = nas.subsample(images, arch.input_size) if len(space.input_sizes) == 1 else images
    small = nas.subsample(images, arch.input_size)

    def forward(net: nn.Module, x: Tensor) -> Any:
        with torch.no_grad():
            return net(x)

    slow, fast = medians(take_turns([lambda: forward(supernet, images), lambda: forward(child, small)], rounds, 2))
    return slow / fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default=str(Path(__file__).parent.parent / "configs/spaces/fbnetv2_f.yaml"))
    parser.add_argument("--size", type=int, default=96, help="one input size, in place of the space's")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--phases", default="both", help="both,weights,alphas: what a step trains")
    parser.add_argument("--precisions", default="float32", help="float32,bf16")
    parser.add_argument("--compile", action="store_true", help="each mode also through torch.compile")
    parser.add_argument("--channels-last", action="store_true", help="each mode also in this memory layout")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args()
    space = nas.SearchSpace.load(options.space)
    space = nas.SearchSpace(space.name, (options.size,), space.layers)
    rows = measure(space, options)
    header = ["mode", "step s", "x child", "saved MiB", "x child", "images/s", "gates %", "other %"]
    table = []
    for row in rows:
        parts = [row[key] for key in ("phase", "precision") if row[key] not in ("both", "float32")]
        name = " ".join([row["mode"], *parts, *(key for key in ("compiled", "channels_last") if row[key])])
        table.append([name, row["seconds"], row["time_ratio"], row["saved_bytes"] / MIB, row["saved_ratio"], row["images_per_second"]])
        table[-1] += [100 * row["gates_share"], 100 * row["outside_share"]]
    device = torch.device(options.device)
    print(headline(f"{space.name} at {options.size}x{options.size}, batch {options.batch}", machine(device)))
    print(tabulate(table, header, floatfmt=("", ".3f", ".2f", ".1f", ".2f", ".1f", ".2f", ".1f")))
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    ratio = select_ratio(space, images, options.rounds)
    print(f"select(arch) and forward: {ratio:.2f} times the child's own forward")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(device), "rows": rows, "select_ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
