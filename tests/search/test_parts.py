"""What each part of a search does to its numbers: cost term, optimizers, modes, candidates, the state before a bad step."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from searches import build_searcher, loop_of, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.engine.checkpoint import load_latest
from mobile_cv_nas.engine.loop import NotFinite
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.search.derive import derive_arch, draw_candidates, inherited_child
from mobile_cv_nas.search.goal import Goal
from mobile_cv_nas.search.judge import Choosing, Judge, new_memory

TEN = HeadDef("classifier", 10)


@pytest.fixture
def tiny(tmp_path):
    return lambda *opts: tiny_cfg(tmp_path, *opts)


def expected_cost(supernet):
    with torch.no_grad():
        return float(supernet.expected_cost().macs)


@pytest.mark.parametrize("target", [11000, 26000])
def test_the_cost_term_is_a_distance_and_pulls_the_cost_towards_the_target(tiny, target):
    searcher = build_searcher(tiny("SEARCH.TARGET", target, "SEARCH.COST_WEIGHT", 50, "SEARCH.ALPHA_LR", 0.1))
    supernet, phase = searcher.supernet, searcher.phases[1]
    phase.begin(3)
    before = expected_cost(supernet)
    batch = next(iter(phase.loader.epoch(0)))
    for step in range(8):
        phase.prepare(3, step)
        loss = phase.loss(batch, (3, step, 0))
        cost = float(supernet.cost().macs.detach())
        assert float(loss.terms["cost term"].detach()) == pytest.approx(50 * abs(cost / target - 1))
        assert float(loss.total.detach()) > float(loss.terms["cross-entropy"].detach())
        phase.stepper.step([batch], 1, lambda one, n, step=step: phase.loss(one, (3, step, n)), list)
    after = expected_cost(supernet)
    assert (after - before) * (target - before) > 0
    assert abs(after - target) < abs(before - target)


def test_the_optimizers_have_the_values_of_their_keys(tiny):
    options = ["SEARCH.WEIGHT_MOMENTUM", 0.7, "SEARCH.WEIGHT_DECAY", 0.003, "SEARCH.WEIGHT_LR", 0.05]
    options += ["SEARCH.ALPHA_LR", 0.2, "SEARCH.ALPHA_WEIGHT_DECAY", 0.04]
    strategy = build_searcher(tiny(*options)).strategy
    steppers = strategy.steppers
    assert [strategy.rate("weights", share) for share in (0, 0.5, 1)] == pytest.approx([0.05, 0.025, 0])  # a cosine
    assert [strategy.rate("alphas", share) for share in (0, 0.5, 1)] == [0.2] * 3
    (weights,), (alphas,) = (steppers[name].optimizer.param_groups for name in ("weights", "alphas"))
    assert (weights["lr"], weights["momentum"], weights["weight_decay"], weights["nesterov"]) == (0.05, 0.7, 0.003, False)
    assert (alphas["lr"], alphas["weight_decay"]) == (0.2, 0.04)


@pytest.mark.parametrize("phase", [0, 1])
def test_both_phases_run_in_training_mode(tiny, phase):
    searcher = build_searcher(tiny())
    searcher.supernet.eval()
    one = searcher.phases[phase]
    one.begin(3)
    assert all(module.training for module in searcher.supernet.modules())
    batch = next(iter(one.loader.epoch(0)))
    norms = [m for m in searcher.supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    one.prepare(3, 0)
    one.loss(batch, (3, 0, 0))
    assert all(not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))


def test_the_state_before_a_bad_step_has_its_random_numbers_too(tiny, tmp_path, monkeypatch):
    searcher = build_searcher(tiny("SEARCH.EPOCHS", 2))
    loop, drawn, phase = loop_of(searcher, tmp_path), [], searcher.phases[0]
    prepare, loss = phase.prepare, phase.loss

    def spy(epoch, step):
        state = torch.get_rng_state()
        prepare(epoch, step)
        drawn.append((state, searcher.supernet.table.noise.clone()))

    def bad(batch, key):
        found = loss(batch, key)
        return found if len(drawn) < 4 else type(found)(found.total * math.nan, found.images, {"loss": found.total * math.nan}, found.sums)

    monkeypatch.setattr(phase, "prepare", spy)
    monkeypatch.setattr(phase, "loss", bad)
    with pytest.raises(NotFinite, match="step 4 of"):
        loop.run(StopRequest())
    before, noise = drawn[-1]
    saved = load_latest(tmp_path / "checkpoints")
    assert torch.equal(saved["rng"][0]["torch"], before)
    torch.set_rng_state(saved["rng"][0]["torch"])  # the step that is repeated draws the same gates
    prepare(0, 3)
    assert torch.equal(searcher.supernet.table.noise, noise)


# -- candidates --------------------------------------------------------------------------------------------------------


def test_a_child_has_the_statistics_of_its_own_maps(tiny):
    searcher = build_searcher(tiny())
    arch = searcher.space.largest(10)
    images = [images for images, _ in itertools.islice(searcher.loaders[0].epoch(0), 3)]
    child = inherited_child(searcher.supernet, arch, searcher.task, images)
    first = child.blocks[0]
    with torch.no_grad():
        maps = [first.conv(nas.subsample(batch, arch.input_size)) for batch in images]
    means = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variances = torch.stack([m.var((0, 2, 3), unbiased=True) for m in maps]).mean(0)
    assert torch.allclose(first.norm.running_mean, means, atol=1e-5)
    assert torch.allclose(first.norm.running_var, variances, rtol=1e-4)
    assert all(int(m.num_batches_tracked) == 3 for m in child.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_the_most_probable_are_compared_and_the_best_of_them_is_taken(tiny):
    searcher = build_searcher(tiny())
    space, supernet, seen = searcher.space, searcher.supernet, []
    with torch.no_grad():
        for alpha in supernet.alpha_parameters():
            alpha[-1] += 1  # the argmax is the most expensive one, far from the target
    goal = Goal("macs", 12000, 0.2, TEN)
    drawn = draw_candidates(space, supernet.probabilities(), goal, 200, 0)
    assert drawn[0].log_probability > drawn[-1].log_probability

    def measure(arch):
        seen.append(arch)
        return (0.5, 0.9, 0.1)[len(seen) - 1], 0.0

    judge = Judge(measure, None, lambda arch: 0, (1, 1), new_memory(), lambda: None)
    found = derive_arch(space, supernet.derive(), supernet.probabilities(), goal, judge, Choosing(200, 3))
    assert seen == [candidate.arch for candidate in drawn[:3]]
    assert found.arch == drawn[1].arch
    assert found.score == 0.9


def test_the_means_of_an_epoch_are_over_all_parts_and_processes(tiny, tmp_path):
    searcher = build_searcher(tiny())
    searcher.runtime = replace(searcher.runtime, world=3, options=replace(searcher.runtime.options, accumulate=2))
    loop = loop_of(searcher, tmp_path / "run")
    loop.totals[1] = {"images": 8.0, "steps": 2.0, "loss": 16.0, "right": 4.0, "cost": 24.0}
    assert searcher._means(loop, 1) == {"loss": 2.0, "right": 0.5, "cost": 24 / (2 * 2 * 3)}


def test_the_macs_of_a_supernet_are_counted_without_a_word(tiny, capsys):
    strategy = build_searcher(tiny()).strategy
    assert strategy.whole_macs > 0
    assert capsys.readouterr() == ("", "")


def test_alphas_that_differ_between_processes_end_the_search(tiny, tmp_path, monkeypatch):
    searcher = build_searcher(tiny())
    loop, sent, summed = loop_of(searcher, tmp_path / "run"), [], []
    monkeypatch.setattr("mobile_cv_nas.search.searcher.dist.broadcast", lambda first, src: sent.append(src))
    monkeypatch.setattr("mobile_cv_nas.search.searcher.dist.all_reduce", summed.append)
    searcher._check_ranks_agree(loop)
    assert (sent, summed) == ([], [])  # it is alone
    searcher.runtime = replace(searcher.runtime, world=2)
    searcher._check_ranks_agree(loop)
    assert (sent, [float(one) for one in summed]) == ([0], [0.0])
    monkeypatch.setattr("mobile_cv_nas.search.searcher.dist.all_reduce", lambda differs: differs.add_(1))  # another process says so
    with pytest.raises(RuntimeError, match="epoch 1: the alphas differ between the processes"):
        searcher._check_ranks_agree(loop)
    monkeypatch.setattr("mobile_cv_nas.search.searcher.dist.broadcast", lambda first, src: first.add_(1e-3))
    monkeypatch.setattr("mobile_cv_nas.search.searcher.dist.all_reduce", lambda differs: None)
    with pytest.raises(RuntimeError, match="the alphas differ"):
        searcher._check_ranks_agree(loop)


def test_the_cost_of_an_epoch_is_that_of_the_alphas_steps_where_they_have_any(tiny, tmp_path):
    searcher = build_searcher(tiny())
    loop, (turn,) = loop_of(searcher, tmp_path / "run"), searcher.turns
    for alphas, cost in (({}, 5.0), ({"images": 8.0, "steps": 2.0, "loss": 4.0, "right": 2.0, "cost": 24.0}, 12.0)):
        loop.totals[1] = alphas
        record, line = searcher._of_target(loop, turn, {"loss": 1.0, "right": 0.5, "cost": 5.0})
        assert record["cost_sampled"] == cost
        assert record["alpha_loss"] == (0.5 if alphas else None)
        assert f"macs: sampled {cost:g}" in line
