"""Each strategy against its equation, written out independently."""

import itertools
import json
import math
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from searches import build_searcher, loop_of, search_of, short
from spaces import TINY as MIXED
from spaces import members, parsed, random_alphas, randomise, relative, samples

import mobile_cv_nas as nas
from mobile_cv_nas.config.keys import SUPERNETS
from mobile_cv_nas.engine.runtime import Runtime
from mobile_cv_nas.engine.step import Loss
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.search.strategies import darts
from mobile_cv_nas.search.strategies.base import Setting
from mobile_cv_nas.search.strategies.one_shot import OneShot
from mobile_cv_nas.search.strategies.proxyless import draw_pair
from mobile_cv_nas.search.strategies.single_path import _ring, indicator


def strategy_of(tmp_path, name, *opts):
    strategy = build_searcher(short(tmp_path, name, *opts)).strategy
    random_alphas(strategy.supernet)
    return strategy


def batch_of(strategy, phase="weights"):
    return next(iter(strategy.loaders[phase].epoch(0)))


def doubles(batch):
    return [batch[0].double(), batch[1]]


# -- gates of the caller's making ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["none", "full"])
@torch.no_grad()
def test_assigned_one_hot_gates_are_a_selected_arch(sharing):
    space = parsed(MIXED, input_size=16)
    supernet = nas.build_supernet(space, 10, sharing=sharing).eval()
    randomise(supernet)
    x = torch.randn(3, 3, 16, 16)
    for arch in samples(space, 12):
        picks = space.encode(arch)
        supernet.select(arch)
        selected, one_hot = supernet(x), supernet.table.gates().clone()
        cost = supernet.cost()
        supernet.assign(lambda gates=one_hot: gates, {name: {option} for name, option in picks.items()})
        assert relative(supernet(x), selected) < 1e-5
        assert supernet.cost() == cost
        supernet.assign(lambda gates=one_hot: gates)  # with all candidates run
        assert relative(supernet(x), selected) < 1e-5
        supernet.reset()
        assert not torch.equal(supernet(x), selected)


def test_units_that_are_off_are_not_run():
    space = parsed(MIXED, input_size=16)
    supernet = nas.build_supernet(space, 10)
    ran = []
    for key, block in supernet.blocks.items():
        for name, unit in block.units.items():
            unit.transform = lambda *a, real=unit.transform, what=f"{key}.{name}": (ran.append(what), real(*a))[1]
    picks = space.encode(samples(space, 1)[0])
    supernet.choose(picks)
    one_hot = supernet.table.gates().clone()
    alive = {choice.name: {picks[choice.name]} for choice in space.choices}
    supernet.assign(lambda: one_hot, alive)
    supernet(torch.randn(2, 3, 16, 16))
    assert len(ran) <= len(space.layers)  # one of each layer at most


# -- DARTS -----------------------------------------------------------------------------------------------------------


def test_darts_is_the_mixture_of_its_candidates(tmp_path):
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["conv_k3", 8, 2]], [[["ir_k3", "ir_k5_se_hs", "ir_k7"], 8, 2, 1]]]})
    supernet = nas.build_supernet(space, 10).eval()
    randomise(supernet)
    random_alphas(supernet)
    strategy = strategy_of(tmp_path, "darts")
    strategy.supernet = supernet
    supernet.sample(1.0)
    strategy.prepare("alphas", 0, 0)
    alpha = supernet.alphas()["s1b0.block"].detach()
    weights = [math.exp(float(a)) for a in alpha]
    x, total = torch.randn(4, 3, 8, 8), 0
    for option, weight in enumerate(weights):  # pool and classifier are linear: the mixture of maps is that of logits
        arch = space.decode({"s1b0.block": option})
        child = nas.inherit_weights(nas.build_model(arch, 10), supernet).eval()
        total = total + weight / sum(weights) * child(x).detach()
    assert relative(supernet(x).detach(), total) < 1e-5


def test_the_second_order_of_darts_is_the_gradient_through_a_step_of_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(darts, "EPSILON", 1e-5)  # no activation of these images crosses its kink
    strategy = strategy_of(tmp_path, "darts", "SEARCH.DARTS.SECOND_ORDER", True, "SEARCH.COST_WEIGHT", 0.0)
    strategy.whole_macs  # noqa: B018  # is counted once, on images of float32
    supernet, stepper = strategy.supernet.double(), strategy.steppers["weights"]  # in float32 finite differences are rough
    strategy.begin("weights", 0)
    strategy.prepare("weights", 0, 0)
    train = doubles(batch_of(strategy))
    whole = strategy._training_batch
    monkeypatch.setattr(strategy, "_training_batch", lambda key: doubles(whole(key)))
    for _ in range(3):  # so that there is momentum
        stepper.step([train], 1, lambda batch, number: strategy.loss("weights", batch, (0, 0, 0)), list)
    group = stepper.optimizer.param_groups[0]
    group["lr"], group["weight_decay"] = 0.05, 2.0  # so strong that it would be missed
    strategy.begin("alphas", 0)
    val = doubles(batch_of(strategy, "alphas"))
    before = {name: value.detach().clone() for name, value in stepper.parameters.items()}

    def loss(weights, alphas, batch):
        named = {name: weights.get(name, p) for name, p in supernet.named_parameters()} | alphas
        return F.cross_entropy(torch.func.functional_call(supernet, named, (batch[0],)), batch[1])

    alphas = {f"table.alpha.{name}": p.detach().clone().requires_grad_() for name, p in supernet.table.alpha.items()}
    leaves = {name: value.clone().requires_grad_() for name, value in before.items()}
    gradients = torch.autograd.grad(loss(leaves, alphas, train), list(leaves.values()), create_graph=True)
    moved = {}
    for (name, weight), gradient in zip(leaves.items(), gradients):
        buffer = stepper.optimizer.state[stepper.parameters[name]]["momentum_buffer"]
        moved[name] = weight - 0.05 * (group["momentum"] * buffer + gradient + group["weight_decay"] * weight)
    expected = torch.autograd.grad(loss(moved, alphas, val), list(alphas.values()))
    first = torch.autograd.grad(loss(leaves, alphas, val), list(alphas.values()))
    strategy.loss("alphas", val, (0, 0, 0)).total.backward()
    found = torch.cat([p.grad for p in supernet.alpha_parameters()])
    exact, plain = torch.cat(expected), torch.cat(first)
    assert (plain - exact).norm() / exact.norm() > 0.1  # the second order matters
    assert (found - exact).norm() < 1e-2 * (plain - exact).norm()
    assert all(torch.equal(p, before[name]) for name, p in stepper.parameters.items())  # all weights are back


def test_processes_share_the_gradients_of_a_second_order(tmp_path, monkeypatch):
    strategy = strategy_of(tmp_path, "darts", "SEARCH.DARTS.SECOND_ORDER", True)
    for phase in ("weights", "alphas"):
        strategy.begin(phase, 0)
    averaged = []
    monkeypatch.setattr(Runtime, "average", lambda self, tensors: averaged.append([tuple(one.shape) for one in tensors]))
    strategy.loss("alphas", batch_of(strategy, "alphas"), (0, 0, 0))
    weights, alphas = ([tuple(p.shape) for p in strategy.steppers[name].parameters.values()] for name in ("weights", "alphas"))
    assert averaged == [weights, weights, alphas, alphas]  # the step, where it leads, and on both sides of that


def test_the_cost_is_part_of_the_second_order(tmp_path):
    """Its value, and its gradient, which does not pass through the weights."""
    found = {}
    for weight in (0.0, 0.7):
        torch.manual_seed(0)  # the same alphas
        strategy = strategy_of(tmp_path, "darts", "SEARCH.DARTS.SECOND_ORDER", True, "SEARCH.COST_WEIGHT", weight)
        strategy.begin("alphas", 0)
        strategy.prepare("alphas", 0, 0)
        loss = strategy.loss("alphas", batch_of(strategy, "alphas"), (0, 0, 0))
        gradients = torch.autograd.grad(loss.total, strategy.supernet.alpha_parameters(), retain_graph=True)
        found[weight] = (loss.total.item(), torch.cat(gradients))
    term = (strategy.goal.expected(strategy.supernet) / strategy.goal.target - 1).abs() * 0.7
    exact = torch.cat(torch.autograd.grad(term, strategy.supernet.alpha_parameters()))
    assert found[0.7][0] - found[0.0][0] == pytest.approx(term.item(), rel=1e-4)
    assert relative(found[0.7][1] - found[0.0][1], exact.float()) < 1e-2


# -- REINFORCE -------------------------------------------------------------------------------------------------------


def test_reinforce_is_unbiased(tmp_path, monkeypatch):
    strategy = strategy_of(tmp_path, "reinforce")
    space, alphas = strategy.supernet.space, strategy.supernet.alphas()
    rewards = {arch: float(number % 7) / 3 for number, arch in enumerate(dict.fromkeys(arch for _, arch in members(space)))}
    dummy = Loss(torch.zeros(()), 4, {}, {"right": torch.zeros(()), "loss": torch.zeros(())})
    monkeypatch.setattr(strategy, "task_loss", lambda *_: dummy)
    strategy.baseline = 0.4
    mean, estimate = 0, {name: torch.zeros(len(alpha), dtype=torch.float64) for name, alpha in alphas.items()}
    for picks, arch in members(space):
        chance = torch.stack([F.softmax(alphas[name].double(), 0)[option] for name, option in picks.items()]).prod()
        mean = mean - chance * rewards[arch]
        strategy.path = picks
        strategy.supernet.choose(picks)
        monkeypatch.setattr(strategy, "reward", lambda *_, arch=arch: rewards[arch])
        gradients = torch.autograd.grad(strategy.policy_loss(None, (0, 0, 0)).total, list(alphas.values()), allow_unused=True)
        for name, gradient in zip(alphas, gradients):
            estimate[name] += 0 if gradient is None else float(chance.detach()) * gradient.double()
    exact = torch.autograd.grad(mean, list(alphas.values()))
    assert any(g.abs().max() > 1e-3 for g in exact)
    for (name, found), right in zip(estimate.items(), exact):
        assert torch.allclose(found, right.double(), atol=1e-6), name


def test_reinforce_says_what_its_steps_cost(tmp_path, monkeypatch):
    """The weights' step passes one network forward and backward, the alphas' forward alone: a third."""
    strategy = strategy_of(tmp_path, "reinforce")
    monkeypatch.setattr(strategy, "task_loss", lambda *_: Loss(torch.zeros(()), 4, {}, {"right": torch.zeros(()), "loss": torch.zeros(())}))
    for name, share in (("weights", 1), ("alphas", 1 / 3)):
        strategy.prepare(name, 0, 0)
        macs = strategy.supernet.space.decode(strategy.path).cost(num_classes=10).macs
        found = strategy.loss(name, None, (0, 0, 0))
        assert float(found.sums["macs"]) == pytest.approx(4 * macs * share)


def test_a_reward_like_the_baseline_teaches_nothing(tmp_path, monkeypatch):
    strategy = strategy_of(tmp_path, "reinforce")
    dummy = Loss(torch.zeros(()), 4, {}, {"right": torch.zeros(()), "loss": torch.zeros(())})
    monkeypatch.setattr(strategy, "task_loss", lambda *_: dummy)
    monkeypatch.setattr(strategy, "reward", lambda *_: 0.4)
    strategy.prepare("alphas", 0, 0)
    for baseline, nothing in ((0.4, True), (None, True), (0.3, False)):
        strategy.baseline = baseline
        assert (float(strategy.policy_loss(None, (0, 0, 0)).total.detach()) == 0) is nothing


def test_single_path_refuses_sizes_to_choose(tmp_path):
    cfg = short(tmp_path, "single_path")
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(text.replace("input_size: 8", "input_size: [8, 12, 4]"))
    with pytest.raises(InputError, match="single_path decides by weights, and none has a size"):
        build_searcher(cfg)


SIZES = {
    "name": "sizes",
    "input_size": [4, 8, 2],
    "stages": [[["conv_k3_hs", 8]], [[["ir_k3", "ir_k5"], [4, 8, 4], 1, 1, {"expansion": 2}]]],
}


def sized(folder, name, *opts):
    """A search of a space of three input sizes, of which a step runs one."""
    cfg = short(folder, name, "SEARCH.TARGET", 40000.0, "SEARCH.RESOLUTION", "sampled", *opts)
    (folder / "tiny.yaml").write_text(json.dumps(SIZES))
    return cfg


def test_what_cannot_draw_a_size_runs_all(tmp_path):
    for name in ("darts", "proxyless"):
        with pytest.raises(InputError, match=rf"SEARCH\.RESOLUTION: sampled: {name} .*set SEARCH\.RESOLUTION all"):
            build_searcher(sized(tmp_path, name))
        build_searcher(short(tmp_path, name, "SEARCH.RESOLUTION", "sampled"))  # one size
    build_searcher(sized(tmp_path, "proxyless", "SEARCH.PROXYLESS.GRADIENT", "reinforce"))


def test_macs_are_those_of_the_sizes_that_run(tmp_path):
    each = []
    for size in (4, 6, 8):
        cfg = sized(tmp_path, "dmasking", "SEARCH.TARGET", 700.0 * size**2)
        (tmp_path / "tiny.yaml").write_text(json.dumps({**SIZES, "input_size": size}))
        each.append(build_searcher(cfg).strategy.whole_macs)
    assert each[0] < each[1] < each[2]
    strategy = build_searcher(sized(tmp_path, "dmasking", "SEARCH.WARMUP_FRACTION", 0.0)).strategy
    for phase, sizes in (("weights", 1), ("alphas", 2)):
        strategy.begin(phase, 0)
        strategy.prepare(phase, 0, 0)
        batch = batch_of(strategy, phase)
        macs = float(strategy.loss(phase, batch, (0, 0, 0)).sums["macs"])
        assert macs == pytest.approx(sizes * len(batch[0]) * sum(each) / 3, rel=1e-3)
    strategy = build_searcher(short(tmp_path, "dmasking")).strategy  # of one size
    for phase in ("weights", "alphas"):
        strategy.prepare(phase, 1, 0)
        batch = batch_of(strategy, phase)
        assert float(strategy.loss(phase, batch, (1, 0, 0)).sums["macs"]) == len(batch[0]) * strategy.whole_macs


def test_macs_of_the_whole_are_not_those_of_the_gates_of_a_step(tmp_path):
    strategy = build_searcher(short(tmp_path, "proxyless")).strategy
    steps = itertools.count()
    while not strategy.supernet.off:
        strategy.prepare("alphas", 1, next(steps))
    off, given = set(strategy.supernet.off), strategy.supernet.table.given
    assert strategy.whole_macs == build_searcher(short(tmp_path, "proxyless")).strategy.whole_macs
    assert (strategy.supernet.off, strategy.supernet.table.given) == (off, given)


@pytest.mark.parametrize("name", ["one_shot", "reinforce"])
def test_macs_are_under_the_head_that_runs(name, tmp_path):
    cfg = short(tmp_path, name, "SEARCH.TARGET", 26000.0, "SEARCH.TARGET_CLASSES", 1000)
    run, searcher = search_of(cfg), build_searcher(cfg)
    strategy = searcher.strategy
    strategy.prepare("weights", 0, 0)
    images, labels = batch_of(strategy)
    picks = strategy.path if name == "reinforce" else strategy.paths[0]
    arch = strategy.supernet.space.decode(picks)
    assert float(strategy.loss("weights", (images, labels), (0, 0, 0)).sums["macs"]) == len(images) * arch.cost(10).macs
    judge = run.measure(searcher.supernet).judge(loop_of(searcher, tmp_path / "run"), StopRequest())
    assert judge.cost(arch) == arch.cost(10).macs


def test_the_baseline_is_kept_with_the_run(tmp_path):
    cfg = short(tmp_path, "reinforce")
    one, two = build_searcher(cfg), build_searcher(cfg)
    one.strategy.baseline = 0.4
    two.load_state_dict(one.state_dict())
    assert two.strategy.baseline == 0.4


def test_the_reward_and_its_baseline(tmp_path):
    strategy = strategy_of(tmp_path, "reinforce", "SEARCH.COST_WEIGHT", 0.5, "SEARCH.REINFORCE.BASELINE", 0.9)
    supernet, rewards = strategy.supernet, []
    for step in range(3):
        strategy.prepare("alphas", 0, step)
        arch = supernet.space.decode(strategy.path)
        images, labels = batch_of(strategy, "alphas")
        found = strategy.loss("alphas", (images, labels), (0, step, 0))
        supernet.select(arch)
        with torch.no_grad():
            right = float((supernet(images).argmax(1) == labels).double().mean())
        rewards.append(right - 0.5 * abs(arch.cost(10).macs / 17000 - 1))
        assert found.total.requires_grad
    strategy.prepare("weights", 1, 0)
    expected = rewards[0]
    for reward in rewards[1:]:
        expected = 0.9 * expected + 0.1 * reward
    assert strategy.baseline == pytest.approx(expected)


def test_the_reward_is_the_mean_over_processes(tmp_path):
    strategy = strategy_of(tmp_path, "reinforce")
    strategy.runtime = SimpleNamespace(world=2, sum=lambda values: [value + 0.25 for value in values])  # the other one has 0.25
    found = Loss(torch.zeros(()), 4, {}, {"right": torch.tensor(3.0), "loss": torch.zeros(())})
    assert strategy.reward(found, 0.1) == pytest.approx((0.75 + 0.25) / 2 - 0.1)


def test_rewards_of_a_step_are_averaged_before_they_are_learnt(tmp_path):
    strategy = strategy_of(tmp_path, "reinforce")
    for rewards, baseline in (([0.2, 0.6], 0.4), ([0.5, 0.7, 0.9], 0.95 * 0.4 + 0.05 * 0.7)):
        strategy.rewards = rewards
        strategy._learn_baseline()
        assert strategy.baseline == pytest.approx(baseline)
        assert strategy.rewards == []


def test_the_reward_of_a_task_without_hits_is_minus_its_loss(tmp_path, monkeypatch):
    strategy = strategy_of(tmp_path, "reinforce")
    monkeypatch.setattr(strategy, "task", SimpleNamespace(hits=False))
    found = Loss(torch.zeros(()), 4, {}, {"right": torch.tensor(3.0), "loss": torch.tensor(6.0)})
    assert strategy.reward(found, 0.1) == pytest.approx(-1.5 - 0.1)


# -- ProxylessNAS ----------------------------------------------------------------------------------------------------


def test_a_second_path_is_drawn_where_one_is_certain():
    assert {draw_pair([0.0, 1.0, 0.0], random.Random(seed)) for seed in range(9)} == {(1, 2)}
    assert {draw_pair([0.0, 0.0, 1.0], random.Random(seed)) for seed in range(9)} == {(2, 0)}


@pytest.mark.parametrize("sharing", ["none", "full"])
def test_the_gate_gradient_of_proxyless(tmp_path, sharing):
    strategy = strategy_of(tmp_path, "proxyless", "SEARCH.SHARING", sharing)
    supernet = strategy.supernet.double()
    images, labels = batch_of(strategy, "alphas")
    strategy.begin("alphas", 0)
    strategy.prepare("alphas", 0, 3)

    def loss():
        return F.cross_entropy(supernet(images.double()), labels)

    loss().backward()
    gates, size = strategy.binary_gates().detach(), 1e-3
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    for name, alpha in supernet.alphas().items():
        row, pair = supernet.table.row[name], strategy.pairs[name]
        slopes = []
        for option in pair:
            values = []
            for sign in (1, -1):
                changed = gates.clone()
                changed[row, option] += sign * size
                supernet.assign(lambda changed=changed: changed, strategy.pairs)
                values.append(float(loss().detach()))
            slopes.append((values[0] - values[1]) / (2 * size))
        both = F.softmax(alpha.detach()[list(pair)], 0).tolist()
        expected = torch.zeros(len(alpha), dtype=torch.float64)
        for i, k in itertools.product(range(2), range(2)):
            expected[pair[i]] += slopes[k] * both[k] * ((i == k) - both[i])
        assert torch.allclose(alpha.grad, expected, atol=2e-3 * max(1, float(expected.abs().max()))), name
    assert any(alpha.grad.abs().max() > 1e-3 for alpha in supernet.alphas().values())


def test_pairs_follow_their_distribution():
    p, draws, rng = [0.5, 0.3, 0.15, 0.05], 20000, random.Random(0)
    counts = Counter(draw_pair(p, rng) for _ in range(draws))
    for i, j in itertools.permutations(range(4), 2):
        either = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])  # drawn without replacement, in whichever order
        chance = either * p[i] / (p[i] + p[j])
        assert counts[i, j] / draws == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / draws)), (i, j)


def test_the_mean_gate_gradient_is_that_of_enumeration():
    """Of a loss that is linear in the gates, sum_k l_k g_k, over all pairs."""
    p, slopes, draws, rng = [0.5, 0.3, 0.15, 0.05], [0.2, -1.0, 0.7, 2.0], 40000, random.Random(1)

    def gradient(i, j):
        found, total = [0.0] * 4, p[i] + p[j]
        for a, k in itertools.product((i, j), (i, j)):
            found[a] += slopes[k] * p[k] / total * ((a == k) - p[a] / total)
        return found

    expected = [0.0] * 4
    for i, j in itertools.combinations(range(4), 2):
        either = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        expected = [e + either * g for e, g in zip(expected, gradient(i, j))]
    drawn = [gradient(*draw_pair(p, rng)) for _ in range(draws)]
    for option in range(4):
        assert sum(g[option] for g in drawn) / draws == pytest.approx(expected[option], abs=0.01)


def test_an_update_of_proxyless_leaves_the_other_options_alone(tmp_path):
    strategy = strategy_of(tmp_path, "proxyless")
    before = strategy.supernet.probabilities()
    strategy.begin("alphas", 0)
    strategy.prepare("alphas", 0, 1)
    stepper = strategy.steppers["alphas"]
    assert stepper.step([batch_of(strategy, "alphas")], 1, lambda b, n: strategy.loss("alphas", b, (0, 0, n)), list).term is None
    after, moved = strategy.supernet.probabilities(), 0
    for name, pair in strategy.pairs.items():
        for option in range(len(before[name])):
            if option in pair:
                moved += abs(float(after[name][option] - before[name][option])) > 1e-4
            else:
                assert float(after[name][option]) == pytest.approx(float(before[name][option]), abs=1e-6)
    assert moved


def test_the_cost_of_proxyless_is_the_expectation(tmp_path):
    strategy = strategy_of(tmp_path, "proxyless")
    strategy.prepare("alphas", 0, 1)
    cost = strategy.supernet.effective.cost(strategy.cost_gates())
    assert float(cost.macs.detach()) == pytest.approx(float(strategy.supernet.expected_cost().macs.detach()), rel=1e-12)


# -- Single-Path NAS -------------------------------------------------------------------------------------------------


def test_the_gradient_of_an_indicator():
    norm, threshold = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.3, 0.4))
    found = indicator(norm, threshold)
    assert float(found.detach()) == 1.0
    assert float(indicator(threshold, norm).detach()) == 0.0
    found.backward()
    sigmoid = 1 / (1 + math.exp(-0.9))
    assert float(norm.grad) == pytest.approx(sigmoid * (1 - sigmoid))
    assert float(threshold.grad) == pytest.approx(-sigmoid * (1 - sigmoid))


KERNELS = """
input_size: 8
stages:
  - [[conv_k3_hs, 4, 1, 1]]
  - [[[ir_k3_hs, ir_k7, ir_k3, ir_k5], [4, 8, 4], 2, 1, {expansion: [1, 3, 1]}],
     [[ir_k3, ir_k5, skip], [4, 8, 4], 1, 1, {expansion: [1, 2, 1]}]]
"""


@pytest.fixture
def single_path(tmp_path):
    cfg = short(tmp_path, "single_path")
    (tmp_path / "tiny.yaml").write_text(KERNELS)
    return build_searcher(cfg).strategy


def test_single_path_keeps_what_is_above_its_thresholds(single_path):
    supernet, rng, seen = single_path.supernet, random.Random(0), set()
    starts = {name: value.clone() for name, value in supernet.state_dict().items()}
    rings = {3: lambda w: w[:, :, 2:5, 2:5], 5: lambda w: w[:, :, 1:6, 1:6], 7: lambda w: w}

    def relative_square(unit, part):
        """Of the weights of a unit that `part` takes: sum of squares over that at the start."""
        return float(part(supernet.state_dict()[unit]) / part(starts[unit]))

    for _ in range(40):
        with torch.no_grad():
            for alpha in supernet.alpha_parameters():
                alpha.copy_(torch.tensor([rng.choice((0.2, 1.0, 2.0, 3.0)) for _ in alpha]))
            supernet.load_state_dict({**starts, **{f"table.alpha.{k}": v for k, v in supernet.table.alpha.items()}})
            for parameter in supernet.blocks.parameters():
                if parameter.ndim == 4:
                    parameter.mul_(rng.uniform(0.5, 1.3) + torch.rand(parameter.shape))
        alphas, arch = {name: alpha.tolist() for name, alpha in supernet.alphas().items()}, single_path.derive()
        seen.add(arch)
        for layer, one in zip(supernet.space.layers[1:], arch.layers[1:]):
            dw, pwl = (f"blocks.{layer.key}.units.ir.{name}.conv.weight" for name in ("dw", "pwl"))
            block = alphas[f"{layer.key}.block"]
            sizes = rings if layer.stride == 2 else {3: lambda w: w[:, :, 1:4, 1:4], 5: lambda w: w}
            if layer.stride == 1:
                kept = relative_square(dw, lambda w, of=sizes[3]: of(w).square().sum()) > float(block[2])
                assert kept == (one.names[0] != "skip")
                if not kept:
                    continue
            expected, options = "ir_k3", {5: 3, 7: 1} if layer.stride == 2 else {5: 1}
            for kernel, option in options.items():  # the last candidate's family: relu, no squeeze-and-excite
                ring = (sizes[kernel], sizes[kernel - 2])
                if relative_square(dw, lambda w, of=ring: of[0](w).square().sum() - of[1](w).square().sum()) <= float(block[option]):
                    break
                expected = f"ir_k{kernel}"
            assert one.names[0] == expected
            for kind, where in (("channels", pwl), ("hidden", dw)):
                widths, option = getattr(layer, kind), 0
                for low, high in itertools.pairwise(widths):
                    change = relative_square(where, lambda w, low=low, high=high: w[low:high].square().sum())
                    if change <= float(alphas[f"{layer.key}.{kind}"][option + 1]):
                        break
                    option += 1
                assert getattr(one, kind)[0] == widths[option]
    assert len(seen) > 15


def test_the_expected_cost_of_single_path_is_that_of_its_draws(single_path):
    space, probabilities = single_path.supernet.space, single_path.probabilities()
    names, mean = [choice.name for choice in space.choices], 0.0
    for options in itertools.product(*(range(len(choice.options)) for choice in space.choices)):
        chance = math.prod(float(probabilities[name][option]) for name, option in zip(names, options, strict=True))
        mean += chance * space.cost(space.decode(dict(zip(names, options, strict=True))), 10).macs
    single_path.prepare("weights", 0, 0)
    gates = single_path.supernet.table.given
    assert single_path.costs()["cost_expected"] == pytest.approx(mean, rel=1e-9)
    assert single_path.supernet.table.given is gates


def test_the_hard_gates_of_single_path_are_the_arch(single_path):
    supernet = single_path.supernet.eval()
    randomise(supernet)
    x = torch.randn(3, 3, 8, 8)
    for seed in range(6):
        random_alphas(supernet, 1.0, seed)
        single_path.prepare("weights", 0, 0)
        arch = single_path.derive()
        child = nas.inherit_weights(nas.build_model(arch, 10), supernet).eval()
        with torch.no_grad():
            assert relative(supernet(x), child(x)) < 1e-5
        cost = supernet.cost().macs
        assert float(cost.detach()) == pytest.approx(arch.cost(10).macs, rel=1e-12)
        chances = single_path.probabilities()
        assert all(float(p.sum()) == pytest.approx(1) and (p >= 0).all() for p in chances.values())
        cost.backward()
        assert all(alpha.grad is not None for alpha in supernet.alpha_parameters())


def test_single_path_names_what_it_cannot_decide(tmp_path):
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[[["ir_k3", "conv_k3"], [4, 8, 4], 2, 1, {}]]]})
    searcher = build_searcher(short(tmp_path, "single_path"))
    supernet = nas.build_supernet(space, 10, sharing="full")
    setting = searcher.strategy.setting.__class__(**{**vars(searcher.strategy.setting), "supernet": supernet})
    with pytest.raises(InputError, match=r"s0b0: single_path needs inverted residuals alone"):
        type(searcher.strategy)(setting)


# -- one-shot --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "target", "by"), [("macs", 17e3, "macs"), ("params", 1500.0, "params"), ("memory", 1e3, "macs")])
def test_the_ends_of_the_sandwich_are_those_of_the_objective(tmp_path, monkeypatch, objective, target, by):
    asked = []
    for name in ("largest", "smallest"):
        real = getattr(nas.SearchSpace, name)
        monkeypatch.setattr(nas.SearchSpace, name, lambda space, *a, real=real, **k: (asked.append(k.get("by")), real(space, *a, **k))[1])
    searcher = build_searcher(short(tmp_path, "one_shot", "SEARCH.OBJECTIVE", objective, "SEARCH.TARGET", target))
    options = replace(searcher.options, sandwich=True)
    setting = Setting(searcher.supernet, searcher.task, searcher.strategy.goal, options, searcher.runtime, 0, None)
    asked.clear()
    OneShot(setting)
    assert asked == [by, by]


@pytest.mark.parametrize("distill", [False, True])
def test_the_sandwich_and_its_distillation(tmp_path, distill):
    strategy = strategy_of(tmp_path, "one_shot", "SEARCH.ONE_SHOT.SANDWICH", True, "SEARCH.ONE_SHOT.DISTILL", distill)
    supernet, space = strategy.supernet, strategy.supernet.space
    strategy.prepare("weights", 0, 0)
    archs = [space.decode(path) for path in strategy.paths]
    assert archs[:2] == [space.largest(10), space.smallest(10)]
    images, labels = batch_of(strategy)
    found = strategy.loss("weights", (images, labels), (0, 0, 0))
    losses, teacher = [], None
    for arch in archs:
        supernet.select(arch)
        logs = F.log_softmax(supernet(images).detach(), 1)
        plain = -logs[torch.arange(len(labels)), labels].mean()
        losses.append(plain if teacher is None or not distill else -(teacher * logs).sum(1).mean())
        teacher = logs.exp() if teacher is None else teacher
    assert float(found.total.detach()) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert float(found.sums["passed"]) == 4 * len(labels)
    assert float(found.sums["macs"]) == len(labels) * sum(arch.cost(10).macs for arch in archs)


def test_proxyless_counts_the_candidates_that_run_and_goes_backward_through_its_two(tmp_path):
    strategy = strategy_of(tmp_path, "proxyless")
    strategy.begin("alphas", 0)
    shares = set()
    for step in range(6):
        strategy.prepare("alphas", 0, step)
        off, units = len(strategy.supernet.off), sum(len(block.units) for block in strategy.supernet.mixed())
        batch = batch_of(strategy, "alphas")
        found = strategy.loss("alphas", batch, (0, step, 0))
        sums, macs = (
            found.sums,
            strategy.supernet.effective.cost(strategy.cost_gates().detach()).macs,
        )  # the expectation, not that of the two paths
        term = strategy.options.cost_weight * abs(float(macs) / strategy.goal.target - 1)
        assert float(found.terms["cost term"].detach()) == pytest.approx(term)
        task = sum(float(value.detach()) for name, value in found.terms.items() if name != "cost term")
        assert float(found.total.detach()) == pytest.approx(task + term, rel=1e-5)
        assert float(sums["macs"]) == pytest.approx(len(batch[0]) * strategy.whole_macs * (units - off) / units)
        assert len(strategy.supernet.off) == off
        gates = strategy.supernet.table.gates().detach()
        assert set(gates.flatten().tolist()) == {0.0, 1.0}
        shares.add(off / units)
    assert len(shares) > 1


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, []) for name in SUPERNETS),
        ("one_shot", ["SEARCH.ONE_SHOT.SANDWICH", True]),
        ("darts", ["SEARCH.DARTS.SECOND_ORDER", True]),
        ("proxyless", ["SEARCH.PROXYLESS.GRADIENT", "reinforce"]),
    ],
)
def test_a_strategy_says_before_how_often_it_passes_an_image(name, more, tmp_path):
    strategy = strategy_of(tmp_path, name, *more)
    planned = type(strategy).passes(strategy.options)
    for phase in planned:
        strategy.begin(phase, 0)
        strategy.prepare(phase, 0, 0)
        batch = batch_of(strategy, phase)
        sums = strategy.loss(phase, batch, (0, 0, 0)).sums
        assert float(sums["passed"]) == planned[phase] * len(batch[0])
        if name in ("dmasking", "dnas", "darts"):  # which run the whole supernet
            assert float(sums["macs"]) == planned[phase] * strategy.whole_macs * len(batch[0])
    assert ("alphas" in planned) == ("alphas" in strategy.steppers)


def test_the_gates_of_proxyless_are_one_at_the_active_option_and_its_chances_for_the_cost(tmp_path):
    strategy = strategy_of(tmp_path, "proxyless")
    table = strategy.supernet.table
    random_alphas(strategy.supernet)
    for step in range(5):
        strategy.prepare("alphas", 0, step)
        binary, cost = strategy.binary_gates().detach(), strategy.cost_gates().detach()
        for name, (active, other) in strategy.pairs.items():
            assert active != other
            assert binary[table.row[name]].tolist() == [float(i == active) for i in range(table.columns)]
        assert binary[-1].tolist() == [float(i == 0) for i in range(table.columns)]  # the row of what is no choice
        torch.testing.assert_close(cost, table.gates(noise=False).detach())
        for name, (active, other) in strategy.pairs.items():  # what an alpha gains its gate does, and the other one of the two loses
            alpha, row = strategy.supernet.alphas()[name], table.row[name]
            (gained,) = torch.autograd.grad(strategy.cost_gates()[row, active], alpha)
            p, q = (float(cost[row, i]) for i in (active, other))
            assert float(gained[active]) == pytest.approx(p * q / (p + q), rel=1e-4)
            assert float(gained[other]) == pytest.approx(-p * q / (p + q), rel=1e-4)
        assert cost[-1].tolist() == binary[-1].tolist()


@pytest.mark.parametrize(("low", "high"), [(0, 3), (0, 5), (0, 7), (3, 5), (3, 7), (5, 7)])
def test_the_taps_that_a_larger_kernel_has_and_a_smaller_one_has_not(low, high):
    """All of the smallest, its centre too."""
    weight = torch.arange(2 * 49.0).view(2, 1, 7, 7)
    taps = _ring(weight, low, high)
    inner = {float(v) for v in weight[0, 0, 3 - low // 2 : 4 + low // 2, 3 - low // 2 : 4 + low // 2].flatten()} if low else set()
    outer = {float(v) for v in weight[0, 0, 3 - high // 2 : 4 + high // 2, 3 - high // 2 : 4 + high // 2].flatten()}
    assert set(taps[0].tolist()) == outer - inner
    assert taps.shape == (2, high**2 - low**2)
