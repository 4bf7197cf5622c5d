import json
import os
import random
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from helpers import StopAfter, digests, quick_cfg, read_metrics, run_training, runtime_of, start_torchrun, start_training, tiny_arch, train

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import train_options
from mobile_cv_nas.commands.train_net import train_from
from mobile_cv_nas.config import ConfigError, load_config
from mobile_cv_nas.data import DataError
from mobile_cv_nas.engine.checkpoint import CheckpointError, load_latest
from mobile_cv_nas.engine.loop import NotFinite
from mobile_cv_nas.engine.run_folder import open_run
from mobile_cv_nas.engine.step import Stepper
from mobile_cv_nas.errors import FileError, InputError
from mobile_cv_nas.tasks.classification import Classification
from mobile_cv_nas.training.optim import build_optimizer, learning_rate
from mobile_cv_nas.weights.file import load_weights

STEPS = 1257 // 128  # an epoch of quick_cfg


# -- faults -------------------------------------------------------------------------------------------


def poisoned(network, when):
    """Makes the forward pass number `when` give NaN, in loss and norm statistics alike."""
    calls = []

    def hook(module, args):
        calls.append(1)
        return (args[0] * float("nan"),) if module.training and len(calls) == when else None

    network.blocks[0].register_forward_pre_hook(hook)


@pytest.fixture
def poison(monkeypatch):
    """`poison(n)`: in the next run the n-th training step is not finite."""

    def poison_at(when):
        def build(*args, **kwargs):
            network = nas.build_model(*args, **kwargs)
            poisoned(network, when + 1)  # the first pass counts MACs
            return network

        monkeypatch.setattr("mobile_cv_nas.tasks.classification.build_model", build)

    yield poison_at
    monkeypatch.undo()


def test_nan_stops_with_the_state_before_it(tmp_path, poison, monkeypatch):
    (tmp_path / "clean").mkdir()
    train(quick_cfg(tmp_path / "clean"), tiny_arch(), tmp_path / "clean")
    poison(5)
    (tmp_path / "run").mkdir()
    with pytest.raises(NotFinite, match=r"epoch 1, step 5 of 9 of the training, learning rate 0\.1\d*: cross-entropy is not finite"):
        train(quick_cfg(tmp_path / "run"), tiny_arch(), tmp_path / "run")
    saved = load_latest(tmp_path / "run" / "checkpoints")
    assert saved["place"][:3] == [0, 0, 4]
    assert all(value.isfinite().all() for value in saved["work"]["network"].values())
    monkeypatch.undo()  # the cause is gone: the run goes on as if it had never been
    train(quick_cfg(tmp_path / "run"), tiny_arch(), tmp_path / "run", resume=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "clean")


def test_nan_is_skipped_and_counted_on_request(tmp_path, poison):
    poison(5)
    result = train(quick_cfg(tmp_path, "TRAIN.ON_NAN", "skip"), tiny_arch(), tmp_path)
    assert result["finished"]
    assert [record["dropped_steps"] for record in read_metrics(tmp_path)] == [1, 1]
    weights, _ = load_weights(result["weights"])
    assert all(value.isfinite().all() for value in weights.values())
    assert weights["blocks.s0b0.norm.num_batches_tracked"] == 2 * STEPS - 1


def test_a_gradient_that_is_not_finite_is_named():
    cfg = quick_cfg("x")
    network = nas.build_model(tiny_arch(), 10)
    runtime, task = runtime_of(cfg), Classification(tuple("0123456789"))
    stepper = Stepper(dict(network.named_parameters()), build_optimizer(network, train_options(cfg)), network, runtime)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.classifier.bias.register_hook(lambda grad: grad * float("inf"))
    batch = (torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.long))
    outcome = stepper.step([batch], 1, lambda one, n: task.loss(network, one, (0, 0, n), runtime), list)
    assert outcome.term == "gradient of classifier.bias"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_skipping_everything_stops_in_the_end(tmp_path):
    weights = nas.build_model(tiny_arch(), 10).state_dict()
    weights["classifier.bias"] = weights["classifier.bias"] * float("nan")
    with pytest.raises(NotFinite, match="51 times in a row"):
        train(quick_cfg(tmp_path, "TRAIN.ON_NAN", "skip", "TRAIN.BATCH_SIZE", "16"), tiny_arch(), tmp_path, weights=weights)


def test_a_run_does_not_go_on_from_another(tmp_path):
    train(quick_cfg(tmp_path), tiny_arch(), tmp_path, stop=StopAfter(3))
    with pytest.raises(CheckpointError, match=r"TRAIN\.LR was 0\.2 and is 0\.3"):
        train(quick_cfg(tmp_path, "TRAIN.LR", "0.3"), tiny_arch(), tmp_path, resume=True)
    other = nas.ArchDef.parse({**tiny_arch().to_dict(), "input_size": 16})
    with pytest.raises(CheckpointError, match="arch was"):
        train(quick_cfg(tmp_path), other, tmp_path, resume=True)
    with pytest.raises(FileError, match="holds an unfinished run; add --resume"):
        train(quick_cfg(tmp_path), tiny_arch(), tmp_path)
    assert train(quick_cfg(tmp_path), tiny_arch(), tmp_path, resume=True)["finished"]


def test_a_finished_run_is_replaced_only_where_that_is_meant(tmp_path):
    cfg = quick_cfg(tmp_path, "TRAIN.EPOCHS", "1")
    assert train(cfg, tiny_arch(), tmp_path)["finished"]
    (tmp_path / "notes.txt").write_text("mine")
    kept = digests(tmp_path)
    message = "holds a finished run; set another OUTPUT_DIR, or add --overwrite"
    with pytest.raises(FileError, match=message):
        train(cfg, tiny_arch(), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(FileError, match=message):  # there is nothing to go on from
        train(cfg, tiny_arch(), tmp_path, resume=True)
    assert digests(tmp_path) == kept
    assert not train(cfg, tiny_arch(), tmp_path, overwrite=True, stop=StopAfter(3))["finished"]
    assert {path.name for path in tmp_path.iterdir()} == {"arch.yaml", "checkpoints", "metrics.jsonl", "notes.txt", "tensorboard"}
    assert train(cfg, tiny_arch(), tmp_path, overwrite=True)["finished"]  # an unfinished one too
    assert digests(tmp_path) == kept


@pytest.mark.parametrize("dear", ["model.safetensors", "search.pt", "child/model.safetensors"])
def test_weights_are_replaced_only_where_that_is_meant(tmp_path, dear):
    (tmp_path / dear).parent.mkdir(exist_ok=True)
    (tmp_path / dear).write_text("of another run, whose result.json and checkpoints were not copied")
    for resume in (False, True):  # there is nothing to go on from
        with pytest.raises(FileError, match=f"holds {dear}, and no run to go on with; set another OUTPUT_DIR, or add --overwrite"):
            open_run(tmp_path, resume, made=[dear])
    assert (tmp_path / dear).is_file()
    assert not open_run(tmp_path, False, overwrite=True, made=[dear])
    assert not (tmp_path / dear).exists()


def test_a_finished_run_goes_on_for_more_epochs(tmp_path, caplog):
    for part in ("whole", "parts"):
        (tmp_path / part).mkdir()
        train(quick_cfg(tmp_path / part), tiny_arch(), tmp_path / part)
    before = read_metrics(tmp_path / "whole")
    longer = {part: quick_cfg(tmp_path / part, "TRAIN.EPOCHS", "4") for part in ("whole", "parts")}
    assert train(longer["whole"], tiny_arch(), tmp_path / "whole", resume=True)["finished"]
    assert "finished after 2 epochs; going on to 4" in caplog.text
    records = read_metrics(tmp_path / "whole")
    assert records[:2] == before
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    options = train_options(longer["whole"])
    assert [record["lr"] for record in records[2:]] == [learning_rate(options, epoch * STEPS - 1, STEPS) for epoch in (3, 4)]
    assert records[3]["loss"] < records[1]["loss"]
    stopped = train(longer["parts"], tiny_arch(), tmp_path / "parts", resume=True, stop=StopAfter(4))
    assert not stopped["finished"]
    assert (tmp_path / "parts/model.safetensors").exists()  # of the two epochs, until there is a better one
    with pytest.raises(CheckpointError, match=r"TRAIN\.EPOCHS was 4 and is 5"):  # not in the middle
        train(quick_cfg(tmp_path / "parts", "TRAIN.EPOCHS", "5"), tiny_arch(), tmp_path / "parts", resume=True)
    assert train(longer["parts"], tiny_arch(), tmp_path / "parts", resume=True)["finished"]
    assert digests(tmp_path / "whole") == digests(tmp_path / "parts")
    with pytest.raises(CheckpointError, match=r"TRAIN\.EPOCHS was 4 and is 3"):
        train(quick_cfg(tmp_path / "parts", "TRAIN.EPOCHS", "3"), tiny_arch(), tmp_path / "parts", resume=True)


class Vanish(StopAfter):
    """Removes a folder before it asks to stop."""

    folder = None

    @property
    def requested(self):
        if self.count == 1:
            shutil.rmtree(self.folder)
        return StopAfter.requested.fget(self)

    @requested.setter
    def requested(self, value):
        pass


def test_a_folder_that_vanishes_during_a_run_is_said(tmp_path):
    (tmp_path / "run").mkdir()
    stop = Vanish(4)
    stop.folder = tmp_path / "run"
    with pytest.raises(FileError, match=r"step_0000000\d+\.pt: cannot be written: its folder does not exist"):
        train(quick_cfg(tmp_path / "run"), tiny_arch(), tmp_path / "run", stop=stop)


def test_a_run_stopped_by_nan_may_go_on_with_skip(tmp_path, poison, monkeypatch):
    poison(5)
    with pytest.raises(NotFinite, match=r"--resume with TRAIN\.ON_NAN skip"):
        train(quick_cfg(tmp_path), tiny_arch(), tmp_path)
    monkeypatch.undo()
    poison(1)  # the same step, counted from the checkpoint
    result = train(quick_cfg(tmp_path, "TRAIN.ON_NAN", "skip"), tiny_arch(), tmp_path, resume=True)
    assert result["finished"]
    assert read_metrics(tmp_path)[-1]["dropped_steps"] == 1


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"does not divide into 1 processes x RUNTIME\.ACCUMULATE 3"):
        train(quick_cfg(tmp_path, "RUNTIME.ACCUMULATE", "3"), tiny_arch(), tmp_path)
    with pytest.raises(DataError, match="fewer than"):
        train(quick_cfg(tmp_path, "TRAIN.BATCH_SIZE", "2048"), tiny_arch(), tmp_path)
    with pytest.raises(ConfigError, match=r"TRAIN\.INIT is scratch"):
        run_training(quick_cfg(tmp_path, "MODEL.WEIGHTS", "w.safetensors"))
    for key, value in (("DEVICE", "cuda"), ("PRECISION", "fp16"), ("SYNC_BN", "true")):
        if not torch.cuda.is_available():
            with pytest.raises(InputError, match=f"RUNTIME.{key}"):
                runtime_of(load_config(None, [f"RUNTIME.{key}", value]))
    assert os.listdir(tmp_path) == []


def test_a_refused_run_keeps_its_configuration(tmp_path):
    """What config.yaml says is what was trained; once a checkpoint goes on, what it goes on with."""
    tiny_arch().save(tmp_path / "arch.yaml")
    opts = ["MODEL.ARCH", str(tmp_path / "arch.yaml"), "TRAIN.EPOCHS"]
    train_from(quick_cfg(tmp_path / "run", *opts, "1"))
    config = (tmp_path / "run/config.yaml").read_bytes()
    with pytest.raises(CheckpointError, match=r"TRAIN\.LR was 0\.2 and is 0\.5"):
        train_from(quick_cfg(tmp_path / "run", *opts, "1", "TRAIN.LR", "0.5"), resume=True)
    assert (tmp_path / "run/config.yaml").read_bytes() == config
    train_from(quick_cfg(tmp_path / "run", *opts, "2"), resume=True)
    assert load_config(tmp_path / "run/config.yaml").TRAIN.EPOCHS == 2


# -- processes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Options of a run that saves all the time, and the folder of its undisturbed result."""
    folder = tmp_path_factory.mktemp("job")
    tiny_arch().save(folder / "arch.yaml")
    options = ["MODEL.ARCH", str(folder / "arch.yaml"), "TRAIN.EPOCHS", "6", "TRAIN.BATCH_SIZE", "128", "RUNTIME.DEVICE", "cpu"]
    options += ["DATA.AUGMENT", "affine", "DATA.MIXUP", "0.2", "TRAIN.EMA_DECAY", "0.99", "CHECKPOINT.MINUTES", "1e-6"]
    process = start_training([*options, "OUTPUT_DIR", str(folder / "whole")], folder / "log")
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    return options, folder / "whole"


def wait_for_checkpoints(folder, alive, more=1):
    """Waits until `more` checkpoints were written since now, or nothing writes any more."""
    checkpoints = folder / "checkpoints"
    before = set(os.listdir(checkpoints)) if checkpoints.exists() else set()
    while alive() and (not checkpoints.exists() or sum(n.endswith(".pt") for n in {*os.listdir(checkpoints)} - before) < more):
        time.sleep(0.005)


@pytest.mark.slow
def test_three_kills_and_a_stop_change_nothing(tmp_path, job):
    options, whole = job
    options = [*options, "OUTPUT_DIR", str(tmp_path / "run")]
    for number, code in [(signal.SIGKILL, -signal.SIGKILL)] * 3 + [(signal.SIGTERM, 0)]:
        process = start_training(options, tmp_path / "log")
        wait_for_checkpoints(tmp_path / "run", process.is_alive)
        time.sleep(random.random() * 0.2)
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == code, (tmp_path / "log").read_text()
        assert not (tmp_path / "run" / "result.json").exists()
    assert "with --resume goes on" in (tmp_path / "log").read_text()
    process = start_training(options, tmp_path / "log")
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert digests(tmp_path / "run") == digests(whole)


def start_ranks(options, log):
    """Two processes of one run, as a cluster's own launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start_training(options, log, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]


@pytest.mark.slow
def test_two_processes_and_a_killed_one(tmp_path, job):
    options, alone = job
    options = [*options, "RUNTIME.ACCUMULATE", "2", "OUTPUT_DIR"]
    ranks = start_ranks([*options, str(tmp_path / "whole")], tmp_path / "log")
    for rank in ranks:
        rank.join()
    text = (tmp_path / "log").read_text()
    assert [rank.exitcode for rank in ranks] == [0, 0], text
    assert text.count("test top-1") == 1  # one process speaks
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "whole", alone)]
    assert abs(results[0]["top1"] - results[1]["top1"]) < 0.1
    # torchrun starts both again when one is killed, and they go on from the last checkpoint
    process = start_torchrun([*options, str(tmp_path / "parts")], tmp_path / "log")
    wait_for_checkpoints(tmp_path / "parts", process.is_alive)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    os.kill(int(random.choice(workers)), signal.SIGKILL)
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")


@pytest.mark.slow
def test_a_process_that_hangs_ends_in_an_error(tmp_path, job):
    options = [*job[0], "RUNTIME.TIMEOUT", "0.2", "TRAIN.EPOCHS", "1000", "OUTPUT_DIR", str(tmp_path / "run")]
    hung, other = start_ranks(options, tmp_path / "log")
    wait_for_checkpoints(tmp_path / "run", other.is_alive)
    os.kill(hung.pid, signal.SIGSTOP)
    other.join()
    os.kill(hung.pid, signal.SIGKILL)
    hung.join()
    assert other.exitcode == 1
    assert re.search("timed? ?out", (tmp_path / "log").read_text(), re.IGNORECASE)
