"""What several tests share."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import multiprocessing.process
import os
import runpy
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from yacs.config import CfgNode

import mobile_cv_nas as nas
from mobile_cv_nas.cli import main
from mobile_cv_nas.commands.options import recipe_of
from mobile_cv_nas.commands.train_net import run as train_command
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data.build import build_data, build_loader
from mobile_cv_nas.data.data_set import Data
from mobile_cv_nas.data.loader import Loader
from mobile_cv_nas.engine.runtime import Runtime, start_runtime
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.tasks.build import task_class
from mobile_cv_nas.training.losses import training_task
from mobile_cv_nas.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("model.safetensors", "metrics.jsonl", "result.json", "arch.yaml")


def tiny_arch() -> nas.ArchDef:
    """A network of 8x8 images that trains in milliseconds and has norms, a residual, SE and a depthwise layer."""
    stages = [
        [["conv_k3_hs", 8, 2, 1]],
        [["ir_k3_se_hs", 8, 1, 1, {"expansion": 2}]],
        [["ir_k3", 16, 2, 1, {"expansion": 2}]],
    ]
    return nas.ArchDef.parse({"name": "tiny", "input_size": 8, "stages": stages})


def quick_cfg(output: Path | str, *opts: str) -> CfgNode:
    """A config of two short epochs on the digits, on the CPU."""
    common = {"OUTPUT_DIR": str(output), "RUNTIME.DEVICE": "cpu", "TRAIN.EPOCHS": "2", "TRAIN.BATCH_SIZE": "128"}
    common |= dict(zip(opts[::2], opts[1::2], strict=True))
    return load_config(None, [text for pair in common.items() for text in pair])


def runtime_of(cfg: CfgNode) -> Runtime:
    """The runtime that a config describes."""
    return start_runtime(recipe_of(cfg).runtime)


def data_of_cfg(cfg: CfgNode) -> Data:
    """The data set that a config describes."""
    recipe = recipe_of(cfg)
    return build_data(recipe.data, task_class(recipe.head.name).labels)


def loader_of_cfg(
    cfg: CfgNode, split: Any, input_size: int, batch_size: int, train: bool, shard: tuple[int, int] = (0, 1), **more: Any
) -> Loader:
    """The loader of a split as a config says."""
    return build_loader(recipe_of(cfg).data, split, input_size, batch_size, train, shard, **{"seed": cfg.SEED, **more})


def run_training(cfg: CfgNode, heads: Sequence[str] = ("",)) -> str:
    """What a tool that trains prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        train_command(cfg, Namespace(resume=False, overwrite=False, dry_run=False), heads)
    return out.getvalue()


def trainer_of(
    cfg: CfgNode, arch: nas.ArchDef, data: Data | None = None, weights: Mapping[str, Any] | None = None, label_size: int | None = None
) -> Trainer:
    """The training that a config describes, not begun."""
    recipe, data = recipe_of(cfg), data or data_of_cfg(cfg)
    return Trainer(replace(training_task(data, recipe), label_size=label_size), arch, data, recipe, runtime_of(cfg), weights)


def train(
    cfg: CfgNode,
    arch: nas.ArchDef,
    folder: Path,
    resume: bool = False,
    stop: StopRequest | None = None,
    overwrite: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Trains into a folder that is there, as a config says; the plain result, and the file of the weights."""
    result = trainer_of(cfg, arch, **more).run(folder, resume, stop, overwrite=overwrite)
    return {**result.to_dict(), "weights": str(result.weights)} if result.finished else result.to_dict()


def image_folder(root: Path, counts: dict[str, int], size: int = 12, seed: int = 0) -> Path:
    """Random PNG files: `counts` maps a folder, such as "train/cat", to its number of images."""
    rng = np.random.default_rng(seed)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(root / folder / f"{i:03d}.png")
    return root


@dataclass(frozen=True)
class Done:
    """How a command line ended."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(name: str, *args: str, cwd: Path | None = None) -> Done:
    """Runs tools/<name>.py to its end, in this process: python's and torch's start would take longer than the tool."""
    before, here = sys.argv, Path.cwd()
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        os.chdir(cwd or here)
        sys.argv = [f"{name}.py", *args]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = before
        os.chdir(here)
    return Done(code, out.getvalue(), err.getvalue())


# Processes of their own are forked from one that has done the imports, and nothing else.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["mobile_cv_nas.training.trainer", "torch.utils.tensorboard", "sklearn.datasets"])


def start_training(options: list[str], log: Path, **environment: str) -> multiprocessing.process.BaseProcess:
    """Starts what `tools/train_net.py --resume OPTIONS` does, in a process of its own that prints to `log`."""
    process = _FORKS.Process(target=_train, args=(options, log, environment))
    process.start()
    return process


def _train(options: list[str], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)  # so that runs agree to the bit
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(train_command, [*options, "--resume"]))


def start_torchrun(options: list[str], log: Path) -> multiprocessing.process.BaseProcess:
    """As `torchrun --nproc-per-node=2 --max-restarts=1` with what `start_training` does, and workers forked as well."""
    process = _FORKS.Process(target=_torchrun, args=(options, log))
    process.start()
    return process


def _torchrun(options: list[str], log: Path) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(1, 1, 2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=1, start_method="fork")
    elastic_launch(config, _train)(options, log, {})


def flip_a_bit(path: Path, where: float = 0.5) -> None:
    """Changes one bit of a file, at that share of its length."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(data)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def digests(folder: Path) -> list[str]:
    """What a finished training run left, in a form that shows any difference."""
    return [hashlib.sha256(lasting(folder / name)).hexdigest() for name in RESULTS]


def lasting(path: Path) -> bytes:
    """What a file of a run holds whenever it is repeated: a result.json without its seconds."""
    if path.name != "result.json":
        return path.read_bytes()
    return json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}).encode()


class StopAfter(StopRequest):
    """Asks to stop once it was looked at `count` times."""

    def __init__(self, count: int):
        self.count = count
        super().__init__()

    @property
    def requested(self) -> bool:
        self.count -= 1
        return self.count < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass
