import errno
import logging
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from helpers import flip_a_bit

from mobile_cv_nas.engine.checkpoint import CheckpointError, check_fingerprint, load_checkpoint, load_latest, save_checkpoint
from mobile_cv_nas.engine.randomness import rng_state, set_rng_state
from mobile_cv_nas.engine.run_folder import RunFolder
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.errors import FileError

pytestmark = pytest.mark.slow  # limits and signals of the process itself, which pytest-xdist's workers do not survive


def state(value):
    return {"w": torch.full((50,), float(value)), "nested": {"list": [1, 2.5, "x", None, True]}, "value": value}


def names(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".pt"))


def test_the_newest_are_kept_and_read(tmp_path):
    for step in (1, 20, 300):
        save_checkpoint(tmp_path, state(step), step, keep=2)
    assert names(tmp_path) == ["step_000000020.pt", "step_000000300.pt"]
    assert len(os.listdir(tmp_path)) == 4
    loaded = load_latest(tmp_path)
    assert torch.equal(loaded.pop("w"), torch.full((50,), 300.0))
    assert loaded == {"nested": {"list": [1, 2.5, "x", None, True]}, "value": 300}


def test_the_checksum_is_one_of_sha256sum(tmp_path):
    save_checkpoint(tmp_path, state(1), 1)
    command = ["sha256sum", "--check", "step_000000001.pt.sha256"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "no checksum", "a folder", "text"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, damage):
    for step in (1, 2):
        path = save_checkpoint(tmp_path, state(step), step)
    if damage == "flipped":
        flip_a_bit(path)
    elif damage == "no checksum":
        path.with_name(path.name + ".sha256").unlink()
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"truncated": path.read_bytes()[:-20], "empty": b"", "text": b"hello"}[damage])
    with caplog.at_level(logging.WARNING):
        assert load_latest(tmp_path)["value"] == 1
    assert "step_000000002.pt" in caplog.text
    save_checkpoint(tmp_path, state(3), 3, keep=2)  # the damaged one does not count
    assert names(tmp_path) == ["step_000000001.pt", "step_000000003.pt"]


def test_a_save_of_the_same_step_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, state(1), 7, keep=1)
    rename = os.replace

    def full(source, target):  # at the last moment, as when a quota is found to be used up
        if str(target).endswith(".pt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileError, match="the disk is full"):
        save_checkpoint(tmp_path, state(2), 7, keep=1)
    assert load_latest(tmp_path)["value"] == 1
    monkeypatch.undo()
    save_checkpoint(tmp_path, state(3), 7, keep=1)
    assert load_latest(tmp_path)["value"] == 3
    assert len((tmp_path / "step_000000007.pt.sha256").read_text().splitlines()) == 1


def test_where_no_checkpoint_is_whole(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        load_latest(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        load_latest(tmp_path / "none")
    flip_a_bit(save_checkpoint(tmp_path, state(1), 1))
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged"):
        load_latest(tmp_path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("/tmp/should-never-exist",)


def test_no_code_in_a_checkpoint_is_run(tmp_path):
    path = save_checkpoint(tmp_path, {"x": Malicious()}, 1)  # with a checksum that fits
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(path)
    assert not os.path.exists("/tmp/should-never-exist")


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mobile_cv_nas.engine.checkpoint.FORMAT", 2)
    save_checkpoint(tmp_path, state(1), 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2 is newer than this library reads"):
        load_latest(tmp_path)


def test_the_difference_between_two_runs_is_named():
    check_fingerprint({"a": 1}, {"a": 1}, "x")
    with pytest.raises(CheckpointError, match=r"runs: the checkpoint is of another run: LR was 0.1 and is 0.2"):
        check_fingerprint({"kind": "k", "LR": 0.1}, {"kind": "k", "LR": 0.2}, "runs")
    with pytest.raises(CheckpointError, match="old was 3 and is None"):
        check_fingerprint({"a": 1, "old": 3}, {"a": 1}, "runs")


# -- the folder ---------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path):
    save_checkpoint(tmp_path, state(1), 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the kernel refuses to write more
    try:
        with pytest.raises(FileError, match=r"step_000000002\.pt: cannot be written"):
            save_checkpoint(tmp_path, {"w": torch.zeros(1_000_000)}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_latest(tmp_path)["value"] == 1
    assert sorted(os.listdir(tmp_path)) == ["step_000000001.pt", "step_000000001.pt.sha256"]


def test_a_folder_that_vanished_is_said(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        save_checkpoint(tmp_path / "gone", state(1), 1)


def test_one_run_a_folder(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        assert folder.is_dir()
        (folder / ".half.123.tmp").write_text("")
        with pytest.raises(FileError, match="another run is using this folder"), RunFolder(folder):
            pass
        code = f"from mobile_cv_nas.engine.run_folder import RunFolder\nwith RunFolder({str(folder)!r}): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another run is using this folder" in other.stderr
    with RunFolder(tmp_path / "run") as folder:
        assert os.listdir(folder) == [".lock"]  # what an interrupted write left is gone


@pytest.mark.slow
def test_the_lock_ends_with_its_run_though_readers_live_on(tmp_path):
    code = f"""
import os, signal, time
from mobile_cv_nas.engine.run_folder import RunFolder
with RunFolder({str(tmp_path)!r}):
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    child = int(ended.stdout)
    try:
        with RunFolder(tmp_path):
            os.kill(child, 0)  # is alive
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_read_only_folder_is_said(tmp_path):
    save_checkpoint(tmp_path, state(1), 1)
    (tmp_path / ".lock").touch()
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def attempt(queue):
        if os.getuid() == 0:  # root may write anywhere
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        for action in (lambda: save_checkpoint(tmp_path, state(2), 2), RunFolder(tmp_path).__enter__):
            try:
                queue.put(str(action()))
            except Exception as error:  # of any other kind too, so that nobody waits for it
                queue.put(f"{type(error).__name__}: {error}")

    for parent in tmp_path.parents:  # pytest's own folders are closed to others
        if parent.stat().st_uid == os.getuid() and parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(parent.stat().st_mode | 0o755)
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    child = fork.Process(target=attempt, args=(queue,))
    child.start()
    messages = [queue.get(), queue.get()]
    child.join()
    tmp_path.chmod(0o755)
    assert all(re.fullmatch("FileError: .*no permission to write there.*", message) for message in messages), messages
    assert load_latest(tmp_path)["value"] == 1


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path / "file", "a file, where"), (tmp_path / "file" / "x", "not a folder")):
        with pytest.raises(FileError, match=reason), RunFolder(path):
            pass


def test_bad_input_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError), RunFolder(tmp_path / "new"):
        raise KeyError
    assert os.listdir(tmp_path) == []


# -- signals and random numbers -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_question(number, capfd):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) is before
    assert "a second signal stops at once" in capfd.readouterr().err


@pytest.mark.slow
def test_a_second_signal_ends_the_process():
    code = (
        "import os, signal\nfrom mobile_cv_nas.engine.stop import StopRequest\n"
        "with StopRequest():\n  os.kill(os.getpid(), signal.SIGTERM)\n  print('on', flush=True)\n"
        "  os.kill(os.getpid(), signal.SIGTERM)\n  print('never', flush=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "on\n")


def test_a_thread_cannot_catch_signals_but_can_train():
    seen = []

    def enter():
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_save_is_due_after_its_minutes():
    stop = StopRequest(minutes=1e-9)
    assert stop.due()
    assert not StopRequest(minutes=60).due()


def test_random_numbers_go_on_where_they_were(tmp_path):
    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(())), float(np.random.standard_normal())  # noqa: NPY002

    np.random.standard_normal()  # noqa: NPY002  (leaves a second one in numpy's store)
    save_checkpoint(tmp_path, rng_state(), 1)
    first = [draw() for _ in range(3)]
    set_rng_state(load_latest(tmp_path))
    assert [draw() for _ in range(3)] == first
