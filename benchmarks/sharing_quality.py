"""Does one shared block in place of eight candidates cost quality? Searches with `none` and with `full`, and chance, compared.

    python benchmarks/sharing_quality.py [--seeds 3] [--random 12] [--epochs 10] [--json FILE]

Trains random children of equal MACs (within 5%) twice each, and prints how much archs differ and how much trainings of one arch do: what is
smaller cannot be told apart. Then searches with either sharing for the same number of images, a few seeds each, and trains every derived
child with the same recipe; prints test accuracies and the differences of the means of -ln(1 - accuracy), the two trainings of an arch
averaged first. The plain digits saturate, so these are harder ones, made of the same scans: the digit to name is near the middle, turned,
sheared and scaled, others reach in from the sides, and there is noise.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _measure import headline, machine
from tabulate import tabulate
from torch import Tensor

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import recipe_of, search_options
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data import Data
from mobile_cv_nas.data.build import build_data
from mobile_cv_nas.data.data_set import Source, Split
from mobile_cv_nas.engine.runtime import start_runtime
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.search.run import SearchRun
from mobile_cv_nas.training.losses import training_task
from mobile_cv_nas.training.trainer import Trainer

SIDE = 16
TRAININGS = 2  # of each arch
KINDS = ("random", "none", "full")
NAMES = ["ir_k3", "ir_k5", "ir_k3_hs", "ir_k5_hs", "ir_k3_se", "ir_k5_se", "ir_k3_se_hs", "ir_k5_se_hs"]


def space() -> nas.SearchSpace:
    """Wide enough that archs differ: output widths from 4, hidden widths from a quarter to four times the input, kernels, SE, skip."""
    ratio = {"expansion": {"any": [0.25, 0.5, 1, 2, 4]}, "divisor": 1}
    stages: list[Any] = [[["conv_k3_hs", 12, 2]]]
    for stride, widths in ((1, [4, 24, 4]), (2, [4, 48, 4])):
        stages.append([[NAMES, widths, stride, 1, ratio], [[*NAMES, "skip"], widths, 1, 1, ratio]])
    stages.append([["conv_k1_hs", 48, 1]])
    return nas.SearchSpace.parse({"name": "hard_digits", "input_size": SIDE, "stages": stages}, "sharing_quality")


def hard_digits(images: int = 5000, test_images: int = 4000) -> Data:
    """The same scans and the same splits as `digits`, several times over."""
    plain = build_data(recipe_of(load_config(None, [])).data)
    parts = ((plain.train, images), (plain.val, 1000), (plain.test, test_images))
    drawn, labels, splits = [], [], []
    for seed, (split, count) in enumerate(parts):
        made, of = _compose(split, count, seed)
        splits.append(range(len(labels), len(labels) + count))
        drawn.append(made)
        labels += of
    source = Source(torch.cat(drawn), tuple(labels))
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
        angle, scale, shear = draw(-0.5, 0.5), draw(0.55, 0.75), draw(-0.3, 0.3)
        if place == 0:
            chosen, shift = labels[which].tolist(), draw(-0.15, 0.15, 2)
        else:  # from a random side, so far out that a part of it is cut off
            direction = draw(0, 2 * math.pi)
            shift = 0.95 * torch.stack([direction.cos(), direction.sin()], 1)
        turned = torch.stack([angle.cos(), shear - angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2) / scale.view(-1, 1, 1)
        theta = torch.cat([turned, -(turned @ shift.unsqueeze(2))], 2)
        grid = torch.nn.functional.affine_grid(theta, [count, 1, SIDE, SIDE], align_corners=False)
        drawn = torch.nn.functional.grid_sample(scans[which], grid, align_corners=False)
        canvas = torch.maximum(canvas, drawn * draw(0.7, 1.0, 1, 1, 1))
    noise = torch.randn(canvas.shape, generator=generator) * 0.06
    return (canvas + noise).clamp_(0, 1), chosen


def recipe(target: float = 2e5, epochs: int = 10) -> dict[str, Any]:
    """The keys of every search and every training here."""
    keys: dict[str, Any] = {"DATA.MEAN": "[0.25, 0.25, 0.25]", "DATA.STD": "[0.3, 0.3, 0.3]", "TRAIN.LR": 0.1, "TRAIN.EPOCHS": epochs}
    return keys | {"TRAIN.EVAL_EVERY": epochs, "SEARCH.EPOCHS": epochs, "SEARCH.ALPHA_LR": 0.2, "SEARCH.TARGET": target}


def config(options: argparse.Namespace, folder: Path, seed: int, sharing: str = "none") -> Any:
    pairs = recipe(options.target, options.epochs) | {"OUTPUT_DIR": folder, "SEED": seed, "SEARCH.SHARING": sharing}
    pairs |= {"RUNTIME.DEVICE": options.device}
    return load_config(None, [str(text) for pair in pairs.items() for text in pair])


def children(options: argparse.Namespace) -> list[nas.ArchDef]:
    """Random archs of the space with the target's MACs."""
    rng, choices = random.Random(0), space()
    found: list[nas.ArchDef] = []
    while len(found) < options.random:
        arch = choices.sample(rng)
        if abs(arch.cost(10).macs / options.target - 1) <= 0.05:
            found.append(arch)
    return found


def derived(options: argparse.Namespace, data: Data, folder: Path, seed: int, sharing: str) -> nas.ArchDef:
    """The arch that a search ends with."""
    cfg = config(options, folder / f"{sharing}{seed}", seed, sharing)
    with contextlib.redirect_stdout(io.StringIO()):
        run = SearchRun(space(), data, search_options(cfg), recipe_of(cfg))
        found = run.run(cfg.OUTPUT_DIR, stop=StopRequest(1e6), train_child=False)
    assert found.arch is not None
    return found.arch


def trained(options: argparse.Namespace, data: Data, folder: Path, kind: str, arch: nas.ArchDef) -> dict[str, Any]:
    """Test accuracies of an arch, and their mean score; prints a line."""
    accuracies = []
    for seed in range(TRAININGS):
        with tempfile.TemporaryDirectory(dir=folder) as output, contextlib.redirect_stdout(io.StringIO()):  # a line an epoch
            cfg = config(options, Path(output), 100 + seed)
            recipe = recipe_of(cfg)
            trainer = Trainer(training_task(data, recipe), arch, data, recipe, start_runtime(recipe.runtime))
            accuracies.append(trainer.run(Path(output), stop=StopRequest(1e6)).scores["top1"])
    macs = arch.cost(10).macs
    print(f"{kind}: {macs:,} MACs, test top-1 {' '.join(f'{a:.4f}' for a in accuracies)}", flush=True)
    scores = [score(accuracy) for accuracy in accuracies]
    return {
        "kind": kind,
        "macs": macs,
        "arch": arch.to_dict(),
        "accuracies": accuracies,
        "scores": scores,
        "score": statistics.fmean(scores),
    }


def score(accuracy: float) -> float:
    """-ln(1 - accuracy); a perfect one counts as half an error in a thousand images."""
    return -math.log(max(1 - accuracy, 5e-4))


def spread(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Standard deviations of scores: between archs (means over their trainings), and between the trainings of one arch.

    `archs_alone` is what the first would be with endless trainings: a share of it is the second's.
    """
    archs = statistics.variance(row["score"] for row in rows)
    seeds = statistics.fmean(statistics.variance(row["scores"]) for row in rows)
    return {"archs": math.sqrt(archs), "trainings": math.sqrt(seeds), "archs_alone": math.sqrt(max(0, archs - seeds / TRAININGS))}


def compare(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(which two kinds, difference of their mean scores, its standard error from the archs' scores)."""
    kinds = {kind: [row["score"] for row in rows if row["kind"] == kind] for kind in KINDS}
    found = []
    for one, other in (("full", "none"), ("none", "random"), ("full", "random")):
        a, b = kinds[one], kinds[other]
        error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
        found.append((f"{one} - {other}", statistics.fmean(a) - statistics.fmean(b), error))
    return found


def main() -> None:
    options = parse()
    start, data, name = time.monotonic(), hard_digits(options.images, options.test_images), machine(torch.device(options.device))
    print(headline(name, "scores are -ln(1 - accuracy)"), flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows = [trained(options, data, folder, "random", arch) for arch in children(options)]
        spreads = spread(rows)
        print("standard deviation of scores between random archs {archs:.3f}, between trainings of one {trainings:.3f}".format(**spreads))
        print("between random archs without the trainings' share {archs_alone:.3f}".format(**spreads), flush=True)
        for seed in range(options.seeds):
            for sharing in ("none", "full"):
                before = time.monotonic()
                arch = derived(options, data, folder, seed, sharing)
                print(f"search {seed} with {sharing}: {time.monotonic() - before:.0f} s", flush=True)
                rows.append(trained(options, data, folder, sharing, arch))
    table = []
    for kind in KINDS:
        of = [row for row in rows if row["kind"] == kind]
        accuracy = statistics.fmean(statistics.fmean(row["accuracies"]) for row in of)
        table.append([kind, len(of), accuracy, statistics.fmean(row["score"] for row in of), statistics.stdev(row["score"] for row in of)])
    print(tabulate(table, ["archs", "number", "mean accuracy", "mean score", "std"], floatfmt=("", "", ".4f", ".3f", ".3f")))
    differences = compare(rows)
    for what, difference, error in differences:
        print(f"{what}: {difference:+.3f}, standard error {error:.3f}")
    print(f"{time.monotonic() - start:.0f} s in all")
    if options.json:
        report = {"machine": name, "options": vars(options), "spread": spreads, "differences": differences, "rows": rows}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="searches with each sharing, 2 or more")
    parser.add_argument("--random", type=int, default=12, help="random children, 2 or more")
    parser.add_argument("--epochs", type=int, default=10, help="of a search, and of a training")
    parser.add_argument("--images", type=int, default=5000, help="to train on")
    parser.add_argument("--test-images", type=int, default=4000)
    parser.add_argument("--target", type=float, default=2e5, help="MACs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write all results to this file")
    options = parser.parse_args()
    if min(options.seeds, options.random) < 2:
        parser.error("--seeds and --random: 2 or more; one has no standard deviation")
    return options


if __name__ == "__main__":
    main()
