"""Training of one arch: resumable to the bit, on one or many processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from ..arch import ArchDef
from ..commands.options import data_from as build_data
from ..config.keys import DETECTORS, SEGMENTERS, ConfigError, dump_config
from ..data import Data
from ..engine.checkpoint import RunFolder, StopRequest, check_fingerprint, load_latest, rng_state, save_checkpoint, set_rng_state
from ..engine.runtime import (
    CHECKPOINTS,
    MAX_DROPPED,
    MetricsLog,
    NotFinite,
    Runtime,
    count_skipped,
    epoch_line,
    fingerprint,
    open_run,
    progress_bar,
    start_runtime,
    write_result,
)
from ..engine.step import Stepper
from ..files import atomic_write
from ..tasks.task import NAMES, Batch, Classification, Task, name_of
from ..weights.file import find_arch, load_start
from .optim import learning_rate

WEIGHTS = "model.safetensors"


def train(
    cfg: CfgNode,
    arch: ArchDef,
    output: str | os.PathLike,
    data: Data | None = None,
    weights: Mapping[str, Tensor] | None = None,
    resume: bool = False,
    runtime: Runtime | None = None,
    stop: StopRequest | None = None,
    label_size: int | None = None,
) -> dict[str, Any]:
    """Trains `arch` on the data of `cfg`, tests it, and leaves config, arch, weights, metrics and result in `output`.

    The caller holds the folder's lock (`RunFolder`). `weights` is where training starts, random without. `stop` ends
    the run after a step; if None is given, SIGTERM and SIGINT do. `label_size` is the side of masks, where they are not of
    the network's input size.

    Returns:
        {"finished": False, "folder": ...} after a stop; else the scores of the test images (top1, top5 and loss; miou, pixel_accuracy
        and loss; or ap, ap50 and ap75), the main one also of the validation images as val_..., macs, params, skipped_images, and
        "weights", the path of the .safetensors file.

    Raises:
        ConfigError, DataError, FileError, CheckpointError: bad input.
        NotFinite: a loss or gradient that is not finite, with TRAIN.ON_NAN stop.
    """
    runtime = runtime or start_runtime(cfg)
    folder = Path(output)
    trainer = Trainer(cfg, make_task(cfg, arch, data or build_data(cfg), weights, runtime, label_size), folder, runtime)
    if runtime.gather(open_run(folder, resume) if runtime.main else None)[0]:
        trainer.restore()
    with contextlib.ExitStack() as stack:
        return trainer.run(stop or stack.enter_context(StopRequest(cfg.CHECKPOINT.MINUTES)))


def run_training(cfg: CfgNode, resume: bool = False, heads: Sequence[str] = ("",)) -> str | None:
    """Trains the network of `cfg.MODEL` into `cfg.OUTPUT_DIR`: a table, or None on all processes but the first.

    `heads` are those that the tool trains, "" for a classifier. Raises as `train`.
    """
    if cfg.HEAD.NAME not in heads:
        tools = dict.fromkeys(DETECTORS, "detector") | dict.fromkeys(SEGMENTERS, "segmenter") | {"": "net"}
        here = ", ".join(heads) if any(heads) else "classifiers, with none"
        raise ConfigError(f"HEAD.NAME: {cfg.HEAD.NAME!r}, but this tool trains {here}; see tools/train_{tools[cfg.HEAD.NAME]}.py")
    if cfg.TRAIN.INIT == "inherit":
        arch, weights = load_start(cfg)
    elif cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS: given, but TRAIN.INIT is scratch; set it to inherit, or leave the weights out")
    else:
        arch, weights = find_arch(cfg.MODEL.ARCH), None
    data, runtime = build_data(cfg), start_runtime(cfg)
    with RunFolder(cfg.OUTPUT_DIR) if runtime.main else contextlib.nullcontext(Path(cfg.OUTPUT_DIR)) as folder:
        result = train(cfg, arch, folder, data, weights, resume, runtime)
    if not runtime.main:
        return None
    if not result["finished"]:
        return f"stopped, and saved in {folder}; the same command with --resume goes on"
    return result_table(result)


def make_task(
    cfg: CfgNode, arch: ArchDef, data: Data, weights: Mapping[str, Tensor] | None, runtime: Runtime, label_size: int | None = None
) -> Task:
    """The task that `cfg.HEAD` names."""
    if not cfg.HEAD.NAME:
        return Classification(cfg, arch, data, weights, runtime)
    from ..tasks.dense import Detection, Segmentation

    if cfg.HEAD.NAME in DETECTORS:
        return Detection(cfg, arch, data, weights, runtime)
    return Segmentation(cfg, arch, data, weights, runtime, label_size=label_size)


def result_table(result: Mapping[str, Any]) -> str:
    """What `train` returns, as a table."""
    from tabulate import tabulate

    rows = [(f"test {name_of(key)}", f"{result[key]:.4f}") for key in NAMES if key in result]
    rows += [(f"validation {name_of(key)}", f"{result[f'val_{key}']:.4f}") for key in NAMES if f"val_{key}" in result]
    rows += [
        ("MACs", f"{result['macs']:,}"),
        ("parameters", f"{result['params']:,}"),
        ("skipped images", result["skipped_images"]),
        ("weights", result["weights"]),
    ]
    return tabulate(rows, disable_numparse=True)


class Trainer:
    """A training run in progress.

    Args:
        cfg: the complete configuration.
        task: network, data, loss and scores.
        folder: of the run.
        runtime: device, precision and processes.

    Attributes:
        stepper: the network, its optimizer and moving average.
        epoch, step: epochs done, and steps done of the current one.
    """

    def __init__(self, cfg: CfgNode, task: Task, folder: Path, runtime: Runtime):
        self.cfg, self.task, self.folder, self.runtime = cfg, task, folder, runtime
        self.loader, self.val, self.test = task.loaders
        self.steps = task.steps
        self.stepper = Stepper(cfg, task.network, task.objective, runtime)
        self.fingerprint = fingerprint(cfg, **task.identity())
        self.epoch = self.step = self.dropped = self.dropped_in_a_row = self.position = 0
        self.sums = [0.0, 0.0, 0.0]  # of this epoch: loss, right answers, images
        self.validation: dict[str, float] = {}

    @property
    def steps_done(self) -> int:
        return self.epoch * self.steps + self.step

    # -- the run ------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Trains on from where it is; see `train` for what it returns and raises."""
        if self.runtime.main:
            atomic_write(self.folder / "config.yaml", dump_config(self.cfg))
            self.task.arch.save(self.folder / "arch.yaml")
        log = MetricsLog(self.folder, self.runtime.main, self.position, self.steps_done)
        bar = progress_bar(self.runtime, self.cfg.TRAIN.EPOCHS * self.steps, self.steps_done, "training")
        try:
            while self.epoch < self.cfg.TRAIN.EPOCHS:
                if not self._run_epoch(stop, log, bar):
                    return {"finished": False, "folder": str(self.folder)}
            return self._finish()
        finally:
            bar.close()
            log.close()

    def _run_epoch(self, stop: StopRequest, log: MetricsLog, bar: Any) -> bool:
        """The rest of an epoch and its validation; False if it was stopped, after saving."""
        if self.runtime.sum([stop.requested])[0]:
            self.save(log)
            return False
        for batches in self._batches():
            rate = learning_rate(self.cfg, self.steps_done, self.steps)
            key = (self.epoch, self.step)
            outcome = self.stepper.step(batches, rate, key, lambda: [stop.requested, stop.due()])
            self._check(outcome.term, rate, log)
            if outcome.term is None:
                self.sums = [a + b for a, b in zip(self.sums, outcome[:3], strict=True)]
            self.step += 1
            self._show(bar, rate)
            stopping, saving = (flag > 0 for flag in outcome.flags)
            if stopping or saving:
                self.save(log)
                stop.saved()
            if stopping:
                return False
        self._end_epoch(log)
        stop.saved()
        return True

    def _batches(self) -> Iterator[list[Batch]]:
        """The batches of each remaining step of the epoch."""
        parts = self.cfg.RUNTIME.ACCUMULATE
        batches = self.loader.epoch(self.epoch, start=self.step * parts, stop=self.steps * parts)
        for _ in range(self.step, self.steps):
            yield [next(batches) for _ in range(parts)]

    def _check(self, term: str | None, rate: float, log: MetricsLog) -> None:
        """Counts a dropped step, or stops after saving the state before it."""
        self.dropped_in_a_row = 0 if term is None else self.dropped_in_a_row + 1
        if term is None:
            return
        if self.cfg.TRAIN.ON_NAN == "skip" and self.dropped_in_a_row <= MAX_DROPPED:
            self.dropped += 1
            return
        self.save(log)
        again = f" {self.dropped_in_a_row} times in a row" if self.dropped_in_a_row > 1 else ""
        raise NotFinite(
            f"step {self.steps_done + 1} (epoch {self.epoch + 1}): {term} is not finite{again} at learning rate "
            f"{rate:.4g}; the state before it is saved in {self.folder / CHECKPOINTS}: --resume with TRAIN.ON_NAN skip, "
            "or start again with a lower TRAIN.LR or with TRAIN.CLIP_GRAD"
        )

    def _show(self, bar: Any, rate: float) -> None:
        bar.update()
        if not bar.disable:
            means = "".join(f", {name_of(key)} {value:.3f}" for key, value in self._means().items())
            bar.set_postfix_str(f"epoch {self.epoch + 1}{means}, lr {rate:.4f}", refresh=False)

    def _means(self) -> dict[str, float]:
        """Loss and share of right answers of the epoch so far."""
        loss, right, images = self.sums
        means = {"loss": loss, self.task.hits: right} if self.task.hits else {"loss": loss}
        return {name: total / images if images else 0.0 for name, total in means.items()}

    def _end_epoch(self, log: MetricsLog) -> None:
        means, last = self._means(), self.epoch + 1 == self.cfg.TRAIN.EPOCHS
        record: dict[str, Any] = {"epoch": self.epoch + 1, **means, "lr": learning_rate(self.cfg, self.steps_done - 1, self.steps)}
        line = f"epoch {self.epoch + 1}/{self.cfg.TRAIN.EPOCHS}: "
        line += ", ".join(f"{name_of(key)} {value:.4f}" for key, value in means.items())
        if last or (self.epoch + 1) % self.cfg.TRAIN.EVAL_EVERY == 0:
            self.validation = self.task.evaluate(self.stepper.result, self.val)
            record |= {f"val_{key}": value for key, value in self.validation.items()}
            line += f", val {name_of(self.task.main)} {self.validation[self.task.main]:.4f}"
        record |= {"dropped_steps": self.dropped, "skipped_images": self._skipped()}
        self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        log.write(self.steps_done, **record)
        epoch_line(self.runtime, line)
        self.save(log)

    def _skipped(self) -> int:
        return count_skipped(self.runtime, (self.loader, self.val, self.test))

    def _finish(self) -> dict[str, Any]:
        """Tests the result and writes it."""
        network, task = self.stepper.result, self.task
        result = {
            "finished": True,
            **task.evaluate(network, self.test),
            f"val_{task.main}": self.validation[task.main],  # the last epoch is always validated
            "macs": task.cost.macs,
            "params": task.cost.params,
            "skipped_images": self._skipped(),
        }
        path = self.folder / WEIGHTS
        if self.runtime.main:
            task.save(path, network)
            write_result(self.folder, result)
        return {**result, "weights": str(path)}

    # -- saving -------------------------------------------------------------------------------------------

    def save(self, log: MetricsLog) -> None:
        """Writes a checkpoint of everything the rest of the run depends on; a call that all processes make."""
        loaders = [self.runtime.gather(loader.state_dict()) for loader in (self.loader, self.val, self.test)]
        rng = self.runtime.gather(rng_state())
        if not self.runtime.main:
            return
        state = {
            "fingerprint": self.fingerprint,
            "stepper": self.stepper.state_dict(),
            "loaders": loaders,
            "rng": rng,
            "counters": {name: getattr(self, name) for name in ("epoch", "step", "dropped", "dropped_in_a_row", "sums")},
            "validation": self.validation,
            "position": log.position,
        }
        save_checkpoint(self.folder / CHECKPOINTS, state, self.steps_done, self.cfg.CHECKPOINT.KEEP)

    def restore(self) -> None:
        """Goes back to the newest checkpoint. Raises CheckpointError if there is none, or it is of another run."""
        folder = self.folder / CHECKPOINTS
        state = load_latest(folder)
        check_fingerprint(state["fingerprint"], self.fingerprint, folder)
        self.stepper.load_state_dict(state["stepper"])
        rank = self.runtime.rank
        for loader, saved in zip((self.loader, self.val, self.test), state["loaders"], strict=True):
            loader.load_state_dict(saved[min(rank, len(saved) - 1)])
        set_rng_state(state["rng"][min(rank, len(state["rng"]) - 1)])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.validation = state["validation"]
        self.position = state["position"]
