"""Draws the pictures of README and docs/: those of docs/concepts.md, and of what runs in output/ found.

python benchmarks/draw_figures.py [--runs output] [--docs docs]

make search, make detect and make segment leave the runs, compare_strategies.py studies (comparison_NAME); of one that is not there the
pictures stay as they are. The results go to docs/data, from where README and pages have their numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import mobile_cv_nas as nas
from mobile_cv_nas.files import atomic_write
from mobile_cv_nas.report.figures import FAINT, INK, RED, SERIES, figure_file

WIDTHS, GATES = (8, 12, 16), (0.2, 0.3, 0.5)


def draw_mask(path: Path) -> None:
    """The masks of three widths, each times its gate, and their sum: what every channel is multiplied by."""
    with figure_file(path, (8, 2.9), constrained=True) as figure:
        all_axes = figure.subplots(1, 4, sharey=True)
        total = torch.zeros(WIDTHS[-1])
        for axes, width, gate, colour in zip(all_axes, WIDTHS, GATES, SERIES, strict=False):
            mask = (torch.arange(WIDTHS[-1]) < width).float() * gate
            axes.bar(range(1, WIDTHS[-1] + 1), mask, 0.8, color=colour)
            axes.set_title(f"{gate} × {width} channels", fontsize=10, color=INK)
            all_axes[-1].bar(range(1, WIDTHS[-1] + 1), mask, 0.8, bottom=total, color=colour)
            total = total + mask
        all_axes[-1].set_title("their sum, the mask M", fontsize=10, color=INK)
        for axes in all_axes:
            axes.set_xlabel("channel")
            axes.set_ylim(0, 1.05)
            axes.spines[["top", "right"]].set_visible(False)
        all_axes[0].set_ylabel("factor")


def draw_gates(path: Path) -> None:
    """Gates of four options under the same alphas and the same noise, at three temperatures."""
    alphas = torch.tensor([0.0, 1.0, 0.5, -1.0])
    noise = -torch.empty(4).exponential_(generator=torch.Generator().manual_seed(3)).log()
    with figure_file(path, (8, 2.6), constrained=True) as figure:
        all_axes = figure.subplots(1, 4, sharey=True)
        shown = [("softmax(alpha)", alphas)] + [(f"gates at tau {tau:g}", (alphas + noise) / tau) for tau in (5, 1, 0.2)]
        for number, (axes, (title, logits)) in enumerate(zip(all_axes, shown, strict=True)):
            axes.bar(["k3", "k5", "k3 se", "skip"], logits.softmax(0), 0.7, color=FAINT if number == 0 else SERIES[0])
            axes.set_title(title, fontsize=10, color=INK)
            axes.set_ylim(0, 1.05)
            axes.tick_params(axis="x", labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)


def draw_resolution(path: Path) -> None:
    """A handwritten digit of 16 pixels, the rows and columns that a size of 10 takes of it, and the result."""
    from mobile_cv_nas.data.digits import digits

    image = digits().train.source.images[7]  # (1, 8, 8)
    full = torch.nn.functional.interpolate(image[None], 16, mode="bilinear")
    taken = nas.subsample(torch.arange(16.0).expand(1, 1, 16, 16), 10)[0, 0, 0].int().tolist()
    with figure_file(path, (7, 3), constrained=True) as figure:
        left, middle, right = figure.subplots(1, 3)
        for axes, title in ((left, "16 × 16, the largest size"), (middle, "rows and columns taken"), (right, "10 × 10")):
            axes.set_title(title, fontsize=10, color=INK)
            axes.set_xticks([])
            axes.set_yticks([])
        left.imshow(full[0, 0], cmap="gray_r")
        middle.imshow(full[0, 0], cmap="gray_r", alpha=0.35)
        for row in taken:
            middle.scatter(taken, [row] * len(taken), s=7, color=RED)
        right.imshow(nas.subsample(full, 10)[0, 0], cmap="gray_r")


def draw_sharing(path: Path) -> None:
    """A layer of three candidates under `none` and under `full`."""
    with figure_file(path, (8, 3)) as figure:
        for start, title in ((0.02, "none: a block each, their outputs are summed"), (0.52, "full: one block, its parts are gated")):
            axes = figure.add_axes((start, 0.02, 0.46, 0.9))
            axes.set_xlim(0, 10)
            axes.set_ylim(0, 6)
            axes.axis("off")
            axes.set_title(title, fontsize=10, color=INK)
            boxes = [(4.9, "ir_k3", "× g1"), (2.9, "ir_k5", "× g2"), (0.9, "ir_k5_se", "× g3")]
            if start < 0.5:
                for (y, name, gate), colour in zip(boxes, SERIES, strict=True):
                    _box(axes, 3, y - 0.5, 3, 1, name, colour)
                    _arrow(axes, (1, 2.9), (2.9, y))
                    _arrow(axes, (6.1, y), (8.3, 2.9))
                    axes.text(6.6, y + (0.35 if y > 2 else -0.5), gate, fontsize=9, color=INK)
                axes.text(8.4, 2.75, "Σ", fontsize=14, color=INK)
            else:
                parts = ["1×1", "5×5 depthwise:\ninner 3×3 × 1,\nring × (g2 + g3)", "SE blended\nin by g3", "1×1"]
                for x, width, name in zip((0.9, 2.4, 5.6, 8.3), (1.1, 2.8, 2.3, 1.1), parts, strict=True):
                    _box(axes, x, 1.9, width, 2, name, SERIES[0])
            axes.text(0.1, 2.75, "x", fontsize=12, color=INK)


def draw_search(path: Path) -> None:
    """The way from a space to a model, in boxes."""
    steps = [
        "space\n(a table with\nchoices)",
        "supernet\n(all networks\nin one)",
        "gates, alphas\nmeet a target",
        "arch\n(one table)",
        "child,\ntrained",
        "model\n(one file)",
    ]
    says = ["build_supernet", "search", "derive", "build_model, train", "save"]
    with figure_file(path, (9, 1.7)) as figure:
        axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
        axes.set_xlim(0, 24)
        axes.set_ylim(0, 4)
        axes.axis("off")
        for i, text in enumerate(steps):
            _box(axes, 4 * i + 0.1, 0.4, 2.7, 2.4, text, SERIES[0] if i < 3 else SERIES[2])
            if i < len(says):
                _arrow(axes, (4 * i + 2.9, 1.6), (4 * i + 4, 1.6))
                axes.text(4 * i + 3.45, 3.2, says[i], ha="center", fontsize=8, color=INK)


def _box(axes: Any, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.06", facecolor="white", edgecolor=colour, linewidth=1.6))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8, color=INK)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": FAINT, "linewidth": 1.2})


def take_runs(runs: Path, docs: Path) -> None:
    """Pictures and results of the runs of make search, make detect and make segment."""
    for name, files in {"digits": ("arch", "alphas", "curves"), "detect": (), "segment": ()}.items():
        folder = runs / name
        if not (folder / "result.json").is_file():
            print(f"{folder}: no finished run; its pictures stay as they are")
            continue
        for file in files:
            shutil.copyfile(folder / f"{file}.png", docs / f"digits_{file}.png")
        if not files:
            _predict(folder, docs / f"scenes_{name}.png")
        atomic_write(docs / "data" / f"{name}.json", (folder / "result.json").read_bytes())


def take_studies(runs: Path, docs: Path) -> None:
    """Rows and picture of the studies that `compare_strategies.py` left in comparison_NAME."""
    from _comparison import draw

    for folder in sorted(runs.glob("comparison_*")):
        if (folder / "comparison.json").is_file():
            rows = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["rows"]
            atomic_write(docs / "data" / f"{folder.name}.json", json.dumps(rows, indent=1) + "\n")
            draw(docs / f"{folder.name}.png", rows)


def _predict(folder: Path, path: Path) -> None:
    """What a model trained on digit_scenes says of that of their first test images which has most objects."""
    from mobile_cv_nas.data.digit_scenes import write_digit_scenes

    with tempfile.TemporaryDirectory() as where:
        root = write_digit_scenes(Path(where) / "scenes", {"train": 1, "val": 1, "test": 12})
        content = json.loads((root / "annotations" / "instances_test.json").read_text(encoding="utf-8"))
        most = Counter(one["image_id"] for one in content["annotations"]).most_common(1)[0][0]
        (name,) = [one["file_name"] for one in content["images"] if one["id"] == most]
        nas.load(folder).predict(root / "test" / name).draw(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="output", metavar="FOLDER", help="where digits, detect and segment are (output)")
    parser.add_argument("--docs", default="docs", metavar="FOLDER", help="where the pictures go (docs)")
    args = parser.parse_args(argv)
    docs = Path(args.docs)
    (docs / "data").mkdir(parents=True, exist_ok=True)
    for draw in (draw_search, draw_gates, draw_mask, draw_resolution, draw_sharing):
        draw(docs / f"concepts_{draw.__name__.removeprefix('draw_')}.png")
    take_runs(Path(args.runs), docs)
    take_studies(Path(args.runs), docs)


if __name__ == "__main__":
    main()
