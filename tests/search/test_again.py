"""Networks for other targets from a finished search: near their target, ranked by what they score, trained as a search trains them."""

from __future__ import annotations

import html
import importlib
import json
import random
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import StopAfter, lasting, read_metrics, run_tool
from searches import build_searcher, search_and_train, search_of, short, tiny_cfg, tiny_options

import mobile_cv_nas as nas
from mobile_cv_nas.commands.derive_net import derived_config
from mobile_cv_nas.commands.options import search_options
from mobile_cv_nas.config import dump_config, load_config
from mobile_cv_nas.configs import config_path
from mobile_cv_nas.data.build import build_data
from mobile_cv_nas.data.data_set import Split
from mobile_cv_nas.engine.run_folder import RunFolder
from mobile_cv_nas.engine.runtime import RuntimeOptions
from mobile_cv_nas.errors import FileError, InputError
from mobile_cv_nas.files import read_yaml
from mobile_cv_nas.search.again import Derivation, Ranked, _with_argmax, again, derive_more, train_derived
from mobile_cv_nas.search.derive import draw_candidates
from mobile_cv_nas.search.folder import prepare_derived
from mobile_cv_nas.search.learn_on import expected_cost
from mobile_cv_nas.search.objective import parse_limits
from mobile_cv_nas.search.saved import load_search
from mobile_cv_nas.search.strategies.dmasking import DMasking
from mobile_cv_nas.search.strategies.reinforce import draw_path
from mobile_cv_nas.training.options import Recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search for 12k MACs, not to be changed."""
    folder = tmp_path_factory.mktemp("again")
    search_and_train(tiny_cfg(folder))
    return folder / "run"


def macs(arch: nas.ArchDef) -> int:
    """By fvcore, of a digits network."""
    return nas.count(nas.build_model(arch, num_classes=10), arch.input_size).macs


def test_networks_near_a_new_target_with_the_weights_of_the_search(run: Path) -> None:
    found = nas.derive_networks(run, "16k", count=4, epochs=0)
    assert found.epochs == 0
    assert len(found.networks) == 4
    assert len({one.arch for one in found.networks}) == 4
    scores = [one.score for one in found.networks]
    assert scores == sorted(scores, reverse=True)
    for one in found.networks:
        assert abs(macs(one.arch) / 16e3 - 1) <= 0.2
        assert one.cost.macs == macs(one.arch)
    kept = nas.load_supernet(run)
    assert all(torch.equal(a, b) for a, b in zip(kept.state_dict().values(), found.supernet.state_dict().values(), strict=True))


def test_limits_of_other_costs_hold(run: Path) -> None:
    free = nas.derive_networks(run, "16k", count=50, epochs=0)
    most = sorted(one.cost.params for one in free.networks)[len(free.networks) // 2]
    found = nas.derive_networks(run, "16k", count=50, epochs=0, limits={"params": most})
    assert 0 < len(found.networks) < len(free.networks)
    assert all(nas.count(nas.build_model(one.arch, num_classes=10), 8).params <= most for one in found.networks)
    with pytest.raises(InputError, match="no objective"):
        nas.derive_networks(run, "16k", limits={"parms": 1})


def test_where_the_target_is_far_the_alphas_alone_learn_on(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = nas.derive_networks(run, "27k macs", count=2, epochs=3)
    assert "skipped" not in caplog.text
    assert found.epochs >= 1
    before, after = nas.load_supernet(run), found.supernet
    assert after.expected_cost().macs > before.expected_cost().macs
    alphas = {f"table.{name}" for name, _ in before.table.named_parameters()}
    moved = {name for name, p in before.named_parameters() if not torch.equal(p, dict(after.named_parameters())[name])}
    assert moved == alphas & moved != set()


def test_epochs_that_the_alphas_learnt_on_are_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for far, epochs in ((1, 1), (3, 3), (9, 5)):
        costs = iter([9e9] * far + [25e3])  # before, and after each epoch
        monkeypatch.setattr("mobile_cv_nas.search.learn_on.expected_cost", lambda *_, costs=costs: next(costs))
        assert nas.derive_networks(run, "25k macs", count=1, epochs=5).epochs == epochs


def test_alphas_learn_on_until_the_target_is_near(run: Path) -> None:
    found = nas.derive_networks(run, "25k macs", count=1, epochs=60)
    assert 1 <= found.epochs < 60
    assert abs(found.supernet.expected_cost().macs / 25e3 - 1) <= found.goal.tolerance
    assert nas.derive_networks(run, "25k macs", count=1, epochs=1).epochs == 1


def test_the_cost_to_come_near_is_that_without_noise(tmp_path: Path) -> None:
    cfg = tiny_cfg(tmp_path)
    supernet, (goal,) = build_searcher(cfg).supernet, search_of(cfg).goals.values()
    supernet.sample(5.0)
    assert expected_cost(supernet, goal) == pytest.approx(supernet.expected_cost().macs.item(), rel=1e-9)


def test_the_nearest_of_several_sets_of_alphas_is_drawn_from(tmp_path: Path) -> None:
    search_and_train(tiny_cfg(tmp_path, "SEARCH.TARGETS", "[12k, 22k]", "SEARCH.EPOCHS", 2))
    for name, target in (("12k", 11e3), ("22k", 24e3)):
        found = nas.derive_networks(tmp_path / "run", target, count=1, epochs=0)
        kept = nas.load_supernet(tmp_path / "run", name)
        assert all(torch.equal(a, b) for a, b in zip(kept.alphas().values(), found.supernet.alphas().values(), strict=True))
        assert read_yaml(tmp_path / "run/front.yaml")[["12k", "22k"].index(name)]["folder"] == name


def test_the_tool_leaves_networks_and_trains_the_best(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = run_tool("derive_net", str(run), "--target", "16k", "--count", "2", "--epochs", "0", "--output", str(folder), "--train")
    assert (done.returncode, done.stderr) == (0, "")
    rows = read_yaml(folder / "networks.yaml")["networks"]
    assert [row["arch"] for row in rows] == ["arch_1.yaml", "arch_2.yaml"]
    for row in rows:
        arch = nas.ArchDef.load(folder / row["arch"])
        assert row["macs"] == macs(arch)
        assert f"{row['macs']:,}" in done.stdout
    best = nas.ArchDef.load(folder / "arch_1.yaml")
    assert nas.load(folder).arch == best == nas.ArchDef.load(folder / "arch.yaml")
    result = json.loads((folder / "result.json").read_text())
    assert (result["macs"], result["target"]) == (rows[0]["macs"], 16000)
    page = (folder / "report.html").read_text()
    assert f"{result['top1']:.4f}" in page
    assert "tools/derive_net.py" in page
    assert "tools/search_net.py" not in page

    again_ = ["derive_net", str(run), "--target", "20k", "--count", "1", "--epochs", "0", "--output", str(folder)]
    refused = run_tool(*again_)
    assert refused.returncode == 2
    assert "holds a finished training; add --resume" in refused.stderr
    assert nas.load(folder).arch == best
    assert run_tool(*again_, "--overwrite").returncode == 0
    assert not (folder / "arch_2.yaml").exists()
    assert not (folder / "child").exists()


def test_config_and_report_of_a_derived_network_say_how_it_was_made(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    words = [str(run), "TRAIN.LR", "0.05", "--target", "16k macs", "--limits", "params: 3k", "memory: 1M"]
    done = run_tool("derive_net", *words, "--count", "1", "--epochs", "0", "--output", str(folder), "--train")
    assert (done.returncode, done.stderr) == (0, "")
    cfg = load_config(folder / "config.yaml", purpose="search")
    assert (cfg.SEARCH.TARGET, cfg.SEARCH.LIMITS, cfg.TRAIN.LR) == (16000, ["params: 3000", "memory: 1000000"], 0.05)
    command = f"python tools/derive_net.py {shlex.join(words)} --count 1 --epochs 0 --train --output another_folder"
    assert command in html.unescape((folder / "report.html").read_text())

    kept = (folder / "config.yaml").read_bytes()
    again_ = ["derive_net", *words, "--count", "1", "--epochs", "0", "--output", str(folder), "--train", "--resume"]
    refused = run_tool(*again_, "TRAIN.WEIGHT_DECAY", "0.5")
    assert (refused.returncode, "TRAIN.WEIGHT_DECAY was" in refused.stderr) == (2, True)
    assert (folder / "config.yaml").read_bytes() == kept


def test_a_derived_network_keeps_the_table_where_its_target_or_a_limit_needs_it(tmp_path: Path) -> None:
    searched = load_config(config_path("search/digits_latency.yaml"), purpose="search")
    options = replace(search_options(searched), target=15e3, objective="params")
    for limits, table in ((), ""), ({"latency": 8.0}, searched.SEARCH.TABLE), ({"macs": 3e5}, ""):
        path = tmp_path / "config.yaml"
        path.write_text(dump_config(derived_config(searched, replace(options, limits=limits), tmp_path)))
        kept = load_config(path, purpose="search").SEARCH
        aim = (kept.TARGET, kept.OBJECTIVE, kept.TABLE, parse_limits(kept.LIMITS))
        assert aim == (15e3, "params", table, dict(limits))


def test_another_unit_than_that_of_the_search_and_the_default_folder(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    done = run_tool("derive_net", str(copy), "--target", "1500 params", "--count", "1", "--epochs", "0")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = read_yaml(copy / "derived_1.5k_params/networks.yaml")["networks"]
    assert abs(row["params"] / 1500 - 1) <= 0.2


def test_a_stopped_training_goes_on_to_the_same_end(run: Path, tmp_path: Path) -> None:
    saved = load_search(run)
    data = build_data(saved.recipe.data, "classes")
    for name, stops in (("whole", [10**6]), ("parts", [5, 10**6])):
        folder = tmp_path / name
        for part, count in enumerate(stops):
            search = again(saved, "16k", data, saved.recipe, saved.options, False)
            with RunFolder(folder):
                prepare_derived(folder, part > 0, False, 5, False)
                found = derive_more(search, saved, 1, 0)
                found.save(folder)
                begin = time.monotonic()
                trained = train_derived(search, found, folder, stop=StopAfter(count))
                finished = trained.finished
                assert not finished or 0 < trained.seconds[1] <= time.monotonic() - begin
            assert finished == (part + 1 == len(stops))
            if not finished:
                with pytest.raises(FileError, match="unfinished training; add --resume"):
                    prepare_derived(folder, False, False, 5, False)
    for file in ("result.json", "child/model.safetensors", "child/metrics.jsonl", "networks.yaml"):
        assert lasting(tmp_path / "whole" / file) == lasting(tmp_path / "parts" / file)


def test_other_images_than_those_of_the_search_are_refused(run: Path) -> None:
    saved = load_search(run)
    data = build_data(saved.recipe.data, "classes")
    other = replace(data, train=data.val, val=data.train)  # the supernet has learnt from what would rank
    with pytest.raises(InputError, match=r"was searched on other images.*SPLIT_SEED"):
        again(saved, "16k", other, saved.recipe, saved.options, False)


def test_an_argmax_has_the_probability_of_its_arch_and_is_called_so(tmp_path: Path) -> None:
    searcher = build_searcher(tiny_cfg(tmp_path))
    supernet, space = searcher.supernet, searcher.space
    with torch.no_grad():
        for name, alpha in supernet.alphas().items():
            alpha[-1 if name.endswith(".block") else 0] += 1  # the last layer is skipped, and its widths say nothing
    arch = supernet.derive()
    assert arch.layers[-1].names == ("skip",)
    goal = replace(searcher.turns[0].goal, target=float(arch.cost(10).macs))
    drawn = {one.arch: one for one in draw_candidates(space, supernet.probabilities(), goal, 2000, 0)}
    (first,) = _with_argmax(supernet, goal, [])
    assert (first.arch, first.log_probability) == (arch, pytest.approx(drawn[arch].log_probability))
    for one, how in ((arch, "argmax"), (space.smallest(10), "sampled")):
        assert Derivation((Ranked(one, one.cost(10), 0.5, -1.0),), goal, 1, 1, 0, supernet).chosen().how == how


@pytest.mark.parametrize("strategy", ["single_path", "dnas"])
def test_a_strategy_with_one_sharing_of_its_own(strategy: str, tmp_path: Path) -> None:
    kept = "none" if strategy == "single_path" else "full"  # by SEARCH.SHARING, in vain
    result = search_of(short(tmp_path, strategy, "SEARCH.SHARING", kept)).run(tmp_path / "run", train_child=False)
    assert result.supernet is not None
    weights = nas.load_supernet(tmp_path / "run").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in result.supernet.state_dict().items())
    assert result.facts["macs_expected"] == pytest.approx(read_metrics(tmp_path / "run")[-1]["cost_expected"], rel=1e-9)
    if strategy == "single_path":
        with pytest.raises(InputError, match=r"run: was searched by single_path.*search for the new target"):
            nas.derive_networks(tmp_path / "run", "16k", epochs=0)


def four_classes(count: int) -> torch.utils.data.Dataset:
    """Random images of four classes."""
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
    return torch.utils.data.TensorDataset(images, torch.arange(count) % 4)


FEW = {"epochs": 1, "batch_size": 16, "tolerance": 0.3, "candidates": 2, "population": 2, "generations": 1, "child": False}


@pytest.mark.parametrize("more", [{"strategy": "reinforce"}, {"strategy": "darts", "second_order": True}])
def test_alphas_learn_on_from_draws_and_images_of_their_own(more: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_options(tmp_path)
    drawn: list[Any] = []

    def spy(probabilities: Any, rng: random.Random) -> dict[str, int]:
        drawn.append(rng.getstate())
        return draw_path(probabilities, rng)

    monkeypatch.setattr("mobile_cv_nas.search.strategies.reinforce.draw_path", spy)
    data, recipe = (four_classes(200), four_classes(61)), Recipe(runtime=RuntimeOptions(device="cpu"))
    nas.search(tmp_path / "tiny.yaml", *data, target=17e3, output=tmp_path / "run", recipe=recipe, **{**FEW, **more, "tolerance": 0.15})
    found = nas.derive_networks(tmp_path / "run", 26e3, *data, count=1, epochs=2, recipe=recipe)
    assert found.epochs >= 1
    assert len(set(drawn)) == len(drawn)
    if more["strategy"] == "reinforce":
        assert len(drawn) == 160 // 16 + 40 // 16 + found.epochs * (40 // 16)
        assert found.epochs == 2


@pytest.mark.parametrize("parts", [1, 2])
def test_alphas_learn_on_in_epochs_that_follow_those_of_the_search(parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_options(tmp_path)
    data, recipe = (four_classes(320), four_classes(61)), Recipe(runtime=RuntimeOptions(device="cpu", accumulate=parts))
    nas.search(tmp_path / "tiny.yaml", *data, target=17e3, output=tmp_path / "run", recipe=recipe, **{**FEW, "epochs": 3})
    begun, prepared, passed = [], [], []
    for name, seen in (("begin", begun), ("prepare", prepared), ("loss", passed)):
        plain = getattr(DMasking, name)
        monkeypatch.setattr(DMasking, name, lambda self, *args, plain=plain, seen=seen: seen.append(args) or plain(self, *args))
    monkeypatch.setattr("mobile_cv_nas.search.learn_on.expected_cost", lambda *_: 9e9)
    assert nas.derive_networks(tmp_path / "run", 17e3, *data, count=1, epochs=2, recipe=recipe).epochs == 2
    assert begun == [("alphas", 3), ("alphas", 4)]
    assert prepared == [("alphas", epoch, step) for epoch in (3, 4) for step in range(64 // 16)]
    places = [(epoch, step, part) for epoch in (3, 4) for step in range(64 // 16) for part in range(parts)]
    assert [(args[0], args[2]) for args in passed] == [("alphas", place) for place in places]
    assert {len(args[1][0]) for args in passed} == {16 // parts}


@pytest.mark.parametrize(("strategy", "tested"), [("one_shot", True), ("dmasking", False)])
def test_no_weight_has_learnt_from_what_ranks(strategy: str, tested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_options(tmp_path)
    read: dict[str, list[tuple[bool, Split]]] = {"searcher": [], "measure": []}
    for name, seen in read.items():
        build = importlib.import_module(f"mobile_cv_nas.search.{name}").build_loader

        def spy(
            options: Any, split: Split, side: int, size: int, train: bool, *more: Any, build: Any = build, seen: Any = seen, **named: Any
        ):
            seen.append((train, split))
            return build(options, split, side, size, train, *more, **named)

        monkeypatch.setattr(f"mobile_cv_nas.search.{name}.build_loader", spy)
    data = four_classes(200), four_classes(61), four_classes(62) if tested else None
    recipe = Recipe(seed=3, runtime=RuntimeOptions(device="cpu"))
    nas.search(tmp_path / "tiny.yaml", *data, target=17e3, strategy=strategy, output=tmp_path / "run", recipe=recipe, **FEW)
    learnt = read["searcher"][0][1]
    for test in (None, data[2]):
        read["measure"].clear()
        other = Recipe(runtime=RuntimeOptions(device="cpu"))  # of another seed
        nas.derive_networks(tmp_path / "run", 17e3, *data[:2], count=1, epochs=0, recipe=other, test=test)
        judged = [split for train, split in read["measure"] if not train]
        assert judged
        for split in judged:
            assert split.source.labels != learnt.source.labels or not set(split.indices) & set(learnt.indices)


def test_bad_input_is_told_in_one_line(run: Path, tmp_path: Path) -> None:
    for args, words in (
        ([str(tmp_path), "--target", "16k"], "holds no search.pt"),
        ([str(run), "--target", "9M"], "out of the reach"),
        ([str(run), "--target", "16k", "--limits", "params: 5"], "less than any network"),
        ([str(run), "--target", "16k", "--count", "0"], "1 network or more"),
        ([str(run), "--target", "16k", "SEARCH.SHARING", "full"], "SEARCH.SHARING: cannot be changed after the search"),
        ([str(run), "--target", "16k", "TRAIN.EPOCHS=1", "SEED=7"], "SEED: cannot be changed after the search"),
        ([str(run), "--target", "16k", "TRAIN.LR", "0.1", "TRAIN.EPOCHS=1", "SEARCH.EPOCHS=3"], "SEARCH.EPOCHS: cannot be changed"),
        ([str(run), "--target", "16k", "DATA.DATASET", "digit_scenes"], "digit_scenes"),
        ([str(run), "--target", "16k", "--output", str(run)], "holds another run"),
    ):
        done = run_tool("derive_net", *args)
        assert done.returncode == 2, args
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (run / "search.pt").exists()
    assert not (run / "derived_16k").exists()
