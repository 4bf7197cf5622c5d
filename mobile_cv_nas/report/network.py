"""A network block by block: its table, and its drawing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..arch import ArchDef
from ..arch.layer import map_sizes, reading
from ..engine.progress import short
from ..networks.build import build_model
from ..networks.counting import count
from ..nn.heads import HeadDef
from ..nn.shapes import Cost
from .figures import FAINT, INK, figure_file

KERNEL_COLOURS = {1: "#b8bec6", 3: "#4c8fd6", 5: "#f0963c", 7: "#4fae74"}
POOL_COLOUR = "#9a6fc4"

# -- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of a summary: the block, its output (channels, height, width) and its exact cost."""

    key: str
    name: str
    output: tuple[int, int, int]
    cost: Cost


@dataclass(frozen=True)
class Summary:
    """A network block by block; `total` is what fvcore counts in it."""

    arch: ArchDef
    rows: tuple[Row, ...]
    total: Cost

    def __str__(self) -> str:
        from tabulate import tabulate

        lines: list[list[Any]] = [
            [row.key, row.name, "x".join(map(str, row.output)), f"{row.cost.macs:,}", f"{row.cost.params:,}"] for row in self.rows
        ]
        lines.append(["total", "", "", f"{self.total.macs:,}", f"{self.total.params:,}"])
        table = tabulate(
            lines,
            headers=["block", "type", "output", "MACs", "parameters"],
            colalign=("left", "left", "left", "right", "right"),
            disable_numparse=True,
        )
        return f"{self.arch.name or 'network'}, input {self.arch.input_size}x{self.arch.input_size}\n{table}"


def summarize(arch: ArchDef, num_classes: int = 1000, in_channels: int = 3) -> Summary:
    """One row a block, then the head (pool and classifier).

    Output shapes are measured on a zero image, costs come from each block's own formula, and their sum must be what
    fvcore counts: RuntimeError if it is not, for then one of the two is wrong.
    """
    model = build_model(arch, num_classes, in_channels).eval()
    total = count(model, arch.input_size, in_channels)
    rows: list[Row] = []
    x = torch.zeros(1, in_channels, arch.input_size, arch.input_size)
    with torch.no_grad():
        for layer, block in zip(reading(arch.layers, in_channels), model.blocks, strict=True):
            c_in, size = x.shape[1], x.shape[2]
            x = block(x)
            cost = layer.cost(layer.names[0], c_in, layer.channels[0], layer.hidden[0], size)
            rows.append(Row(layer.key, layer.names[0], (x.shape[1], x.shape[2], x.shape[3]), cost))
    cost = HeadDef("classifier", num_classes).cost(0, x.shape[1], [arch.input_size, x.shape[2]])
    rows.append(Row("head", "pool, linear", (num_classes, 1, 1), cost))
    summed = sum((row.cost for row in rows), Cost(0, 0))
    if (summed.macs, summed.params) != (total.macs, total.params):
        raise RuntimeError(f"{arch.name}: the blocks sum to {summed}, but fvcore counts {total}; please report this")
    return Summary(arch, tuple(rows), total)


# -- the drawing ------------------------------------------------------------------------------------------------------


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


def block_macs(arch: ArchDef, in_channels: int = 3) -> list[int]:
    """The MACs of each block, exact."""
    sides = map_sizes(arch.layers, arch.input_size)
    layers = reading(arch.layers, in_channels)
    found = []
    for layer, side in zip(layers, sides):
        found.append(layer.cost(layer.names[0], layer.c_in[0], layer.channels[0], layer.hidden[0], side).macs)
    return found


def draw_arch(arch: ArchDef, path: str | os.PathLike, title: str = "", about: str = "", in_channels: int = 3) -> None:
    """Draws a network block by block (as the paper's Fig. 6) and writes the image to `path`.

    Kernel size is colour and expansion height, to scale; a skip is a gap. Output widths, squeeze-and-excite,
    hard-swish and MACs stand below each block, and each stage carries the side of its maps.

    Args:
        title: "" for the arch's name.
        about: a line beside the title, such as cost and accuracy.
        in_channels: of the image.
    """
    rows, macs = block_rows(arch), block_macs(arch, in_channels)
    top = max([row.expansion for row in rows] + [2.0])
    width = max(6.0, 1.9 + 0.5 * len(rows))
    height = 3.5
    with figure_file(path, (width, height)) as figure:
        axes = figure.add_axes((0.95 / width, 1.12 / height, 1 - 1.15 / width, 1.75 / height))
        for i, row in enumerate(rows):
            _draw_block(axes, i, row)
        _draw_stages(axes, rows, top)
        _draw_marks(axes, rows, macs)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_ylim(0, top * 1.04)
        axes.set_xticks([])
        axes.set_ylabel("expansion")
        axes.spines[["top", "right"]].set_visible(False)
        heading = title or arch.name or "network"
        figure.text(0.2 / width, 1 - 0.2 / height, heading, fontsize=12, fontweight="bold", color=INK, va="center")
        if about:
            figure.text(1 - 0.2 / width, 1 - 0.2 / height, about, fontsize=9, color=INK, va="center", ha="right")
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


def _draw_marks(axes: Any, rows: Sequence[BlockRow], macs: Sequence[int]) -> None:
    """Four lines of marks below the bars: output width, squeeze-and-excite, hard-swish, MACs."""
    place = axes.get_xaxis_transform()
    levels = {"channels": -0.09, "SE": -0.20, "hswish": -0.31, "MACs": -0.42}
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
        if macs[i]:
            axes.text(i, levels["MACs"], short(macs[i]), transform=place, ha="center", va="center", fontsize=6.5, color=INK)
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
