"""The folder of a run, its metrics, and what is counted over processes."""

import contextlib
import json
import logging
import resource
import signal

import pytest
import torch
from helpers import data_of_cfg, image_folder, quick_cfg, read_metrics, runtime_of

from mobile_cv_nas.commands.options import data_options
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data import DataError
from mobile_cv_nas.data.build import build_loader
from mobile_cv_nas.engine.progress import MetricsLog
from mobile_cv_nas.engine.run_folder import CHECKPOINTS, open_run
from mobile_cv_nas.engine.runtime import count_skipped
from mobile_cv_nas.errors import FileError
from mobile_cv_nas.files import atomic_open

pytestmark = pytest.mark.slow  # limits and signals of the process itself, which pytest-xdist's workers do not survive


@contextlib.contextmanager
def small_disk(size):
    """Within it the kernel refuses to let any file grow beyond `size` bytes; pytest's own output may be such a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def write_until_full(folder, limit):
    log = MetricsLog(folder, True)
    try:
        log.write(0, epoch=0, names="x" * 100)
        with small_disk(limit):
            for step in range(1, 100):
                log.write(step, epoch=step, names="x" * 100)
    finally:
        log.close()


def test_metrics_on_a_full_disk_are_one_clear_error(tmp_path):
    with pytest.raises(FileError, match=r"metrics\.jsonl: cannot be written"):
        write_until_full(tmp_path, 1000)
    assert (tmp_path / "metrics.jsonl").stat().st_size == 1000


def test_a_full_disk_under_torch_is_one_clear_error(tmp_path):
    def write():
        with atomic_open(tmp_path / "state.pt") as file:
            torch.save({"w": torch.zeros(1_000_000)}, file)

    write()
    before = (tmp_path / "state.pt").read_bytes()
    with small_disk(100_000), pytest.raises(FileError, match=r"state\.pt: cannot be written"):
        write()
    assert (tmp_path / "state.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_metrics_go_on_where_the_checkpoint_was(tmp_path, caplog):
    log = MetricsLog(tmp_path, True)
    log.write(1, loss=2.0)
    position = log.position
    log.write(2, loss=float("nan"))
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}]
    MetricsLog(tmp_path, True, position).close()  # the second was not in the checkpoint
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert not caplog.records
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step"')
    with caplog.at_level(logging.WARNING):
        MetricsLog(tmp_path, True, position + 100).close()
    assert "bytes are missing" in caplog.text
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()] == [{"step": 1, "loss": 2.0}]


def test_an_unfinished_run_is_not_replaced(tmp_path, caplog):
    assert not open_run(tmp_path, resume=False)
    (tmp_path / CHECKPOINTS / "step_000000001.pt").touch()
    with pytest.raises(FileError, match="unfinished run; add --resume"):
        open_run(tmp_path, resume=False)
    assert open_run(tmp_path, resume=True)
    assert (tmp_path / CHECKPOINTS / "step_000000001.pt").exists()


def test_skipped_images_count_over_all_processes(tmp_path):
    image_folder(tmp_path, {"train/a": 10, "train/b": 10, "val/a": 1, "val/b": 1})
    cfg = load_config(None, ["DATA.DATASET", "imagefolder", "DATA.ROOT", str(tmp_path), "DATA.MAX_SKIPPED_SHARE", "0.1"])
    loader = build_loader(data_options(cfg), data_of_cfg(cfg).train, 8, 4, True)
    runtime = runtime_of(quick_cfg(tmp_path))
    loader.skipped = {3, 4}
    assert count_skipped(runtime, [loader, loader]) == 4

    class Two:
        """Another process saw one more."""

        def gather(self, value):
            return [value, {4, 5}]

    with pytest.raises(DataError, match=r"^3 of 20 images cannot be read, more than DATA\.MAX_SKIPPED_SHARE 0\.1"):
        count_skipped(Two(), [loader])
