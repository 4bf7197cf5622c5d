"""Training of one arch: resumable to the bit, on one or many processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from .arch import ArchDef
from .build import build_model
from .checkpoint import (
    RunFolder,
    StopRequest,
    check_fingerprint,
    load_latest,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from .config import ConfigError, dump_config
from .counting import count
from .data import Data, DataError, build_data, build_loader
from .engine import (
    CHECKPOINTS,
    MetricsLog,
    NotFinite,
    Runtime,
    count_skipped,
    epoch_line,
    fingerprint,
    open_run,
    progress_bar,
    seed_everything,
    start_runtime,
    write_result,
)
from .evaluate import Score, evaluate
from .files import atomic_write
from .optim import learning_rate
from .step import Batch, Stepper
from .weights import find_arch, fit_weights, load_network, save_weights

WEIGHTS = "model.safetensors"
MAX_DROPPED = 50  # steps in a row that TRAIN.ON_NAN skip may drop: after that nothing will mend itself


def train(
    cfg: CfgNode,
    arch: ArchDef,
    output: str | os.PathLike,
    data: Data | None = None,
    weights: Mapping[str, Tensor] | None = None,
    resume: bool = False,
    runtime: Runtime | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Trains `arch` on the data of `cfg`, tests it, and leaves config, arch, weights, metrics and result in `output`.

    The caller holds the folder's lock (`RunFolder`). `weights` is where training starts, random without. `stop` ends
    the run after a step; if None is given, SIGTERM and SIGINT do.

    Returns:
        {"finished": False, "folder": ...} after a stop; else top1, top5 and loss on the test images, val_top1, macs,
        params, skipped_images, and "weights", the path of the .safetensors file.

    Raises:
        ConfigError, DataError, FileError, CheckpointError: bad input.
        NotFinite: a loss or gradient that is not finite, with TRAIN.ON_NAN stop.
    """
    runtime = runtime or start_runtime(cfg)
    folder = Path(output)
    trainer = Trainer(cfg, arch, folder, data or build_data(cfg), weights, runtime)
    if runtime.gather(open_run(folder, resume) if runtime.main else None)[0]:
        trainer.restore()
    with contextlib.ExitStack() as stack:
        return trainer.run(stop or stack.enter_context(StopRequest(cfg.CHECKPOINT.MINUTES)))


def run_training(cfg: CfgNode, resume: bool = False) -> str | None:
    """Trains the network of `cfg.MODEL` into `cfg.OUTPUT_DIR`: a table, or None on all processes but the first.

    Raises as `train`.
    """
    from tabulate import tabulate

    if cfg.TRAIN.INIT == "inherit":
        network, _ = load_network(cfg)
        arch, weights = network.arch, network.state_dict()
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
    rows = [
        ("test top-1", f"{result['top1']:.4f}"),
        ("test top-5", f"{result['top5']:.4f}"),
        ("validation top-1", f"{result['val_top1']:.4f}"),
        ("MACs", f"{result['macs']:,}"),
        ("parameters", f"{result['params']:,}"),
        ("skipped images", result["skipped_images"]),
        ("weights", result["weights"]),
    ]
    return tabulate(rows, disable_numparse=True)


class Trainer:
    """A training run in progress.

    Args:
        cfg, arch, folder, data: as for `train`.
        weights: to start from, or None for random ones.
        runtime: device, precision and processes.

    Attributes:
        stepper: the network, its optimizer and moving average.
        epoch, step: epochs done, and steps done of the current one.
    """

    def __init__(
        self,
        cfg: CfgNode,
        arch: ArchDef,
        folder: Path,
        data: Data,
        weights: Mapping[str, Tensor] | None,
        runtime: Runtime,
    ):
        self.cfg, self.arch, self.folder, self.data, self.runtime = cfg, arch, folder, data, runtime
        self._build_loaders()
        seed_everything(cfg.SEED)
        network = build_model(arch, data.num_classes)
        if weights is not None:
            fit_weights(network, weights, "the weights to start from", new_classifier=True)
        self.cost = count(network, arch.input_size)
        self.stepper = Stepper(cfg, network, data.num_classes, runtime)
        self.fingerprint = fingerprint(cfg, kind="training", arch=json.dumps(arch.to_dict()))
        self.epoch = self.step = self.dropped = self.dropped_in_a_row = self.position = 0
        self.sums = [0.0, 0.0, 0.0]  # of this epoch: loss, correct, images
        self.validation: Score | None = None

    def _build_loaders(self) -> None:
        cfg, size, shard = self.cfg, self.arch.input_size, self.runtime.shard
        batch = self.runtime.batch_size(cfg.TRAIN.BATCH_SIZE)
        self.loader = build_loader(cfg, self.data.train, size, batch, True, shard)
        self.val = build_loader(cfg, self.data.val, size, cfg.TEST.BATCH_SIZE, False, shard)
        self.test = build_loader(cfg, self.data.test, size, cfg.TEST.BATCH_SIZE, False, shard)
        self.steps = len(self.loader) // cfg.RUNTIME.ACCUMULATE
        if not self.steps:
            raise DataError(f"{len(self.data.train)} training images are fewer than TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}")

    @property
    def steps_done(self) -> int:
        return self.epoch * self.steps + self.step

    # -- the run ------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Trains on from where it is; see `train` for what it returns and raises."""
        if self.runtime.main:
            atomic_write(self.folder / "config.yaml", dump_config(self.cfg))
            self.arch.save(self.folder / "arch.yaml")
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
            loss, top1 = self._means()
            bar.set_postfix_str(f"epoch {self.epoch + 1}, loss {loss:.3f}, top-1 {top1:.3f}, lr {rate:.4f}", refresh=False)

    def _means(self) -> tuple[float, float]:
        """Loss and top-1 of the epoch so far."""
        loss, correct, images = self.sums
        return (loss / images, correct / images) if images else (0.0, 0.0)

    def _end_epoch(self, log: MetricsLog) -> None:
        loss, top1 = self._means()
        rate = learning_rate(self.cfg, self.steps_done - 1, self.steps)
        record: dict[str, Any] = {"epoch": self.epoch + 1, "loss": loss, "top1": top1, "lr": rate}
        line = f"epoch {self.epoch + 1}/{self.cfg.TRAIN.EPOCHS}: loss {loss:.4f}, top-1 {top1:.4f}"
        if self.epoch + 1 == self.cfg.TRAIN.EPOCHS or (self.epoch + 1) % self.cfg.TRAIN.EVAL_EVERY == 0:
            score = self.validation = evaluate(self.stepper.result, self.val.epoch(), self.runtime)
            record |= {"val_loss": score.loss, "val_top1": score.top1, "val_top5": score.top5}
            line += f", val top-1 {score.top1:.4f}"
        record |= {"dropped_steps": self.dropped, "skipped_images": self._skipped()}
        self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        log.write(self.steps_done, **record)
        epoch_line(self.runtime, line)
        self.save(log)

    def _skipped(self) -> int:
        return count_skipped(self.runtime, (self.loader, self.val, self.test))

    def _finish(self) -> dict[str, Any]:
        """Tests the result and writes it."""
        network = self.stepper.result
        score = evaluate(network, self.test.epoch(), self.runtime)
        assert self.validation is not None  # the last epoch is always validated
        result = {
            "finished": True,
            "top1": score.top1,
            "top5": score.top5,
            "loss": score.loss,
            "val_top1": self.validation.top1,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "skipped_images": self._skipped(),
        }
        path = self.folder / WEIGHTS
        if self.runtime.main:
            data = self.cfg.DATA
            save_weights(path, network.state_dict(), self.arch, self.data.classes, mean=data.MEAN, std=data.STD)
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
            "validation": None if self.validation is None else vars(self.validation),
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
        self.validation = None if state["validation"] is None else Score(**state["validation"])
        self.position = state["position"]
