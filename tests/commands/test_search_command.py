"""tools/search_net.py: bad input, signals, two processes, and the recipe for one's own images."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, image_folder, read_metrics, run_tool
from searches import outcome, same, tiny_options

import mobile_cv_nas as nas

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(tmp_path, *opts, launcher=()):
    return [sys.executable, *launcher, str(ROOT / "tools/search_net.py"), *tiny_options(tmp_path, *opts)]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = run_tool("search_net", *tiny_options(tmp_path, "SEARCH.TARGET", 5))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: SEARCH.TARGET: 5 macs")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_demo_in_short(tmp_path):
    opts = ["OUTPUT_DIR", str(tmp_path), "SEARCH.EPOCHS", "1", "TRAIN.EPOCHS", "1", "SEARCH.CANDIDATES", "2"]
    opts += ["SEARCH.DRAWS", "300"]
    done = run_tool("search_net", "--config-file", str(ROOT / "configs/search/digits.yaml"), *opts)
    assert done.returncode == 0, done.stderr
    assert "test top-1" in done.stdout
    arch = nas.ArchDef.load(tmp_path / "arch.yaml")
    assert abs(nas.count(nas.build_model(arch, 10), 16).macs / 400_000 - 1) <= 0.05


@pytest.mark.slow
def test_sigterm_saves_and_resume_finishes(tmp_path):
    folder = tmp_path / "run"
    arguments = command(tmp_path, "SEARCH.EPOCHS", 15, "OUTPUT_DIR", folder)
    with subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 600
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "--resume" in out
    done = run_tool("search_net", "--resume", *arguments[2:])
    assert done.returncode == 0, done.stderr
    assert "test top-1" in done.stdout
    assert [record["epoch"] for record in read_metrics(folder)] == list(range(15))


@pytest.mark.slow
def test_two_processes_search_alike_and_survive_the_death_of_one(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    opts = ["SEARCH.EPOCHS", 4, "SEARCH.BATCH_SIZE", 32, "OUTPUT_DIR"]
    done = subprocess.run(command(tmp_path, *opts, tmp_path / "whole", launcher=launcher), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("test top-1") == 1  # one process speaks
    records = read_metrics(tmp_path / "whole")
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    assert records[-1]["entropy"] < 1
    arguments = command(tmp_path, *opts, tmp_path / "run", launcher=launcher)
    with subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 600
        while not list((tmp_path / "run" / "checkpoints").glob("*.pt")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert same(outcome(tmp_path / "whole"), outcome(tmp_path / "run"))


@pytest.mark.slow
def test_a_folder_of_images_is_searched_with_its_recipe(tmp_path):
    images = image_folder(tmp_path / "images", {"cat": 30, "dog": 30, "owl": 30}, size=20)
    opts = ["DATA.ROOT", images, "OUTPUT_DIR", tmp_path / "run", "DATA.WORKERS", 1, "RUNTIME.DEVICE", "cpu"]
    opts += ["SEARCH.SPACE", ROOT / "configs/spaces/digits_resolution.yaml", "SEARCH.TARGET", 300_000]
    opts += ["SEARCH.EPOCHS", 2, "SEARCH.BATCH_SIZE", 8, "SEARCH.CANDIDATES", 2, "SEARCH.DRAWS", 100]
    opts += ["SEARCH.RECALIBRATION_IMAGES", 16, "TRAIN.EPOCHS", 1, "TRAIN.BATCH_SIZE", 8, "TRAIN.WARMUP_EPOCHS", 0]
    done = run_tool("search_net", "--config-file", str(ROOT / "configs/search/imagefolder.yaml"), *map(str, opts))
    assert done.returncode == 0, done.stderr
    arch = nas.ArchDef.load(tmp_path / "run" / "arch.yaml")
    assert arch.input_size in (12, 14, 16)
    assert abs(nas.count(nas.build_model(arch, 3), arch.input_size).macs / 300_000 - 1) <= 0.05
