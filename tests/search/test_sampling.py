"""Random archs at a target, evolution that never leaves it, and the uniform paths of one-shot."""

import collections
import itertools
import math
import random
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest
from searches import build_searcher, short
from spaces import DEEP, parsed

import mobile_cv_nas as nas
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.search import evolve, sampling
from mobile_cv_nas.search.evolve import Evolution
from mobile_cv_nas.search.goal import DeriveError, Goal
from mobile_cv_nas.search.judge import Judge, new_memory
from mobile_cv_nas.search.sampling import is_sane, random_archs, sane_picks, scaled_arch
from mobile_cv_nas.search.strategies import slimming
from mobile_cv_nas.search.strategies.predictor import features, fit, predict

TEN = HeadDef("classifier", 10)


def goal_at(space, share, tolerance=0.05):
    low, high = (find(by="macs", head=TEN).cost(10).macs for find in (space.smallest, space.largest))
    return Goal("macs", low + share * (high - low), tolerance, TEN)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_random_archs_meet_the_goal_and_differ(share):
    space = parsed(DEEP)
    goal = goal_at(space, share)
    archs = random_archs(space, goal, 8, random.Random(0))
    assert len(set(archs)) == 8
    assert all(abs(arch.cost(10).macs / goal.target - 1) <= 0.05 for arch in archs)
    assert archs == random_archs(space, goal, 8, random.Random(0))


def test_sane_archs_do_not_narrow():
    space = parsed(DEEP)
    archs = random_archs(space, goal_at(space, 0.3), 12, random.Random(0), sane=True)
    for arch in archs:
        own = [layer.channels[0] for layer in arch.layers if layer.names[0] != "skip"]
        assert all(a <= b for a, b in itertools.pairwise(own)), own
    assert len({tuple(layer.names[0] for layer in arch.layers) for arch in archs}) > 6


def test_sane_widths_are_all_that_do_not_fall():
    """Neighbours of the same options, others that overlap with these, and at last some that end below them."""
    rows = [["ir_k3", [8, 16, 8], 1, 2], ["ir_k3", [16, 24, 8]], ["ir_k3", [4, 12, 4]]]
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[row] for row in rows]})
    choices = [choice for choice in space.choices if choice.name.endswith(".channels")]
    found = set()
    for seed in range(300):
        picks = sane_picks(space, random.Random(seed))
        assert is_sane(space, picks)
        found.add(tuple(choice.options[picks[choice.name]] for choice in choices))
    every = itertools.product(*(choice.options for choice in choices))
    assert found == {one for one in every if one[0] <= one[1] <= one[2] and one[3] == 12}  # where all fall, the widest
    for widths in itertools.product(*(choice.options for choice in choices)):
        picks = {choice.name: choice.options.index(width) for choice, width in zip(choices, widths)}
        assert is_sane(space, picks) == (widths in found)


@pytest.mark.parametrize("sane", [False, True])
def test_where_drawing_is_rare_archs_are_led(sane, monkeypatch):
    """By draws of their own kind and by steps that stay in it; after the first miss each arch is drawn once before it is led."""
    space, name = parsed(DEEP), "sane_picks" if sane else "uniform_picks"
    goal, drawn, starts = goal_at(space, 0.97, 0.002), [], []
    draw, led = getattr(sampling, name), sampling.led

    def drawing(*given):
        drawn.append(draw(*given))
        return drawn[-1]

    def leading(space, goal, start, rng, allowed):
        starts.append(start)
        assert (allowed is None) != sane
        return led(space, goal, start, rng, allowed)

    monkeypatch.setattr(sampling, "DRAWS", 7)
    monkeypatch.setattr(sampling, name, drawing)
    monkeypatch.setattr(sampling, "led", leading)
    if not sane:
        monkeypatch.setattr(sampling, "sane_picks", None)
    archs = random_archs(space, goal, 4, random.Random(0), sane)
    assert len(set(archs)) == 4
    assert all(goal.met(arch.cost(10).macs) for arch in archs)
    assert all(start in drawn for start in starts)
    if sane:
        for arch in archs:
            own = [layer.channels[0] for layer in arch.layers if layer.names[0] != "skip"]
            assert all(a <= b for a, b in itertools.pairwise(own)), own
    else:
        assert len(drawn) == 7 + 2 * len(starts) - 1  # nothing was drawn at the goal


def test_too_few_archs_are_refused():
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["ir_k3", [4, 16, 4], 2, 1, {"hidden": 8}]]]})
    with pytest.raises(DeriveError, match=r"1 archs within"):
        random_archs(space, Goal("macs", space.smallest(10).cost(10).macs, 0.01, TEN), 2, random.Random(0))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_scaled_arch_keeps_every_layer(share):
    space = parsed(DEEP)
    goal = goal_at(space, share)
    arch = scaled_arch(space, goal)
    assert goal.met(arch.cost(10).macs)
    assert space.contains(arch)
    assert [layer.names[0] for layer in arch.layers] == [layer.names[0] for layer in space.layers]


def test_a_first_generation_that_is_full_draws_no_other(monkeypatch):
    space = parsed(DEEP)
    goal = goal_at(space, 0.3)
    first = random_archs(space, goal, 6, random.Random(1))
    monkeypatch.setattr("mobile_cv_nas.search.evolve.random_archs", None)
    for generations in (0, 2):
        found = Evolution(6, generations, 0.1).run(space, goal, lambda archs: [(0.0, 0.0)] * len(archs), random.Random(0), first)
        assert set(first) <= {arch for arch, _ in found}
    assert len(Evolution(6, 0, 0.1).run(space, goal, lambda archs: [(0.0, 0.0)] * len(archs), random.Random(0), first)) == 6


def test_a_space_with_one_arch_at_the_target_is_no_error():
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["ir_k3", [4, 16, 4], 2, 1, {"hidden": 8}]]]})
    cost = space.smallest(10).cost(10).macs
    found = Evolution(4, 3, 0.1).run(space, Goal("macs", cost, 0.01, TEN), lambda archs: [(1.0, 0.0)] * len(archs), random.Random(0))
    assert [arch for arch, _ in found] == [space.smallest(10)]
    with pytest.raises(DeriveError, match=r"0 archs within"):
        Evolution(4, 3, 0.1).run(space, Goal("macs", cost / 9, 0.01, TEN), lambda archs: [(1.0, 0.0)] * len(archs), random.Random(0))


def test_evolution_never_leaves_the_target_and_improves():
    space = parsed(DEEP)
    goal, seen = goal_at(space, 0.3), []

    def fitness(archs):  # wide outputs and few hidden channels
        seen.extend(archs)
        return [(float(sum(layer.channels[0] - layer.hidden[0] for layer in arch.layers)), 0.0) for arch in archs]

    found = Evolution(12, 8, 0.1).run(space, goal, fitness, random.Random(0))
    assert all(abs(arch.cost(10).macs / goal.target - 1) <= 0.05 for arch in seen)
    assert len(seen) == len(set(seen)) == len(found)  # nothing is asked twice
    assert found[0][1] == max(score for _, score in found) == fitness([found[0][0]])[0]
    assert found[0][1] > max(fitness(random_archs(space, goal, 12, random.Random(1))))
    again = Evolution(12, 8, 0.1).run(space, goal, fitness, random.Random(0))
    assert again == found


def test_half_of_a_generation_has_two_parents(monkeypatch):
    """The quarter of the archs that is best are parents."""
    space, given = parsed(DEEP), []
    goal = goal_at(space, 0.3)
    first = random_archs(space, goal, 40, random.Random(1))
    mutate = evolve.mutated
    monkeypatch.setattr(evolve, "mutated", lambda space, one, rng, rate: (given.append(one), mutate(space, one, rng, 1.0))[1])
    monkeypatch.setattr(evolve, "led", lambda space, goal, picks, rng: picks)  # each is born at once
    Evolution(40, 1, 0.1).run(space, goal, lambda archs: [(float(-i), 0.0) for i in range(len(archs))], random.Random(0), first)
    parents = [space.encode(arch) for arch in first[:10]]
    assert len(given) == 40
    assert all(one in parents for one in given[::2])
    assert sum(one not in parents for one in given[1::2]) > 12  # of some both parents are the same
    assert all(all(any(p[name] == option for p in parents) for name, option in one.items()) for one in given)


def test_uniform_paths_by_chi_square(tmp_path):
    strategy = build_searcher(short(tmp_path, "one_shot")).strategy
    counts, draws = collections.defaultdict(collections.Counter), 3000
    pairs = collections.Counter()
    for step in range(draws):
        strategy.prepare("weights", step // 100, step % 100)
        (path,) = strategy.paths
        for name, option in path.items():
            counts[name][option] += 1
        pairs[path["s1b0.channels"], path["s1b1.hidden"]] += 1
    for choice in strategy.supernet.space.choices:
        options = len(choice.options)
        expected = draws / options
        chi = sum((counts[choice.name][i] - expected) ** 2 / expected for i in range(options))
        assert chi < {2: 10.8, 3: 13.8}[options], choice.name  # one in a thousand
    assert sum((pairs[a, b] - draws / 4) ** 2 / (draws / 4) for a in range(2) for b in range(2)) < 16.3  # independent


def test_the_draws_of_a_step_are_the_same_whenever_it_is_made(tmp_path):
    one, two = (build_searcher(short(tmp_path, "one_shot")).strategy for _ in range(2))
    one.prepare("weights", 0, 0)
    for strategy in (one, two):
        strategy.prepare("weights", 3, 5)
    assert one.paths == two.paths


def test_of_two_random_archs_both_are_trained(tmp_path):
    strategy = build_searcher(short(tmp_path, "random", "SEARCH.RANDOM.ARCHS", 2)).strategy
    trained = []

    def train(arch, epochs, name, earlier):
        trained.append(arch)
        return float(len(trained)), 0.0  # the second is the better one

    found = strategy.propose(Judge(None, train, lambda arch: 1, (1, 1), new_memory(), lambda: None))
    assert len(set(trained)) == len(trained) == 2
    assert (found.arch, found.compared, found.score) == (trained[1], 2, 2.0)


def test_halves_of_random_archs_are_trained_on_until_one_is_left(tmp_path):
    """8 for two epochs, 4 for four more, 2 for eight more: a third of the budget each."""
    options = ["SEARCH.RANDOM.ARCHS", 8, "SEARCH.EPOCHS", 48, "SEARCH.TOLERANCE", 0.3]
    strategy = build_searcher(short(tmp_path, "random", *options)).strategy
    trained = []

    def train(arch, epochs, name, earlier):
        trained.append((arch, epochs, name, earlier))
        return float(arch.cost(10).params % 97), 0.0

    found = strategy.propose(Judge(None, train, lambda arch: 1, (1, 1), new_memory(), lambda: None))
    assert [epochs for _, epochs, _, _ in trained] == [2] * 8 + [4] * 4 + [8] * 2
    quality = [arch.cost(10).params % 97 for arch, *_ in trained]
    assert sorted(quality[8:12]) == sorted(quality[:8])[4:]
    assert found.score == quality[12] == max(quality)
    names = {arch: name for arch, _, name, _ in trained[:8]}
    assert [earlier for arch, _, _, earlier in trained[8:12]] == [names[arch] for arch, *_ in trained[8:12]]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_predictor_spends_its_epochs_on_samples_and_finalists(sign, tmp_path):
    """10 archs for 4 epochs; the finalists are those that it expects the most of."""
    options = ["SEARCH.PREDICTOR.SAMPLES", 8, "SEARCH.EPOCHS", 40, "SEARCH.TOLERANCE", 0.4, "SEARCH.EVOLUTION.GENERATIONS", 10]
    strategy = build_searcher(short(tmp_path, "predictor", *options, "SEARCH.EVOLUTION.POPULATION", 16)).strategy
    trained = []

    def train(arch, epochs, name, earlier):
        trained.append((epochs, sign * (arch.layers[1].channels[0] + arch.layers[1].hidden[0] / 100)))
        return trained[-1][1], 0.0

    found = strategy.propose(Judge(None, train, lambda arch: 1, (1, 1), new_memory(), lambda: None))
    assert [epochs for epochs, _ in trained] == [4] * 10
    samples, finalists = [value for _, value in trained[:8]], [value for _, value in trained[8:]]
    assert min(finalists) > statistics.fmean(samples)
    assert (found.score, found.compared) == (max(value for _, value in trained), 10)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dmasking", []),
        ("dmasking", ["SEARCH.FINALISTS", 4, "SEARCH.FINALIST_EPOCHS", 3]),
        ("dmasking", ["SEARCH.EVOLUTION.FROM_ALPHAS", True]),
        ("one_shot", ["SEARCH.FINALISTS", 3]),
        ("random", ["SEARCH.RANDOM.ARCHS", 6]),
        ("random", ["SEARCH.RANDOM.ARCHS", 4, "SEARCH.EPOCHS", 16]),
        ("random", ["SEARCH.RANDOM.ARCHS", 1]),
        ("predictor", ["SEARCH.PREDICTOR.SAMPLES", 6]),
        ("predictor", ["SEARCH.PREDICTOR.SAMPLES", 4, "SEARCH.EPOCHS", 10]),
        ("single", []),
    ],
)
def test_what_is_asked_of_the_judge_is_known_before(name, more, tmp_path):
    options = ["SEARCH.TOLERANCE", 0.4, "SEARCH.EVOLUTION.POPULATION", 6, "SEARCH.EVOLUTION.GENERATIONS", 3, "SEARCH.CANDIDATES", 5]
    strategy = build_searcher(short(tmp_path, name, *options, *more)).strategy
    measured, epochs = [], []

    def measure(arch):
        measured.append(arch)
        return random.Random(len(measured)).random(), 0.0

    def train(arch, count, name, earlier):
        epochs.append(count)
        return random.Random(len(epochs)).random(), 0.0

    strategy.propose(Judge(measure, train, lambda arch: 1, (1, 1), new_memory(), lambda: None))
    assert strategy.asks() == (len(measured), sum(epochs))


# -- the predictor, and slimming -------------------------------------------------------------------------------------


def test_the_predictor_beats_the_mean_on_held_out_archs():
    space = parsed(DEEP)
    archs = random_archs(space, goal_at(space, 0.3), 60, random.Random(0))
    rng = random.Random(1)

    def accuracy(arch):  # depth and width help, with diminishing returns; noise of trainings
        widths = [math.log(layer.channels[0]) for layer in arch.layers]
        skips = sum(layer.names[0] == "skip" for layer in arch.layers)
        return 0.6 + 0.05 * sum(widths) / len(widths) - 0.03 * skips + 0.01 * arch.layers[-2].hidden[0] / 64 + rng.gauss(0, 0.003)

    truth = [accuracy(arch) for arch in archs]
    process = fit(space, archs[:30], truth[:30])
    guesses, mean = predict(process, space, archs[30:]), statistics.fmean(truth[:30])
    errors = [statistics.fmean((g - t) ** 2 for g, t in zip(of, truth[30:])) for of in (guesses, [mean] * 30)]
    assert errors[0] < 0.4 * errors[1]
    order = sorted(range(30), key=lambda i: guesses[i])
    assert statistics.fmean(truth[30 + i] for i in order[15:]) > statistics.fmean(truth[30 + i] for i in order[:15])


def test_slimming_takes_the_best_step_until_the_target_is_met(tmp_path):
    strategy = build_searcher(short(tmp_path, "slimming")).strategy
    space, asked = strategy.supernet.space, []

    def measure(arch):
        asked.append(arch)
        return float(sum(layer.channels[0] for layer in arch.layers)), 0.0  # hidden widths are not missed

    found = strategy.propose(Judge(measure, None, lambda arch: 1, (1, 1), new_memory(), lambda: None))
    assert len(asked) / 2.5 <= strategy.asks()[0] <= len(asked) * 2.5  # about
    widest = space.largest(10)
    assert strategy.goal.met(space.cost(found.arch, 10).macs)
    assert [layer.names for layer in found.arch.layers] == [layer.names for layer in widest.layers]
    assert (found.how, found.compared) == ("slimmed", len(asked))
    first = [arch for arch in asked if sum(a.hidden + a.channels != b.hidden + b.channels for a, b in zip(arch.layers, widest.layers)) == 1]
    assert first  # one width smaller than the widest
    for one, two in zip(widest.layers, found.arch.layers):
        assert two.channels[0] <= one.channels[0]
        assert two.hidden[0] <= one.hidden[0]
    assert [layer.channels for layer in found.arch.layers] == [layer.channels for layer in widest.layers]


def test_slimming_trains_widths_alone(tmp_path):
    strategy = build_searcher(short(tmp_path, "slimming")).strategy
    space = strategy.supernet.space
    widest = space.encode(space.largest(10))
    blocks = [name for name in widest if name.endswith(".block")]
    seen = set()
    for step in range(20):
        strategy.prepare("weights", 0, step)
        assert strategy.paths[0] == widest
        assert all(path[name] == widest[name] for path in strategy.paths for name in blocks)
        assert all(option == 0 for name, option in strategy.paths[1].items() if name not in blocks)
        seen |= {tuple(path.items()) for path in strategy.paths[2:]}
    assert len(seen) > 5


@pytest.mark.parametrize(("target", "most"), [(17000.0, 1050), (21600.0, 1450)])  # a step further keeps the limit; no step does
def test_slimming_keeps_the_limits(target, most, tmp_path):
    cfg = short(tmp_path, "slimming", "SEARCH.TARGET", target, "SEARCH.LIMITS", [f"params: {most}"])
    strategy = build_searcher(cfg).strategy

    asked = []

    def measure(arch):
        asked.append(arch)
        return sum(layer.channels[0] for layer in arch.layers) - arch.layers[1].hidden[0] / 100, 0.0

    found = strategy.propose(Judge(measure, None, lambda arch: 1, (1, 1), new_memory(), lambda: None))
    assert abs(found.arch.cost(10).macs / target - 1) <= 0.05
    assert found.arch.cost(10).params <= most
    assert found.compared == len(asked)
    assert found.score == measure(found.arch)[0]


@pytest.mark.parametrize("name", ["slimming", "one_shot"])
def test_the_widest_network_of_another_objective_is_that_of_most_macs(name, tmp_path):
    more = ["SEARCH.ONE_SHOT.SANDWICH", True] if name == "one_shot" else []
    strategy = build_searcher(short(tmp_path, name, "SEARCH.OBJECTIVE", "memory", "SEARCH.TARGET", 1000.0, *more)).strategy
    assert strategy.ends[0] == strategy.supernet.space.encode(strategy.supernet.space.largest(10))


def test_slimming_keeps_the_blocks_where_every_step_would_miss(tmp_path, monkeypatch):
    strategy = build_searcher(short(tmp_path, "slimming")).strategy
    space = strategy.supernet.space
    widest = space.encode(space.largest(10))
    led = strategy._led(widest)
    assert strategy.goal.met(space.cost(space.decode(led), 10).macs)
    assert {name: option for name, option in led.items() if name.endswith(".block")} == {
        name: option for name, option in widest.items() if name.endswith(".block")
    }
    assert led != widest
    monkeypatch.setattr("mobile_cv_nas.search.strategies.slimming.led", lambda *_: None)
    with pytest.raises(DeriveError, match=r"slimming met no network within 5% of SEARCH\.TARGET; widen it"):
        strategy._led(widest)


def test_how_many_archs_slimming_asks_for(tmp_path):
    """Each of the steps looks at every width; from an end to the other of 2, 5, 17 and 20 options are 1, 4, 8 and 10 of them."""
    strategy = build_searcher(short(tmp_path, "slimming")).strategy
    space = strategy.supernet.space
    widest, narrowest = (strategy.goal.cost(space, space.decode(end)) for end in strategy.ends)
    strategy.slimmed = [SimpleNamespace(options=range(count)) for count in (2, 5, 17, 20)]
    for target, steps in ((narrowest, 23), ((widest + narrowest) / 2, 12), (widest, 0), (2 * widest, 0)):
        strategy.goal = replace(strategy.goal, target=float(target))
        assert strategy.asks() == (steps * 4, 0)


def test_how_many_archs_evolution_looks_at():
    """Two, at least, make a generation."""
    assert [Evolution(size, 3, 0.1).archs for size in (1, 2, 3, 50)] == [8, 8, 12, 200]
    assert Evolution(50, 0, 0.1).archs == 50


def test_the_best_quarter_of_what_was_seen_is_bred_and_two_at_least(monkeypatch):
    space, parents = parsed(DEEP), []
    goal = goal_at(space, 0.3)
    monkeypatch.setattr(Evolution, "_born", lambda self, space, goal, best, *_: parents.append(list(best)) or [])
    for size, count in ((2, 2), (8, 2), (11, 2), (12, 3), (16, 4)):
        first = random_archs(space, goal, size, random.Random(1))
        Evolution(size, 1, 0.1).run(space, goal, lambda archs: [(float(-i), 0.0) for i in range(len(archs))], random.Random(0), first)
        assert parents.pop() == first[:count]


def test_an_arch_is_numbers_to_the_predictor():
    rows = [[["conv_k3", [8, 16, 8], 2]], [[["ir_k3", "skip"], [8, 32, 8], 1, 1, {"hidden": [16, 64, 16]}]]]
    space = nas.SearchSpace.parse({"input_size": {"any": [16, 32]}, "stages": rows})
    picks = {"input_size": 0, "s0b0.channels": 0, "s1b0.block": 0, "s1b0.channels": 2, "s1b0.hidden": 1}
    assert features(space, space.decode(picks)) == [16 / 32, 8 / 16, 0.0, 24 / 32, 32 / 64, 1.0, 0.0]
    skipped = space.decode({**picks, "input_size": 1, "s1b0.block": 1})
    assert features(space, skipped)[:3] == [1.0, 8 / 16, 0.0]
    assert features(space, skipped)[-2:] == [0.0, 1.0]


def test_the_process_of_the_predictor():
    """Matern's kernel of nu 5/2 and noise, with bounds of their scales, of accuracies that are normalised; the same each time."""
    space = parsed(DEEP)
    archs = [space.sample(seed) for seed in range(6)]
    process = fit(space, archs, [0.1, 0.5, 0.3, 0.2, 0.4, 0.6])
    scale, matern, noise = process.kernel.k1.k1, process.kernel.k1.k2, process.kernel.k2
    assert (scale.constant_value, scale.constant_value_bounds) == (1.0, (1e-3, 1e3))
    assert (matern.nu, matern.length_scale, matern.length_scale_bounds) == (2.5, 3.0, (0.1, 1e3))
    assert (noise.noise_level, noise.noise_level_bounds) == (0.1, (1e-6, 1e2))
    assert (process.normalize_y, process.n_restarts_optimizer, process.random_state) == (True, 2, 0)


def test_a_step_of_slimming():
    """An eighth of the way down, one option at least; only what is cheaper, and not below the target."""
    for count, step in ((2, 1), (9, 1), (16, 1), (17, 2), (24, 2), (25, 3), (129, 16)):
        assert slimming._step(SimpleNamespace(options=range(count))) == step


def test_slimming_goes_down_to_the_narrowest_width_and_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(slimming, "_step", lambda choice: 5)
    strategy = build_searcher(short(tmp_path, "slimming")).strategy
    space, widest = strategy.supernet.space, dict(strategy.ends[0])
    narrow = {choice.name: {**widest, choice.name: 0} for choice in strategy.slimmed}
    now = space.cost(space.decode(widest), 10).macs
    costs = {name: space.cost(space.decode(picks), 10).macs for name, picks in narrow.items()}
    for target in sorted({*costs.values(), *(cost + 1 for cost in costs.values())}):
        strategy.goal = replace(strategy.goal, target=float(target), tolerance=0.0)
        assert strategy._smaller(widest) == [narrow[name] for name, cost in costs.items() if target <= cost < now]


def test_of_random_archs_that_are_alike_the_first_stay(tmp_path):
    strategy = build_searcher(short(tmp_path, "random", "SEARCH.RANDOM.ARCHS", 8, "SEARCH.TOLERANCE", 0.3)).strategy
    trained = []

    def train(arch, epochs, name, earlier):
        trained.append(arch)
        return 0.5, 0.0

    found = strategy.propose(Judge(None, train, lambda arch: 1, (1, 1), new_memory(), lambda: None))
    first = trained[:8]
    assert trained == [*first, *first[:4], *first[:2]]
    assert (found.arch, found.score) == (first[0], 0.5)
