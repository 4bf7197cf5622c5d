"""Networks side by side: their figures are those of the runs, domination counts only on the same images, and the picture greys it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_tool
from PIL import Image
from searches import search_and_train, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.commands import compare
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.report.compare import Compared, compare_blocks, compare_table, draw_compared, mark_dominated
from mobile_cv_nas.report.front import dominated
from mobile_cv_nas.tasks.compared import compared
from mobile_cv_nas.tasks.model import Model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search for two targets, not to be changed."""
    folder = tmp_path_factory.mktemp("compare")
    search_and_train(tiny_cfg(folder, "SEARCH.TARGETS", "[12k, 22k]", "SEARCH.EPOCHS", 2))
    return folder / "run"


def test_the_networks_of_a_run_have_its_figures(run: Path) -> None:
    found = compared(str(run))
    assert [one.name for one in found] == ["run/12k", "run/22k"]
    for one in found:
        folder = run / one.name.partition("/")[2]
        result = json.loads((folder / "result.json").read_text())
        arch = nas.ArchDef.load(folder / "arch.yaml")
        counted = nas.count(nas.build_model(arch, num_classes=10), arch.input_size)
        assert (one.macs, one.params) == (counted.macs, counted.params)
        assert (one.score, one.score_of, one.score_name) == (result["top1"], "test", "top1")
        assert one.error == pytest.approx((result["top1"] * (1 - result["top1"]) / 360) ** 0.5)
        assert one.sizes == {"safetensors": (folder / "child/model.safetensors").stat().st_size}
        assert one.seconds["search"] > 0
        assert one.arch == arch
        (alone,) = compared(str(folder))
        assert replace(alone, name=one.name, group=one.group) == one
    assert found[0].images == found[1].images != ""


def test_networks_of_the_zoo_have_their_published_figures() -> None:
    (f4,) = compared("FBNetV2_F4")
    assert (f4.macs, f4.score_of) == (238_351_984, "published")
    assert f4.score == pytest.approx(0.7582, abs=5e-5)
    assert f4.error == pytest.approx((0.7582 * 0.2418 / 50_000) ** 0.5, rel=1e-3)
    (p1,) = compared("FBNetV2_P1")  # its table was never published
    assert (p1.macs, p1.params, p1.arch) == (None, 2_640_000, None)
    (digits,) = compared("digits")
    assert digits.images != f4.images
    with pytest.raises(InputError, match="no network is called"):
        compared("FBNetV2_F9")


def test_a_network_is_dominated_only_on_the_same_images() -> None:
    known = [
        Compared("a", "x", 100, 10, "top1", 0.8, images="one"),
        Compared("b", "x", 200, 5, "top1", 0.7, images="one"),
        Compared("c", "y", 300, 30, "top1", 0.6, images="other"),
        Compared("d", "y", 400, 40),
    ]
    assert [one.dominated for one in mark_dominated(known)] == [False, True, False, False]
    assert not any(one.dominated for one in mark_dominated(known, "params"))
    text = compare_table(mark_dominated(known))
    assert "only within each kind: one: a, b; other: c" in text
    assert [line.split()[0] for line in text.splitlines() if "dominated" in line] == ["b"]
    assert "ms" not in text.splitlines()[0].split()  # nobody measured it
    assert "different images" not in compare_table(known[:2])


def test_blocks_stand_side_by_side_with_a_mark_where_they_differ() -> None:
    tables = (
        [[["conv_k3_hs", 8, 2, 1]], [["ir_k5_se", 16, 2, 1, {"hidden": 32}]]],
        [[["conv_k3_hs", 8, 2, 1]], [["ir_k3", 16, 2, 2, {"hidden": 32}]]],
    )
    archs = [nas.ArchDef.parse({"input_size": 16, "stages": stages}) for stages in tables]
    text = compare_blocks([Compared(name, "", 1, 1, arch=arch) for name, arch in zip("ab", archs)])
    lines = [line.split() for line in text.splitlines()[2:]]
    assert lines == [
        ["input", "16²", "16²"],
        ["0.0", "conv_k3_hs", "8", "8²", "conv_k3_hs", "8", "8²"],
        ["1.0", "ir_k5_se", "16", "(32)", "4²", "ir_k3", "16", "(32)", "4²", "*"],
        ["1.1", "ir_k3", "16", "(32)", "4²", "*"],
    ]


def test_the_tool(run: Path, tmp_path: Path) -> None:
    options = ["--picture", str(tmp_path / "front.png"), "--json", str(tmp_path / "all.json"), "--time", "eager", "--rounds", "2"]
    done = run_tool("compare", str(run), str(run / "12k"), "Digits", *options)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads((tmp_path / "all.json").read_text())
    assert [row["name"] for row in rows] == ["run/12k", "run/22k", "12k", "Digits"]
    for row in rows:
        assert f"{row['macs']:,}" in done.stdout
        assert row["ms"] > 0
    same = [row for row in rows if row["images"] == rows[0]["images"]]
    worse = dominated([row["macs"] for row in same], [row["score"] for row in same])
    assert [row["dominated"] for row in same] == worse
    assert "conv_k3_hs 4 8²" in done.stdout
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    for args, words in (
        ([str(tmp_path)], "holds no result.json"),
        (["Digits", "--cost", "ms"], "measured with --time"),
        (["Digits", "--time", "egaer"], "one of eager, folded"),
        (["FBNetV2_F0", "--picture", str(tmp_path / "none.png")], "nothing can be drawn"),
    ):
        done = run_tool("compare", *args)
        assert done.returncode == 2
        assert words in done.stderr


def test_dominated_networks_are_grey(tmp_path: Path) -> None:
    shares = []
    for images in ("one", "other"):  # on other images b is not dominated
        known = [Compared("a", "x", 100, 10, "top1", 0.8, images="one"), Compared("b", "x", 200, 10, "top1", 0.7, images=images)]
        draw_compared(mark_dominated(known), tmp_path / "front.png")
        with Image.open(tmp_path / "front.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        shares.append((pixels == (0x2F, 0x6D, 0xB5)).all(-1).mean())
    assert shares[0] < shares[1]
    mixed = [Compared("a", "x", 1, 1, "top1", 0.8), Compared("b", "x", 1, 1, "miou", 0.8)]
    with pytest.raises(InputError, match="several kinds"):
        draw_compared(mixed, tmp_path / "front.png")


def test_the_network_that_is_timed_is_the_one_of_its_row(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is built anew: of a card, or of a search whose child was not trained."""
    seen: list[nas.Cost] = []

    def prepare(source: str, model: Any, *_: Any) -> list[Any]:
        seen.append(model.count() if isinstance(model, Model) else nas.count(model, model.arch.input_size, model.in_channels))
        return []

    monkeypatch.setattr(compare, "prepare", prepare)
    monkeypatch.setattr(compare, "measure", lambda *_: [])
    rows = [*compared("Digits"), *compared("CIFAR10_1.5M"), *compared(str(run))]
    compare._timed([*rows, replace(rows[-1], file=None)], "eager", 1)
    assert [(one.macs, one.params) for one in seen] == [(one.macs, one.params) for one in [*rows, rows[-1]]]
