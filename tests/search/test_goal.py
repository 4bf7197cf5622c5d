"""What a target may be written as, and what of a result is counted for it."""

from dataclasses import replace

import pytest
import torch
from spaces import TINY, parsed, random_alphas, samples

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.search.facts import cost_facts
from mobile_cv_nas.search.folder import draw_found
from mobile_cv_nas.search.goal import Goal, Limit, check_target, counted_head, parse_target
from mobile_cv_nas.search.objective import _UNITS, objective_of
from mobile_cv_nas.search.options import SearchOptions
from mobile_cv_nas.search.result import SearchResult
from mobile_cv_nas.tasks.build import make_task
from mobile_cv_nas.tasks.options import HeadOptions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("60e6 macs", (60e6, "macs")),
        ("60M", (60e6, "macs")),
        ("400k macs", (400e3, "macs")),
        ("4M params", (4e6, "params")),
        ("4e6 parameters", (4e6, "params")),
        (1.5e6, (1.5e6, "macs")),
        ("2.5 G", (2.5e9, "macs")),
        *(("1.5 s", (1500, "latency")), ("8 ms", (8, "latency")), ("250 us", (0.25, "latency"))),
        *(("5 latency", (5, "latency")), ("7 memory", (7, "memory"))),  # by the objective's own name
        *(("7 bytes", (7, "memory")), ("256 kB", (256_000, "memory")), ("2 MB", (2e6, "memory"))),
        *(("256 KiB", (262_144, "memory")), ("2 MiB", (2_097_152, "memory"))),
    ],
)
def test_targets(text, found):
    assert parse_target(text) == found


@pytest.mark.parametrize("text", ["", "fast", "60e6 miles", "-3", "0", "1M M"])
def test_bad_targets(text):
    with pytest.raises(InputError, match="target"):
        parse_target(text)


def test_the_counted_cost_is_of_the_classes_that_the_target_is_of(tmp_path):
    """It is there only where the images have another number of classes."""
    space = parsed(TINY)
    supernet, arch = nas.build_supernet(space, 10), space.sample(0)
    for classes, cost in ((10, None), (100, arch.cost(100).macs)):
        goal = Goal("macs", 1e6, 0.05, HeadDef("classifier", classes))
        assert SearchResult(tmp_path, True, arch, goal=goal, supernet=supernet).counted == cost
    assert SearchResult(tmp_path, True, arch, goal=goal).counted is None
    assert SearchResult(tmp_path, True, goal=goal, supernet=supernet).counted is None
    assert SearchResult(tmp_path).counted is None


UNITS = [unit for name in ("macs", "params", "latency", "memory") for unit in (name, *_UNITS[name]) if unit not in ("latency", "memory")]
WRITTEN = [f"{number} {unit}" for number in (3, 2.5) for unit in UNITS] + ["3k", "2.5M", "3 G", "2B", "3e6", "400_000"]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_config_reads_a_target_as_python_does(text):
    table = "digits_onnxruntime_fp32" if parse_target(text)[1] == "latency" else ""
    for written in (text, text.upper().replace("E6", "e6")):
        cfg = load_config(None, ["SEARCH.TARGET", written, "SEARCH.TABLE", table])
        assert (cfg.SEARCH.TARGET, cfg.SEARCH.OBJECTIVE) == parse_target(written) == parse_target(text)


def test_what_was_found_is_drawn_with_its_score(tmp_path):
    arch = parsed(TINY).sample(0)
    task = make_task("0123456789", HeadOptions(), (0.5,) * 3, (0.2,) * 3)
    draw_found(SearchResult(tmp_path), task)
    assert not list(tmp_path.iterdir())
    draw_found(SearchResult(tmp_path, True, arch, arch.cost(10)), task)
    assert (tmp_path / "arch.png").read_bytes().startswith(b"\x89PNG")


def test_the_expected_costs_of_a_result_are_without_noise():
    space = parsed(TINY)
    supernet = nas.build_supernet(space, 10)
    random_alphas(supernet)
    supernet.sample(1.0)
    options = SearchOptions(target=space.cost(space.sample(0), 10).macs, tolerance=0.5, limits={"params": "1M"})
    goal, arch = check_target(options, space, HeadDef("classifier", 10)), space.sample(0)
    found, expected = cost_facts(goal, supernet, arch, lambda: None), supernet.expected_cost()
    assert found["macs"] == arch.cost(10).macs
    assert found["macs_expected"] == expected.macs.item() != supernet.cost().macs.item()
    assert found["limits"] == {"params": {"most": 1e6, "cost": arch.cost(10).params, "expected": expected.params.item()}}


def test_a_target_of_more_classes_is_that_of_a_classifier():
    """Refused of another head, and of fewer classes than none, each by itself."""
    head = HeadDef("classifier", 10)
    assert counted_head(head, SearchOptions(target_classes=1000)) == HeadDef("classifier", 1000)
    assert counted_head(head, SearchOptions()) is head
    for one, classes in ((HeadDef("lraspp", 10), 1000), (head, -1)):
        with pytest.raises(InputError, match=f"TARGET_CLASSES: {classes}: a number of classes, of a classifier; the head is {one.name}"):
            counted_head(one, SearchOptions(target_classes=classes))


@pytest.mark.parametrize("end", ["smallest", "largest"])
def test_a_target_at_an_end_of_the_space_is_within_its_reach(end):
    space, head = parsed(TINY), HeadDef("classifier", 10)
    cost, step = getattr(space, end)(10).cost(10).macs, 1 if end == "largest" else -1
    assert check_target(SearchOptions(target=float(cost)), space, head, 3, "it").target == cost
    with pytest.raises(InputError, match="out of the reach of it"):
        check_target(SearchOptions(target=float(cost + step)), space, head, 3, "it")


def test_what_a_result_is_before_anything_is_found(tmp_path):
    result = SearchResult(tmp_path)
    assert not result.finished
    assert result.seconds == (0.0, 0.0)
    assert (result.arch, result.cost, result.training, result.targets) == (None, None, None, ())


def test_the_term_of_a_limit_is_of_the_gates_of_the_step():
    supernet = nas.build_supernet(parsed(TINY), 10)
    torch.manual_seed(1)
    supernet.sample(0.5)
    with torch.no_grad():
        noisy, plain = supernet.cost(), supernet.expected_cost()
    assert abs(float(noisy.params / plain.params) - 1) > 0.02
    limit = Limit("params", 0.5 * float(plain.params), objective_of("params"))
    goal = Goal("macs", 0.5 * float(plain.macs), 0.05, HeadDef("classifier", 10), limits=(limit,))
    expected = abs(noisy.macs / goal.target - 1) + (noisy.params / limit.most - 1)
    torch.testing.assert_close(goal.term(supernet).detach(), expected)


def test_a_goal_is_of_images_of_three_channels_and_equal_to_one_that_counts_alike():
    space, head = parsed(TINY), HeadDef("classifier", 10)
    goal = check_target(SearchOptions(target=float(space.smallest(10).cost(10).macs)), space, head)
    assert goal.in_channels == Goal("macs", 1.0, 0.1, head).in_channels == 3
    assert goal == Goal("macs", goal.target, goal.tolerance, head)
    assert goal != replace(goal, in_channels=4)


def test_how_far_an_arch_is_off_is_of_the_target_and_of_what_is_above_limits():
    space, head = parsed(TINY), HeadDef("classifier", 10)
    for arch in samples(space, 10):
        cost = arch.cost(10)
        limits = tuple(Limit(name, value, objective_of(name)) for name, value in (("params", 0.8 * cost.params), ("macs", 2.0 * cost.macs)))
        goal = Goal("macs", 1.25 * cost.macs, 0.05, head, limits=limits)
        assert goal.off(arch) == pytest.approx(0.2 + 0.25)  # a limit that is kept counts for nothing
        assert not goal.allows(arch)
