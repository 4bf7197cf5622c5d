"""What a space decodes is what its file would be read as."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from spaces import DEEP, SPACES, TINY, members, parsed, samples

import mobile_cv_nas as nas
from mobile_cv_nas.nn.heads import HeadDef

SMALL = {"tiny": TINY, "deep": DEEP}
NAMES = [*SMALL, *sorted(path.stem for path in SPACES.glob("*.yaml"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_decoded_arch_is_the_one_its_table_says(name: str) -> None:
    """It is handed over resolved, and never read a second time: every field of every layer must be what reading gives."""
    space = parsed(SMALL[name]) if name in SMALL else nas.SearchSpace.load(SPACES / f"{name}.yaml")
    for arch in [space.largest(), space.smallest(), *samples(space, 50)]:
        again = nas.ArchDef.parse(arch.to_dict())
        assert again.layers == arch.layers
        assert again == arch == nas.ArchDef(arch.input_size, arch.stages)
        assert nas.ArchDef(arch.input_size, arch.stages).layers == arch.layers


def test_an_option_written_out_is_the_option_left_out() -> None:
    plain = parsed({"input_size": 16, "stages": [[["conv_k3", 8], ["ir_k3", 8]]]})
    written = nas.ArchDef.parse(
        {"input_size": 16, "stages": [[["conv_k3", 8, 1, 1, {"bias": False}], ["ir_k3", 8, 1, 1, {"norm_eps": 1e-5}]]]}
    )
    assert plain.contains(written)


def test_a_stride_is_part_of_membership() -> None:
    space = nas.SearchSpace.parse({"input_size": 16, "stages": [[["conv_k3", 8, 2, 1]], [["ir_k3", [8, 16, 8], 1, 1]]]})
    tables = [
        {"input_size": 16, "stages": [[["conv_k3", 8, first, 1]], [["ir_k3", 8, second, 1]]]} for first in (1, 2) for second in (1, 2)
    ]
    assert [space.contains(nas.ArchDef.parse(table)) for table in tables] == [False, False, True, False]
    assert any("stride 1 is not 2" in line for line in space.explain(nas.ArchDef.parse(tables[0])))


def test_a_shipped_space_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nas.SearchSpace.load("fbnetv2_l") == nas.SearchSpace.load(SPACES / "fbnetv2_l.yaml")
    with pytest.raises(nas.ArchError, match=r"fbnetv2_k: no shipped space, did you mean fbnetv2_\w+\?; there are cifar10, .*; or give a"):
        nas.SearchSpace.load("fbnetv2_k")
    with pytest.raises(nas.ArchError, match=r"spaces/fbnetv2_l: "):  # the name of a file, which is not there
        nas.SearchSpace.load("spaces/fbnetv2_l")
    monkeypatch.chdir(tmp_path)
    shutil.copy(SPACES / "digits.yaml", "mine")
    assert nas.SearchSpace.load("mine") == nas.SearchSpace.load("digits")
    Path("digits.yaml").write_text((SPACES / "quick.yaml").read_text())
    assert nas.SearchSpace.load("digits.yaml") == nas.SearchSpace.load("quick")


@pytest.mark.parametrize("by", ["macs", "params"])
def test_the_ends_of_a_space_are_those_of_all_its_members(by):
    """Blocks, widths, hidden widths, input size and a skip that hands on a wider input: nothing greedy finds them all."""
    rows = [
        [["conv_k3", [8, 16, 8], 2]],
        [[["ir_k3_se", "ir_k5", "skip"], {"any": [8, 24]}, 1, 1, {"expansion": [1, 3, 1]}]],
        [[["ir_k3", "ir_k5"], [8, 16, 8], 2, 1, {"expansion": {"any": [1, 6]}}]],
    ]
    space = nas.SearchSpace.parse({"name": "small", "input_size": [16, 32, 16], "stages": rows})
    every = itertools.product(*(range(len(choice.options)) for choice in space.choices))
    archs = {space.decode(dict(zip((choice.name for choice in space.choices), picks))) for picks in every}
    costs = [getattr(arch.cost(num_classes=5), by) for arch in archs]
    assert len(archs) == space.size()
    assert getattr(space.largest(5, by).cost(num_classes=5), by) == max(costs)
    assert getattr(space.smallest(5, by).cost(num_classes=5), by) == min(costs)


@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_the_ends_under_a_segmenters_head_weigh_the_maps_that_it_reads(end):
    """A skip saves its block and hands on a wider map: which costs less depends on the side of the map that the head reads."""
    block = {"hidden": 8}
    rows = [
        [["conv_k3", 8, 2]],
        [["ir_k3", 8, 2, 1, {"expansion": 1}]],
        [["ir_k3", {"any": [52, 64]}, 2, 1, block], [["ir_k3", "skip"], {"any": [8, 20]}, 1, 1, {"hidden": 32}]],
        [["ir_k3", {"any": [52, 60]}, 2, 1, block], [["ir_k3", "skip"], {"any": [32, 40]}, 1, 1, block]],
    ]
    space, head = nas.SearchSpace.parse({"input_size": 32, "stages": rows}), HeadDef("lraspp", 20, {"channels": 16})
    costs = [arch.cost(head=head).macs for _, arch in members(space)]
    assert getattr(space, end)(head=head).cost(head=head).macs == (max if end == "largest" else min)(costs)


@pytest.mark.parametrize(("end", "first", "last"), [("largest", "ir_k3", "conv_k1"), ("smallest", "conv_k3", "skip")])
def test_the_ends_of_a_space_are_for_a_thousand_classes_and_three_channels(end, first, last):
    rows = [[[["conv_k3", "ir_k3"], 32]]]  # a pixel costs 288 c, or 24 (c + 41) with the default expansion: less from 4 channels on
    (layer,) = getattr(nas.SearchSpace.parse({"input_size": 8, "stages": rows}), end)(10).layers
    assert layer.names == (first,)
    rows = [[["conv_k1", 49]], [[["conv_k1", "skip"], 41]]]  # 4 x 49 x 41 + 4 x 41 + 41 k beside 4 x 49 + 49 k: alike at 1000.5 classes
    layer = getattr(nas.SearchSpace.parse({"input_size": 2, "stages": rows}), end)().layers[-1]
    assert layer.names == (last,)


def test_costs_are_of_a_thousand_classes_and_three_channels():
    space = parsed(DEEP)
    arch = space.sample(0)
    assert arch.cost() == space.cost(arch) == arch.cost(1000, 3) != arch.cost(1001)


@pytest.mark.parametrize(("name", "said"), [("mine", "mine: stage 0"), ("", "arch: stage 0")])
def test_an_arch_from_python_that_is_wrong_is_named(name, said):
    with pytest.raises(nas.ArchError, match=f"^{said}, block 0"):
        nas.ArchDef(16, ((nas.BlockDef("conv_k3", 8, stride=9),),), name)
