"""The definition language: parsing, errors, members, sizes, extremes, files."""

from __future__ import annotations

import math
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import DEEP, SPACES, TINY, members, parsed, samples

import mobile_cv_nas as nas
from mobile_cv_nas.networks.cells import BlockCells, HeadCells
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.nn.shapes import round_to

ARCH: dict[str, Any] = {
    "name": "small",
    "input_size": 32,
    "stages": [
        [["conv_k3_hs", 16, 2]],
        [["ir_k3", 16, 1, 1, {"expansion": 1}], ["ir_k5_sehsig_hs", 24, 2, 3, {"expansion": 2.5}]],
        [["skip", 40], ["skip", 40], ["ir_k7_se", 40, 1, 1, {"hidden": 40, "squeeze": 6}], ["ir_pool_hs", 64, 1, 1, {"expansion": 3}]],
    ],
}


def test_an_arch_reads_writes_and_equals(tmp_path: Path) -> None:
    arch = nas.ArchDef.parse(ARCH)
    assert [b.name for b in arch.stages[1]] == ["ir_k3", *["ir_k5_sehsig_hs"] * 3]
    assert [b.stride for b in arch.stages[1]] == [1, 2, 1, 1]
    arch.save(tmp_path / "arch.yaml")
    again = nas.ArchDef.load(tmp_path / "arch.yaml")
    assert again == arch
    assert hash(again) == hash(arch)
    assert again.name == "small"
    assert nas.ArchDef(arch.input_size, arch.stages) == arch
    text = (tmp_path / "arch.yaml").read_text()
    assert "    - [ir_k5_sehsig_hs, 24, 2, 3, {expansion: 2.5}]\n" in text
    maps = [line.split("# ")[1] for line in text.splitlines() if "# " in line]
    assert maps == ["32x32 to 16x16", "16x16 to 8x8", "8x8 to 1x1"]


def test_the_cost_of_an_arch_is_its_count() -> None:
    arch = nas.ArchDef.parse(ARCH)
    assert arch.cost(7) == nas.count(nas.build_model(arch, 7), 32)
    assert arch.cost(7, in_channels=1) == nas.count(nas.build_model(arch, 7, 1), 32, 1)


def test_defaults_reach_the_blocks_that_take_them() -> None:
    table = {
        "input_size": 8,
        "defaults": {"norm_eps": 0.001, "expansion": 3},
        "stages": [[["conv_k3", 8], ["ir_k3", 8, 1, 1, {"hidden": 16}]]],
    }
    arch = nas.ArchDef.parse(table)
    assert arch.stages[0][0].options == {"norm_eps": 0.001}
    assert arch.stages[0][1].options == {"norm_eps": 0.001, "hidden": 16}
    model = nas.build_model(arch, 10)
    assert {m.eps for m in model.modules() if hasattr(m, "running_mean")} == {0.001}


def test_defaults_of_squeeze_and_excite_reach_a_block_that_has_it_by_another_default() -> None:
    defaults = {"se": "hsigmoid", "se_activation": "relu", "squeeze": 4}
    arch = nas.ArchDef.parse({"input_size": 8, "defaults": defaults, "stages": [[["conv_k3", 8], ["ir_k3", 8]], [["ir_pool_hs", 16]]]})
    assert [block.options for stage in arch.stages for block in stage] == [{}, {}, defaults]
    assert isinstance(nas.build_model(arch, 10).blocks[-1].se.act, torch.nn.ReLU)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_spaces(path: Path, tmp_path: Path) -> None:
    space = nas.SearchSpace.load(path)
    space.save(tmp_path / "space.yaml")
    assert nas.SearchSpace.load(tmp_path / "space.yaml") == space
    for arch in samples(space, 50):
        assert space.contains(arch)
        assert space.decode(space.encode(arch)) == arch
        arch.save(tmp_path / "arch.yaml")
        assert nas.ArchDef.load(tmp_path / "arch.yaml") == arch
        assert space.contains(nas.ArchDef.load(tmp_path / "arch.yaml"))
    for by in ("macs", "params"):
        low, high = (getattr(arch.cost(10), by) for arch in (space.smallest(10, by), space.largest(10, by)))
        assert all(low <= getattr(arch.cost(10), by) <= high for arch in samples(space, 50, seed=1))


def test_table_2_of_the_paper() -> None:
    space = nas.SearchSpace.load(SPACES / "fbnetv2_l.yaml")
    assert space.max_input_size == 256
    assert space.size() > 10**35
    # By hand from the table: blocks * filters * expansions, and one more for a skip, to the power of the repeats.
    rows = [(8 * 2 + 1, 1), (8 * 4 * 6, 1), (8 * 4 * 6 + 1, 2), (8 * 4 * 6, 1), (8 * 4 * 6 + 1, 2)]
    rows += [(8 * 7 * 7, 1), (8 * 7 * 7 + 1, 2), (8 * 8 * 6 + 1, 4), (8 * 14 * 6, 1), (8 * 14 * 6 + 1, 3)]
    assert space.size() == math.prod(options**n for options, n in rows) * 5


# The block with the most MACs is not the one with the most parameters.
AT_ODDS = {"input_size": 8, "stages": [[[["ir_k5", "ir_k3_se"], 8, 2, 1, {"hidden": 64}]]]}


@pytest.mark.parametrize(
    "table", [TINY, AT_ODDS, {**DEEP, "stages": [DEEP["stages"][0], [[["ir_k3", "ir_k5", "skip"], [8, 24, 8], 1, 2]]]}]
)
def test_small_spaces_agree_with_enumeration(table: dict) -> None:
    space = parsed(table)
    archs = {arch for _, arch in members(space)}
    tables = {repr(_table(space, picks)) for picks, _ in members(space)}
    assert space.size() == len(tables)
    assert all(space.contains(arch) for arch in archs)
    for by in ("macs", "params"):
        costs = [getattr(arch.cost(10), by) for arch in archs]
        assert getattr(space.largest(10, by).cost(10), by) == max(costs)
        assert getattr(space.smallest(10, by).cost(10), by) == min(costs)


def test_what_a_cell_of_a_block_is_called_names_its_widths() -> None:
    layer = parsed(TINY).layers[1]
    widths = (
        np.array([4.0, 8.0]).reshape(-1, 1, 1),
        np.array([8.0, 16.0, 24.0]).reshape(1, -1, 1),
        np.array([4.0, 12.0]).reshape(1, 1, -1),
    )
    cells = BlockCells(layer, layer.names[0], (16, 8), *widths)
    assert cells.where([1, 2, 1]) == f"{layer.key}: {layer.names[0]}, 8 to 12 channels, hidden 24, on a map of 16x16"
    plain = replace(cells, hidden=np.zeros((1, 1, 1)))  # a block without hidden channels
    assert plain.where([0, 2, 1]) == f"{layer.key}: {layer.names[0]}, 4 to 12 channels, on a map of 16x16"


@pytest.mark.parametrize(("name", "stride", "adds"), [("ir_k3", 1, True), ("ir_k3", 2, False), ("conv_k3", 1, False)])
def test_a_residual_is_added_where_widths_and_sides_agree(name: str, stride: int, adds: bool) -> None:
    rows = [[["conv_k3", [4, 8, 4], 1]], [[name, [4, 8, 4], stride, 1, {"hidden": 8} if name != "conv_k3" else {}]]]
    layer = nas.SearchSpace.parse({"input_size": 8, "stages": rows}).layers[1]
    c_in, c_out = np.array([4.0, 8.0]).reshape(-1, 1, 1), np.array([4.0, 8.0]).reshape(1, 1, -1)
    hidden = np.array([8.0 if name != "conv_k3" else 0.0]).reshape(1, -1, 1)
    cells = BlockCells(layer, name, (8, 8 // stride), c_in, hidden, c_out)
    assert np.array_equal(np.broadcast_to(cells.adds, (2, 1, 2))[:, 0], np.eye(2, dtype=bool) & adds)
    assert any(one.kind == "add" for one in cells.operators()) is adds


def test_choices_are_written_as_a_grid_or_as_a_set() -> None:
    fields = [12, [8, 24, 8], [8, 16, 8], {"any": [8, 16, 32]}]
    space = nas.SearchSpace.parse({"input_size": 32, "stages": [[["conv_k3", field, 1, 1] for field in fields]]})
    written = space.to_dict()["stages"][0]
    assert [row[1] for row in written] == fields


def test_what_a_cell_of_a_head_is_called_names_its_map() -> None:
    cells = HeadCells(HeadDef("ssdlite", 3), 1, torch.tensor([24.0, 32.0]), (64, 8, 4))
    assert cells.where([1]) == "head ssdlite, map 1 of 32 channels, 4x4"
    assert replace(cells, n=0).where([0]) == "head ssdlite, map 0 of 24 channels, 8x8"


def _table(space: nas.SearchSpace, picks: dict[str, int]) -> list[Any]:
    """What size() counts: a table's row is skip, or a block with its widths."""
    rows: list[Any] = [space.input_sizes[picks.get("input_size", 0)]]
    for layer in space.layers:
        name = layer.names[picks.get(f"{layer.key}.block", 0)]
        widths = (picks.get(f"{layer.key}.channels"), picks.get(f"{layer.key}.hidden"))
        rows.append(name if name == "skip" else (name, *widths))
    return rows


def test_a_hidden_width_is_absolute_and_coinciding_options_merge() -> None:
    table = {"input_size": 32, "stages": [[["conv_k3", [8, 16, 4], 2]], [["ir_k3", 24, 1, 1, {"expansion": [0.75, 1.25, 0.1]}]]]}
    space = nas.SearchSpace.parse(table)
    options = sorted({round_to(16 * e, 8) for e in (0.75, 0.85, 0.95, 1.05, 1.15, 1.25)})
    assert space.layers[1].hidden == tuple(options) == (16, 24)
    for _, arch in members(space):
        assert arch.stages[1][0].options["hidden"] in options
        assert nas.build_model(arch).blocks.s1b0.pw is not None  # even at hidden 16, input width 16
    fixed = nas.SearchSpace.parse({"input_size": 32, "stages": [[["conv_k3", 16, 2]], [[["ir_k3", "ir_k5"], 24, 1, 1, {"expansion": 1}]]]})
    for _, arch in members(fixed):
        assert arch.stages[1][0].options == {"expansion": 1}
        assert nas.build_model(arch).blocks.s1b0.pw is None


def test_one_option_collapses() -> None:
    rows = [[[["conv_k3"], [16, 16, 4], 2]], [["ir_k3", {"any": [24]}, 1, 1, {"expansion": [2, 2, 1]}]]]
    space = nas.SearchSpace.parse({"input_size": [32, 32, 8], "stages": rows})
    plain = nas.ArchDef.parse({"input_size": 32, "stages": [[["conv_k3", 16, 2]], [["ir_k3", 24, 1, 1, {"expansion": 2}]]]})
    assert space.size() == 1
    assert space.choices == ()
    assert space.contains(plain)
    assert space.sample(random.Random(0)) == nas.ArchDef.parse({"input_size": [32, 32, 8], "stages": rows})


def test_contains_says_why_not() -> None:
    space = parsed(TINY)
    arch = space.largest()
    table = arch.to_dict()
    assert space.contains(nas.ArchDef.parse(table))
    table["stages"][1][0][1] = 12
    table["stages"][2][0][4] = {**table["stages"][2][0][4], "bias": True}
    wrong = nas.ArchDef.parse(table)
    assert not space.contains(wrong)
    reasons = "; ".join(space.explain(wrong))
    assert "stage 1, block 0: channels 12 is not one of 8, 16" in reasons
    assert "stage 2, block 0: bias is True, not False" in reasons
    with pytest.raises(nas.ArchError, match="channels 12"):
        space.encode(wrong)
    table = arch.to_dict()
    del table["stages"][1]
    counts = [len(stage) for stage in arch.to_dict()["stages"]]
    (reason,) = space.explain(nas.ArchDef.parse(table))
    assert reason == f"blocks per stage are {[*counts[:1], *counts[2:]]}, not {counts}"
    # A skip with a change of width is a block of its own, not the identity that a space means.
    table = arch.to_dict()
    table["stages"][1][0] = ["skip", 16, 1, 1, {}]
    assert "is not the identity" in "; ".join(space.explain(nas.ArchDef.parse(table)))


ROW = ["ir_k3", 16, 1, 1, {"expansion": 3}]


@pytest.mark.parametrize(
    "first", [["ir_k3", 8, 1, 1, {"expansion": 1}], ["ir_k3", 8, 1, 1, {"hidden": 8}], ["conv_k3", 8, 1], ["ir_pool", 8]]
)
@pytest.mark.parametrize("in_channels", [1, 3, 8])
def test_a_first_block_reads_images_of_any_number_of_channels(first: list, in_channels: int) -> None:
    """It expands them where its hidden width is another than theirs."""
    arch = nas.ArchDef.parse({"input_size": 16, "stages": [[first]]})
    network = nas.build_model(arch, 4, in_channels)
    assert arch.cost(4, in_channels=in_channels) == nas.count(network, 16, in_channels)
    if first[0] == "ir_k3":
        expands = in_channels != 8 or "hidden" in first[-1]  # an absolute width is always made by a convolution
        assert (network.blocks.s0b0.pw is not None) == expands


def test_the_largest_that_a_definition_may_hold() -> None:
    """Pixels, channels and blocks: the limit itself is taken, one more is not."""
    stem = ["conv_k3", 8, 2]

    def table(size: int = 32, channels: int = 8, repeats: int = 1, hidden: int = 8) -> dict[str, Any]:
        return {"input_size": size, "stages": [[stem], [["ir_k3", channels, 1, repeats, {"hidden": hidden}]]]}

    assert nas.ArchDef.parse(table(size=8192)).input_size == 8192
    assert nas.ArchDef.parse(table(channels=65536)).layers[-1].channels == (65536,)
    assert nas.ArchDef.parse(table(hidden=65536)).layers[-1].hidden == (65536,)
    assert len(nas.ArchDef.parse(table(repeats=511)).layers) == 512
    for wrong in ({"size": 8193}, {"channels": 65537}, {"hidden": 65537}, {"repeats": 512}):
        with pytest.raises(nas.ArchError):
            nas.ArchDef.parse(table(**wrong))

    def expanded(ratio: float) -> dict[str, Any]:
        return {"input_size": 32, "stages": [[stem], [["ir_k3", 8, 1, 1, {"expansion": ratio}]]]}

    assert nas.ArchDef.parse(expanded(100)).layers[-1].hidden == (800,)
    with pytest.raises(nas.ArchError, match="key expansion"):
        nas.ArchDef.parse(expanded(100.5))

    def options(count: int, listed: bool) -> dict[str, Any]:
        channels = {"any": [8 * i for i in range(1, count + 1)]} if listed else [8, 8 * count, 8]
        return {"input_size": 32, "stages": [[["conv_k3", channels, 2]]]}

    for listed in (False, True):
        assert len(nas.SearchSpace.parse(options(1024, listed)).layers[0].channels) == 1024
        with pytest.raises(nas.ArchError, match="more than 1024 options"):
            nas.SearchSpace.parse(options(1025, listed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_sise": 3}, "unknown key 'input_sise', did you mean input_size?"),
        ({"input_size": 0}, "key input_size: must be an int"),
        ({"input_size": [32, 64, 0]}, "key input_size"),
        ({"input_size": [32, 64, 5]}, "must go up and meet high"),
        ({"input_size": 10**400}, "key input_size"),
        ({"name": 7}, "key name"),
        ({"stages": []}, "key stages: must be a list"),
        ({"stages": [[ROW], []]}, "stage 1: must be a list of blocks"),
        ({"stages": [["ir_k3"]]}, "stage 0, block 0: a block is"),
        ({"stages": [[["skip", 8, 1, 1, {}, 1]]]}, "stage 0, block 0: a block is"),
        ({"stages": [[["ir_k4", 16]]]}, r"stage 0, block 0: unknown block 'ir_k4', did you mean ir_k\d\?"),
        ({"stages": [[[["ir_k3", "ir_k3"], 16]]]}, "stands twice"),
        ({"stages": [[[[], 16]]]}, "the name must be"),
        ({"stages": [[["ir_k3", -8]]]}, "channels: must be a positive int"),
        ({"stages": [[["ir_k3", 16.0]]]}, "channels: must be a positive int"),
        ({"stages": [[["ir_k3", {"any": []}]]]}, "with at least one"),
        ({"stages": [[["ir_k3", {"some": [8]}]]]}, "channels: a set of options"),
        ({"stages": [[["ir_k3", {"any": [8, 8]}]]]}, "stands twice"),
        ({"stages": [[["ir_k3", [8, 16]]]]}, "a choice is"),
        ({"stages": [[["ir_k3", [8, 60000, 1]]]]}, "more than 1024 options"),
        ({"stages": [[["ir_k3", 16, 0]]]}, "stride must be an int from 1 to 4"),
        ({"stages": [[["ir_k3", 16, 1, 0]]]}, "repeats must be"),
        ({"stages": [[["ir_k3", 16, 1, 10**9]]]}, "repeats must be"),
        ({"stages": [[["ir_k3", 16, 1, 1, [3]]]]}, "the options must be a mapping"),
        ({"stages": [[["ir_k3", 16, 1, 1, {"expand": 3}]]]}, "unknown option 'expand', did you mean expansion?"),
        ({"stages": [[["ir_k3", 16, 1, 1, {"expansion": math.nan}]]]}, "key expansion: must be a positive number"),
        ({"stages": [[["ir_k3", 16, 1, 1, {"expansion": 3, "hidden": 8}]]]}, "either hidden"),
        ({"stages": [[["ir_k3", 16, 1, 1, {"bias": "yes"}]]]}, "key bias: must be true or false"),
        ({"stages": [[["ir_k3", 16, 1, 1, {"activation": "gelu"}]]]}, "key activation: must be one of relu"),
        ({"stages": [[["conv_k3", 16, 1, 1, {"hidden": 8}]]]}, "unknown option 'hidden'"),
        ({"stages": [[["skip", 16, 1, 1, {"expansion": 3}]]]}, "it takes none"),
        ({"stages": [[[["ir_k3", "skip"], 16]]]}, "the first block reads the image"),
        ({"stages": [[ROW], [[["ir_k3", "skip"], 16, 2, 2]]]}, "stage 1, block 0: skip is a candidate at stride 1 only"),
        ({"stages": [[["conv_k3", [8, 16, 8]]], [["skip", 16]]]}, "needs fixed widths"),
        ({"stages": [[["conv_k3", [8, 16, 8]], ["ir_k3", 16, 1, 1, {"groups": 2}]]]}, "key groups: needs a fixed input width"),
        ({"stages": [[["conv_k3", 16], [["ir_k3", "ir_k5"], 16, 1, 1, {"padding": 1}]]]}, "maps of different sizes"),
        ({"stages": [[["conv_k3", 16], [["ir_k3", "ir_pool"], 16]]]}, "one pixel"),
        ({"stages": [[["conv_k3", [8, 16, 8]], ["ir_k3_se", 16, 1, 1, {"squeeze_from": "input"}]]]}, "key squeeze_from"),
        ({"stages": [[["ir_k5", 16, 2, 1, {"padding": 0}]] * 9]}, "maps of 32 pixels vanish"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"padding": 0}]]]}, "must keep the map's size"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"squeeze": 4}]]]}, "unknown option 'squeeze'"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 0]]]}, r"stage 0, block 1 \(ir_k5\): channels"),
        ({"stages": [[["conv_k3", 16], [["ir_k3", "ir_k5"], 0]]]}, "stage 0, block 1: channels"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"norm_eps": 0}]]]}, "norm_eps: must be a number above 0 and up to 1"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"norm_eps": True}]]]}, "norm_eps: must be a number above 0 and up to 1"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"norm_eps": "small"}]]]}, "norm_eps: must be a number above 0 and up to 1"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"norm_eps": 1.5}]]]}, "norm_eps: must be a number above 0 and up to 1"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"expansion": 0}]]]}, "expansion: must be a positive number"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"padding": 17}]]]}, "padding: must be an int from 0 to 16, or same"),
        ({"stages": [[["conv_k3", 16], ["ir_k5", 16, 1, 1, {"padding": -1}]]]}, "padding: must be an int from 0 to 16, or same"),
        ({"defaults": {"bais": True}}, "key defaults: no block takes the option 'bais', did you mean bias?"),
        ({"defaults": []}, "key defaults: must be a mapping"),
        (
            {"defaults": {"expansion": 2}, "stages": [[["conv_k3", 16], [["conv_k3", "ir_k3", "skip"], 16]]]},
            r"stage 0, block 1 \(conv_k3, ir_k3, skip\): key defaults: 'expansion' is an option of ir_k3 alone; leave it out there",
        ),
    ],
)
def test_errors_name_the_place_and_the_remedy(change: dict, message: str) -> None:
    with pytest.raises(nas.ArchError, match=message) as caught:
        nas.SearchSpace.parse({"input_size": 32, "stages": [[ROW]], **change}, "some.yaml")
    assert str(caught.value).startswith("some.yaml: ")
    assert "\n" not in str(caught.value)


def test_an_arch_has_no_choices() -> None:
    for change in ({"input_size": [32, 64, 32]}, {"stages": [[["ir_k3", [8, 16, 8]]]]}, {"stages": [[[["ir_k3", "ir_k5"], 8]]]}):
        with pytest.raises(nas.ArchError, match="load it as a SearchSpace"):
            nas.ArchDef.parse({"input_size": 32, "stages": [[ROW]], **change})
    for missing in ("input_size", "stages"):
        with pytest.raises(nas.ArchError, match=f"the key {missing} is missing"):
            nas.ArchDef.parse({k: v for k, v in {"input_size": 32, "stages": [[ROW]]}.items() if k != missing})
    for wrong in (None, [], 3, "text"):
        with pytest.raises(nas.ArchError, match="must be a mapping"):
            nas.ArchDef.parse(wrong)


def test_bad_files(tmp_path: Path) -> None:
    bad = tmp_path / "arch.yaml"
    for text, message in (("", "empty"), ("a: 1\n\tb: [", "line 2"), ("a: &b 1", "anchors"), ("input_size: 32", "stages is missing")):
        bad.write_text(text)
        with pytest.raises(nas.ArchError, match=message) as caught:
            nas.ArchDef.load(bad)
        assert str(bad) in str(caught.value)
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(nas.ArchError):
            nas.SearchSpace.load(path)
    with pytest.raises(nas.ArchError, match="cannot be written"):
        nas.ArchDef.parse(ARCH).save(tmp_path / "no" / "folder.yaml")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
NAMES = st.sampled_from(["ir_k3", "ir_k5_se_hs", "conv_k1", "skip", "ir_pool", "input_size", "stages", "expansion", "hidden", "any"])
ANYTHING = st.recursive(
    SCALARS | NAMES, lambda x: st.lists(x, max_size=6) | st.dictionaries(NAMES | st.text(max_size=4), x, max_size=4), max_leaves=40
)
NUMBERS = (
    st.integers(-2, 40)
    | st.lists(st.integers(-1, 40), max_size=4)
    | st.fixed_dictionaries({"any": st.lists(st.integers(0, 40), max_size=4)})
    | ANYTHING
)
OPTIONS = st.dictionaries(
    st.sampled_from(["expansion", "hidden", "bias", "groups", "padding", "squeeze", "se", "squeeze_from"]), NUMBERS, max_size=3
)
ROWS = st.tuples(NAMES | st.lists(NAMES, max_size=4), NUMBERS, st.integers(0, 3) | ANYTHING, st.integers(0, 3) | ANYTHING, OPTIONS).map(
    list
)
TABLES = st.fixed_dictionaries(
    {"input_size": NUMBERS, "stages": st.lists(st.lists(ROWS | ANYTHING, max_size=3), max_size=3)},
    optional={"name": ANYTHING, "defaults": OPTIONS},
)


@settings(max_examples=500, deadline=1000)
@given(TABLES | ANYTHING, st.booleans())
def test_any_object_is_a_table_or_an_arch_error(obj: Any, is_arch: bool) -> None:
    kind = nas.ArchDef if is_arch else nas.SearchSpace
    parsed, message = None, "file.yaml: "
    try:
        parsed = kind.parse(obj, "file.yaml")
    except nas.ArchError as error:
        message = str(error)
    assert message.startswith("file.yaml: ")
    assert parsed is None or kind.parse(parsed.to_dict()) == parsed


def test_an_arch_of_blocks_is_the_one_that_its_file_gives(tmp_path: Path) -> None:
    """Lists, rows and fields of one option are what they are in a file."""
    blocks: Any = [[nas.BlockDef("conv_k3", 8, 2)], [nas.BlockDef("ir_k3", [16, 16, 8], 2, {"expansion": [6, 6, 1]}), ["ir_k3", 16, 1, 2]]]
    arch = nas.ArchDef([32, 32, 8], blocks, "mine")
    assert arch.input_size == 32
    assert isinstance(arch.stages, tuple)
    assert arch.stages[1][0] == nas.BlockDef("ir_k3", 16, 2, {"expansion": 6})
    assert [len(stage) for stage in arch.stages] == [1, 3]
    arch.save(tmp_path / "arch.yaml")
    again = nas.ArchDef.load(tmp_path / "arch.yaml")
    assert (again, hash(again), again.name) == (arch, hash(arch), "mine")
    assert again.to_dict() == arch.to_dict()
    network = nas.build_model(arch, 4)
    assert network.feature_info[-1]["num_chs"] == 16
    assert pickle.loads(pickle.dumps(arch)) == arch
    assert isinstance(blocks[1][0].channels, list)  # what was given is as it was


@pytest.mark.parametrize(
    ("size", "stages", "words"),
    [
        ([32, 64, 32], [[nas.BlockDef("conv_k3", 8)]], "key input_size: an arch has one value where this has 2"),
        (32, [[nas.BlockDef("conv_k3", [8, 16, 8])]], "key channels: an arch has one value where this has 2 options"),
        (32, [nas.BlockDef("conv_k3", 8)], "stage 0: must be a list of blocks"),
        (32, [[nas.BlockDef("conv_k3", 8, 1, None)]], "the options must be a mapping, not None"),
        (32, [["skip", 8, 1, 1, {}, 1]], r"a block is \[name, channels, stride, repeats, {options}\], not"),
        (32, [[8]], r"a block is \[name, channels, stride, repeats, {options}\], not 8"),
        (32, None, "key stages: must be a list of stages"),
        (32, nas.BlockDef("conv_k3", 8), "key stages: must be a list of stages"),
    ],
)
def test_blocks_that_make_no_arch_say_where(size: Any, stages: Any, words: str) -> None:
    with pytest.raises(nas.ArchError, match=words):
        nas.ArchDef(size, stages)
