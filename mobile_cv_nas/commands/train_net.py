"""Trains a network, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

python tools/train_net.py --config-file configs/train/base.yaml MODEL.ARCH arch.yaml [--resume] [KEY VALUE ...]

MODEL.ARCH is an arch file or a name of the model zoo. On several GPUs:
torchrun --nproc-per-node 8 tools/train_net.py ...
"""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from .. import cli
from ..arch import ArchDef
from ..config import ConfigError, dump_config
from ..data.build import build_data
from ..engine.run_folder import RunFolder, check_free
from ..engine.runtime import restarts, start_runtime
from ..engine.stop import StopRequest
from ..model_zoo.builder import find_arch
from ..report.tables import result_table
from ..tasks.build import task_class
from ..tasks.load import load
from ..tasks.model import Model
from ..tasks.options import DETECTORS, SEGMENTERS
from ..training.before import training_start
from ..training.losses import training_task
from ..training.start import check_head, starting_state
from ..training.trainer import Trainer, TrainResult
from ..weights.file import WeightsError
from .deployment import check_exports, print_exports
from .options import adopted, recipe_of


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and trains a classifier; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    return cli.main(run, argv, __doc__ or "", purpose="train")


def run(cfg: CfgNode, args: Namespace, heads: Sequence[str] = ("",)) -> None:
    """What the tools do; `heads` are those that the tool trains, "" for a classifier."""
    if cfg.HEAD.NAME not in heads:
        tools = dict.fromkeys(DETECTORS, "detector") | dict.fromkeys(SEGMENTERS, "segmenter") | {"": "net"}
        here = ", ".join(heads) if any(heads) else "classifiers, with none"
        raise ConfigError(f"HEAD.NAME: {cfg.HEAD.NAME!r}, but this tool trains {here}; see tools/train_{tools[cfg.HEAD.NAME]}.py")
    check_exports(cfg)
    if not (args.dry_run or args.resume or restarts()):
        check_free(Path(cfg.OUTPUT_DIR), args.resume, args.overwrite)
    if args.dry_run or not (args.resume or restarts()):
        trainer = trainer_of(cfg)
        start = training_start(trainer, cfg.OUTPUT_DIR)
        if trainer.runtime.main:
            print(start, end="\n\n", flush=True)
        del trainer
    if args.dry_run:
        return
    result, main = train_from(cfg, args.resume, overwrite=args.overwrite)
    if main:
        print(result_table(result.to_dict(), str(result.weights)))
        if result.to_dict()["finished"]:
            print_exports(cfg, Path(cfg.OUTPUT_DIR))


def train_from(cfg: CfgNode, resume: bool = False, stop: StopRequest | None = None, overwrite: bool = False) -> tuple[TrainResult, bool]:
    """Runs the training that a configuration describes; its result, and whether this process is the first."""
    runtime = start_runtime(recipe_of(cfg).runtime)
    with RunFolder(cfg.OUTPUT_DIR) if runtime.main else contextlib.nullcontext(Path(cfg.OUTPUT_DIR)) as folder:
        if runtime.main:
            check_free(folder, resume, overwrite)
        trainer = trainer_of(cfg)
        return trainer.run(folder, resume, stop, overwrite=overwrite, config=dump_config(cfg)), runtime.main


def trainer_of(cfg: CfgNode) -> Trainer:
    """The training that a configuration describes, not begun; what a model brings of its preparation is then in the configuration."""
    start = starting_point(cfg)
    if isinstance(start, Model):
        adopted(cfg, start, cfg.MODEL.WEIGHTS)
    recipe = recipe_of(cfg)
    runtime = start_runtime(recipe.runtime)
    data = build_data(recipe.data, task_class(recipe.head.name).labels)
    weights = None
    if isinstance(start, Model):
        data, weights = starting_state(data, start, cfg.MODEL.WEIGHTS, len(recipe.data.mean))
        start = start.arch
    return Trainer(training_task(data, recipe), start, data, recipe, runtime, weights)


def starting_point(cfg: CfgNode) -> Model | ArchDef:
    """The model that training starts from, or an arch, whose weights are random."""
    source, name, head = cfg.MODEL.WEIGHTS, cfg.MODEL.ARCH, cfg.HEAD.NAME
    if cfg.TRAIN.INIT != "inherit":
        if source:
            raise ConfigError("MODEL.WEIGHTS: given, but TRAIN.INIT is scratch; set it to inherit, or leave the weights out")
        if not name:
            raise WeightsError("MODEL.ARCH: empty; name an arch file or a network of the zoo")
        return find_arch(name)[0]
    if not source:
        raise WeightsError('MODEL.WEIGHTS: empty; name a .safetensors file or a result folder, or "pretrained" for a network of the zoo')
    model = load(source, name)
    check_head(model, head, source)
    return model
