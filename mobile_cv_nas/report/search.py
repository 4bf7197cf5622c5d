"""Figures of a search: the alphas over time, loss and cost against the target."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..nn.choice import Choice
from .figures import FAINT, INK, RED, SERIES, figure_file

# -- the alphas --------------------------------------------------------------------------------------------------------


def draw_alphas(
    choices: Sequence[Choice], records: Sequence[Mapping[str, Any]], path: str | os.PathLike, derived: Mapping[str, int] | None = None
) -> None:
    """Draws softmax(alpha) of every choice over the epochs, one row of heat maps a layer.

    The options of the derived network are bold and red, which need not be the most probable ones.

    Args:
        choices: of the space, in its order.
        records: the epochs of `metrics.jsonl`: each has `epoch` and `probabilities`, {choice name: [option, ...]}.
        derived: the options that the derived network is made of, by choice; the most probable ones without.
    """
    layers: dict[str, list[Choice]] = {}
    for choice in choices:
        layers.setdefault(choice.name.partition(".")[0], []).append(choice)
    kinds = list(dict.fromkeys(_kind(choice) for choice in choices if "." in choice.name)) or [_kind(choices[0])]
    heights = [0.35 + 0.125 * max(len(choice.options) for choice in row) for row in layers.values()]
    epochs = [record["epoch"] + 1 for record in records]
    size = (1.1 + 3.4 * len(kinds), 0.9 + sum(heights))
    with figure_file(path, size, constrained=True) as figure:
        grid = figure.subplots(len(layers), len(kinds), squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes in grid.flat:
            axes.set_axis_off()
        for cells, row in zip(grid, layers.values()):
            for choice in row:
                axes = cells[kinds.index(_kind(choice)) if "." in choice.name else 0]
                values = [record["probabilities"][choice.name] for record in records]
                image = _draw_heat(axes, choice, epochs, values, marked(choice, values[-1], derived))
        for column in grid.T:
            shown = [axes for axes in column if axes.axison]
            if shown:
                shown[-1].tick_params(labelbottom=True)
                shown[-1].set_xlabel("epoch", fontsize=8)
        bar = figure.colorbar(image, ax=grid, shrink=min(1.0, 2.5 / size[1]), aspect=18, pad=0.01)
        bar.set_label("softmax(alpha)", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        figure.suptitle("What each layer learned to choose", fontsize=12, fontweight="bold", color=INK)


def marked(choice: Choice, probabilities: Sequence[float], derived: Mapping[str, int] | None) -> int | None:
    """The option to mark: of the derived network, None where it does not depend on the choice; without one the most probable."""
    if derived is not None:
        return derived.get(choice.name)
    return max(range(len(probabilities)), key=lambda i: probabilities[i])


def _kind(choice: Choice) -> str:
    return choice.name.rpartition(".")[2]


def _draw_heat(axes: Any, choice: Choice, epochs: Sequence[int], values: Sequence[Sequence[float]], best: int | None) -> Any:
    axes.set_axis_on()
    count = len(choice.options)
    table = torch.tensor(values, dtype=torch.float64).T.numpy()  # (options, epochs)
    span = (epochs[0] - 0.5, epochs[-1] + 0.5, -0.5, count - 0.5)
    image = axes.imshow(table, aspect="auto", origin="lower", extent=span, cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(range(count), [str(option) for option in choice.options], fontsize=6)
    if best is not None:
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
    derived: float | None = None,
) -> None:
    """Draws loss, cost and entropy over the epochs.

    Args:
        records: the epochs of `metrics.jsonl`.
        target: in units of `unit`; a band of `tolerance` (a fraction) is drawn around it.
        warmup: number of epochs before alpha learns, shaded.
        derived: cost of the derived network, marked at the end.
    """
    epochs = [record["epoch"] + 1 for record in records]
    with figure_file(path, (7.5, 7.2), constrained=True) as figure:
        loss, cost, entropy = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1.25, 0.8]})
        _lines(loss, epochs, records, {"weight_loss": "images of the weights", "alpha_loss": "images of the alphas"})
        loss.set_ylabel("cross-entropy")
        loss.set_yscale("log")
        _plain_ticks(loss)
        costs = {"cost_sampled": "sampled", "cost_expected": "softmax expectation", "cost_argmax": "argmax"}
        _lines(cost, epochs, records, costs)
        cost.axhspan(target * (1 - tolerance), target * (1 + tolerance), color="#4fae74", alpha=0.25, linewidth=0)
        cost.axhline(target, color="#2f7d4f", linewidth=1, linestyle="--", label=f"target ± {tolerance:.0%}")
        if derived is not None:
            cost.plot([epochs[-1]], [derived], "D", color=RED, markersize=6, label="derived network", zorder=5, clip_on=False)
        cost.set_ylabel(unit)
        cost.yaxis.set_major_formatter(_engineering())
        _lines(entropy, epochs, records, {"entropy": "mean normalised entropy of alpha"})
        entropy.set_ylim(0, 1.05)
        entropy.set_ylabel("entropy")
        entropy.set_xlabel("epoch")
        if all(record["tau"] is not None for record in records):
            _temperature(entropy, epochs, records)
        elif entropy.lines:
            entropy.legend(frameon=False, fontsize=8)
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


def _temperature(entropy: Any, epochs: Sequence[int], records: Sequence[Mapping[str, Any]]) -> None:
    """Beside the entropy, on an axis of its own."""
    second = entropy.twinx()
    second.plot(epochs, [record["tau"] for record in records], color=SERIES[1], linewidth=1.6, label="temperature")
    second.set_yscale("log")
    _plain_ticks(second)
    second.set_ylabel("temperature")
    second.spines["top"].set_visible(False)
    handles = [*entropy.get_legend_handles_labels()[0], *second.get_legend_handles_labels()[0]]
    entropy.legend(handles=handles, frameon=False, fontsize=8)


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
