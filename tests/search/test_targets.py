"""One search for several targets: what its steps train, what it leaves, and that a killed one ends as an uninterrupted one."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import StopAfter, lasting, read_metrics, run_tool
from searches import build_searcher, loop_of, search_and_train, short, tiny_cfg, tiny_options
from spaces import TINY, parsed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mobile_cv_nas as nas
from mobile_cv_nas.config import ConfigError, load_config
from mobile_cv_nas.data.build import build_data
from mobile_cv_nas.data.options import DataOptions
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.errors import FileError, InputError
from mobile_cv_nas.files import read_yaml
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.report.front import dominated, draw_front
from mobile_cv_nas.report.svg import Mark
from mobile_cv_nas.search.folder import _draw_front, _front
from mobile_cv_nas.search.goal import Goal, each_target
from mobile_cv_nas.search.options import SearchOptions
from mobile_cv_nas.search.saved import load_search
from mobile_cv_nas.tasks.build import make_task
from mobile_cv_nas.tasks.options import HeadOptions

NAMES = ("12k", "16k", "22k")
TARGETS = ("SEARCH.TARGETS", "[12k, 16k, 22e3]")


def run_files(folder: Path) -> list[bytes]:
    """The files that two equal runs must have in common."""
    names = ["metrics.jsonl", "result.json", "front.yaml"]
    for name in NAMES:
        names += [f"{name}/{file}" for file in ("arch.yaml", "metrics.jsonl", "result.json", "child/model.safetensors")]
    return [lasting(folder / name) for name in names]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search for three targets, not to be changed."""
    folder = tmp_path_factory.mktemp("targets")
    assert search_and_train(tiny_cfg(folder, *TARGETS))["finished"]
    return folder / "run"


# -- steps -------------------------------------------------------------------------------------------------------------


def test_each_weight_step_is_of_one_target_in_turn_and_each_target_trains_its_own_alphas(tmp_path: Path) -> None:
    searcher = build_searcher(tiny_cfg(tmp_path, *TARGETS, "SEARCH.EPOCHS", 2, "SEARCH.WARMUP_FRACTION", 0.5))
    table, seen = searcher.supernet.table, []
    sets = [list(turn.alphas.parameters()) for turn in searcher.turns]
    assert len({id(alpha) for alphas in sets for alpha in alphas}) == 3 * len(sets[0])
    for phase in searcher.phases:

        def step(*args: Any, real: Any = phase.stepper.step, phase: Any = phase) -> Any:
            before = [[alpha.detach().clone() for alpha in alphas] for alphas in sets]
            weights = [p.detach().clone() for p in searcher.supernet.weight_parameters()]
            outcome = real(*args)
            moved = [any(not torch.equal(a, b) for a, b in zip(x, y)) for x, y in zip(before, sets)]
            trained = any(not torch.equal(a, b) for a, b in zip(weights, searcher.supernet.weight_parameters()))
            used = next(i for i, alphas in enumerate(sets) if next(iter(table.alpha.parameters())) is alphas[0])
            seen.append((phase.name, used, moved, trained))
            return outcome

        phase.stepper.step = step  # type: ignore[method-assign]
    assert loop_of(searcher, tmp_path).run(StopRequest())
    weight_steps = [(used, moved, trained) for name, used, moved, trained in seen if name == "weights"]
    assert [used for used, *_ in weight_steps] == [i % 3 for i in range(2 * 15)]  # turns go on over the epochs
    assert all(trained and not any(moved) for _, moved, trained in weight_steps)
    alpha_steps = [row for row in seen if row[0] != "weights"]
    assert [name for name, *_ in alpha_steps] == [f"alphas for {name}" for name in NAMES for _ in range(3)]
    for name, used, moved, trained in alpha_steps:
        own = NAMES.index(name.rpartition(" ")[2])
        assert used == own
        assert moved == [i == own for i in range(3)]
        assert not trained


def test_a_state_holds_the_alphas_of_every_target(tmp_path: Path) -> None:
    """Whichever of them the supernet uses at that moment."""
    first, second = (build_searcher(tiny_cfg(tmp_path, *TARGETS)) for _ in range(2))
    for i, turn in enumerate(first.turns):
        for alpha in turn.alphas.parameters():
            torch.nn.init.constant_(alpha, i + 0.5)
    first.turns[1].take()
    state = first.state_dict()
    second.turns[2].take()
    second.load_state_dict(state)
    for i, turn in enumerate(second.turns):
        assert all(bool((alpha == i + 0.5).all()) for alpha in turn.alphas.parameters()), turn.name


def test_alphas_part_towards_their_targets(whole: Path) -> None:
    last = read_metrics(whole)[-1]
    expected = [last[f"{name}/cost_expected"] for name in NAMES]
    assert expected == sorted(expected)
    assert expected[-1] > 1.2 * expected[0]


# -- what is left ------------------------------------------------------------------------------------------------------


def test_each_target_has_a_folder_like_that_of_a_search(whole: Path) -> None:
    space, front = nas.SearchSpace.load(whole.parent / "tiny.yaml"), read_yaml(whole / "front.yaml")
    assert [(row["folder"], row["target"]) for row in front] == list(zip(NAMES, (12e3, 16e3, 22e3)))
    for row in front:
        folder = whole / row["folder"]
        arch, model, result = nas.ArchDef.load(folder / "arch.yaml"), nas.load(folder), json.loads((folder / "result.json").read_text())
        assert model.arch == arch
        assert result["seconds"] == json.loads((folder / "run.json").read_text())["seconds"]
        assert min(result["seconds"].values()) > 0
        assert space.contains(arch)
        assert nas.count(model.network, 8).macs == row["macs"] == result["macs"]
        assert abs(row["macs"] / row["target"] - 1) <= 0.2
        assert row["params"] == result["params"]
        assert row["score"] == result["top1"]
        assert row["error"] == pytest.approx((row["score"] * (1 - row["score"]) / 360) ** 0.5)
        cfg = load_config(folder / "config.yaml")
        assert (cfg.SEARCH.TARGET, list(cfg.SEARCH.TARGETS)) == (row["target"], [])
        assert {record["phase"] for record in read_metrics(folder)} == {"search"}
        assert {"entropy/s1b0.block", "cost_argmax", "probabilities"} <= set(read_metrics(folder)[-1])
        assert not [key for key in read_metrics(folder)[-1] if key.startswith(NAMES)]
        for name in ("arch.png", "alphas.png", "curves.png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert "What each layer chose" in (folder / "report.html").read_text()
    assert (whole / "front.png").read_bytes().startswith(b"\x89PNG")
    board = EventAccumulator(str(whole / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["images"]) == {"front"} | {
        f"{name}/{kind}" for name in NAMES for kind in ("arch", "alphas", "curves", "confusion")
    }
    assert {f"result/{name}/{key}" for name in NAMES for key in ("top1", "macs", "params")} <= set(board.Tags()["scalars"])
    found = board.Tags()["tensors"]
    assert {"arch/12k/text_summary", "config/text_summary"} <= set(found)
    text = (whole / "report.html").read_text()
    assert "The front" in text
    assert all(f'href="{name}/report.html"' in text for name in NAMES)
    assert [one["folder"] for one in json.loads((whole / "result.json").read_text())["targets"]] == list(NAMES)


def test_the_supernet_comes_back_with_the_alphas_of_a_target(whole: Path) -> None:
    last = read_metrics(whole)[-1]
    for name in NAMES:
        for supernet in (nas.load_supernet(whole, name), nas.load_supernet(whole / name)):
            for choice, p in supernet.probabilities().items():
                assert p.tolist() == pytest.approx(last[f"{name}/probabilities"][choice])
    weights = [nas.load_supernet(whole, name).weight_parameters() for name in NAMES]
    assert all(torch.equal(a, b) for a, b in zip(*weights[:2]))
    with pytest.raises(InputError, match=r"12k, 16k, 22k"):
        nas.load_supernet(whole, "50M")
    with pytest.raises(InputError, match=r"holds no search\.pt"):
        nas.load_supernet(whole.parent)


def test_a_loaded_supernet_is_the_one_that_was_trained(tmp_path: Path) -> None:
    train, val = (build_data(DataOptions(dataset="digits")).train.head(200) for _ in range(2))
    del val
    images = torch.stack([train.source.images[i] for i in train.indices]).expand(-1, 3, -1, -1)
    dataset = torch.utils.data.TensorDataset(images, torch.tensor([int(train.source.labels[i]) for i in train.indices]))
    (tmp_path / "tiny.yaml").write_text(Path(tiny_space(tmp_path)).read_text())
    result = nas.search(
        tmp_path / "tiny.yaml",
        dataset,
        targets=["12k", "20k macs"],
        output=tmp_path / "out",
        epochs=2,
        batch_size=16,
        tolerance=0.5,
        child=False,
    )
    assert [one.goal.target for one in result.targets] == [12e3, 20e3]
    assert all(one.training is None and one.arch is not None for one in result.targets)
    assert result.supernet is not None
    weights = [p.data_ptr() for p in result.supernet.weight_parameters()]
    for one, name in zip(result.targets, ("12k", "20k"), strict=True):
        assert one.supernet is not None
        kept = nas.load_supernet(tmp_path / "out", name)
        assert all(torch.equal(a, b) for a, b in zip(one.supernet.alpha_parameters(), kept.alpha_parameters(), strict=True))
        assert one.supernet.cost().macs.item() == pytest.approx(kept.cost().macs.item(), rel=1e-12)
        assert one.facts["macs_expected"] == pytest.approx(kept.cost().macs.item(), rel=1e-12)
        assert one.supernet.derive() == kept.derive()
        assert [p.data_ptr() for p in one.supernet.weight_parameters()] == weights
        assert torch.equal(one.supernet.eval()(images[:2]), kept(images[:2]))
    loaded = nas.load_supernet(tmp_path / "out")
    mine = result.supernet.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in loaded.state_dict().items())
    assert load_search(tmp_path / "out").digest == json.loads((tmp_path / "out/run.json").read_text())["data"]["digest"]
    front = read_yaml(tmp_path / "out/front.yaml")
    assert [row["score"] for row in front] == [None, None]
    with pytest.raises(InputError, match="was searched on Datasets from Python"):
        nas.derive_networks(tmp_path / "out", "16k", count=1, epochs=0)
    found = nas.derive_networks(tmp_path / "out", "16k", train=dataset, count=1, epochs=0)
    assert abs(found.networks[0].cost.macs / 16e3 - 1) <= 0.5


def test_the_front_has_no_bar_where_no_error_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("mobile_cv_nas.search.folder.draw_front", lambda series, *_: drawn.extend(series[0][1]))
    goal = Goal("macs", 12e3, 0.2, HeadDef("classifier", 10))
    rows = [{"folder": name, "macs": 12e3, "score": score, "score_of": "test"} for name, score in (("a", 0.5), ("b", 0.7), ("c", None))]
    _draw_front(
        [{**row, "error": error} for row, error in zip(rows, (None, 0.1, None))], tmp_path / "f.png", goal, SimpleNamespace(main="top1")
    )
    assert [(mark.name, mark.error) for mark in drawn] == [("a", 0.0), ("b", 0.1)]


def tiny_space(folder: Path) -> str:
    tiny_options(folder)
    return str(folder / "tiny.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_shot", "reinforce", "random"])
def test_strategies_find_a_network_for_each_target(strategy: str, tmp_path: Path) -> None:
    cfg = short(tmp_path, strategy)
    cfg.SEARCH.TARGETS, cfg.SEARCH.TOLERANCE = [12e3, 22e3], 0.2
    assert search_and_train(cfg)["finished"]
    for row, target in zip(read_yaml(tmp_path / "run/front.yaml"), (12e3, 22e3), strict=True):
        arch = nas.load(tmp_path / "run" / row["folder"]).arch
        assert abs(nas.count(nas.build_model(arch, num_classes=10), 8).macs / target - 1) <= 0.2
    if strategy == "one_shot":  # one set of weights, and nothing learnt that a target could be far from
        found = nas.derive_networks(tmp_path / "run", "17k", count=2)
        assert (len(found.networks), found.epochs) == (2, 0)


# -- resume ------------------------------------------------------------------------------------------------------------


# Weights, alphas of the second target, between the epochs, and the child of the second target.
@pytest.mark.parametrize("steps", [7, 15 * 2 + 3 + 2, (15 + 9) * 3, 15 + (15 + 9) * 3 + 20 + 5])
def test_a_stopped_run_goes_on_to_the_same_end(whole: Path, tmp_path: Path, steps: int) -> None:
    assert not search_and_train(tiny_cfg(tmp_path, *TARGETS), stop=StopAfter(steps))["finished"]
    assert not (tmp_path / "run" / "result.json").exists()
    torch.manual_seed(99)  # whatever the process did in between
    random.seed(99)
    assert search_and_train(tiny_cfg(tmp_path, *TARGETS), resume=True)["finished"]
    assert run_files(whole) == run_files(tmp_path / "run")
    ours, theirs = (torch.load(path / "search.pt", weights_only=True) for path in (tmp_path / "run", whole))
    assert all(torch.equal(ours["supernet"][name], value) for name, value in theirs["supernet"].items())
    for a, b in zip(ours["targets"], theirs["targets"], strict=True):
        assert all(torch.equal(a["alphas"][name], value) for name, value in b["alphas"].items())


def test_a_new_run_removes_the_targets_of_a_finished_one_and_nothing_else(whole: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "mine").mkdir()
    (tmp_path / "run" / "mine" / "arch.yaml").write_text("mine")
    (tmp_path / "run" / "16k" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "test").mkdir()
    (tmp_path / "run" / "test" / "test.json").write_text("{}")  # of the network that is replaced; its page would show it
    search_and_train(tiny_cfg(tmp_path, "SEARCH.EPOCHS", 1), overwrite=True)
    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*")}
    assert {"mine/arch.yaml", "16k/notes.txt", "arch.yaml", "child/model.safetensors"} <= left
    assert not {"12k", "22k", "front.yaml", "front.png", "16k/arch.yaml", "16k/child", "test"} & left


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_names_of_targets() -> None:
    named = each_target(SearchOptions(targets=(2.64e6, 2.99e6, 50e6, 414592.0, 1.2e9, 12.0)))
    assert list(named) == ["2.64M", "2.99M", "50M", "414.592k", "1.2G", "12"]
    assert [one.target for one in named.values()] == [2.64e6, 2.99e6, 50e6, 414592.0, 1.2e9, 12.0]
    assert list(each_target(SearchOptions())) == [""]
    with pytest.raises(InputError, match="50M is there twice"):
        each_target(SearchOptions(targets=(50e6, 50e6)))
    with pytest.raises(InputError, match=r"name several, or set SEARCH\.TARGET"):
        each_target(SearchOptions(targets=(50e6,)))


def test_units_of_targets_say_the_objective() -> None:
    cfg = load_config(None, ["SEARCH.TARGETS", "[8 ms, 12 ms]", "SEARCH.TABLE", "digits_onnxruntime_fp32"])
    assert (list(cfg.SEARCH.TARGETS), cfg.SEARCH.OBJECTIVE) == ([8.0, 12.0], "latency")
    assert list(each_target(SearchOptions(targets=(8.0, 12.5), objective="latency"))) == ["8ms", "12.5ms"]
    with pytest.raises(ConfigError, match=r"SEARCH\.TARGETS: .*not all of one objective"):
        load_config(None, ["SEARCH.TARGETS", "[8 ms, 12M]"])
    with pytest.raises(ConfigError, match=r"SEARCH\.TARGETS: .*is of latency, and SEARCH\.OBJECTIVE is params"):
        load_config(None, ["SEARCH.TARGETS", "[8 ms, 12 ms]", "SEARCH.OBJECTIVE", "params"])


def test_a_target_out_of_reach_is_named_before_anything_is_written(tmp_path: Path) -> None:
    options = tiny_options(tmp_path, "SEARCH.TARGETS", "[12k, 9M]")
    done = run_tool("search_net", *options)
    assert done.returncode == 2
    assert "9,000,000 macs is out of the reach" in done.stderr
    assert not (tmp_path / "run").exists()


def test_of_target_and_targets_the_later_counts(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SEARCH: {TARGET: 30e6}")
    (tmp_path / "many.yaml").write_text("_BASE_: base.yaml\nSEARCH: {TARGETS: [50M, 100M]}")
    cfg = load_config(tmp_path / "many.yaml", purpose="search")
    assert list(cfg.SEARCH.TARGETS) == [50e6, 100e6]
    assert load_config(tmp_path / "many.yaml", ["SEARCH.TARGET", "70M"]).SEARCH.TARGETS == []
    cfg = load_config(tmp_path / "base.yaml", ["SEARCH.TARGETS", "[20M, 30M]"])
    assert (list(cfg.SEARCH.TARGETS), cfg.SEARCH.TARGET) == ([20e6, 30e6], 400e3)
    (tmp_path / "both.yaml").write_text("SEARCH: {TARGET: 30e6, TARGETS: [50M, 100M]}")
    with pytest.raises(ConfigError, match=r"both\.yaml: SEARCH\.TARGET: given beside SEARCH\.TARGETS"):
        load_config(tmp_path / "both.yaml")
    with pytest.raises(ConfigError, match=r"-1.* is not above 0"):
        load_config(None, ["SEARCH.TARGETS", "[50M, -1]"])


def test_target_and_targets_from_python_are_not_both_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="beside targets"):
        nas.search("digits", [], target="50M", targets=["50M", "60M"], output=tmp_path / "out")
    with pytest.raises(InputError, match="several objectives"):
        nas.search("digits", [], targets=["50M", "2M params"], output=tmp_path / "out")


def test_a_target_of_networks_with_more_classes_than_are_searched_on(tmp_path: Path) -> None:
    searcher = build_searcher(
        tiny_cfg(tmp_path, "SEARCH.TARGETS", "[1500, 2000]", "SEARCH.OBJECTIVE", "params", "SEARCH.TARGET_CLASSES", 40)
    )
    supernet, rng = searcher.supernet, random.Random(0)
    assert supernet(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    for _ in range(5):
        arch = supernet.space.sample(rng)
        supernet.select(arch)
        counted = nas.count(nas.build_model(arch, num_classes=40), 8)
        cost = supernet.cost()
        assert (int(cost.macs), int(cost.params)) == (counted.macs, counted.params)
        assert [turn.goal.cost(supernet.space, arch) for turn in searcher.turns] == [counted.params] * 2
    options = ["SEARCH.TARGET_CLASSES", "40", "HEAD.NAME", "lraspp", "DATA.DATASET", "digit_scenes"]
    with pytest.raises(ConfigError, match=r"TARGET_CLASSES: 40 does nothing with HEAD\.NAME lraspp"):
        load_config(None, options)


def test_a_search_for_a_target_with_more_classes_says_both_costs(tmp_path: Path) -> None:
    pairs = ("SEARCH.TARGET_CLASSES", 100, "SEARCH.TARGET", 13000, "SEARCH.EPOCHS", 1)
    result = search_and_train(tiny_cfg(tmp_path, *pairs))
    arch = nas.ArchDef.load(tmp_path / "run/arch.yaml")
    counted, own = (nas.count(nas.build_model(arch, num_classes=count), 8) for count in (100, 10))
    assert abs(counted.macs / 13000 - 1) <= 0.2
    assert (result["counted"], result["target_classes"]) == (counted.macs, 100)
    assert (result["macs"], result["params"]) == (own.macs, own.params)
    assert f"with 100 classes {counted.macs:,}" in (tmp_path / "run/report.html").read_text()
    saved = load_search(tmp_path / "run")
    supernet = saved.supernet()
    supernet.select(arch)
    assert int(supernet.cost().macs) == counted.macs == saved.targets[0].goal.cost(saved.space, arch)


# -- fronts ------------------------------------------------------------------------------------------------------------


def test_dominated() -> None:
    assert dominated([1, 2, 3], [0.5, 0.6, 0.7]) == [False, False, False]
    assert dominated([1, 2, 3], [0.5, 0.4, 0.7]) == [False, True, False]
    assert dominated([2, 1, 2], [0.5, 0.5, 0.6]) == [True, False, False]
    assert dominated([1, 1], [0.5, 0.5]) == [False, False]  # equal ones do not dominate each other


def test_a_dominated_network_is_drawn_in_grey(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    shares = []
    for faint in (False, True):
        marks = [Mark("a", 1e6, 0.5, 0.1), Mark("b", 2e6, 0.4, 0.1, faint)]
        draw_front([("run", marks)], tmp_path / "front.png", "MACs", "accuracy")
        with Image.open(tmp_path / "front.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        shares.append((pixels == (0x2F, 0x6D, 0xB5)).all(-1).mean())
    assert shares[1] < shares[0]


def test_the_line_of_progress_is_of_the_target_whose_alphas_learn(tmp_path: Path) -> None:
    searcher = build_searcher(tiny_cfg(tmp_path, "SEARCH.TARGETS", ["12k", "17k"]))
    loop = loop_of(searcher, tmp_path / "run")
    for one in searcher.turns[0].alphas.parameters():  # decided, the others not
        one.data[0] += 100
    found = {}
    for number, phase in enumerate(searcher.phases):
        loop.phase, searcher._shown = number, ""
        found[phase.name] = searcher.status(loop)
        searcher.turns[0].take()
    assert "H 1.00" in found["alphas for 17k"]
    assert "H 0.00" in found["alphas for 12k"]
    assert "of 17k" in found["alphas for 17k"]


def test_a_search_within_the_folder_of_another_is_its_own(tmp_path: Path) -> None:
    inner = tmp_path / "whole" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "search.pt").write_bytes(b"broken")
    with pytest.raises(FileError, match=re.escape(str(inner / "search.pt"))):
        load_search(inner)
    torch.save({"format": 3}, inner / "search.pt")
    with pytest.raises(FileError, match="not of this version"):  # which is 2
        load_search(inner)


@pytest.mark.parametrize("of", ["test", "validation", None])
def test_the_front_is_of_test_images_where_there_are_any(of: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, arch = make_task("0123456789", HeadOptions(), (0.5,) * 3, (0.2,) * 3), parsed(TINY).sample(0)
    goal = Goal("macs", 1e6, 0.1, HeadDef("classifier", 10))
    values = {"test": {"top1": 0.75, "val_top1": 0.5}, "validation": {"val_top1": 0.5}, None: {}}[of]
    found = SimpleNamespace(goal=goal, cost=arch.cost(10), arch=arch, folder=tmp_path / "1m", to_dict=lambda: values)
    monkeypatch.setattr("mobile_cv_nas.search.folder.read_run", lambda folder: SimpleNamespace(error=0.01))
    (row,) = _front([found], task)
    assert (row["score"], row["score_of"]) == ({"test": 0.75, "validation": 0.5, None: None}[of], of)
    assert (row["target"], row["macs"], row["folder"], row["error"]) == (1e6, arch.cost(10).macs, "1m", 0.01)
