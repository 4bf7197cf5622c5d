"""One search for several targets against a search for each: seconds, how near each child is to its target, and test accuracies.

    python benchmarks/one_run_many_targets.py [--data digits] [--seeds 3] [--targets 250k 400k 600k] [--json FILE] [--figure FILE]

The searches differ in their targets alone: as many epochs, so the alphas of each target see as many images in one run as in a search of its
own, while the weights of the one run see them once for all targets. Every child is trained with the same recipe. `digits` is the demo's
search (configs/search/digits.yaml); `hard` the digits of sharing_quality.py, which do not saturate. Seconds are of the processor, of the
search alone. With --json, rows that the file has are not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sharing_quality import hard_digits, space
from tabulate import tabulate

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import recipe_of, search_options
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data import Data
from mobile_cv_nas.data.build import build_data
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.report.front import draw_front
from mobile_cv_nas.report.svg import Mark
from mobile_cv_nas.search.goal import parse_target, target_name
from mobile_cv_nas.search.run import SearchRun

CONFIG = Path(__file__).parents[1] / "configs" / "search" / "digits.yaml"
TARGETS = {"digits": ["250k", "400k", "600k"], "hard": ["120k", "200k", "320k"]}
Row = dict[str, Any]


def config(options: argparse.Namespace, seed: int, targets: list[float]) -> Any:
    """Of one search; the recipe is the same for all."""
    pairs: dict[str, Any] = {"SEED": seed, "RUNTIME.DEVICE": options.device, "SEARCH.SHARING": options.sharing}
    pairs |= {"SEARCH.TARGET": targets[0]} if len(targets) == 1 else {"SEARCH.TARGETS": targets}
    if options.data == "hard":
        pairs |= {"DATA.MEAN": "[0.25, 0.25, 0.25]", "DATA.STD": "[0.3, 0.3, 0.3]", "DATA.AUGMENT": "none"}
        pairs |= {"SEARCH.ALPHA_LR": 0.2, "TRAIN.LR": 0.1}
    if options.epochs:
        pairs |= {"SEARCH.EPOCHS": options.epochs, "TRAIN.EPOCHS": options.epochs}
    return load_config(CONFIG, [str(text) for pair in pairs.items() for text in pair])


def measure(options: argparse.Namespace, data: Data, seed: int, targets: list[float]) -> list[Row]:
    """One search, for one target or several: a row a target."""
    cfg = config(options, seed, targets)
    found = space() if options.data == "hard" else nas.SearchSpace.load(cfg.SEARCH.SPACE)
    seconds, start = [0.0], time.process_time()

    def after_epoch(record: dict[str, Any]) -> None:
        if record.get("phase") == "search":
            seconds[0] = time.process_time() - start

    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(io.StringIO()):  # a line an epoch
        search = SearchRun(found, data, search_options(cfg), recipe_of(cfg))
        result = search.run(output, stop=StopRequest(1e6), callback=after_epoch)
    rows = []
    for one in result.targets or (result,):
        assert one.goal is not None
        assert one.training is not None
        assert one.cost is not None
        rows.append(
            {
                "kind": "one run" if result.targets else "own run",
                "seed": seed,
                "target": one.goal.target,
                "macs": one.cost.macs,
                "accuracy": one.training.scores["top1"],
                "seconds": round(seconds[0], 1),
            }
        )
        print("{kind}, seed {seed}: target {target:,.0f}, {macs:,} MACs, top-1 {accuracy:.4f}, {seconds} s".format(**rows[-1]), flush=True)
    return rows


def summary(rows: list[Row], images: int) -> tuple[list[list[Any]], float]:
    """A line a target, and the seconds of one run over the mean of those of a search for one target.

    A line: target; furthest from it in one run, and in runs of their own; mean accuracies; their difference; its standard error. That is
    the larger of two: between seeds, and of shares of so many test images (the same for both, which makes it smaller, if anything).
    """
    table = []
    for target in sorted({row["target"] for row in rows}):
        kinds = [[row for row in rows if row["target"] == target and row["kind"] == kind] for kind in ("one run", "own run")]
        far = [max(abs(row["macs"] / target - 1) for row in of) for of in kinds]
        scores = [[row["accuracy"] for row in of] for of in kinds]
        means = [statistics.fmean(of) for of in scores]
        seeds = math.sqrt(sum(statistics.variance(of) / len(of) for of in scores)) if min(map(len, scores)) > 1 else 0.0
        share = math.sqrt(sum(p * (1 - p) / (images * len(of)) for p, of in zip(means, scores, strict=True)))
        table.append([target_name(target), *far, *means, means[0] - means[1], max(seeds, share)])
    one, own = ([row["seconds"] for row in rows if row["kind"] == kind] for kind in ("one run", "own run"))
    return table, statistics.fmean(one) / statistics.fmean(own)


def draw(rows: list[Row], images: int, path: str) -> None:
    """The two fronts: mean accuracy over mean MACs of each target, with one standard error."""
    groups = []
    for kind in ("one run", "own run"):
        marks = []
        for target in sorted({row["target"] for row in rows}):
            of = [row for row in rows if row["target"] == target and row["kind"] == kind]
            score = statistics.fmean(row["accuracy"] for row in of)
            seeds = statistics.stdev(row["accuracy"] for row in of) / math.sqrt(len(of)) if len(of) > 1 else 0.0
            error = max(seeds, math.sqrt(score * (1 - score) / (images * len(of))))
            marks.append(Mark(target_name(target), statistics.fmean(row["macs"] for row in of), score, error))
        groups.append(({"one run": "one search for all targets", "own run": "a search for each target"}[kind], marks))
    draw_front(groups, path, "MACs", f"test top-1, mean of {len({row['seed'] for row in rows})} seeds")


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    path = Path(options.json) if options.json else None
    rows: list[Row] = json.loads(path.read_text()) if path is not None and path.is_file() else []
    targets = [parse_target(text)[0] for text in options.targets or TARGETS[options.data]]
    data = hard_digits(options.images, options.test_images) if options.data == "hard" else build_data(recipe_of(load_config(CONFIG)).data)
    assert data.test is not None
    for seed in range(options.seeds):
        for kind, group in (("one run", targets), *(("own run", [target]) for target in targets)):
            if any((row["kind"], row["seed"], row["target"]) == (kind, seed, group[0]) for row in rows):
                continue
            rows += measure(options, data, seed, group)
            if path is not None:
                path.write_text(json.dumps(rows, indent=1) + "\n")
    table, ratio = summary(rows, len(data.test))
    heads = ["target", "off, one run", "off, own", "top-1, one run", "top-1, own", "difference", "standard error"]
    print(tabulate(table, heads, floatfmt=("", ".1%", ".1%", ".4f", ".4f", "+.4f", ".4f")))
    print(f"one search for {len(targets)} targets takes {ratio:.2f} times a search for one")
    if options.figure:
        draw(rows, len(data.test), options.figure)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(TARGETS), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", nargs="+", metavar="MACS", help="two or more (of digits 250k 400k 600k)")
    parser.add_argument("--sharing", choices=("none", "full"), default="none")
    parser.add_argument("--epochs", type=int, default=0, help="of a search, and of a training (those of the demo)")
    parser.add_argument("--images", type=int, default=5000, help="of the hard digits, to train on")
    parser.add_argument("--test-images", type=int, default=4000, help="of the hard digits")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="keep all rows in this file, and go on from them")
    parser.add_argument("--figure", help="draw the two fronts into this PNG")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
