"""Networks for other targets from a finished search: near their target, ranked by what they score, trained as a search trains them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import StopAfter, run_tool
from searches import search_and_train, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.data.build import build_data
from mobile_cv_nas.engine.run_folder import RunFolder
from mobile_cv_nas.errors import FileError, InputError
from mobile_cv_nas.files import read_yaml
from mobile_cv_nas.search.again import again, derive_more, prepare_derived, train_derived
from mobile_cv_nas.search.saved import load_search


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


def test_where_the_target_is_far_the_alphas_alone_learn_on(run: Path) -> None:
    found = nas.derive_networks(run, "27k macs", count=2, epochs=3)
    assert found.epochs >= 1
    before, after = nas.load_supernet(run), found.supernet
    assert after.expected_cost().macs > before.expected_cost().macs
    alphas = {f"table.{name}" for name, _ in before.table.named_parameters()}
    moved = {name for name, p in before.named_parameters() if not torch.equal(p, dict(after.named_parameters())[name])}
    assert moved == alphas & moved != set()


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
            search = again(saved, "16k", data, saved.recipe, saved.options)
            with RunFolder(folder):
                prepare_derived(folder, resume=part > 0)
                found = derive_more(search, saved, 1, 0)
                found.save(folder)
                finished = train_derived(search, found, folder, stop=StopAfter(count)).finished
            assert finished == (part + 1 == len(stops))
            if not finished:
                with pytest.raises(FileError, match="unfinished training; add --resume"):
                    prepare_derived(folder, resume=False)
    for file in ("result.json", "child/model.safetensors", "child/metrics.jsonl", "networks.yaml"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


def test_other_images_than_those_of_the_search_are_refused(run: Path) -> None:
    saved = load_search(run)
    data = build_data(saved.recipe.data, "classes")
    other = replace(data, train=data.val, val=data.train)  # the supernet has learnt from what would rank
    with pytest.raises(InputError, match=r"was searched on other images.*SPLIT_SEED"):
        again(saved, "16k", other, saved.recipe, saved.options)


def test_bad_input_is_told_in_one_line(run: Path, tmp_path: Path) -> None:
    for args, words in (
        ([str(tmp_path), "--target", "16k"], "holds no search.pt"),
        ([str(run), "--target", "9M"], "out of the reach"),
        ([str(run), "--target", "16k", "--limits", "params: 5"], "less than any network"),
        ([str(run), "--target", "16k", "--count", "0"], "1 network or more"),
        ([str(run), "--target", "16k", "SEARCH.SHARING", "full"], "SEARCH.SHARING: cannot be changed after the search"),
        ([str(run), "--target", "16k", "DATA.DATASET", "digit_scenes"], "digit_scenes"),
        ([str(run), "--target", "16k", "--output", str(run)], "holds another run"),
    ):
        done = run_tool("derive_net", *args)
        assert done.returncode == 2, args
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (run / "search.pt").exists()
    assert not (run / "derived_16k").exists()
