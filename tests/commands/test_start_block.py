"""The block before a run, --dry-run, and that measuring a few steps changes nothing."""

import contextlib
import io
import random
from argparse import Namespace
from dataclasses import replace

import pytest
from helpers import digests, quick_cfg, run_tool, tiny_arch, train
from searches import build_searcher, search_of, short, tiny_options

from mobile_cv_nas.commands.train_net import run
from mobile_cv_nas.config import load_config
from mobile_cv_nas.engine.memory import peak_memory
from mobile_cv_nas.search import before
from mobile_cv_nas.search.before import near, search_start
from mobile_cv_nas.search.measure import Measure
from mobile_cv_nas.training.before import Stage


def rows(text):
    """The rows of a table, by the words before two spaces or more."""
    return dict(line.split("  ", 1) for line in text.splitlines() if "  " in line)


def test_a_dry_run_of_a_search_says_what_would_be_done_and_leaves_nothing(tmp_path, caplog):
    done = run_tool("search_net", "--dry-run", *tiny_options(tmp_path, "SEARCH.EPOCHS", 5, "TRAIN.EPOCHS", 7))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()
    assert caplog.text.count("SEARCH.ALPHA_LR: 0.5 times the 12 steps") == 1
    found = {name: text.strip() for name, text in rows(done.stdout).items()}
    assert found["classes"] == "10: 0, 1, 2, 3, ..."
    assert found["images"] == "1,257 training, 180 validation, 360 test"
    assert found["input size"].startswith("8 ")
    assert found["device"].startswith("cpu")
    assert found["steps, weights"].startswith(f"{5 * (1006 // 64)} of ")  # a fifth of the images is alpha's
    assert found["steps, alphas"].startswith(f"{4 * (251 // 64)} of ")  # one epoch is warm-up
    assert found["steps, child"].startswith(f"{7 * (1257 // 64)} of ")
    assert {"time, about", "memory", "target", "result folder"} <= set(found)
    assert "entropy of the alphas" in done.stdout  # the words are explained
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_the_child_that_is_timed_is_near_the_target(tmp_path):
    search = search_of(load_config(None, tiny_options(tmp_path)))
    (goal,) = search.goals.values()
    assert goal.met(goal.cost(search.space, near(search.space, goal)))
    start = search_start(search, tmp_path, train_child=False)
    assert [(stage.name, stage.steps) for stage in start.stages[2:]] == [("comparison", 3)]
    assert start.seconds == pytest.approx(sum(stage.steps * stage.seconds for stage in start.stages))
    assert start.memory <= peak_memory(search.runtime.device)


@pytest.mark.parametrize("target", [11000, 12000, 17000, 25000])
def test_the_child_that_is_timed_is_the_nearest_of_some(tmp_path, target):
    search = search_of(load_config(None, tiny_options(tmp_path, "SEARCH.TARGET", target, "SEARCH.TOLERANCE", 0.5)))
    (goal,), space = search.goals.values(), search.space
    rng = random.Random(0)
    drawn = [space.smallest(10), *(space.sample(rng) for _ in range(100))]
    assert near(space, goal) == min(drawn, key=lambda arch: abs(arch.cost(10).macs - target))


def test_a_strategy_that_trains_single_archs_says_how_long_it_does(tmp_path):
    search = search_of(short(tmp_path, "random", "SEARCH.RANDOM.ARCHS", 4, "SEARCH.EPOCHS", 16))
    start = search_start(search, tmp_path, train_child=False)
    ((name, steps),) = [(stage.name, stage.steps) for stage in start.stages]
    assert (name, steps) == ("single archs", 16 * (1257 // 64))  # four for two epochs, two for four
    assert start.seconds > 0


@pytest.mark.parametrize(("name", "world"), [("dmasking", 1), ("dmasking", 2), ("predictor", 1), ("random", 1)])
def test_each_stage_counts_its_steps(tmp_path, monkeypatch, name, world):
    """Of two targets, with seconds that are known."""
    monkeypatch.setattr(before, "seconds_a_step", lambda phase, runtime, section, epoch: 0.5 if phase.name == "weights" else 0.25)
    monkeypatch.setattr(before, "training_stage", lambda trainer, name: Stage(name, 10, 0.125, 3.0))
    monkeypatch.setattr(Measure, "seconds", lambda self, arch: 2.0)
    monkeypatch.setattr(before, "peak_memory", lambda device: 12345)
    search = search_of(short(tmp_path, name, "SEARCH.TARGETS", [12e3, 17e3], "SEARCH.BATCH_SIZE", 32, "SEARCH.TOLERANCE", 0.1))
    search.runtime = replace(search.runtime, world=world)
    start = search_start(search, tmp_path)
    weights, alphas = Stage("weights", 2 * (1005 // 32), 0.5), [Stage(f"alphas for {one}", 251 // 32, 0.25) for one in ("12k", "17k")]
    stages = {
        "dmasking": [weights, *alphas, Stage("comparison", 3 * 2, 2.0 / world)],
        "predictor": [Stage("single archs", (4 + 1) * 2 * (1257 // 64), 0.125)],  # four samples and a finalist
        "random": [Stage("single archs", (4 + 2) * 2 * (1257 // 64), 0.125)],
    }
    assert list(start.stages) == [*stages[name], Stage("child", 20, 0.125, 6.0)]
    assert start.memory == 12345
    space, target, near_ = start.rows
    assert space == ("space", "tiny, 72 networks")
    assert target == ("target", "12k MACs, within 10%, 17k MACs, within 10%")
    assert near_[0] == "a child near it"
    assert near_[1].endswith(" parameters")


def test_a_measurement_is_timed_on_a_few_images(tmp_path, monkeypatch):
    """As many of each kind as in one that is timed, when the clock goes on by one second in it."""
    search = search_of(load_config(None, tiny_options(tmp_path, "SEARCH.RECALIBRATION_IMAGES", 256)))
    supernet = build_searcher(load_config(None, tiny_options(tmp_path))).supernet
    ticks = iter(range(100))
    monkeypatch.setattr("mobile_cv_nas.search.measure.time.monotonic", lambda: next(ticks))
    assert search.measure(supernet).seconds(search.space.smallest()) == (256 + 180) / (64 + 64)


def test_a_finished_run_is_refused_before_anything_is_measured(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    done = run_tool("search_net", *tiny_options(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds a finished run" in done.stderr


def test_measuring_changes_nothing(tmp_path):
    tiny_arch().save(tmp_path / "arch.yaml")
    for part in ("told", "plain"):
        (tmp_path / part).mkdir()
    out = io.StringIO()
    cfg = quick_cfg(tmp_path / "told", "MODEL.ARCH", str(tmp_path / "arch.yaml"))
    with contextlib.redirect_stdout(out):
        run(cfg, Namespace(resume=False, overwrite=False, dry_run=False))
    assert rows(out.getvalue())["steps, the training"].strip().startswith("18 of ")
    train(quick_cfg(tmp_path / "plain"), tiny_arch(), tmp_path / "plain")
    assert digests(tmp_path / "told") == digests(tmp_path / "plain")
