"""Objectives beside MACs and parameters: latency, a sum of one's own, peak memory; targets and limits of them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT
from latency import made_up, random_table
from spaces import DEEP, members, parsed, random_alphas, samples

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.networks.cells import HeadCells
from mobile_cv_nas.networks.extreme import extreme
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.search.goal import Goal, check_target
from mobile_cv_nas.search.memory import ENUMERATED, PeakMemory, _Bound, _peak
from mobile_cv_nas.search.objective import (
    Summed,
    forget_objective,
    objective_of,
    parse_limits,
    parse_target,
    register_objective,
    with_table,
)
from mobile_cv_nas.search.options import SearchOptions

HEAD = HeadDef("classifier", 10)
# Every kind of choice, in 576 combinations.
SMALL = {
    "name": "small",
    "input_size": [16, 24, 8],
    "stages": [
        [["conv_k3_hs", 8, 2]],
        [[["ir_k3", "ir_k5_se_hs", "skip"], [8, 16, 8], 1, 1, {"expansion": [1, 3, 2]}]],
        [[["ir_k3_sehsig", "ir_k7_se_hs"], [8, 16, 8], 2, 1, {"expansion": [1, 3, 2]}], [["ir_k3", "conv_k3_hs", "skip"], 16, 1, 1]],
    ],
}


class Energy:
    """Microjoules: five a million multiply-accumulates, and one each time a block is started."""

    constant = 2.0

    def block(self, cells):
        return 1.0 + 5e-6 * sum(one.macs for one in cells.operators())

    def head(self, cells):
        return 5e-6 * sum(one.macs for one in cells.operators())


@pytest.fixture
def energy():
    register_objective("energy", Energy(), "uJ")
    yield
    forget_objective("energy")


def test_a_sum_of_ones_own_is_an_objective(energy) -> None:
    space = parsed(SMALL)
    assert parse_target("5.5 uJ") == (5.5, "energy")
    assert Goal("energy", 5.5, 0.5, HEAD).text(5.5) == "5.50 uJ"
    assert Goal("energy", 5.5, 0.5, HEAD).text(0.0452) == "0.0452 uJ"
    goal = check_target(SearchOptions(5.5, "energy", tolerance=0.5), space, HEAD)
    supernet = nas.build_supernet(space, head=HEAD)
    random_alphas(supernet)
    probabilities, parts, costs = supernet.probabilities(), [], []
    for picks, arch in members(space):
        blocks = sum(layer.names[0] != "skip" for layer in arch.layers)
        by_hand = 2.0 + blocks + 5e-6 * arch.cost(10).macs
        costs.append(goal.cost(space, arch))
        assert costs[-1] == pytest.approx(by_hand, rel=1e-12)
        parts.append(math.prod(float(probabilities[name][i]) for name, i in picks.items()) * by_hand)
    assert goal.expected(supernet).item() == pytest.approx(math.fsum(parts), rel=1e-12)
    assert goal.by.ends(space, HEAD, 3) == (min(costs), max(costs))
    with pytest.raises(
        InputError, match=r"SEARCH.TARGET: 99.00 uJ is out of the reach of the space: its networks have \d.\d\d to \d.\d\d with"
    ):
        check_target(SearchOptions(99, "energy"), space, HEAD)


def test_an_objective_is_what_it_sums() -> None:
    """Not what it remembers of a supernet."""
    function = Energy()
    one, other = Summed(function, "uJ"), Summed(function, "uJ")
    one.expected(nas.build_supernet(parsed(SMALL), head=HEAD), noise=False)
    assert one == other != Summed(Energy(), "uJ")
    assert repr(one) == f"Summed(function={function!r}, unit='uJ', digits=2)"


def test_what_cannot_be_registered(energy) -> None:
    for name, function, unit, words in [
        ("energy", Energy(), "J", "that is not macs"),
        ("a b", Energy(), "J", "letters, digits"),
        ("more", Energy(), "ms", "give letters that are not one of"),
        ("more", Energy(), "uJ", "give letters that are not one of"),
        ("more", Energy(), "g", "give letters that are not one of b, bytes, g, k"),
        ("more", Energy(), "K", "give letters that are not one of"),
        ("more", object(), "J", "object has no constant"),
    ]:
        with pytest.raises(InputError, match=words):
            register_objective(name, function, unit)


@pytest.mark.parametrize("table", [SMALL, DEEP], ids=["small", "deep"])
def test_the_extremes_of_a_space_by_latency(table: dict) -> None:
    space, function = parsed(table), random_table()
    low, high = (function.latency(extreme(function, space, HEAD, 3, largest), head=HEAD) for largest in (False, True))
    found = [function.latency(arch, head=HEAD) for arch in samples(space, 100)]
    assert low <= min(found) < max(found) <= high
    if table is SMALL:
        every = [function.latency(arch, head=HEAD) for _, arch in members(space)]
        assert (low, high) == (min(every), max(every))


def test_peak_memory_by_hand() -> None:
    rows = [[["conv_k3_hs", 8, 2]], [["ir_k5_se_hs", 8, 1, 1, {"hidden": 24, "squeeze": 8}], ["ir_k3", 16, 2, 1, {"hidden": 40}]]]
    arch = nas.ArchDef.parse({"input_size": 16, "stages": rows})
    stem = 3 * 256 + 8 * 64
    first = 8 * 64 + 24 * 64 + 24 * 64  # the input is added at the end; both maps of the depthwise convolution
    second = 40 * 64 + 40 * 16  # the input is gone
    assert objective_of("memory").cost(arch, HEAD, 3) == max(stem, first, second) == second + 384
    rows[1][0][4]["hidden"] = 8  # on one pixel the vectors of a squeeze-and-excite outweigh its maps
    one = nas.ArchDef.parse({"input_size": 1, "stages": [[["ir_k3_se", 4, 1, 1, {"hidden": 30, "squeeze": 90}]]]})
    assert objective_of("memory").cost(one, HEAD, 3) == 30 + 30 + 90
    two = nas.ArchDef.parse({"input_size": 1, "stages": [[["conv_k3", 4, 1]], [["ir_k3_se", 4, 1, 1, {"hidden": 30, "squeeze": 90}]]]})
    assert objective_of("memory").cost(two, HEAD, 3) == 4 + 30 + 30 + 90


def test_peak_memory_of_the_head_by_hand() -> None:
    arch = nas.ArchDef.parse({"input_size": 1, "stages": [[["conv_k1", 64]]]})
    assert PeakMemory().cost(arch, HeadDef("classifier", 1000), 3) == 64 + 1000  # the pooled map and the logits


def test_what_was_built_for_a_supernet_is_no_part_of_an_objective() -> None:
    supernet, energy = nas.build_supernet(parsed(SMALL), 10), Energy()
    for make in (PeakMemory, lambda: Summed(energy, "uJ")):
        used = make()
        used.expected(supernet, False)
        assert used == make()
        assert repr(used) == repr(make())
        assert "_built" not in repr(used)
    assert Summed(energy, "uJ") == Summed(energy, "uJ", digits=2)


def test_a_cost_is_written_with_its_unit() -> None:
    for name, value, text in (("latency", 5.0, "5.00 ms"), ("macs", 5e6, "5,000,000 macs"), ("memory", 2048.0, "2,048 bytes")):
        table = "digits_onnxruntime_fp32" if name == "latency" else ""
        assert Goal(name, value, 0.1, HEAD, 3, objective_of(name, table)).text(value) == text


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_one_cell_without_a_number_is_named(wrong: float) -> None:
    class Broken(Energy):
        def block(self, cells):
            return np.where((cells.c_in == 8) & (cells.c_out == 16), wrong, 1.0)

    space = parsed(SMALL)
    with pytest.raises(ValueError, match=rf"the cost is {wrong}; give a number for every cell"):
        Summed(Broken(), "uJ").expected(nas.build_supernet(space, head=HEAD), noise=False)


@pytest.mark.parametrize("wrong", [(8, 16, 24), (16, 32, 8)])
def test_a_block_of_which_one_cell_has_no_number_is_named_with_its_widths(wrong: tuple[int, int, int]) -> None:
    class Broken(Energy):
        def block(self, cells):
            return np.where((cells.c_in == wrong[0]) & (cells.hidden == wrong[1]) & (cells.c_out == wrong[2]), math.nan, 1.0)

    rows = [[["conv_k3", [8, 24, 8], 2]], [["ir_k5", [8, 24, 8], 1, 1, {"hidden": [16, 32, 16]}]]]
    space = nas.SearchSpace.parse({"input_size": 16, "stages": rows})
    words = f"s1b0: ir_k5, {wrong[0]} to {wrong[2]} channels, hidden {wrong[1]}, on a map of 8x8: the cost is nan"
    with pytest.raises(ValueError, match=words):
        Summed(Broken(), "uJ").expected(nas.build_supernet(space, head=HEAD), noise=False)


class OfTheImage(Energy):
    """A head's cost that grows with the image, as that of resizing its logits."""

    def head(self, cells):
        return float(cells.sides[0] ** 2 + 1000 * cells.sides[-1])


@pytest.mark.parametrize("head", [HEAD, HeadDef("lraspp", 5, {"channels": 8, "low_stride": 2})], ids=lambda head: head.name)
def test_a_heads_cost_sees_the_image(head: HeadDef) -> None:
    space, objective = parsed(SMALL), Summed(OfTheImage(), "uJ")
    supernet = nas.build_supernet(space, head=head)
    for arch in samples(space, 12):
        supernet.select(arch)
        assert objective.expected(supernet, noise=True).item() == pytest.approx(objective.cost(arch, head, 3), rel=1e-12)


def test_blocks_without_hidden_channels_squeeze_none() -> None:
    seen = {}

    class Spy(Energy):
        def block(self, cells):
            seen[cells.name] = (cells.hidden, cells.shape.squeeze, cells.shape.hidden_squeeze)
            return 1.0

    Summed(Spy(), "uJ").expected(nas.build_supernet(parsed(SMALL), head=HEAD), noise=False)
    for name, (hidden, squeeze, product) in seen.items():
        assert np.array_equal(squeeze == 0, hidden == 0), name
        assert np.array_equal(product, hidden * squeeze)
    assert (seen["conv_k3_hs"][0] == 0).all()
    assert (seen["ir_k5_se_hs"][1] > 0).all()


def test_what_runs_nothing_has_no_peak() -> None:
    assert _peak([], 0.0) == 0


def test_peak_memory_is_for_classifiers_alone() -> None:
    space, memory, head = parsed(SMALL), PeakMemory(), HeadDef("lraspp", 3)
    supernet = SimpleNamespace(head_def=head)
    asked = (lambda: memory.cost(space.sample(0), head, 3), lambda: memory.expected(supernet, True), lambda: memory.ends(space, head, 3))
    for ask in asked:
        with pytest.raises(InputError, match="memory: the head lraspp reads several maps"):
            ask()


def test_expected_peak_memory_is_exact_where_it_is_enumerated_and_bounded_elsewhere() -> None:
    space, memory = parsed(SMALL), PeakMemory()
    supernet = nas.build_supernet(space, head=HEAD)
    random_alphas(supernet)
    probabilities = supernet.probabilities()
    every = [(math.prod(float(probabilities[n][i]) for n, i in picks.items()), memory.cost(a, HEAD, 3)) for picks, a in members(space)]
    exact = math.fsum(p * cost for p, cost in every)
    assert memory.exact(supernet)
    assert memory.expected(supernet, noise=False).item() == pytest.approx(exact, rel=1e-12)
    assert memory.ends(space, HEAD, 3) == (min(c for _, c in every), max(c for _, c in every))
    bound = _Bound(memory, supernet)
    assert exact <= bound(supernet, False).item() <= 1.5 * exact
    for arch in samples(space, 20):
        supernet.select(arch)
        cost = memory.cost(arch, HEAD, 3)
        assert memory.expected(supernet, noise=True).item() == cost
        assert bound(supernet, True).item() == cost
    supernet.sample(2.0)
    for function in (memory.expected, bound):
        supernet.zero_grad()
        function(supernet, True).backward()
        learns = {name for name, alpha in supernet.alphas().items() if alpha.grad is not None and alpha.grad.any()}
        assert {"input_size", "s1b0.block", "s1b0.hidden", "s2b0.hidden"} <= learns  # widths of small maps have no part in the peak
    assert not memory.exact(nas.build_supernet(parsed(DEEP), head=HEAD))


@pytest.mark.parametrize(
    ("target", "objective", "limits", "kept"),
    [(8.0, "latency", (), True), (6e4, "macs", {"latency": "8 ms"}, True), (6e4, "macs", {"params": "4k"}, False)],
)
def test_a_run_keeps_the_content_of_its_table(target, objective, limits, kept) -> None:
    """Where milliseconds are its target or a limit: the file may change or go before the run goes on."""
    table = nas.LatencyTable.load("digits_onnxruntime_fp32")
    found = with_table(SearchOptions(target, objective, table="digits_onnxruntime_fp32", limits=limits)).table
    assert found == (table.to_dict() if kept else "digits_onnxruntime_fp32")


def test_limits_are_at_most() -> None:
    space = parsed(SMALL)
    table = random_table()
    options = SearchOptions(60_000, "macs", table=table, limits={"params": "4k", "latency": "0.15 ms"}, tolerance=0.3)
    goal = check_target(options, space, HEAD)
    supernet = nas.build_supernet(space, head=HEAD)
    assert [one.objective for one in goal.limits] == ["params", "latency"]
    over = [max(0.0, one.measure.expected(supernet, True).item() / one.most - 1) for one in goal.limits]
    term = abs(supernet.cost().macs.item() / 60_000 - 1) + sum(over)
    assert goal.term(supernet).item() == pytest.approx(term)
    for arch in samples(space, 50):
        kept = arch.cost(10).params <= 4000 and table.latency(arch, 10) <= 0.15
        assert goal.allows(arch) == kept
        assert goal.costs(arch) == {"macs": arch.cost(10).macs, "params": arch.cost(10).params, "latency": table.latency(arch, 10)}
    for changes, words in [
        ({"limits": {"macs": "60k"}}, "SEARCH.LIMITS: macs: it has the target"),
        ({"limits": {"watts": "1"}}, "SEARCH.LIMITS: 'watts' is no objective"),
        ({"limits": {"params": "8 ms"}}, "SEARCH.LIMITS: params: '8 ms' is a limit of latency"),
        ({"limits": ["params: 1"]}, "SEARCH.LIMITS: params: 1 parameters is less than any network of the space"),
        ({"limits": ["latency: 8 ms"], "table": ""}, "SEARCH.TABLE: empty"),
        ({"objective": "latency", "table": "nowhere.json"}, "nowhere.json"),
    ]:
        with pytest.raises(InputError, match=words):
            check_target(SearchOptions(**{"target": 60_000, "tolerance": 0.3, **changes}), space, HEAD)
    assert parse_limits(["macs: 60M", "latency: 8 ms"]) == {"macs": 60e6, "latency": 8.0}


def test_latency_at_soft_gates_pulls_away_from_dear_blocks() -> None:
    """The gradient of a made-up device's milliseconds, whose 5x5 kernels are dear, falls on the alphas of these."""
    space = parsed(SMALL)
    supernet = nas.build_supernet(space, head=HEAD)
    goal = check_target(SearchOptions(8, "latency", table=made_up({"depthwise5": {"one": 10.0}})), space, HEAD)
    goal.expected(supernet).backward()
    gradient = supernet.alphas()["s1b0.block"].grad
    names = space.layers[1].names
    assert gradient is not None
    assert int(gradient.argmax()) == names.index("ir_k5_se_hs")
    assert torch.equal(gradient > 0, torch.tensor([name == "ir_k5_se_hs" for name in names]))


def test_the_docs_say_up_to_which_space_the_peak_is_exact() -> None:
    text = (ROOT / "docs" / "latency.md").read_text(encoding="utf-8")
    assert f"spaces of up to {ENUMERATED:,} combinations" in text


def test_cells_of_a_head_say_which_map_they_are_of() -> None:
    widths, sides = np.array([8.0, 16.0]), (64, 16, 4)
    assert HeadCells(HeadDef("classifier", 5), 0, widths, (32, 4)).where([1]) == "head classifier, map 0 of 16 channels, 4x4"
    lraspp = HeadDef("lraspp", 5)
    assert HeadCells(lraspp, 0, widths, sides).where([0]) == "head lraspp, map 0 of 8 channels, 16x16"
    assert HeadCells(lraspp, 1, widths, sides).where([0]) == "head lraspp, map 1 of 8 channels, 4x4"
    assert HeadCells(HeadDef("ssdlite", 5), 3, widths, sides).where([0]).endswith("4x4")  # a coarser one, made of the last


def test_a_space_as_large_as_is_enumerated_is_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    supernet, objective = nas.build_supernet(parsed(SMALL), 10), PeakMemory()
    for most, exact in ((575, False), (576, True)):
        monkeypatch.setattr("mobile_cv_nas.search.memory.ENUMERATED", most)
        assert objective.exact(supernet) == exact


def test_the_first_of_a_heads_cells_without_a_number_is_named() -> None:
    class Broken(Energy):
        def head(self, cells: HeadCells) -> np.ndarray:
            return np.where(cells.width == 16, math.nan, 1.0)

    space = parsed(SMALL)
    register_objective("broken", Broken(), "bb")
    try:
        with pytest.raises(
            ValueError, match=r"head classifier, map 0 of 16 channels, \dx\d: the cost is nan; give a number for every cell"
        ):
            objective_of("broken").expected(nas.build_supernet(space, 10), True)
    finally:
        forget_objective("broken")


def test_what_computes_nothing_alone_costs_nothing() -> None:
    """Of these blocks the third hands on its input; the second has no expand convolution."""

    class Ones:
        constant = 10.0

        def block(self, cells):
            return 1.0

        def head(self, cells):
            return 1.0

    rows = [[["conv_k3", 8]], [["ir_k3", 8, 1, 1, {"expansion": 1}]], [["skip", 8]], [["skip", 16]]]
    arch, ones = nas.ArchDef.parse({"input_size": 8, "stages": rows}), Summed(Ones(), "uJ")
    assert ones.cost(arch, HEAD, 3) == 10 + 3 + 1
    assert ones.expected(nas.build_supernet(arch, 10), False).item() == 10 + 3 + 1
