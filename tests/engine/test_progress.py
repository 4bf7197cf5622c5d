"""What is said during a run: lines an epoch and each half a minute, too little memory, too many readers."""

import io
import os
import sys

import pytest
import torch
from helpers import quick_cfg, runtime_of, tiny_arch, trainer_of
from searches import build_searcher, loop_of, search_of, tiny_cfg

from mobile_cv_nas.data import loader as loading
from mobile_cv_nas.engine import progress
from mobile_cv_nas.engine.memory import OutOfMemory, memory_error
from mobile_cv_nas.engine.progress import Lines
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.engine.timing import long


class Bar:
    def __init__(self, disable):
        self.disable, self.lines = disable, []

    def write(self, text):
        self.lines.append(text)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_each_half_a_minute(tmp_path, clock, capsys):
    lines = Lines(runtime_of(quick_cfg(tmp_path)), Bar(disable=True), total=1000, done=100)
    for second in range(1, 92):
        clock[0] = 100.0 + second
        lines.step(100 + second, lambda: "acc 0.5")
        if second == 40:
            lines.epoch("epoch 1/2")
    found = capsys.readouterr().out.splitlines()
    # a step a second; the line of the epoch at 40 s starts the half minute anew
    assert found == ["step 130/1,000, 870 s left: acc 0.5", "epoch 1/2", "step 170/1,000, 830 s left: acc 0.5"]


def test_a_line_an_epoch_stays_on_a_terminal(tmp_path, clock, capsys):
    bar = Bar(disable=False)
    lines = Lines(runtime_of(quick_cfg(tmp_path)), bar, 10, 0)
    lines.epoch("epoch 1/2")
    clock[0] += 100
    lines.step(1, lambda: "never")
    assert bar.lines == ["epoch 1/2"]
    assert capsys.readouterr().out == ""


def test_pieces_have_one_pace_of_lines_over_all_lots(tmp_path, clock, capsys):
    pieces, seen = progress.Pieces(runtime_of(quick_cfg(tmp_path)), "comparing"), []
    for lot in ("abc", "defg", "hi"):
        for piece in pieces.each(lot, lambda: f"best {seen[-1]}"):
            seen.append(piece)
            clock[0] += 11.0
    assert seen == list("abcdefghi")
    assert capsys.readouterr().out.splitlines() == [
        "comparing 3/3, 0 s left: best c",
        "comparing 3/4, 11 s left: best f",
        "comparing 2/2, 0 s left: best i",
    ]


def test_archs_that_are_compared_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SILENT", 0.0)
    searcher, run = build_searcher(cfg := tiny_cfg(tmp_path)), search_of(cfg)
    (tmp_path / "run").mkdir()
    judge = run.measure(searcher.supernet).judge(loop_of(searcher, tmp_path / "run"), StopRequest())
    archs = list(dict.fromkeys(run.space.sample(seed) for seed in range(20)))[:10]
    scores = judge.scores(archs)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"comparing {i}/10" for i in range(1, 11)]
    assert lines[-1].endswith(f"0 s left: best {max(score for score, _ in scores):.4f}")


class Terminal(io.StringIO):
    """Of 80 columns."""

    def isatty(self):
        return True

    def fileno(self):
        return 2


def test_what_matters_is_seen_on_80_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    cfg = tiny_cfg(tmp_path, "SEARCH.EPOCHS", 2, "SEARCH.WARMUP_FRACTION", 0)
    searcher = build_searcher(cfg)
    (tmp_path / "run").mkdir()
    loop = loop_of(searcher, tmp_path / "run")
    bar = progress.progress_bar(runtime_of(cfg), 1000, 450, "search")
    assert not bar.disable
    bar.set_postfix_str(searcher.status(loop))
    line = sys.stderr.getvalue().rpartition("\r")[2]
    assert len(line) <= 80
    for part in (" 45% ", " left, acc 0.000", "macs", "of 12k", "H 1.00"):
        assert part in line
    bar.close()


def test_readers_are_no_more_than_the_processors(monkeypatch, caplog):
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    loading._say.cache_clear()
    assert [loading.usable_workers(n) for n in (0, 2, 4)] == [0, 2, 4]
    assert not caplog.records
    assert loading.usable_workers(8) == loading.usable_workers(8) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "DATA.WORKERS: 8, but this machine has 4 processors for 1 processes; taking 4"
    ]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert loading.usable_workers(4) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert loading.usable_workers(4) == 1


def too_much():
    return torch.empty(2**55, dtype=torch.uint8)


@pytest.mark.parametrize("section", ["SEARCH", "TRAIN"])
def test_too_little_memory_names_the_keys_that_help(section):
    with pytest.raises(RuntimeError) as caught:
        too_much()
    told = str(memory_error(caught.value, section))
    keys = {"SEARCH": ("SHARING full", "RECOMPUTE true"), "TRAIN": ("TEST.BATCH_SIZE",)}[section]
    for key in (f"{section}.BATCH_SIZE", "RUNTIME.ACCUMULATE", "machine", *keys):
        assert key in told
    assert memory_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB."), section).args[0].count("GPU") == 1
    assert memory_error(MemoryError(), section)
    assert memory_error(RuntimeError("shapes do not agree"), section) is None
    assert memory_error(ValueError("out of memory"), section) is None


def test_a_step_that_does_not_fit_ends_a_run_in_one_line(tmp_path, monkeypatch):
    trainer = trainer_of(quick_cfg(tmp_path), tiny_arch())
    monkeypatch.setattr(type(trainer), "loss", lambda *_: too_much())
    with pytest.raises(OutOfMemory, match=r"TRAIN\.BATCH_SIZE: a step does not fit into the memory of the machine"):
        trainer.run(tmp_path)


def test_other_errors_are_left_as_they_are(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault")

    trainer = trainer_of(quick_cfg(tmp_path), tiny_arch())
    monkeypatch.setattr(type(trainer), "loss", fail)
    with pytest.raises(RuntimeError, match=r"^a fault$"):
        trainer.run(tmp_path)


def test_times_for_people():
    assert [long(s) for s in (0.4, 89, 100, 3600, 3 * 3600 + 1200, 5 * 86400)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
        "3 h 20 min",
        "5.0 days",
    ]


def test_short_numbers():
    found = [progress.short(value) for value in (0, 7.5, 999, 999.6, 1000, 412_345, 999_400, 999_600, 56_270_000, 999.7e6, 1e9, 2.64e12)]
    assert found == ["0", "7.5", "999", "1k", "1k", "412k", "999k", "1M", "56.3M", "1G", "1G", "2.64e+03G"]
