"""The search: what each phase trains, exact resume, derivation near the target, and bad input."""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mobile_cv_nas as nas
from mobile_cv_nas.checkpoint import StopRequest, load_latest
from mobile_cv_nas.config import ConfigError, load_config
from mobile_cv_nas.data import build_data
from mobile_cv_nas.engine import NotFinite, start_runtime
from mobile_cv_nas.search import (
    DeriveError,
    Goal,
    Searcher,
    check_target,
    derive_arch,
    draw_candidates,
    search_and_train,
    summary_table,
    temperature,
)

ROOT = Path(__file__).resolve().parents[1]
TINY = """
name: tiny
input_size: 8
stages:
  - [[conv_k3_hs, 4, 1, 1]]
  - [[[ir_k3, ir_k5_se_hs], [4, 8, 4], 2, 1, {expansion: [1, 3, 1]}],
     [[ir_k3_hs, ir_k3_se, skip], [4, 8, 4], 1, 1, {expansion: [1, 2, 1]}]]
"""


@pytest.fixture
def tiny(tmp_path):
    """`tiny(KEY, VALUE, ...)`: a config that searches a tiny space for a few epochs, in tmp_path/run."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def build(*opts):
        common = {
            "SEARCH.SPACE": tmp_path / "tiny.yaml",
            "OUTPUT_DIR": tmp_path / "run",
            "SEARCH.EPOCHS": 4,
            "SEARCH.TARGET": 12000,
            "SEARCH.TOLERANCE": 0.2,
            "SEARCH.CANDIDATES": 3,
            "SEARCH.DRAWS": 100,
            "TRAIN.EPOCHS": 1,
            "RUNTIME.DEVICE": "cpu",
        }
        return load_config(None, [str(item) for pair in common.items() for item in pair] + [str(opt) for opt in opts])

    return build


def build_searcher(cfg):
    space = nas.SearchSpace.load(cfg.SEARCH.SPACE)
    return Searcher(cfg, space, build_data(cfg), start_runtime(cfg))


class Quiet:
    """A monitor that keeps the records."""

    def __init__(self):
        self.records = []

    def step(self, searcher):
        pass

    def epoch(self, searcher, record):
        self.records.append(record)


class StopAfter(StopRequest):
    """A stop request that comes true at the n-th step."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0

    @requested.setter
    def requested(self, value):
        pass


def copies(tensors):
    return [tensor.detach().clone() for tensor in tensors]


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_temperatures(tiny):
    cfg = tiny("SEARCH.EPOCHS", 30)
    values = [temperature(cfg, epoch) for epoch in range(30)]
    assert values[0] == 5.0
    assert values[-1] == pytest.approx(0.2)
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert max(ratios) == pytest.approx(min(ratios))
    cfg = tiny("SEARCH.TEMPERATURE.SCHEDULE", "paper", "SEARCH.EPOCHS", 90)
    assert temperature(cfg, 0) == 5.0
    assert temperature(cfg, 89) == pytest.approx(5 * math.exp(-0.045) ** 89)


def test_images_are_split_80_to_20(tiny):
    searcher = build_searcher(tiny())
    weights, alphas = (set(loader.split.indices) for loader in searcher.loaders.values())
    assert not weights & alphas
    assert weights | alphas == set(build_data(tiny()).train.indices)
    assert len(alphas) / len(weights | alphas) == pytest.approx(0.2, abs=0.005)


def test_each_phase_trains_its_own_parameters_only(tiny):
    searcher = build_searcher(tiny("SEARCH.EPOCHS", 2, "SEARCH.WARMUP_FRACTION", 0.5))
    supernet = searcher.supernet
    seen = []

    class Watch(Quiet):
        def step(self, searcher):
            weights, alphas = supernet.weight_parameters(), supernet.alpha_parameters()
            seen.append((searcher.epoch, searcher.phase_name))
            own, other = (weights, alphas) if searcher.phase_name == "weights" else (alphas, weights)
            assert all(p.grad is not None for p in own)
            assert not any(p.requires_grad for p in other)
            if searcher.phase_name == "alphas":
                now = copies(weights)
                assert searcher.done == 1 or all(map(torch.equal, now, self.weights))
                self.weights = now
            else:
                assert searcher.epoch > 0 or not any(alpha.any() for alpha in alphas)  # warm-up
                for p in other:
                    p.grad = None
            for p in own:
                p.grad = None

    watch = Watch()
    assert searcher.run(StopRequest(), lambda: None, watch)
    assert {(0, "weights"), (1, "weights"), (1, "alphas")} == set(seen)
    assert len(seen) == searcher.total_steps == searcher.steps_done
    assert all(alpha.any() for alpha in supernet.alpha_parameters())
    assert [record["alpha_loss"] is None for record in watch.records] == [True, False]


def test_no_weight_gradient_is_computed_for_the_alphas(tiny):
    searcher = build_searcher(tiny("SEARCH.EPOCHS", 1, "SEARCH.WARMUP_FRACTION", 0))
    touched = []
    searcher.phase = 1
    for parameter in searcher.supernet.weight_parameters():
        parameter.register_hook(lambda grad: touched.append(grad))
        parameter.grad = None
    searcher._run_phase("alphas", StopRequest(), lambda: None, Quiet())
    assert not touched
    assert all(parameter.grad is None for parameter in searcher.supernet.weight_parameters())


def test_cost_term(tiny):
    searcher = build_searcher(tiny("SEARCH.COST_WEIGHT", 0.5, "SEARCH.TARGET", 10000))
    searcher.supernet.sample(1.0)
    term, cost = searcher._cost_term()
    cost, term_value = cost.detach(), float(term.detach())
    assert float(cost) == float(searcher.supernet.cost().macs.detach())
    assert term_value == pytest.approx(0.5 * abs(float(cost) / 10000 - 1))
    assert term.requires_grad


def test_accumulation_takes_the_same_images(tiny):
    whole, parts = (build_searcher(tiny("RUNTIME.ACCUMULATE", n, "SEARCH.EPOCHS", 1)) for n in (1, 4))
    assert whole.steps == parts.steps
    for searcher in (whole, parts):
        assert searcher.run(StopRequest(), lambda: None, Quiet())
    batches = [torch.cat([y for _, y in s.loaders["weights"].epoch(0)]) for s in (whole, parts)]
    assert torch.equal(*[b[: whole.steps["weights"] * 64] for b in batches])


# -- whole runs --------------------------------------------------------------------------------------------------------


def outcome(folder):
    """What two equal runs must have in common."""
    state = torch.load(folder / "search.pt", weights_only=True)
    assert set(state) == {"space", "num_classes", "alphas", "supernet"}
    files = [(folder / name).read_bytes() for name in ("arch.yaml", "metrics.jsonl", "result.json")]
    return files, state["supernet"]


def same(a, b):
    return a[0] == b[0] and all(torch.equal(a[1][name], b[1][name]) for name in a[1]) and set(a[1]) == set(b[1])


def test_a_run_leaves_a_complete_folder_and_repeats_exactly(tiny, tmp_path):
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
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
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
    table = summary_table(result)
    assert f"{result['macs']:,}" in table
    assert f"{result['top1']:.4f}" in table
    first = outcome(folder)
    search_and_train(tiny("OUTPUT_DIR", tmp_path / "again"))
    assert same(first, outcome(tmp_path / "again"))


@pytest.mark.parametrize("steps", [7, 15 + 1, 15 * 2 + 2, (15 + 3) * 4 + 5])  # weights, next epoch, alphas, the child
def test_a_stopped_run_goes_on_to_the_same_end(tiny, tmp_path, monkeypatch, steps):
    import mobile_cv_nas.search.run as module

    search_and_train(tiny("OUTPUT_DIR", tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "StopRequest", lambda minutes: StopAfter(steps))
        assert not search_and_train(tiny())["finished"]
    assert not (tmp_path / "run" / "result.json").exists()
    torch.manual_seed(99)  # whatever the process did in between
    random.seed(99)
    assert search_and_train(tiny(), resume=True)["finished"]
    assert same(outcome(tmp_path / "whole"), outcome(tmp_path / "run"))


def test_objective_params_and_inherited_weights(tiny):
    result = search_and_train(tiny("SEARCH.OBJECTIVE", "params", "SEARCH.TARGET", 800, "TRAIN.INIT", "inherit"))
    assert abs(result["params"] / 800 - 1) <= 0.2
    assert "target, parameters" in summary_table(result)


# -- deriving ----------------------------------------------------------------------------------------------------------


def test_candidates_are_those_near_the_target_most_probable_first(tiny):
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[[["ir_k3", "ir_k5"], [4, 16, 4], 2, 1, {"hidden": 8}]]]})
    weights = {"s0b0.block": torch.tensor([0.7, 0.3]), "s0b0.channels": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    archs = {}
    for picks in itertools.product(range(2), range(4)):
        named = dict(zip(weights, picks, strict=True))
        archs[space.decode(named)] = math.prod(float(weights[name][i]) for name, i in named.items())
    costs = sorted(space.cost(arch, 10).macs for arch in archs)
    goal = Goal("macs", costs[4], 0.1, 10)
    found = draw_candidates(space, weights, goal, draws=2000, seed=0)
    near = {arch for arch in archs if goal.met(space.cost(arch, 10).macs)}
    assert 1 < len(near) < len(archs)
    assert {candidate.arch for candidate in found} == near
    chances = [archs[candidate.arch] for candidate in found]
    assert chances == sorted(chances, reverse=True)
    assert [math.exp(candidate.log_probability) for candidate in found] == pytest.approx(chances)
    assert [candidate.cost for candidate in found] == [space.cost(candidate.arch, 10).macs for candidate in found]


def test_decided_alphas_far_from_the_target_are_drawn_from_more_widely(tiny, caplog):
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["ir_k3", [4, 16, 4], 2, 1, {"hidden": 8}]]]})
    decided = {"s0b0.channels": torch.tensor([1.0, 0.0, 0.0, 0.0])}
    target = space.cost(space.largest(10), 10).macs
    found = draw_candidates(space, decided, Goal("macs", target, 0.01, 10), draws=50, seed=0)
    assert [candidate.cost for candidate in found] == [target]
    assert "more widely" in caplog.text
    with pytest.raises(DeriveError, match=rf"the nearest has {target:,}"):
        draw_candidates(space, decided, Goal("macs", target * 1.02, 0.01, 10), draws=50, seed=0)


def test_the_argmax_is_taken_when_it_is_near_and_else_the_best_candidate(tiny):
    searcher = build_searcher(tiny())
    space, supernet = searcher.space, searcher.supernet
    with torch.no_grad():
        for alpha in supernet.alpha_parameters():
            alpha[-1] += 1
    cost = space.cost(supernet.derive(), 10).macs
    near = derive_arch(supernet, Goal("macs", cost * 1.04, 0.05, 10), [], [], 10, 1, seed=0)
    assert (near.how, near.arch) == ("argmax", supernet.derive())
    images = [images for images, _ in itertools.islice(searcher.loaders["weights"].epoch(0), 3)]
    val = list(itertools.islice(searcher.loaders["alphas"].epoch(0), 1))
    goal = Goal("macs", 12000, 0.2, 10)
    far = derive_arch(supernet, goal, images, val, 200, 3, seed=0)
    assert (far.how, far.compared) == ("sampled", 3)
    assert far.within > 3
    assert goal.met(space.cost(far.arch, 10).macs)
    assert 0 <= far.score <= 1


# -- bad input and bad numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "target"), [("macs", 10), ("macs", 1e9), ("params", 1e9)])
def test_a_target_out_of_reach_names_the_range_and_writes_nothing(tiny, tmp_path, objective, target):
    cfg = tiny("SEARCH.OBJECTIVE", objective, "SEARCH.TARGET", target)
    space = nas.SearchSpace.load(cfg.SEARCH.SPACE)
    low, high = (getattr(space.cost(arch(10, by=objective), 10), objective) for arch in (space.smallest, space.largest))
    with pytest.raises(ConfigError, match=rf"SEARCH\.TARGET.*{low:,} to {high:,}"):
        search_and_train(cfg)
    assert not (tmp_path / "run").exists()
    assert check_target(tiny("SEARCH.TARGET", 12000), space, 10).target == 12000


def test_a_space_without_choices_and_a_missing_space_are_refused(tiny, tmp_path):
    (tmp_path / "one.yaml").write_text("input_size: 8\nstages: [[[ir_k3, 8, 2, 1, {expansion: 2}]]]\n")
    with pytest.raises(ConfigError, match="train_net"):
        search_and_train(tiny("SEARCH.SPACE", tmp_path / "one.yaml"))
    with pytest.raises(ConfigError, match=r"SEARCH\.SPACE: empty"):
        search_and_train(tiny("SEARCH.SPACE", ""))
    assert not (tmp_path / "run").exists()


def test_more_images_a_step_than_there_are(tiny):
    with pytest.raises(ValueError, match="images"):
        build_searcher(tiny("SEARCH.BATCH_SIZE", 512))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SEARCH.WEIGHT_LR", "1e30", r"epoch 1, step \d of 15 of the weights, learning rate \S+e\+29: cross-entropy is"),
        ("SEARCH.COST_WEIGHT", "1e39", r"epoch 1, step 1 of 3 of the alphas, learning rate 0\.1: gradient norm is not"),
    ],
)
def test_numbers_that_are_not_finite_stop_with_the_state_before(tiny, tmp_path, key, value, message):
    with pytest.raises(NotFinite, match=message):
        search_and_train(tiny(key, value, "SEARCH.WARMUP_FRACTION", 0))
    state = load_latest(tmp_path / "run" / "checkpoints")["searcher"]
    assert all(t.isfinite().all() for t in state["supernet"].values())
    resumed = tiny(key, value, "SEARCH.WARMUP_FRACTION", 0)
    with pytest.raises(NotFinite, match=message):  # the state is exactly that before the step: it fails again
        search_and_train(resumed, resume=True)


def test_an_alpha_that_overflows_is_named_and_put_back(tiny):
    cfg = tiny("SEARCH.WARMUP_FRACTION", 0)
    cfg.SEARCH.ALPHA_LR = 1e37
    searcher = build_searcher(cfg)
    alphas = searcher.supernet.alpha_parameters()
    with torch.no_grad():
        for alpha in alphas:
            alpha.fill_(3.4e38)
    searcher.phase = 1
    with pytest.raises(NotFinite, match=r"alpha of s1b0\.\w+ is not finite"):
        searcher._run_phase("alphas", StopRequest(), lambda: None, Quiet())
    assert all(torch.equal(alpha, torch.full_like(alpha, 3.4e38)) for alpha in alphas)
    assert not searcher.phases["alphas"].optimizer.state


def test_bad_steps_can_be_skipped(tiny, tmp_path):
    cfg = tiny("SEARCH.COST_WEIGHT", "1e39", "SEARCH.ON_NAN", "skip", "SEARCH.EPOCHS", 2, "SEARCH.WARMUP_FRACTION", 0.5)
    assert search_and_train(cfg)["finished"]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["skipped_steps"] for record in records] == [0, 3]
    assert records[-1]["entropy"] == pytest.approx(1)  # no alpha moved


# -- the command -------------------------------------------------------------------------------------------------------


def command(tmp_path, *opts, launcher=()):
    space = tmp_path / "tiny.yaml"
    space.write_text(TINY)
    fixed = ["SEARCH.SPACE", space, "SEARCH.TARGET", 12000, "SEARCH.TOLERANCE", 0.2, "TRAIN.EPOCHS", 1]
    fixed += ["SEARCH.CANDIDATES", 2, "SEARCH.DRAWS", 50, "RUNTIME.DEVICE", "cpu"]
    tool = [str(ROOT / "tools/search_net.py"), *map(str, fixed), *map(str, opts)]
    return [sys.executable, *launcher, *tool]


def run_tool(arguments, **kwargs):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, capture_output=True, text=True, env=env, timeout=300, **kwargs)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = run_tool(command(tmp_path, "SEARCH.TARGET", 5, "OUTPUT_DIR", tmp_path / "run"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: SEARCH.TARGET: 5 macs")
    assert not (tmp_path / "run").exists()


def test_sigterm_saves_and_resume_finishes(tmp_path):
    folder = tmp_path / "run"
    arguments = command(tmp_path, "SEARCH.EPOCHS", 40, "OUTPUT_DIR", folder)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "--resume" in out
    done = run_tool([*arguments[:2], "--resume", *arguments[2:]])
    assert done.returncode == 0, done.stderr
    assert "test top-1" in done.stdout
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 40


def test_two_processes_search_alike_and_survive_the_death_of_one(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    opts = ["SEARCH.EPOCHS", 4, "SEARCH.BATCH_SIZE", 32, "OUTPUT_DIR"]
    done = run_tool(command(tmp_path, *opts, tmp_path / "whole", launcher=launcher))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("test top-1") == 1  # one process speaks
    records = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    assert records[-1]["entropy"] < 1
    arguments = command(tmp_path, *opts, tmp_path / "run", launcher=launcher)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not list((tmp_path / "run" / "checkpoints").glob("*.pt")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert same(outcome(tmp_path / "whole"), outcome(tmp_path / "run"))


def test_a_folder_of_images_is_searched_with_its_recipe(tmp_path):
    from PIL import Image

    rng = random.Random(0)
    for label, colour in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200))):
        (tmp_path / "images" / f"class{label}").mkdir(parents=True)
        for i in range(30):
            image = Image.new("RGB", (20, 24), tuple(c + rng.randrange(-30, 30) for c in colour))
            image.save(tmp_path / "images" / f"class{label}" / f"{i}.png")
    opts = ["DATA.ROOT", tmp_path / "images", "OUTPUT_DIR", tmp_path / "run", "DATA.WORKERS", 1, "RUNTIME.DEVICE", "cpu"]
    opts += ["SEARCH.SPACE", ROOT / "configs/spaces/digits_resolution.yaml", "SEARCH.TARGET", 300_000]
    opts += ["SEARCH.EPOCHS", 2, "SEARCH.BATCH_SIZE", 8, "TRAIN.EPOCHS", 1, "TRAIN.BATCH_SIZE", 8, "TRAIN.WARMUP_EPOCHS", 0]
    opts += ["SEARCH.CANDIDATES", 2, "SEARCH.DRAWS", 100, "SEARCH.RECALIBRATION_IMAGES", 16]
    result = search_and_train(load_config(ROOT / "configs/search/imagefolder.yaml", list(map(str, opts))))
    assert result["finished"]
    assert abs(result["macs"] / 300_000 - 1) <= 0.05
    arch = nas.ArchDef.load(tmp_path / "run" / "arch.yaml")
    assert arch.input_size in (12, 14, 16)
