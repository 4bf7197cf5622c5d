"""Figures and tables of a search: the derived network, the alphas over time, loss and cost against the target."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import require
from ..networks.build import build_model

if TYPE_CHECKING:
    from ..arch import ArchDef
    from ..nn.choice import Choice

KERNEL_COLOURS = {1: "#b8bec6", 3: "#4c8fd6", 5: "#f0963c", 7: "#4fae74"}
POOL_COLOUR = "#9a6fc4"
INK, FAINT, RED = "#22282f", "#9aa4af", "#c8323c"
SERIES = ("#2f6db5", "#e07b1f", "#3d9a63")


@dataclass(frozen=True)
class BlockRow:
    """What a person wants to know of one block; sizes are of the output, `hidden` is 0 where there is none."""

    stage: int
    name: str
    size: int
    width_in: int
    width: int
    hidden: int
    kernel: int
    se: bool
    hswish: bool

    @property
    def expansion(self) -> float:
        """Hidden width over input width; 1 for a plain convolution, 0 for a skip."""
        if self.hidden:
            return self.hidden / self.width_in
        return 0.0 if self.is_skip else 1.0

    @property
    def is_skip(self) -> bool:
        """Whether the block does nothing, or only fits the width."""
        return self.name == "skip"


def block_rows(arch: ArchDef) -> list[BlockRow]:
    """One row a block, read off the network that `build_model` makes of `arch`, repeats expanded."""
    with torch.device("meta"):  # shapes without memory or arithmetic
        model = build_model(arch).eval()
        x = torch.empty(1, 3, arch.input_size, arch.input_size)
    rows = []
    blocks = iter(model.blocks)
    for stage, definitions in enumerate(arch.stages):
        for definition in definitions:
            block, width_in = next(blocks), x.shape[1]
            x = block(x)
            rows.append(_row(stage, definition.name, block, width_in, x))
    return rows


def _row(stage: int, name: str, block: nn.Module, width_in: int, x: torch.Tensor) -> BlockRow:
    depthwise: Any = getattr(block, "dw", None)
    project: Any = getattr(block, "pwl", None)
    plain: Any = getattr(block, "conv", None)
    hidden = kernel = 0
    if project is not None:  # an inverted residual, or one whose depthwise layer is a pool
        hidden = getattr(project, "conv", project).in_channels
        kernel = depthwise.conv.kernel_size[0] if depthwise is not None else 0
    elif plain is not None:
        kernel = plain.kernel_size[0]
    hswish = any(isinstance(module, nn.Hardswish) for module in block.modules())
    se = getattr(block, "se", None) is not None
    return BlockRow(stage, name, x.shape[-1], width_in, x.shape[1], hidden, kernel, se, hswish)


# -- the network -------------------------------------------------------------------------------------------------------


def draw_arch(arch: ArchDef, path: str | os.PathLike, title: str = "") -> None:
    """Draws a network block by block (as the paper's Fig. 6) and writes the image to `path`.

    Kernel size is colour and expansion height, to scale; a skip is a gap. Output widths, squeeze-and-excite and
    hard-swish are marked below each block, and each stage carries the side of its maps.
    """
    rows = block_rows(arch)
    top = max([row.expansion for row in rows] + [2.0])
    width = max(6.0, 1.9 + 0.5 * len(rows))
    height = 3.5
    with _figure(path, (width, height)) as figure:
        axes = figure.add_axes((0.95 / width, 1.12 / height, 1 - 1.15 / width, 1.75 / height))
        for i, row in enumerate(rows):
            _draw_block(axes, i, row)
        _draw_stages(axes, rows, top)
        _draw_marks(axes, rows)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_ylim(0, top * 1.04)
        axes.set_xticks([])
        axes.set_ylabel("expansion")
        axes.spines[["top", "right"]].set_visible(False)
        heading = title or arch.name or "network"
        figure.text(0.2 / width, 1 - 0.2 / height, heading, fontsize=12, fontweight="bold", color=INK, va="center")
        _draw_key(figure, rows, width)


def _draw_block(axes: Any, i: int, row: BlockRow) -> None:
    if row.is_skip:
        axes.bar(i, 1.0, 0.76, facecolor="none", edgecolor=FAINT, linestyle=(0, (2, 2)), linewidth=1)
        axes.text(i, 0.5, "skip", rotation=90, ha="center", va="center", fontsize=6, color=FAINT)
        return
    colour = KERNEL_COLOURS.get(row.kernel, POOL_COLOUR)
    hatch = "" if row.hidden else "////"
    axes.bar(i, row.expansion, 0.76, facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0)
    axes.bar(i, row.expansion, 0.76, facecolor="none", edgecolor=INK, linewidth=0.8)


def _draw_stages(axes: Any, rows: Sequence[BlockRow], top: float) -> None:
    start = 0
    for i in range(1, len(rows) + 1):
        if i < len(rows) and rows[i].stage == rows[start].stage:
            continue
        if i < len(rows):
            axes.axvline(i - 0.5, color=FAINT, linewidth=0.8, linestyle=":", ymax=1.08, clip_on=False)
        label = f"{rows[i - 1].size}²"
        axes.text((start + i - 1) / 2, top * 1.1, label, ha="center", va="center", fontsize=8.5, color=INK)
        start = i


def _draw_marks(axes: Any, rows: Sequence[BlockRow]) -> None:
    """Three lines of marks below the bars: output width, squeeze-and-excite, hard-swish."""
    place = axes.get_xaxis_transform()
    levels = {"channels": -0.10, "SE": -0.24, "hswish": -0.38}
    for name, level in levels.items():
        axes.text(-0.75, level, name, transform=place, ha="right", va="center", fontsize=8, color=INK)
    for i, row in enumerate(rows):
        small = 8 if row.width < 1000 else 7
        colour = FAINT if row.is_skip else INK
        axes.text(
            i,
            levels["channels"],
            str(row.width),
            transform=place,
            ha="center",
            va="center",
            fontsize=small,
            color=colour,
        )
        for name, marked in (("SE", row.se), ("hswish", row.hswish)):
            if not row.is_skip:
                marker, dot = ("o", INK) if marked else ("_", FAINT)
                axes.plot([i], [levels[name]], marker, transform=place, clip_on=False, markersize=5, color=dot)


def _draw_key(figure: Any, rows: Sequence[BlockRow], width: float) -> None:
    from matplotlib.patches import Patch

    kernels = sorted({row.kernel for row in rows if not row.is_skip}, key=lambda kernel: kernel or 99)  # pools last
    patches = []
    for kernel in kernels:
        colour, label = KERNEL_COLOURS.get(kernel, POOL_COLOUR), f"{kernel}×{kernel}" if kernel else "pool"
        patches.append(Patch(facecolor=colour, edgecolor=INK, linewidth=0.8, label=label))
    if any(not row.hidden and not row.is_skip for row in rows):
        patches.append(Patch(facecolor="#dde1e6", edgecolor="white", hatch="////", label="plain convolution"))
    if any(row.is_skip for row in rows):
        patches.append(Patch(facecolor="none", edgecolor=FAINT, linestyle="--", label="skip"))
    anchor = (0.95 / width, 0.0)
    figure.legend(handles=patches, loc="lower left", bbox_to_anchor=anchor, ncols=len(patches), frameon=False, fontsize=8)


# -- the alphas --------------------------------------------------------------------------------------------------------


def draw_alphas(choices: Sequence[Choice], records: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draws softmax(alpha) of every choice over the epochs, one row of heat maps a layer.

    Args:
        choices: of the space, in its order.
        records: the epochs of `metrics.jsonl`: each has `epoch` and `probabilities`, {choice name: [option, ...]}.
    """
    layers: dict[str, list[Choice]] = {}
    for choice in choices:
        layers.setdefault(choice.name.partition(".")[0], []).append(choice)
    kinds = list(dict.fromkeys(_kind(choice) for choice in choices if "." in choice.name)) or [_kind(choices[0])]
    heights = [0.35 + 0.125 * max(len(choice.options) for choice in row) for row in layers.values()]
    epochs = [record["epoch"] + 1 for record in records]
    size = (1.1 + 3.4 * len(kinds), 0.9 + sum(heights))
    with _figure(path, size, constrained=True) as figure:
        grid = figure.subplots(len(layers), len(kinds), squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes in grid.flat:
            axes.set_axis_off()
        for cells, row in zip(grid, layers.values()):
            for choice in row:
                axes = cells[kinds.index(_kind(choice)) if "." in choice.name else 0]
                values = [record["probabilities"][choice.name] for record in records]
                image = _draw_heat(axes, choice, epochs, values)
        for column in grid.T:
            shown = [axes for axes in column if axes.axison]
            if shown:
                shown[-1].tick_params(labelbottom=True)
                shown[-1].set_xlabel("epoch", fontsize=8)
        bar = figure.colorbar(image, ax=grid, shrink=min(1.0, 2.5 / size[1]), aspect=18, pad=0.01)
        bar.set_label("softmax(alpha)", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        figure.suptitle("What each layer learned to choose", fontsize=12, fontweight="bold", color=INK)


def _kind(choice: Choice) -> str:
    return choice.name.rpartition(".")[2]


def _draw_heat(axes: Any, choice: Choice, epochs: Sequence[int], values: Sequence[Sequence[float]]) -> Any:
    axes.set_axis_on()
    count = len(choice.options)
    table = torch.tensor(values, dtype=torch.float64).T.numpy()  # (options, epochs)
    span = (epochs[0] - 0.5, epochs[-1] + 0.5, -0.5, count - 0.5)
    image = axes.imshow(table, aspect="auto", origin="lower", extent=span, cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
    best = int(table[:, -1].argmax())
    axes.set_yticks(range(count), [str(option) for option in choice.options], fontsize=6)
    axes.get_yticklabels()[best].set_fontweight("bold")
    axes.get_yticklabels()[best].set_color(RED)
    axes.tick_params(axis="x", labelsize=7, labelbottom=False, length=2)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(choice.name, fontsize=7.5, loc="left", pad=2, color=INK)
    return image


# -- the curves --------------------------------------------------------------------------------------------------------


def draw_curves(
    records: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    target: float,
    tolerance: float = 0.05,
    unit: str = "MACs",
    warmup: int = 0,
) -> None:
    """Draws loss, cost and entropy over the epochs.

    Args:
        records: the epochs of `metrics.jsonl`.
        target: in units of `unit`; a band of `tolerance` (a fraction) is drawn around it.
        warmup: number of epochs before alpha learns, shaded.
    """
    epochs = [record["epoch"] + 1 for record in records]
    with _figure(path, (7.5, 7.2), constrained=True) as figure:
        loss, cost, entropy = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1.25, 0.8]})
        _lines(loss, epochs, records, {"weight_loss": "images of the weights", "alpha_loss": "images of the alphas"})
        loss.set_ylabel("cross-entropy")
        loss.set_yscale("log")
        _plain_ticks(loss)
        costs = {"cost_sampled": "sampled", "cost_expected": "softmax expectation", "cost_argmax": "argmax"}
        _lines(cost, epochs, records, costs)
        cost.axhspan(target * (1 - tolerance), target * (1 + tolerance), color="#4fae74", alpha=0.25, linewidth=0)
        cost.axhline(target, color="#2f7d4f", linewidth=1, linestyle="--", label=f"target ± {tolerance:.0%}")
        cost.set_ylabel(unit)
        cost.yaxis.set_major_formatter(_engineering())
        _lines(entropy, epochs, records, {"entropy": "mean normalised entropy of alpha"})
        entropy.set_ylim(0, 1.05)
        entropy.set_ylabel("entropy")
        entropy.set_xlabel("epoch")
        second = entropy.twinx()
        second.plot(epochs, [record["tau"] for record in records], color=SERIES[1], linewidth=1.6, label="temperature")
        second.set_yscale("log")
        _plain_ticks(second)
        second.set_ylabel("temperature")
        second.spines["top"].set_visible(False)
        handles = [*entropy.get_legend_handles_labels()[0], *second.get_legend_handles_labels()[0]]
        entropy.legend(handles=handles, frameon=False, fontsize=8)
        for axes in (loss, cost):
            axes.legend(frameon=False, fontsize=8)
        for axes in (loss, cost, entropy):
            axes.axvspan(0.5, warmup + 0.5, color="#eef1f4", zorder=0, linewidth=0)
        if warmup:
            place = loss.get_xaxis_transform()
            loss.text(0.7, 0.04, "warm-up", transform=place, fontsize=8, color=FAINT)
        entropy.set_xlim(0.5, epochs[-1] + 0.5)
        entropy.xaxis.get_major_locator().set_params(integer=True)
        figure.suptitle("Loss and cost over the search", fontsize=12, fontweight="bold", color=INK)


def _lines(axes: Any, epochs: Sequence[int], records: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> None:
    for colour, (key, label) in zip(SERIES, labels.items()):
        points = [(epoch, record[key]) for epoch, record in zip(epochs, records) if record.get(key) is not None]
        if points:
            marker = "o" if len(points) == 1 else ""
            axes.plot(*zip(*points), color=colour, linewidth=1.6, label=label, marker=marker)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e9ec", linewidth=0.7)
    axes.set_axisbelow(True)


def _plain_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _engineering() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


@contextlib.contextmanager
def _figure(path: str | os.PathLike, size: tuple[float, float], constrained: bool = False) -> Iterator[Any]:
    """A figure that is written to `path` at the end; no display and no global pyplot state is needed."""
    import io

    FigureCanvasAgg = require("matplotlib.backends.backend_agg", "search").FigureCanvasAgg
    from matplotlib.figure import Figure

    from ..files import atomic_write

    figure = Figure(figsize=size, layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    yield figure
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, facecolor="white")
    atomic_write(path, data.getvalue())
