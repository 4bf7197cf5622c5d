"""Memory and time of a training step over the number of channel options: masking beside conventional DNAS (FBNetV2 paper, Fig. 7).

    python benchmarks/channel_memory.py [--options 1 2 4 8 16 32] [--output FOLDER]

Eleven inverted residuals with 22 searched convolutions, stem and last convolution fixed. k options for a convolution of c channels
are the widths c/k, 2c/k, ..., c. Masking is this library's supernet. DNAS is Eq. 1: a convolution with its norm for each option,
their outputs zero-padded and summed; a depthwise convolution has the options of the one before it. With equal weights both compute
the same.
One step draws gates, and trains weights (SGD) and alphas (Adam) on one batch; its memory is what is saved for backward, parameters,
gradients, buffers and optimizer state, in exact bytes. `--device meta` computes the memory alone, of any size, without the tensors.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import MIB, headline, machine, medians, peak_bytes, release, saved_bytes, state_bytes, take_turns
from tabulate import tabulate
from torch import Tensor, nn

import mobile_cv_nas as nas
from mobile_cv_nas.nn.choice import Gates
from mobile_cv_nas.nn.layers import ConvNormAct

STAGES = ((32, 3), (32, 3), (32, 3), (64, 2))  # channels and blocks; the hidden width is EXPANSION times the channels
EXPANSION, LAST, CLASSES = 3, 256, 100


def widths(channels: int, options: int) -> list[int]:
    """c/k, 2c/k, ..., c."""
    return [channels * (i + 1) // options for i in range(options)]


def masking(options: int, image_size: int) -> nas.Supernet:
    """The supernet whose convolutions have that many channel options each."""

    def field(channels: int) -> Any:
        return channels if options == 1 else {"any": widths(channels, options)}

    stages: list[Any] = [[["conv_k3", STAGES[0][0], 2]]]
    for i, (channels, blocks) in enumerate(STAGES):
        stages.append([["ir_k3", field(channels), 1 if i == 0 else 2, blocks, {"hidden": field(EXPANSION * channels)}]])
    stages.append([["conv_k1", LAST]])
    return nas.build_supernet(nas.SearchSpace.parse({"input_size": image_size, "stages": stages}), CLASSES)


class PaddedSum(nn.Module):
    """Eq. 1: a unit for each width, weighted by its gate, zero-padded and summed.

    Args:
        c_in: input channels; None makes it depthwise, so that each unit reads as many as it has.
        channels: width of the widest unit.
        options: number of units.
        activation, stride: of each unit.

    Shapes: (N, c_in, H, W) and gates (options,) to (N, channels, H', W').
    """

    def __init__(self, c_in: int | None, channels: int, options: int, activation: str | None, stride: int = 1):
        super().__init__()
        self.channels, self.depthwise, self.activation = channels, c_in is None, activation
        kernel, groups = (3, None) if c_in is None else (1, 1)
        self.units = nn.ModuleList(
            ConvNormAct(c_in or width, width, kernel, stride, activation, groups) for width in widths(channels, options)
        )

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        if len(self.units) == 1:  # nothing is searched
            return self.units[0](x)
        total: Any = None
        for unit, gate in zip(self.units, gates.unbind()):
            read = x[:, : unit.conv.in_channels] if self.depthwise else x  # type: ignore[union-attr, misc]
            # Without an activation the gate goes into the norm, as our supernet does it: the product saves no map of its own.
            y = unit(read) * gate if self.activation else unit(read, Gates(), gate)
            y = y if y.shape[1] == self.channels else F.pad(y, (0, 0, 0, 0, 0, self.channels - y.shape[1]))
            total = y if total is None else total + y
        return total


class Dnas(nn.Module):
    """The same network by conventional DNAS; stem, last convolution and classifier are the same."""

    def __init__(self, options: int):
        super().__init__()
        c_in = STAGES[0][0]
        self.stem = ConvNormAct(3, c_in, 3, 2, "relu")
        self.blocks = nn.ModuleList()
        for i, (channels, blocks) in enumerate(STAGES):
            for j in range(blocks):
                hidden, stride = EXPANSION * channels, 2 if i and not j else 1
                block = [
                    PaddedSum(c_in, hidden, options, "relu"),
                    PaddedSum(None, hidden, options, "relu", stride),
                    PaddedSum(hidden, channels, options, None),
                ]
                self.blocks.append(nn.ModuleList(block))
                c_in = channels
        self.last = ConvNormAct(c_in, LAST, activation="relu")
        self.classifier = nn.Linear(LAST, CLASSES)
        self.alpha = nn.Parameter(torch.zeros(2 * len(self.blocks), options))
        self.noise = torch.zeros_like(self.alpha)

    def sample(self, temperature: float) -> None:
        """Draws Gumbel noise; `temperature` is 1 here."""
        self.noise = -torch.empty_like(self.alpha).exponential_().log().detach()

    def forward(self, x: Tensor) -> Tensor:
        gates = F.softmax(self.alpha + self.noise, 1)
        x, arriving = self.stem(x), None
        for i, (pw, dw, pwl) in enumerate(self.blocks):  # type: ignore[misc]
            hidden, leaving = gates[2 * i], gates[2 * i + 1]
            y = pwl(dw(pw(x, hidden), hidden), leaving)
            if y.shape == x.shape:
                # The residual exists if the widths agree. The stem's width is the widest.
                agree = leaving[-1] if arriving is None else (arriving * leaving).sum()
                y = torch.addcmul(y, x, agree)
            x, arriving = y, leaving
        return self.classifier(self.last(x).mean((2, 3)))


@dataclass
class Row:
    """One network's figures; the memory in bytes, `seconds` the median step, None where it was not run."""

    method: str
    options: int
    saved: int
    total: int
    peak: int
    seconds: float | None


class Bench:
    """One network with its optimizers and a batch.

    Args:
        method: "masking" or "DNAS".
        options: channel options a convolution.
        image_size, batch: of the images.
        device: where it runs.
    """

    def __init__(self, method: str, options: int, image_size: int, batch: int, device: torch.device):
        torch.manual_seed(0)
        self.method, self.options, self.device = method, options, device
        self.model: Any = (masking(options, image_size) if method == "masking" else Dnas(options)).to(device)
        if method == "masking":
            weights, alphas = self.model.weight_parameters(), self.model.alpha_parameters()
        else:
            weights, alphas = [p for p in self.model.parameters() if p is not self.model.alpha], [self.model.alpha]
            self.model.noise = self.model.noise.to(device)
        self.images = torch.randn(batch, 3, image_size, image_size, device=device)
        self.targets = torch.randint(CLASSES, (batch,), device=device)
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(weights, 0.01, momentum=0.9)]
        if alphas:  # the supernet with one option has none
            self.optimizers.append(torch.optim.Adam(alphas, 0.01))

    def loss(self) -> Tensor:
        """One forward pass under new gates."""
        self.model.sample(1.0)
        return F.cross_entropy(self.model(self.images), self.targets)

    def clear(self) -> None:
        """Frees the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self) -> None:
        """One training step of weights and alphas; it leaves the gradients."""
        self.clear()
        self.loss().backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def memory(self) -> Row:
        """Exact bytes of one step."""
        self.step()  # makes gradients and the optimizers' state
        tensors = list(self.model.parameters()), list(self.model.buffers())
        state = state_bytes(*tensors, self.optimizers)
        self.clear()
        saved = saved_bytes(self.loss, [*tensors[0], *tensors[1]])
        peak = state_bytes(*tensors, self.optimizers) + peak_bytes(self.step, self.device)
        return Row(self.method, self.options, saved, saved + state, peak, None)


def measure(args: argparse.Namespace) -> list[Row]:
    """All rows: memory first, then the steps of each method in turns."""
    device, rows = torch.device(args.device), []
    for method in ("masking", "DNAS"):
        benches = [Bench(method, options, args.image_size, args.batch, device) for options in args.options]
        found = []
        for bench in benches:
            found.append(bench.memory())
            release()
            print(f"{method}, {bench.options} options: {found[-1].total / MIB:.1f} MiB", file=sys.stderr)
        if device.type != "meta":
            steps: list[Callable[[], object]] = [bench.step for bench in benches]
            rounds = args.rounds if method == "masking" else max(1, args.rounds // 8)
            for row, seconds in zip(found, medians(take_turns(steps, rounds, warmup=0))):  # memory took three steps
                row.seconds = seconds
        rows += found
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line a network, at most 80 columns; ratios are to the method's own first line."""
    lines = []
    for row in rows:
        first = next(r for r in rows if r.method == row.method)
        step = growth = ""
        if row.seconds is not None and first.seconds is not None:
            step, growth = f"{row.seconds * 1e3:.0f}", f"{row.seconds / first.seconds:.3f}"
        memory = f"{row.saved / MIB:.2f}", f"{row.total / MIB:.2f}", f"{row.total / first.total:.4f}"
        lines.append([row.method, row.options, *memory, f"{row.peak / MIB:.1f}", step, growth])
    headers = ["method", "options", "saved\nMiB", "all\nMiB", "of the\nfirst", "peak\nMiB", "step\nms", "of the\nfirst"]
    return tabulate(lines, headers, disable_numparse=True, colalign=("left", *["right"] * 7))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Bytes and seconds, a line a network."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Memory and step time over the options, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    timed = all(row.seconds is not None for row in rows)
    panels: list[tuple[str, Callable[[Row], Any]]] = [("memory of a training step, MiB", lambda row: row.total / MIB)]
    if timed:
        panels.append(("time of a training step, s", lambda row: row.seconds))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, (label, value) in zip(axes[0], panels):
        for method, style in (("DNAS", "s--"), ("masking", "o-")):
            chosen = [row for row in rows if row.method == method]
            axis.loglog([row.options for row in chosen], [value(row) for row in chosen], style, label=method)
        options = sorted({row.options for row in rows})
        axis.set_xticks(options, [str(k) for k in options])
        axis.xaxis.set_minor_locator(NullLocator())
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which(FuncFormatter(_round_ticks))
        axis.set_xlabel("channel options a convolution")
        axis.set_ylabel(label)
        axis.grid(True, which="both", alpha=0.25)
        axis.legend()
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _round_ticks(value: float, _: int) -> str:
    """Labels of 1, 2 and 5 times a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the table, writes channel_memory.csv and channel_memory.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--options", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="powers of two up to 32")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=16, help="timed steps of each masking network; an eighth of it for DNAS")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda", "meta"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("output"), metavar="FOLDER", help="for the CSV and the figure")
    args = parser.parse_args(argv)
    if wrong := [k for k in args.options if k not in (1, 2, 4, 8, 16, 32)]:
        parser.error(f"--options {wrong[0]}: must be a power of two up to 32, so that every width is a whole number")
    torch.set_num_threads(args.threads)
    rows = measure(args)
    where = "memory alone" if args.device == "meta" else machine(torch.device(args.device))
    title = headline(where, f"batch {args.batch} at {args.image_size}x{args.image_size}")
    args.output.mkdir(parents=True, exist_ok=True)
    write_csv(rows, args.output / "channel_memory.csv")
    draw(rows, args.output / "channel_memory.png", title)
    print(title)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
