"""Every strategy: known by its name, on target, stopped and gone on to the same end, and on two processes."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import ROOT, StopAfter, read_metrics
from searches import build_searcher, outcome, same, search_and_train, short, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.config import ConfigError, load_config
from mobile_cv_nas.config.keys import ALPHAS, SUPERNETS
from mobile_cv_nas.config.keys import STRATEGIES as NAMES
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.search.strategies import NO_SUPERNET, STRATEGIES, find_strategy
from mobile_cv_nas.search.strategies.alphas import AlphaStrategy


def test_the_names_are_the_same_everywhere():
    assert {name for name, _ in STRATEGIES} == set(NAMES)
    assert {name for name, kind in STRATEGIES if issubclass(kind, AlphaStrategy)} == set(ALPHAS)
    assert set(NAMES) - set(NO_SUPERNET) == set(SUPERNETS)
    for name, kind in STRATEGIES:
        assert "\nSource" in sys.modules[kind.__module__].__doc__, name


def test_an_unknown_strategy_is_refused_with_a_hint(tmp_path):
    with pytest.raises(ConfigError, match=r"SEARCH\.STRATEGY: 'one_shoot' does not exist.*one_shot"):
        load_config(None, ["SEARCH.STRATEGY", "one_shoot"])
    with pytest.raises(InputError, match=r"'dmaskin' does not exist.*dmasking"):
        find_strategy("dmaskin")


@pytest.mark.parametrize("name", NAMES)
def test_it_meets_the_target_and_leaves_a_complete_folder(name, tmp_path):
    result = search_and_train(short(tmp_path, name))
    assert abs(result["macs"] / 17000 - 1) <= 0.05
    arch = nas.ArchDef.load(tmp_path / "run" / "arch.yaml")
    assert nas.count(nas.build_model(arch, 10), 8).macs == result["macs"]
    assert nas.SearchSpace.load(tmp_path / "tiny.yaml").contains(arch)
    records = read_metrics(tmp_path / "run")
    assert len(records) == (0 if name in NO_SUPERNET else 2)
    if records:
        assert records[-1]["weight_loss"] > 0
        assert result["search_images"] == records[-1]["images"] > 0
        assert result["search_macs"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "single"])
def test_a_stopped_run_goes_on_to_the_same_end(name, tmp_path):
    search_and_train(short(tmp_path, name, "OUTPUT_DIR", tmp_path / "whole"))
    whole, stops = outcome(tmp_path / "whole"), 0
    for steps in (5, 23, 14, 3, 1, 2, 40):
        if search_and_train(short(tmp_path, name), resume=stops > 0, stop=StopAfter(steps))["finished"]:
            break
        stops += 1
        torch.manual_seed(99)  # whatever the process did in between
        random.seed(99)
    else:
        assert search_and_train(short(tmp_path, name), resume=True)["finished"]
    assert stops >= 2
    assert same(whole, outcome(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes(name, tmp_path):
    (tmp_path / "config.yaml").write_text(short(tmp_path, name, "SEARCH.BATCH_SIZE", 32).dump())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tools/search_net.py"), "--config-file", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:6000]  # its end is torchrun's own
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert abs(result["macs"] / 17000 - 1) <= 0.05


@pytest.mark.parametrize("name", ["one_shot", "reinforce", "slimming"])
def test_what_runs_one_path_a_step_refuses_what_would_not_work(name, tmp_path):
    cfg = short(tmp_path, name, "RUNTIME.COMPILE", True)
    with pytest.raises(InputError, match=rf"RUNTIME\.COMPILE: {name}"):
        build_searcher(cfg)


def test_what_runs_the_whole_supernet_can_be_compiled(tmp_path):
    assert build_searcher(short(tmp_path, "dmasking", "RUNTIME.COMPILE", True)).runtime.options.compile


def test_without_a_supernet_nothing_can_be_inherited(tmp_path):
    with pytest.raises(InputError, match=r"TRAIN\.INIT: random"):
        search_and_train(short(tmp_path, "random", "TRAIN.INIT", "inherit"))


@pytest.mark.parametrize("schedule", ["geometric", "paper"])
def test_the_temperature_stays_after_the_last_epoch(schedule, tmp_path):
    strategy = build_searcher(short(tmp_path, "dmasking", "SEARCH.EPOCHS", 3, "SEARCH.TEMPERATURE.SCHEDULE", schedule)).strategy
    taus = [strategy.temperature(epoch) for epoch in range(5)]
    assert taus[0] > taus[1] > taus[2] == taus[3] == taus[4]


def test_a_single_arch_is_scaled_to_the_target_and_compared_with_none(tmp_path):
    strategy = build_searcher(short(tmp_path, "single")).strategy
    found = strategy.propose(None)
    assert (found.how, found.within, found.compared) == ("scaled", 1, 0)
    assert strategy.goal.met(found.arch.cost(10).macs)


def test_a_single_arch_can_be_named(tmp_path):
    space = nas.SearchSpace.load(tiny_cfg(tmp_path).SEARCH.SPACE)
    arch = space.smallest(10)
    arch.save(tmp_path / "one.yaml")
    with pytest.raises(InputError, match=r"SEARCH\.ARCH: it has"):
        search_and_train(short(tmp_path, "single", "SEARCH.ARCH", tmp_path / "one.yaml"))
    cfg = short(tmp_path, "single", "SEARCH.ARCH", tmp_path / "one.yaml")
    cfg.SEARCH.TARGET, cfg.OUTPUT_DIR = float(space.cost(arch, 10).macs), str(tmp_path / "other")
    strategy = build_searcher(short(tmp_path, "single")).strategy
    strategy.setting, strategy.goal = replace(strategy.setting, given=arch), replace(strategy.goal, target=cfg.SEARCH.TARGET)
    found = strategy.propose(None)
    assert (found.arch, found.how, found.within, found.compared) == (arch, "given", 1, 0)
    assert search_and_train(cfg)["derived"] == "given"
    assert nas.ArchDef.load(tmp_path / "other" / "arch.yaml") == arch
