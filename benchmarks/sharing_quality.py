"""Does one shared block in place of eight candidates cost quality? Searches with `none` and with `full`, and chance, compared.

    python benchmarks/sharing_quality.py [--seeds 3] [--random 12] [--epochs 20] [--json FILE]

Searches with either sharing for the same number of images, a few seeds each; trains every derived child twice and random children of equal
MACs (within 5%) with the same recipe; prints test accuracies and the differences of the means of -ln(1 - accuracy), the two trainings of an
arch averaged first. The plain digits saturate, so these are harder ones, made of the same scans: the digit to name is in the middle,
turned, sheared and scaled, others reach in from the sides, and there is noise.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from _measure import machine
from tabulate import tabulate
from torch import Tensor

import mobile_cv_nas as nas
from mobile_cv_nas.checkpoint import RunFolder, StopRequest
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data import Data, build_data
from mobile_cv_nas.data.sources import Source, Split
from mobile_cv_nas.engine import open_run, start_runtime
from mobile_cv_nas.search import search
from mobile_cv_nas.train import train

SIDE = 24
NAMES = ["ir_k3", "ir_k5", "ir_k3_hs", "ir_k5_hs", "ir_k3_se", "ir_k5_se", "ir_k3_se_hs", "ir_k5_se_hs"]


def space() -> nas.SearchSpace:
    """Wide enough that archs differ: output widths from 4, hidden widths from a quarter to four times the input, kernels, SE, skip."""
    ratio = {"expansion": {"any": [0.25, 0.5, 1, 2, 3, 4]}, "divisor": 1}
    stages: list[Any] = [[["conv_k3_hs", 12, 1]]]
    for widths in ([4, 24, 4], [4, 48, 4]):
        stages.append([[NAMES, widths, 2, 1, ratio], [[*NAMES, "skip"], widths, 1, 2, ratio]])
    stages.append([["conv_k1_hs", 64, 1]])
    return nas.SearchSpace.parse({"name": "hard_digits", "input_size": SIDE, "stages": stages}, "sharing_quality")


def hard_digits(train_images: int) -> Data:
    """The same scans and the same splits as `digits`; validation and test have a third as many images as training."""
    plain = build_data(load_config(None, []))
    images, labels, splits = [], [], []
    for seed, (split, count) in enumerate(((plain.train, train_images), (plain.val, train_images // 3), (plain.test, train_images // 3))):
        made, of = _compose(split, count, seed)
        splits.append(range(len(labels), len(labels) + count))
        images.append(made)
        labels += of
    source = Source(torch.cat(images), tuple(labels))
    return Data(*(Split(source, tuple(indices)) for indices in splits), plain.classes)  # type: ignore[arg-type]


def _compose(split: Split, count: int, seed: int) -> tuple[Tensor, list[int]]:
    """(count, 1, SIDE, SIDE) images in 0..1 and what is in their middle."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    canvas = torch.zeros(count, 1, SIDE, SIDE)
    scans = split.source.images[list(split.indices)]
    labels = torch.tensor([split.source.labels[i] for i in split.indices])
    for place in range(3):
        which = torch.randint(len(scans), (count,), generator=generator)
        angle, scale, shear = draw(-0.5, 0.5), draw(0.45, 0.65), draw(-0.3, 0.3)
        if place == 0:
            chosen, shift = labels[which].tolist(), draw(-0.15, 0.15, 2)
        else:  # from a random side, so far out that a part of it is cut off
            direction = draw(0, 2 * math.pi)
            shift = 0.85 * torch.stack([direction.cos(), direction.sin()], 1)
        turned = torch.stack([angle.cos(), shear - angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2) / scale.view(-1, 1, 1)
        theta = torch.cat([turned, -(turned @ shift.unsqueeze(2))], 2)
        grid = torch.nn.functional.affine_grid(theta, [count, 1, SIDE, SIDE], align_corners=False)
        drawn = torch.nn.functional.grid_sample(scans[which], grid, align_corners=False)
        canvas = torch.maximum(canvas, drawn * draw(0.7, 1.0, 1, 1, 1))
    noise = torch.randn(canvas.shape, generator=generator) * 0.15
    return (canvas + noise).clamp_(0, 1), chosen


def config(options: argparse.Namespace, folder: Path, seed: int, sharing: str = "none") -> Any:
    """The recipe of every search and every training here."""
    pairs = {"OUTPUT_DIR": folder, "SEED": seed, "DATA.MEAN": "[0.25, 0.25, 0.25]", "DATA.STD": "[0.3, 0.3, 0.3]"}
    pairs |= {"SEARCH.SHARING": sharing, "SEARCH.TARGET": options.target, "SEARCH.EPOCHS": options.epochs, "SEARCH.ALPHA_LR": 0.2}
    pairs |= {"TRAIN.EPOCHS": options.epochs, "TRAIN.EVAL_EVERY": options.epochs, "TRAIN.LR": 0.1, "RUNTIME.DEVICE": options.device}
    return load_config(None, [str(text) for pair in pairs.items() for text in pair])


def run(options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """For `none`, `full` and `random`: each arch with its MACs and its test accuracies."""
    data, choices = hard_digits(options.images), space()
    results: dict[str, list[dict[str, Any]]] = {"none": [], "full": [], "random": []}
    archs: list[tuple[str, nas.ArchDef]] = []
    for seed in range(options.seeds):
        for sharing in ("none", "full"):
            cfg = config(options, folder / f"{sharing}{seed}", seed, sharing)
            with RunFolder(cfg.OUTPUT_DIR) as output:
                open_run(output, resume=False)
                found = search(cfg, choices, data, start_runtime(cfg), output, StopRequest(1e6))
            assert found is not None
            archs.append((sharing, found.arch))
    rng = random.Random(0)
    while sum(kind == "random" for kind, _ in archs) < options.random:
        arch = choices.sample(rng)
        if abs(arch.cost(10).macs / options.target - 1) <= 0.05:
            archs.append(("random", arch))
    for i, (kind, arch) in enumerate(archs):
        accuracies = []
        for seed in range(2):
            cfg = config(options, folder / f"child{i}_{seed}", 100 + seed)
            accuracies.append(train(cfg, arch, Path(cfg.OUTPUT_DIR), data, None, False, start_runtime(cfg), StopRequest(1e6))["top1"])
        results[kind].append({"macs": arch.cost(10).macs, "accuracies": accuracies})
        print(f"{kind}: {arch.cost(10).macs:,} MACs, test top-1 {accuracies[0]:.4f} {accuracies[1]:.4f}", flush=True)
    return results


def score(accuracies: list[float]) -> float:
    """Mean of -ln(1 - accuracy) over the trainings of one arch; a perfect one counts as half an error in a thousand images."""
    return statistics.fmean(-math.log(max(1 - accuracy, 5e-4)) for accuracy in accuracies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="searches with each sharing")
    parser.add_argument("--random", type=int, default=12, help="random children")
    parser.add_argument("--epochs", type=int, default=20, help="of a search, and of a training")
    parser.add_argument("--images", type=int, default=6000, help="to train on")
    parser.add_argument("--target", type=float, default=1e6, help="MACs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write all results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(options, Path(folder))
    scores = {kind: [score(row["accuracies"]) for row in rows] for kind, rows in results.items()}
    pairs = [[-math.log(max(1 - a, 5e-4)) for a in row["accuracies"]] for rows in results.values() for row in rows]
    seeds = math.sqrt(statistics.fmean(statistics.variance(pair) for pair in pairs))
    print(f"\n{machine(torch.device(options.device))}; scores are -ln(1 - accuracy)")
    spread = statistics.stdev(scores["random"]) if len(scores["random"]) > 1 else math.nan
    print(f"standard deviation between random archs {spread:.3f}, between trainings of an arch {seeds:.3f}")
    table = [
        [kind, len(of), statistics.fmean(statistics.fmean(r["accuracies"]) for r in results[kind]), statistics.fmean(of)]
        for kind, of in scores.items()
    ]
    print(tabulate(table, ["archs", "number", "mean accuracy", "mean score"], floatfmt=("", "", ".4f", ".3f")))
    means = {kind: statistics.fmean(of) for kind, of in scores.items()}
    print(f"full - none {means['full'] - means['none']:+.3f}, none - random {means['none'] - means['random']:+.3f}, ", end="")
    print(f"full - random {means['full'] - means['random']:+.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
