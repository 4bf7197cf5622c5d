"""The comparison of strategies: its statistics by hand, its budget, and a tiny study that is repeated without work."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from searches import TINY, build_searcher, loop_of, search_of, short

from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.search.budget import epochs_for, planned_images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def statistics(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("_comparison")
    del sys.modules["_comparison"]


def test_scores_and_spreads(statistics):
    assert statistics.score(0.9, 1000) == pytest.approx(math.log(10))
    assert statistics.score(1.0, 1000) == pytest.approx(math.log(2000))
    assert statistics.mean_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))
    found = statistics.spreads([[1.0, 3.0], [5.0, 5.0], [3.0, 1.0]])
    assert found["archs"] == pytest.approx(math.sqrt(3))  # of 2, 5, 2
    assert found["trainings"] == pytest.approx(math.sqrt(4 / 3))  # variances 2, 0, 2
    assert statistics.sigmas([2.0, 4.0], [0.0, 2.0]) == pytest.approx(2 / math.sqrt(2))


def test_kendall_by_counting_pairs(statistics):
    rng = random.Random(0)
    for ties in (100, 3):
        a, b = ([rng.randrange(ties) for _ in range(12)] for _ in range(2))
        pairs = list(itertools.combinations(range(12), 2))
        same = sum((a[i] - a[j]) * (b[i] - b[j]) > 0 for i, j in pairs)
        other = sum((a[i] - a[j]) * (b[i] - b[j]) < 0 for i, j in pairs)
        untied = [sum(x[i] != x[j] for i, j in pairs) for x in (a, b)]
        assert statistics.kendall(a, b) == pytest.approx((same - other) / math.sqrt(untied[0] * untied[1]))
    assert statistics.kendall([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(statistics.kendall([1, 1], [1, 2]))
    assert math.isnan(statistics.kendall([1, 2], [1, 3, 2, 4]))  # of two archs, and of these and two more


def test_the_bootstrap_is_paired_where_it_can_be(statistics):
    noise = dict(enumerate([0.0, 5.0, 10.0, 15.0]))
    better = {seed: value + 1 for seed, value in noise.items()}
    assert statistics.bootstrap(better, noise) == (1.0, 1.0, 1.0)
    difference, low, high = statistics.bootstrap(better, {seed + 100: value for seed, value in noise.items()})
    assert difference == 1.0
    assert low < -4 < 6 < high


def test_rows_table_csv_and_figure(statistics, tmp_path):
    arch = {"macs": 105, "target": 100, "child_macs": 10.0, "images": 7.0, "search_macs": 20.0, "seconds": 3.0, "memory": 4.0}
    found = {name: [{**arch, "scores": [1.0 + i, 1.2 + i], "accuracies": [0.5, 0.6]} for i in range(3)] for name in statistics.FLOOR}
    for name, gain in (("random", 0.0), ("dmasking", 1.0)):
        found[name] = [
            {**arch, "seed": i, "tau": 0.5, "scores": [gain + i, gain + i], "accuracies": [0.8 + gain / 10] * 2} for i in range(2)
        ]
    rows = {row["archs"]: row for row in statistics.rows_of(found)}
    assert rows["dmasking"]["difference"] == rows["dmasking"]["low"] == rows["dmasking"]["high"] == 1.0
    assert rows["dmasking"]["cost"] == 2.0
    assert rows["random archs"]["off_target"] == pytest.approx(0.05)
    assert rows["dmasking"]["accuracy"] == pytest.approx(0.9)
    text = statistics.table(list(rows.values()))
    quality, cost = text.split("\n\n")
    assert [line.split(" | ")[0] for line in quality.splitlines()[2:]] == [f"| {name}" for name in rows]
    assert quality.splitlines()[-1].startswith("| dmasking | 2 | 0.9000 | ")
    assert [line.split(" | ")[0] for line in cost.splitlines()[2:]] == ["| random", "| dmasking"]
    assert cost.splitlines()[-1] == "| dmasking | 7 | 20 | 2.00 | 3 | 4 | 0.500 | +5.0% |"
    statistics.write_csv(tmp_path / "rows.csv", list(rows.values()))
    with (tmp_path / "rows.csv").open() as file:
        assert [row["archs"] for row in csv.DictReader(file)] == list(rows)
    statistics.draw(tmp_path / "rows.png", list(rows.values()))
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dmasking", ()),
        ("dmasking", ("SEARCH.TARGETS", [15000.0, 20000.0])),
        ("one_shot", ()),
        ("darts", ()),
        ("darts", ("SEARCH.DARTS.SECOND_ORDER", True)),
    ],
)
def test_the_planned_images_are_those_that_pass(name, more, tmp_path):
    searcher = build_searcher(short(tmp_path, name, *more))
    loop = loop_of(searcher, tmp_path)
    assert loop.run(StopRequest())
    data = build_searcher(short(tmp_path, name, *more))
    assert searcher.spent["images"] == planned_images(data.options, data.data, 0)


def test_a_search_that_trains_archs_alone_passes_all_images_each_epoch(tmp_path):
    run = search_of(short(tmp_path, "random", "SEARCH.EPOCHS", 7))
    assert planned_images(run.options, run.data, 0) == 7 * len(run.data.train)
    assert planned_images(replace(run.options, targets=(15e3, 20e3)), run.data, 0) == 2 * 7 * len(run.data.train)
    run.data = replace(run.data, test=None)
    learnt = len(run.data.train.halves(run.options.alpha_fraction, 0)[0])
    assert planned_images(run.options, run.data, 0) == 7 * learnt
    searcher = build_searcher(short(tmp_path, "random"))
    assert run.measure(searcher.supernet).judge(loop_of(searcher, tmp_path / "run"), StopRequest()).images[1] == learnt


def test_without_test_images_some_are_kept_for_the_comparison_of_archs(tmp_path):
    run = search_of(short(tmp_path, "one_shot"))
    learnt = len(run.data.train.halves(run.options.alpha_fraction, 0)[0])
    assert planned_images(run.options, run.data, 0) == 2 * (len(run.data.train) // 64 * 64)
    assert planned_images(run.options, replace(run.data, test=None), 0) == 2 * (learnt // 64 * 64)


def test_epochs_of_a_budget(tmp_path):
    searcher = build_searcher(short(tmp_path, "one_shot"))
    per_epoch = len(searcher.loaders[0]) * 64
    for epochs in (1, 2, 3, 17):
        assert epochs_for(per_epoch * (epochs - 0.4), searcher.options, searcher.data, 0) == epochs
        assert epochs_for(per_epoch * (epochs + 0.4), searcher.options, searcher.data, 0) == epochs
    assert epochs_for(per_epoch * 3.5, searcher.options, searcher.data, 0) == 3  # the fewer of two that are as near


CONFIG = """
DATA: {DATASET: digits, MEAN: [0.305, 0.305, 0.305], STD: [0.376, 0.376, 0.376]}
SEARCH: {SPACE: tiny.yaml, TARGET: 17000, EPOCHS: 2, WARMUP_FRACTION: 0.5, RANDOM: {ARCHS: 2}, EVOLUTION: {POPULATION: 4, GENERATIONS: 1}}
TRAIN: {EPOCHS: 1}
"""


def test_results_of_other_settings_are_not_mixed(monkeypatch, tmp_path):
    """A folder may get more of the same; what would change any result in it is refused, also where only some strategies read it."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tool = importlib.import_module("compare_strategies")
    monkeypatch.setattr(tool, "run_jobs", lambda *_: sys.exit("begun"))
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "study.yaml").write_text(CONFIG)

    def end(*words, strategies="random", trainings="1"):
        always = ["--config", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out"), "--floor", "0"]
        monkeypatch.setattr(sys, "argv", ["compare_strategies.py", *always, "--strategies", strategies, "--trainings", trainings, *words])
        with pytest.raises(SystemExit) as stopped:
            tool.main()
        return stopped.value.code

    assert end() == "begun"
    (tmp_path / "out/settings.json").unlink()  # of a version that kept none
    for more in ([], ["--seeds", "4", "--processes", "2"], ["TRAIN.EPOCHS", "1"], ["SEED=5", "OUTPUT_DIR", "x", "DATA.ROOT="]):
        assert end(*more) == end(*more, strategies="random,one_shot", trainings="3") == "begun"
    for words, told in (
        (["TRAIN.EPOCHS", "3"], "TRAIN.EPOCHS was 1 and is 3"),
        (["SEARCH.TARGET=15k"], "SEARCH.TARGET was 17000.0 and is 15000.0"),
        (["SEARCH.EVOLUTION.MUTATION", "0.2"], "SEARCH.EVOLUTION.MUTATION was 0.1 and is 0.2"),
        (["--images", "500"], "--images was 2514 and is 500.0"),
    ):
        assert f"settings.json: the results in this folder are of other settings: {told}; give another --output" in end(*words)


@pytest.mark.slow
def test_a_tiny_study(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "study.yaml").write_text(CONFIG)
    command = [sys.executable, str(ROOT / "benchmarks/compare_strategies.py"), "--config", str(tmp_path / "study.yaml"), "--seeds", "2"]
    command += ["--strategies", "random,one_shot:SEARCH.SHARING=full", "--floor", "2", "--trainings", "1", "--processes", "2"]
    command += ["--output", str(tmp_path / "out"), "RUNTIME.DEVICE", "cpu", "SEARCH.EVOLUTION.MUTATION", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = {row["archs"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["random archs", "sane random archs", "random", "one_shot:SEARCH.SHARING=full"]
    assert -1 <= float(rows["one_shot:SEARCH.SHARING=full"]["tau"]) <= 1
    assert all(abs(float(row["off_target"])) <= 0.05 for row in rows.values())
    archs = json.loads((tmp_path / "out" / "comparison.json").read_text())["archs"]
    assert [len(of) for of in archs.values()] == [2, 2, 2, 2]
    assert (tmp_path / "out" / "comparison.png").is_file()
    again = subprocess.run(command, capture_output=True, text=True)
    assert ": done" in done.stdout
    assert ": done" not in again.stdout  # all was there
    assert again.stdout.strip() == (tmp_path / "out" / "comparison.md").read_text().strip()
