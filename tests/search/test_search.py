"""The search: what each phase trains, whole runs, exact resume, and numbers that are not finite."""

import itertools
import json
import math
import random
import re
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import StopAfter, data_of_cfg, read_metrics
from searches import build_searcher, loop_of, outcome, same, search_and_train, search_of, short, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.engine.checkpoint import CheckpointError, load_latest
from mobile_cv_nas.engine.loop import NotFinite
from mobile_cv_nas.engine.runtime import RuntimeOptions
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.errors import FileError, InputError
from mobile_cv_nas.report.tables import search_table
from mobile_cv_nas.search.goal import Goal
from mobile_cv_nas.training.options import Recipe


@pytest.fixture
def tiny(tmp_path):
    """`tiny(KEY, VALUE, ...)`: a config that searches a tiny space for a few epochs, in tmp_path/run."""
    return lambda *opts: tiny_cfg(tmp_path, *opts)


def copies(tensors):
    return [tensor.detach().clone() for tensor in tensors]


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_temperatures(tiny):
    tau = build_searcher(tiny("SEARCH.EPOCHS", 30)).strategy.temperature
    values = [tau(epoch) for epoch in range(30)]
    assert values[0] == 5.0
    assert values[-1] == pytest.approx(0.2)
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert max(ratios) == pytest.approx(min(ratios))
    tau = build_searcher(tiny("SEARCH.TEMPERATURE.SCHEDULE", "paper", "SEARCH.EPOCHS", 90)).strategy.temperature
    assert tau(0) == 5.0
    assert tau(89) == pytest.approx(5 * math.exp(-0.045) ** 89)


def test_images_are_split_80_to_20(tiny):
    searcher = build_searcher(tiny())
    weights, alphas = (set(loader.split.indices) for loader in searcher.loaders)
    assert not weights & alphas
    assert weights | alphas == set(data_of_cfg(tiny()).train.indices)
    assert len(alphas) / len(weights | alphas) == pytest.approx(0.2, abs=0.005)


def watched(searcher, folder, look):
    """Runs a search; `look(loop, phase, step)` is called after each step, before the next begins."""
    loop = loop_of(searcher, folder)
    for phase in searcher.phases:

        def step(*args, real=phase.stepper.step, phase=phase):
            outcome = real(*args)
            look(loop, phase, loop.step)
            return outcome

        phase.stepper.step = step
    assert loop.run(StopRequest())
    return loop


def test_each_phase_trains_its_own_parameters_only(tiny, tmp_path):
    searcher = build_searcher(tiny("SEARCH.EPOCHS", 2, "SEARCH.WARMUP_FRACTION", 0.5))
    supernet, seen, kept = searcher.supernet, [], []

    def look(loop, phase, step):
        weights, alphas = supernet.weight_parameters(), supernet.alpha_parameters()
        seen.append((loop.epoch, phase.name))
        own, other = (weights, alphas) if phase.name == "weights" else (alphas, weights)
        assert all(p.grad is not None for p in own)
        assert not any(p.requires_grad for p in other)
        if phase.name == "alphas":
            now = copies(weights)
            assert step == 0 or all(map(torch.equal, now, kept[-1]))
            kept.append(now)
        else:
            assert loop.epoch > 0 or not any(alpha.any() for alpha in alphas)  # warm-up
            for p in other:
                p.grad = None
        for p in own:
            p.grad = None

    loop = watched(searcher, tmp_path, look)
    assert {(0, "weights"), (1, "weights"), (1, "alphas")} == set(seen)
    assert len(seen) == loop.total_steps == loop.steps_done
    assert all(alpha.any() for alpha in supernet.alpha_parameters())
    assert [record["alpha_loss"] is None for record in read_metrics(tmp_path)] == [True, False]


def test_no_weight_gradient_is_computed_for_the_alphas(tiny):
    searcher = build_searcher(tiny("SEARCH.EPOCHS", 1, "SEARCH.WARMUP_FRACTION", 0))
    touched, phase = [], searcher.phases[1]
    for parameter in searcher.supernet.weight_parameters():
        parameter.register_hook(lambda grad: touched.append(grad))
        parameter.grad = None
    phase.begin(0)
    phase.prepare(0, 0)
    batch = next(iter(phase.loader.epoch(0)))
    assert phase.stepper.step([batch], 1, lambda batch, number: phase.loss(batch, (0, 0, number)), list).term is None
    assert not touched
    assert all(parameter.grad is None for parameter in searcher.supernet.weight_parameters())


def test_cost_term(tiny):
    searcher = build_searcher(tiny("SEARCH.COST_WEIGHT", 0.5, "SEARCH.TARGET", 11000))
    searcher.supernet.sample(1.0)
    batch = next(iter(searcher.phases[1].loader.epoch(0)))
    loss = searcher.phases[1].loss(batch, (0, 0, 0))
    cost = float(searcher.supernet.cost().macs.detach())
    assert float(loss.sums["cost"]) == cost
    assert float(loss.terms["cost term"].detach()) == pytest.approx(0.5 * abs(cost / 11000 - 1))
    assert float((loss.total - loss.terms["cross-entropy"]).detach()) == pytest.approx(0.5 * abs(cost / 11000 - 1), rel=1e-4)
    plain = searcher.phases[0].loss(batch, (0, 0, 0))
    assert float(plain.total.detach()) == float(plain.terms["cross-entropy"].detach())
    assert float(plain.sums["cost"]) == cost


def test_accumulation_takes_the_same_images(tiny, tmp_path):
    whole, parts = (build_searcher(tiny("RUNTIME.ACCUMULATE", n, "SEARCH.EPOCHS", 1)) for n in (1, 4))
    assert [phase.steps for phase in whole.phases] == [phase.steps for phase in parts.phases]
    for name, searcher in (("whole", whole), ("parts", parts)):
        (tmp_path / name).mkdir()
        assert loop_of(searcher, tmp_path / name).run(StopRequest())
    batches = [torch.cat([y for _, y in s.phases[0].loader.epoch(0)]) for s in (whole, parts)]
    assert torch.equal(*[b[: whole.phases[0].steps * 64] for b in batches])


def test_the_numbers_beside_the_bar_are_renewed(tiny, tmp_path, monkeypatch):
    searcher, shown = build_searcher(tiny()), []
    (tmp_path / "run").mkdir()
    loop = loop_of(searcher, tmp_path / "run")
    monkeypatch.setattr(type(searcher.strategy), "costs", lambda strategy: {"cost_expected": 1e3 * loop.step})
    for step in range(12):
        loop.step = step
        shown.append(searcher.status(loop))
    assert re.fullmatch(r"acc 0\.000 macs H 1\.00 tau 5\.00 weights loss 0\.000 sampled 0 expected 5k", shown[5]), shown[5]
    assert [one for one, before in zip(shown[1:], shown) if one != before] == [shown[5], shown[10]]  # every fifth step
    monkeypatch.setattr(type(searcher.strategy), "costs", lambda strategy: {"cost_argmax": 7e3})
    loop.step = 15
    assert "macs 7k of 12k H" in searcher.status(loop)
    assert "expected" not in searcher.status(loop)
    loop.epoch, loop.step = 2, 3  # asked for half a minute later, as a log file does, at a step that is no fifth one
    assert f"tau {searcher.strategy.temperature(2):.2f}" in searcher.status(loop)


def test_the_seconds_left_are_those_of_the_steps_so_far(tiny):
    searcher = build_searcher(tiny())
    searcher._begin = time.monotonic() - 30
    steps = sum(phase.steps for phase in searcher.phases if phase.runs(0))
    loop = SimpleNamespace(epoch=0, steps_done=steps, total_steps=3 * steps)
    assert searcher._seconds_left(loop) == pytest.approx(60, rel=0.05)
    loop.epoch, loop.steps_done = 1, 2 * steps
    assert searcher._seconds_left(loop) == pytest.approx(15, rel=0.05)


def test_processes_whose_alphas_differ_are_told(tiny, monkeypatch):
    searcher, other = build_searcher(tiny()), 0.0
    searcher.runtime = replace(searcher.runtime, world=2)
    monkeypatch.setattr("torch.distributed.broadcast", lambda values, src: values.add_(other))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: None)
    searcher._check_ranks_agree(SimpleNamespace(epoch=3))
    other = 1e-6
    with pytest.raises(RuntimeError, match="epoch 4: the alphas differ"):
        searcher.end_epoch(SimpleNamespace(epoch=3))


def test_all_targets_learn_one_set_of_weights(tiny):
    turns = build_searcher(tiny("SEARCH.TARGETS", [12000, 16000, 22000])).turns
    assert len({id(turn.strategy.steppers["weights"]) for turn in turns}) == 1
    assert len({id(turn.strategy.steppers["alphas"]) for turn in turns}) == 3


def test_what_the_report_needs_is_missed_before_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match="needs jinja2"):
        search_and_train(tiny())
    assert not (tmp_path / "run").exists()


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_complete_folder_and_repeats_exactly(tiny, tmp_path, monkeypatch):
    cfg = tiny()
    result = search_and_train(cfg)
    folder = tmp_path / "run"
    assert result["finished"]
    arch = nas.ArchDef.load(folder / "arch.yaml")
    space = nas.SearchSpace.load(cfg.SEARCH.SPACE)
    assert space.contains(arch)
    assert nas.count(nas.build_model(arch, 10), 8).macs == result["macs"]
    assert abs(result["macs"] / 12000 - 1) <= 0.2
    assert load_config(folder / "config.yaml") == cfg
    records = read_metrics(folder)
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    for record in records:
        assert {name for name in record if name.startswith("entropy/")} == {f"entropy/{c.name}" for c in space.choices}
        assert all(sum(p) == pytest.approx(1) for p in record["probabilities"].values())
    assert records[0]["entropy"] == pytest.approx(1)  # warm-up: the alphas have not moved
    assert records[-1]["entropy"] < 1
    for name in ("arch.png", "alphas.png", "curves.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard").iterdir())
    assert (folder / "child" / "model.safetensors").is_file()
    assert result["macs_expected"] == pytest.approx(nas.load_supernet(folder).expected_cost().macs.item(), rel=1e-9)
    table = search_table(result, str(folder), result["seconds"])
    assert f"{result['macs']:,}" in table
    assert f"{result['top1']:.4f}" in table
    first = outcome(folder)
    titles = []
    monkeypatch.setattr("mobile_cv_nas.search.folder.draw_arch", lambda *_, about="", **__: titles.append(about))
    search_and_train(tiny("OUTPUT_DIR", tmp_path / "again"))
    assert f"MACs, {result['params']} parameters, test top-1 {result['top1']:.4f}" in titles[-1]
    assert same(first, outcome(tmp_path / "again"))


@pytest.mark.parametrize("steps", [7, 15 + 1, 15 * 2 + 2, (15 + 3) * 4 + 5])  # weights, next epoch, alphas, the child
def test_a_stopped_run_goes_on_to_the_same_end(tiny, tmp_path, steps):
    search_and_train(tiny("OUTPUT_DIR", tmp_path / "whole"))
    assert not search_and_train(tiny(), stop=StopAfter(steps))["finished"]
    assert not (tmp_path / "run" / "result.json").exists()
    torch.manual_seed(99)  # whatever the process did in between
    random.seed(99)
    assert search_and_train(tiny(), resume=True)["finished"]
    assert same(outcome(tmp_path / "whole"), outcome(tmp_path / "run"))


def test_a_resumed_search_needs_its_own_loss(tiny, tmp_path):
    def run(own):
        found = search_of(tiny())
        found.task = replace(found.task, losses=replace(found.task.losses, own=own))
        return found

    assert not run(torch.nn.functional.cross_entropy).run(tmp_path / "run", stop=StopAfter(3)).finished
    with pytest.raises(CheckpointError, match="a loss of one's own was True and is False"):
        run(None).run(tmp_path / "run", resume=True)


def test_a_finished_search_is_kept_and_its_child_can_be_trained_on(tiny, tmp_path):
    folder = tmp_path / "run"
    search_and_train(tiny())
    kept, config = outcome(folder), (folder / "config.yaml").read_bytes()
    with pytest.raises(FileError, match="holds a finished run"):
        search_and_train(tiny("SEED", 1))
    with pytest.raises(CheckpointError, match=r"SEARCH\.EPOCHS was 4 and is 5"):
        search_and_train(tiny("SEARCH.EPOCHS", 5), resume=True)
    with pytest.raises(CheckpointError, match=r"TRAIN\.LR was 0\.2 and is 0\.5"):  # by the child's checkpoint
        search_and_train(tiny("TRAIN.LR", 0.5), resume=True)
    assert same(outcome(folder), kept)
    assert (folder / "config.yaml").read_bytes() == config
    search_and_train(tiny("TRAIN.EPOCHS", 3), resume=True)
    assert load_config(folder / "config.yaml").TRAIN.EPOCHS == 3
    assert [record["epoch"] for record in read_metrics(folder / "child")] == [1, 2, 3]
    assert [a == b for a, b in zip(outcome(folder)[0], kept[0], strict=True)] == [True, True, False, False, False]
    search_and_train(tiny(), overwrite=True)
    assert same(outcome(folder), kept)


def test_objective_params_and_inherited_weights(tiny):
    result = search_and_train(tiny("SEARCH.OBJECTIVE", "params", "SEARCH.TARGET", 800, "TRAIN.INIT", "inherit"))
    assert abs(result["params"] / 800 - 1) <= 0.2
    assert "target, parameters" in search_table(result, "", result["seconds"])


@pytest.mark.parametrize("child", [False, {"epochs": 1, "batch_size": 16}])
def test_a_search_from_python_trains_the_child_where_that_is_wanted(tiny, tmp_path, child):
    tiny()  # writes tiny.yaml
    images = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = [torch.utils.data.TensorDataset(part, torch.arange(len(part)) % 4) for part in (images[:48], images[48:64], images[64:])]
    recipe = Recipe(runtime=RuntimeOptions(device="cpu"))
    found = nas.search(tmp_path / "tiny.yaml", *data, 17e3, "single", tmp_path / "run", recipe, child=child, tolerance=0.2)
    assert found.finished
    assert (found.training is None, (tmp_path / "run/child").exists()) == (child is False, child is not False)
    assert json.loads((tmp_path / "run/result.json").read_text())["macs"] == found.cost.macs
    assert found.facts["macs"] == found.cost.macs
    with pytest.raises(FileError, match="holds a finished run"):  # neither resumed nor overwritten unless it is said
        nas.search(tmp_path / "tiny.yaml", *data, 17e3, "single", tmp_path / "run", recipe, child=child, tolerance=0.2)


def test_a_run_by_itself_trains_the_child_and_begins_anew_in_an_empty_folder_alone(tmp_path):
    run = search_of(short(tmp_path, "dmasking", "SEARCH.TOLERANCE", 0.2))
    assert not run.run(tmp_path / "stopped", stop=StopAfter(3)).finished
    with pytest.raises(FileError, match="--resume"):
        run.run(tmp_path / "stopped")
    assert run.run(tmp_path / "run").training is not None
    with pytest.raises(FileError, match="holds a finished run"):
        run.run(tmp_path / "run")


def test_what_is_derived_is_saved_at_once(tmp_path):
    """Asked for between the search and the child, which a stop may come between."""
    run = search_of(short(tmp_path, "single", "SEARCH.TOLERANCE", 0.2))
    stop = StopRequest()
    stop._saved -= 1e6  # long ago
    run.run(tmp_path / "run", stop=stop, train_child=False)
    assert not stop.due()


# -- bad input and bad numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "target"), [("macs", 10), ("macs", 1e9), ("params", 1e9)])
def test_a_target_out_of_reach_names_the_range_and_writes_nothing(tiny, tmp_path, objective, target):
    cfg = tiny("SEARCH.OBJECTIVE", objective, "SEARCH.TARGET", target)
    space = nas.SearchSpace.load(cfg.SEARCH.SPACE)
    low, high = (getattr(space.cost(arch(10, by=objective), 10), objective) for arch in (space.smallest, space.largest))
    with pytest.raises(InputError, match=rf"SEARCH\.TARGET.*{low:,} to {high:,}"):
        search_and_train(cfg)
    assert not (tmp_path / "run").exists()
    assert search_of(tiny("SEARCH.TARGET", 12000)).goals[""].target == 12000


def test_a_space_without_choices_and_a_missing_space_are_refused(tiny, tmp_path):
    (tmp_path / "one.yaml").write_text("input_size: 8\nstages: [[[ir_k3, 8, 2, 1, {expansion: 2}]]]\n")
    with pytest.raises(InputError, match="train_net"):
        search_and_train(tiny("SEARCH.SPACE", tmp_path / "one.yaml"))
    with pytest.raises(InputError, match=r"SEARCH\.SPACE: empty"):
        search_and_train(tiny("SEARCH.SPACE", ""))
    assert not (tmp_path / "run").exists()


def test_more_images_a_step_than_there_are(tiny):
    """The smaller part of them, that of the alphas, says how many a step may have."""
    said = (
        r"^SEARCH\.BATCH_SIZE: 252: of the 1257 training images 1006 are for the weights and 251 are for the alphas; set it to 251 or less"
    )
    with pytest.raises(ValueError, match=said):
        build_searcher(tiny("SEARCH.BATCH_SIZE", 252))
    build_searcher(tiny("SEARCH.BATCH_SIZE", 251))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SEARCH.WEIGHT_LR", "1e30", r"epoch 1, step \d of 15 of the weights, learning rate \S+e\+29: cross-entropy is"),
        ("SEARCH.COST_WEIGHT", "1e39", r"epoch 1, step 1 of 3 of the alphas, learning rate 0\.5: gradient norm is not"),
    ],
)
def test_numbers_that_are_not_finite_stop_with_the_state_before(tiny, tmp_path, key, value, message):
    with pytest.raises(NotFinite, match=message):
        search_and_train(tiny(key, value, "SEARCH.WARMUP_FRACTION", 0))
    state = load_latest(tmp_path / "run" / "checkpoints")["work"]
    assert all(t.isfinite().all() for t in state["supernet"].values())
    resumed = tiny(key, value, "SEARCH.WARMUP_FRACTION", 0)
    with pytest.raises(NotFinite, match=message):  # the state is exactly that before the step: it fails again
        search_and_train(resumed, resume=True)


def test_an_alpha_that_overflows_is_named_and_put_back(tiny):
    searcher = build_searcher(tiny("SEARCH.WARMUP_FRACTION", 0))
    alphas, phase = searcher.supernet.alpha_parameters(), searcher.phases[1]
    with torch.no_grad():
        for alpha in alphas:
            alpha.fill_(3.4e38)
    for group in phase.stepper.optimizer.param_groups:
        group["lr"] = 1e37
    phase.begin(0)
    phase.prepare(0, 0)
    batch = next(iter(phase.loader.epoch(0)))
    outcome = phase.stepper.step([batch], 1, lambda batch, number: phase.loss(batch, (0, 0, number)), list)
    assert re.fullmatch(r"alpha of s1b0\.\w+", outcome.term)
    assert all(torch.equal(alpha, torch.full_like(alpha, 3.4e38)) for alpha in alphas)
    assert not phase.stepper.optimizer.state


def test_bad_steps_can_be_skipped(tiny, tmp_path, monkeypatch):
    term, calls = Goal.term, []

    def first_is_nan(goal, supernet):
        calls.append(1)
        return term(goal, supernet) * (math.nan if len(calls) == 1 else 1)

    monkeypatch.setattr(Goal, "term", first_is_nan)
    assert search_and_train(tiny("SEARCH.ON_NAN", "skip", "SEARCH.EPOCHS", 2, "SEARCH.WARMUP_FRACTION", 0.5))["finished"]
    assert [record["skipped_steps"] for record in read_metrics(tmp_path / "run")] == [0, 1]


@pytest.mark.parametrize(
    ("key", "value", "phase"),
    [("SEARCH.WEIGHT_LR", "1e30", "15 steps of the weights"), ("SEARCH.COST_WEIGHT", "1e39", "3 steps of the alphas")],
)
def test_skipping_everything_stops_in_the_end(tiny, key, value, phase):
    """Alphas that never moved would leave a network by chance."""
    with pytest.raises(NotFinite, match=rf"epoch 2: all {phase} were dropped, since none was finite; start again with a lower SEARCH\."):
        search_and_train(tiny(key, value, "SEARCH.ON_NAN", "skip", "SEARCH.EPOCHS", 4, "SEARCH.WARMUP_FRACTION", 0.25))


@pytest.mark.parametrize("child", [True, False])
def test_the_network_is_drawn_with_what_it_reached(child, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mobile_cv_nas.search.folder.draw_arch", lambda arch, path, about="", **_: drawn.append((path, about)))
    found = search_of(short(tmp_path, "single", "SEARCH.TOLERANCE", 0.2)).run(tmp_path / "run", train_child=child)
    assert drawn[-1][0] == tmp_path / "run/arch.png"
    score = f", test top-1 {found.to_dict()['top1']:.4f}" if child else ""
    assert drawn[-1][1].endswith(f" parameters{score}")


def test_metrics_say_the_learning_rate_that_an_epoch_begins_with(tiny, tmp_path):
    search_and_train(tiny("SEARCH.EPOCHS", 3, "SEARCH.WEIGHT_LR", 0.05))
    rates = [record["weight_lr"] for record in read_metrics(tmp_path / "run")]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3)])
