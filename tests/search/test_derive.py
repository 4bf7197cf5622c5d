"""From alphas to one arch near the target."""

import itertools
import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from latency import random_table
from searches import build_searcher, tiny_cfg
from spaces import TINY, parsed

import mobile_cv_nas as nas
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.search import derive, facts
from mobile_cv_nas.search.derive import derive_arch, draw_candidates, measure_arch
from mobile_cv_nas.search.evolve import Evolution
from mobile_cv_nas.search.goal import DeriveError, Goal, Limit
from mobile_cv_nas.search.judge import Choosing, Judge, best_of, new_memory
from mobile_cv_nas.search.objective import Summed, objective_of
from mobile_cv_nas.search.run import _spent

TEN = HeadDef("classifier", 10)


def test_candidates_are_those_near_the_target_most_probable_first():
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[[["ir_k3", "ir_k5"], [4, 16, 4], 2, 1, {"hidden": 8}]]]})
    weights = {"s0b0.block": torch.tensor([0.7, 0.3]), "s0b0.channels": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    archs = {}
    for picks in itertools.product(range(2), range(4)):
        named = dict(zip(weights, picks, strict=True))
        archs[space.decode(named)] = math.prod(float(weights[name][i]) for name, i in named.items())
    costs = sorted(space.cost(arch, 10).macs for arch in archs)
    goal = Goal("macs", costs[4], 0.1, TEN)
    found = draw_candidates(space, weights, goal, draws=2000, seed=0)
    near = {arch for arch in archs if goal.met(space.cost(arch, 10).macs)}
    assert 1 < len(near) < len(archs)
    assert {candidate.arch for candidate in found} == near
    chances = [archs[candidate.arch] for candidate in found]
    assert chances == sorted(chances, reverse=True)
    assert [math.exp(candidate.log_probability) for candidate in found] == pytest.approx(chances)
    assert [candidate.cost for candidate in found] == [space.cost(candidate.arch, 10).macs for candidate in found]


SKIPPING = """
input_size: 8
stages:
  - [[[ir_k3, ir_k5], [4, 12, 4], 2, 1, {hidden: [8, 16, 8]}]]
  - [[[ir_k3, ir_k5, skip], [4, 12, 4], 1, 2, {hidden: [8, 16, 8]}]]
"""


def test_the_probability_of_a_candidate_is_that_of_its_arch(tmp_path):
    (tmp_path / "space.yaml").write_text(SKIPPING)
    space = nas.SearchSpace.load(tmp_path / "space.yaml")
    generator = torch.Generator().manual_seed(0)
    tables = {c.name: torch.randn(len(c.options), generator=generator, dtype=torch.float64).softmax(0) for c in space.choices}
    truth: dict[nas.ArchDef, float] = {}  # by enumeration of all picks
    for picks in itertools.product(*(range(len(table)) for table in tables.values())):
        named = dict(zip(tables, picks, strict=True))
        chance = math.prod(float(tables[name][i]) for name, i in named.items())
        arch = space.decode(named)
        truth[arch] = truth.get(arch, 0.0) + chance
    assert sum(truth.values()) == pytest.approx(1)
    assert len(truth) == 12 * (12 + 1) ** 2
    target = sorted(space.cost(arch, 10).macs for arch in truth)[len(truth) // 2]
    found = draw_candidates(space, tables, Goal("macs", target, 0.9, TEN), draws=3000, seed=0)
    assert len(found) > 200
    assert any(name.names[0] == "skip" for candidate in found[:20] for name in candidate.arch.layers)
    for candidate in found:
        assert math.exp(candidate.log_probability) == pytest.approx(truth[candidate.arch], rel=1e-9)
    order = [truth[candidate.arch] for candidate in found]
    assert order == sorted(order, reverse=True)


def test_decided_alphas_far_from_the_target_are_drawn_from_more_widely(caplog):
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["ir_k3", [4, 16, 4], 2, 1, {"hidden": 8}]]]})
    decided = {"s0b0.channels": torch.tensor([1.0, 0.0, 0.0, 0.0])}
    target = space.cost(space.largest(10), 10).macs
    found = draw_candidates(space, decided, Goal("macs", target, 0.01, TEN), draws=50, seed=0)
    assert [candidate.cost for candidate in found] == [target]
    assert "more widely" in caplog.text
    with pytest.raises(DeriveError, match=rf"the nearest has {target:,}"):
        draw_candidates(space, decided, Goal("macs", target * 1.02, 0.01, TEN), draws=50, seed=0)


def judge(measure, memory=None):
    """A judge that measures by a function of the arch alone."""
    return Judge(measure, None, lambda arch: arch.cost(10).macs, (10, 100), memory or new_memory(), lambda: None)


def test_the_argmax_competes_with_what_is_drawn(tmp_path):
    searcher = build_searcher(tiny_cfg(tmp_path))
    space, supernet, memory = searcher.space, searcher.supernet, new_memory()
    with torch.no_grad():
        for alpha in supernet.alpha_parameters():
            alpha[-1] += 1
    argmax, chances = supernet.derive(), supernet.probabilities()
    near = Goal("macs", space.cost(argmax, 10).macs * 1.04, 0.3, TEN)
    alone = derive_arch(space, argmax, {}, near, judge(None), Choosing(10, 1))
    assert (alone.how, alone.arch, alone.within, alone.compared) == ("argmax", argmax, 1, 0)
    worse = derive_arch(space, argmax, chances, near, judge(lambda arch: (0.5 - 0.1 * (arch == argmax), 0.0)), Choosing(200, 3))
    assert (worse.how, worse.compared, worse.score) == ("sampled", 3, 0.5)
    equal = derive_arch(space, argmax, chances, near, judge(lambda arch: (0.5, 0.0)), Choosing(200, 3))
    assert (equal.how, equal.arch) == ("argmax", argmax)
    left_out = derive_arch(space, None, chances, near, judge(lambda arch: (0.5, 0.0)), Choosing(200, 3))
    assert left_out.how == "sampled"
    images = [images for images, _ in itertools.islice(searcher.loaders[0].epoch(0), 3)]
    val = list(itertools.islice(searcher.loaders[1].epoch(0), 1))
    goal = Goal("macs", 12000, 0.2, TEN)
    found = judge(lambda arch: measure_arch(supernet, arch, searcher.task, images, val), memory)
    far = derive_arch(space, argmax, chances, goal, found, Choosing(200, 3))
    assert far.compared == 3
    assert far.within > 3
    assert goal.met(space.cost(far.arch, 10).macs)
    assert far.score == max(score for score, _ in memory["scores"].values())
    assert memory["judged_images"] == 3 * 10


def test_candidates_of_the_alphas_evolve(tmp_path):
    """The most probable archs are the first generation; what evolves from them is better by a measure that they do not know."""
    searcher = build_searcher(tiny_cfg(tmp_path))
    space, supernet = searcher.space, searcher.supernet
    chances, goal, seen = supernet.probabilities(), Goal("macs", 17000, 0.2, TEN), []

    def measure(arch):  # the last in some order of all archs
        seen.append(arch)
        return random.Random(repr(arch.to_dict())).random(), 0.0

    plain = derive_arch(space, None, chances, goal, judge(measure), Choosing(200, 4))
    first = seen[:]
    seen.clear()
    evolved = derive_arch(space, None, chances, goal, judge(measure), Choosing(200, 4), Evolution(4, 6, 0.3))
    assert (plain.how, evolved.how) == ("sampled", "evolved")
    assert seen[:4] == first
    assert evolved.compared == len(set(seen)) > 8
    assert evolved.score == max(measure(arch)[0] for arch in seen[:]) > plain.score
    assert all(goal.met(space.cost(arch, 10).macs) for arch in seen)
    again = derive_arch(space, None, chances, goal, judge(measure), Choosing(200, 4), Evolution(4, 6, 0.3))
    assert again == evolved
    seen.clear()
    derive_arch(space, None, chances, goal, judge(measure), Choosing(200, 4), Evolution(2, 0, 0.1))
    assert seen == first  # all that were to be compared, in a smaller population too
    best = derive_arch(
        space, plain.arch, chances, goal, judge(lambda arch: (arch == plain.arch, 0.0)), Choosing(200, 1), Evolution(4, 2, 0.1)
    )
    assert (best.how, best.arch, best.compared > 4) == ("argmax", plain.arch, True)


def test_finalists_are_trained_and_halved():
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["ir_k3", [4, 64, 4], 2, 1, {"hidden": 8}]]]})
    archs = [space.decode({"s0b0.channels": i}) for i in range(16)]
    trained = []

    def train(arch, epochs, name, earlier):  # the narrower, the better; after a second round the wider
        stage = int(name.split("-")[1])
        trained.append((stage, archs.index(arch), epochs, earlier))
        return float(archs.index(arch) if stage else -archs.index(arch)), 0.0

    memory = new_memory()
    found = Judge(None, train, lambda arch: 7, (10, 100), memory, lambda: None)
    scores = [(float(i % 8), 0.0) for i in range(16)]  # the best eight: 7, 15, 6, 14, 5, 13, 4, 12
    arch, score = Choosing(0, 16, 8, 3).best(found, archs, scores)
    assert [place for stage, place, *_ in trained if stage == 0] == [7, 15, 6, 14, 5, 13, 4, 12]
    assert [place for stage, place, *_ in trained if stage == 1] == [4, 5, 6, 7]
    assert [place for stage, place, *_ in trained if stage == 2] == [7, 6]
    assert archs.index(arch) == 7
    assert score == (7.0, 0.0)
    assert all(epochs == 3 for _, _, epochs, _ in trained)
    assert [earlier != "" for _, _, _, earlier in trained] == [stage > 0 for stage, *_ in trained]
    assert memory["trained_images"] == 14 * 3 * 100
    arch, score = Choosing(0, 16).best(judge(None), archs, scores)
    assert (archs.index(arch), score) == (7, (7.0, 0.0))


def test_a_judge_remembers_and_pauses():
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["ir_k3", [4, 64, 4], 2, 1, {"hidden": 8}]]]})
    archs = [space.decode({"s0b0.channels": i}) for i in range(16)]
    asked, pauses = [], []

    def measure(arch):
        asked.append(arch)
        return float(arch.cost(10).macs), 0.0

    first = Judge(measure, None, lambda arch: 7, (10, 100), new_memory(), lambda: pauses.append(len(asked)))
    costs = [(float(arch.cost(10).macs), 0.0) for arch in archs]
    assert first.scores(archs[:12]) == costs[:12]
    assert first.scores(archs) == costs
    assert asked == archs
    assert pauses == [8, 12, 16]
    assert (first.memory["judged_images"], first.memory["judged_macs"]) == (160, 1120)
    again = Judge(None, None, lambda arch: 7, (10, 100), json.loads(json.dumps(first.memory)), lambda: None)
    assert again.scores(archs[::-1]) == costs[::-1]


@pytest.mark.parametrize("limited", [False, True])
def test_where_none_is_found_the_nearest_is_named(limited):
    limits = (Limit("params", 10.0, objective_of("params")),) if limited else ()
    space = parsed(TINY)
    probabilities = {choice.name: torch.ones(len(choice.options)) / len(choice.options) for choice in space.choices}
    least = space.smallest(10).cost(10).macs
    goal = Goal("macs", least * (1.0 if limited else 0.5), 0.1, HeadDef("classifier", 10), limits=limits)
    words = "macs that keeps SEARCH.LIMITS was found" if limited else "macs was found"
    with pytest.raises(DeriveError, match=words) as caught:
        draw_candidates(space, probabilities, goal, 300, 0)
    assert "the nearest has" in str(caught.value)


def test_by_default_no_finalist_is_trained():
    plain = Choosing(200, 3)
    assert plain == Choosing(200, 3, finalists=1, epochs=0, seed=0)
    assert plain.training == 0
    assert Choosing(200, 8, finalists=4, epochs=3).training == 3 * (4 + 2)


def test_of_finalists_that_end_alike_the_first_is_taken():
    archs = [parsed(TINY).sample(seed) for seed in range(6)]
    asked = []

    def train(arch, epochs, name, earlier):
        asked.append(arch)
        return 0.5, 0.0

    judge = Judge(None, train, lambda arch: 1, (1, 1), new_memory(), lambda: None)
    scores = [(0.2, 0.0), (0.9, 0.0), (0.4, 0.0), (0.9, 0.0), (0.8, 0.0), (0.1, 0.0)]
    arch, score = Choosing(10, 6, finalists=4, epochs=1).best(judge, archs, scores)
    assert asked == [archs[1], archs[3], archs[4], archs[2], archs[1], archs[3]]  # of equals the first, in each round
    assert (arch, score) == (archs[1], (0.5, 0.0))
    assert Choosing(10, 6).best(judge, archs, scores) == (archs[1], (0.9, 0.0))


def test_where_none_is_near_the_alphas_are_halved_and_halved_again(monkeypatch):
    space, tried = parsed(TINY), []
    flatten = derive._flatten
    monkeypatch.setattr(derive, "_flatten", lambda p, sharpness: tried.append(sharpness) or flatten(p, sharpness))
    first = {choice.name: torch.eye(len(choice.options))[0] for choice in space.choices}  # decided for the smallest
    goal = Goal("macs", space.largest(10).cost(10).macs * 0.9, 0.05, TEN)
    found = draw_candidates(space, first, goal, 200, 0)
    assert all(goal.met(one.cost) for one in found)
    assert list(dict.fromkeys(tried)) == [1.0, 0.5, 0.25, 0.125, 0.0]
    assert derive._flatten(torch.tensor([0.8, 0.2]), 0.5) == pytest.approx([2 / 3, 1 / 3])


def test_the_best_of_equals_is_the_first():
    archs = [parsed(TINY).sample(seed) for seed in range(4)]
    assert best_of(archs, [(0.5, 0.0)] * 4) == 0
    assert best_of(archs, [(0.5, 0.0), (0.7, 0.0), (0.7, 0.1), (0.7, 0.1)]) == 2


@pytest.mark.parametrize("here", [True, False])
def test_milliseconds_are_measured_where_the_runtime_is_here(here, monkeypatch):
    space = parsed(TINY)
    table, supernet, arch = random_table(), nas.build_supernet(space, 10), space.sample(0)
    goal = Goal("latency", 1.0, 0.1, TEN, 3, Summed(table, "ms"))
    monkeypatch.setattr(facts, "cannot_measure", lambda table: "" if here else "it is elsewhere")
    monkeypatch.setattr(facts, "measure_here", lambda network, of, side, channels: (network, of is table, side, channels))
    found = facts.cost_facts(goal, supernet, arch, lambda: "its network")
    assert found["latency_measured"] == (("its network", True, arch.input_size, 3) if here else None)
    assert found.get("latency_not_measured") == (None if here else "it is elsewhere")
    assert found["latency"] == table.latency(arch, 10)


def test_what_a_search_has_spent_counts_its_trainings():
    judged = {"trained_images": 7, "trained_macs": 70, "judged_images": 5, "judged_macs": 50}
    searcher, loop = SimpleNamespace(spent={"images": 10.2, "macs": 100.4}), SimpleNamespace(results={"judged": judged})
    assert _spent(searcher, loop) == {"search_images": 17, "search_macs": 170, "judged_images": 5, "judged_macs": 50}
