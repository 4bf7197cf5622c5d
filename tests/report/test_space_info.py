"""The report on a space, against every member of a space small enough to enumerate, and its command line."""

from __future__ import annotations

import importlib.util
import math
import random
from pathlib import Path

import pytest
from spaces import DEEP, SPACES, TINY, members, parsed

import mobile_cv_nas as nas
from mobile_cv_nas.report.space import space_info

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in SPACES.glob("*.yaml"))


def run(*arguments: str) -> int:
    spec = importlib.util.spec_from_file_location("space_info", ROOT / "tools" / "space_info.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(arguments)


def test_figures_are_those_of_all_members():
    space = parsed(TINY)
    found = {str(arch.to_dict()["stages"]) + str(arch.input_size): arch for _, arch in members(space)}
    costs = [arch.cost(10) for arch in found.values()]
    info = space_info(space, num_classes=10)
    # A skipped layer writes the width that reaches it, so tables coincide less often than choices do.
    layers = [2, 2 * 2 * 2 + 1, 2 * 2 * 2, 2 * 2 * 1 + 1, 2]
    assert info.size == math.prod(layers)
    assert info.blocks_only == 3 * 2 * 3
    assert info.ratio == info.size // 18
    assert info.params == (min(c.params for c in costs), max(c.params for c in costs))
    assert (info.smallest[1].macs, info.largest[1].macs) == (min(c.macs for c in costs), max(c.macs for c in costs))
    assert info.choices == {"input_size": (2,), "block": (3, 2, 3), "channels": (2, 2, 2, 2), "hidden": (2, 2)}
    assert sum(map(len, info.choices.values())) == len(space.choices)


def test_size_is_the_product_of_the_layers():
    info = space_info(parsed(DEEP))
    text = str(info)
    assert f"{info.size:,}" in text.replace("\n", "").replace(" ", "")
    exponent = int(math.log10(info.size))
    assert f"{info.size / 10**exponent:.3f}"[:3] + f"e{exponent}" in text
    assert info.blocks_only == 6**3 * 3 * 3**2


def test_networks_are_looked_for():
    space = parsed(DEEP)
    member = space.sample(random.Random(1))
    stranger = nas.get_arch("FBNetV2_F1")
    info = space_info(space, networks={"mine": member, "theirs": stranger})
    assert info.missing == {"mine": [], "theirs": space.explain(stranger)}
    lines = str(info).splitlines()
    assert any(line.split() == ["mine", "yes"] for line in lines)
    assert any(line.startswith("theirs") and "no: input_size 128" in line for line in lines)


@pytest.mark.parametrize("name", SHIPPED)
def test_report_fits_a_terminal(name, capsys):
    assert run(name) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert max(map(len, lines)) <= 80
    space = nas.SearchSpace.load(SPACES / f"{name}.yaml")
    blocks = [line.split()[0] for line in lines if "|" in line]
    assert blocks == [layer.key for layer in space.layers]
    near = [one for one in nas.list_models("FBNetV2*") if nas.get_arch(one).input_size in space.input_sizes]
    assert [line.split()[0] for line in lines if line.startswith("FBNetV2_")] == near


def test_costs_are_placed_among_those_of_all_members():
    space = parsed(TINY)
    costs = []  # with every choice uniform each combination of options is alike
    for _, arch in members(space):
        costs.append(arch.cost(10).macs)
    costs.sort()
    info = space_info(space, 10, draws=4000, target=(costs[len(costs) // 3], "macs"))
    for share in (0.1, 0.34, 0.5, 0.9):
        exact = costs[int(share * len(costs))]
        assert info.share_below(info.quantile(share)) <= share
        assert sum(cost <= info.quantile(share) for cost in costs) / len(costs) == pytest.approx(share, abs=0.03)
        assert info.share_below(exact + 1) == pytest.approx(sum(cost <= exact for cost in costs) / len(costs), abs=0.03)
    share = info.share_below(costs[len(costs) // 3])
    assert f"MACs is percentile {100 * share:.0f}" in str(info)
    out = str(space_info(space, 10, target=(costs[-1] * 2, "macs")))
    assert "is out of reach" in out


def test_a_target_on_the_command_line(capsys):
    assert run("digits", "--num-classes", "10", "--target", "400k") == 0
    assert "400k MACs is percentile" in capsys.readouterr().out
    assert run("digits", "--target", "70000 params") == 0
    assert "70k parameters is" in capsys.readouterr().out
    assert run("digits", "--target", "lots") == 2


def test_paper_space_is_as_large_as_the_paper_says():
    info = space_info(nas.SearchSpace.load("fbnetv2_l"))
    assert info.size > 10**35
    assert info.ratio > 10**14


def test_an_arch_is_a_space_of_one(tmp_path, capsys):
    nas.get_arch("FBNetV2_F1").save(tmp_path / "arch.yaml")
    assert run(str(tmp_path / "arch.yaml")) == 0
    out = capsys.readouterr().out
    cost = nas.get_arch("FBNetV2_F1").cost()
    assert f"{cost.macs:,} to {cost.macs:,}" in out
    assert any(line.split() == ["FBNetV2_F1", "yes"] for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fbnetv2_k"], "did you mean fbnetv2_"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["../spaces/fbnetv2_l"], "no such file"),
        ([str(SPACES)], "Is a directory|a folder|no shipped space"),
        (["digits", "--target", "8 ms"], "--target: latency cannot be placed: it needs a latency table"),
        (["digits", "--target", "256 kB"], "--target: memory cannot be placed: .* give MACs or parameters"),
        (["digits", "--num-classes", "0"], "--num-classes: must be a positive int, not 0"),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys):
    import re

    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert re.search(said, captured.err)
