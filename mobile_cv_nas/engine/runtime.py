"""What every run shares: processes and devices, seeds, the run's folder, metrics and progress."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import logging
import math
import os
import random
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from yacs.config import CfgNode

from ..config.keys import ConfigError, flatten
from ..data import Loader
from ..errors import FileError, InputError
from ..files import atomic_write, write_error

_LOG = logging.getLogger(__name__)
RESULT = "result.json"  # written last: a folder that has it holds a finished run
CHECKPOINTS = "checkpoints"
MAX_DROPPED = 50  # steps in a row that ON_NAN skip may drop: after that nothing will mend itself

# Keys that may differ when a run goes on: they change where or how often, not what; ON_NAN lets it past a step that failed.
_FREE = ("OUTPUT_DIR", "MODEL.ARCH", "MODEL.WEIGHTS", "SEARCH.SPACE", "DATA.ROOT", "DATA.WORKERS", "RUNTIME.TIMEOUT",
         "SEARCH.ON_NAN", "TRAIN.ON_NAN")  # fmt: skip


class NotFinite(InputError):
    """A loss or gradient that is NaN or infinite; the state before that step was saved."""


@dataclass(frozen=True)
class Runtime:
    """The device, precision and processes of a run; `state` is accelerate's, `options` is `cfg.RUNTIME`."""

    state: Any
    options: CfgNode

    @property
    def device(self) -> torch.device:
        return self.state.device

    @property
    def rank(self) -> int:
        return self.state.process_index

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.state.num_processes

    @property
    def shard(self) -> tuple[int, int]:
        return self.rank, self.world

    @property
    def main(self) -> bool:
        """Whether this process writes the files and the progress bar."""
        return self.state.is_main_process

    def batch_size(self, total: int) -> int:
        """Images of one forward pass when a step takes `total` over all processes. Raises ConfigError if uneven."""
        parts = self.world * self.options.ACCUMULATE
        if total % parts:
            raise ConfigError(
                f"BATCH_SIZE: {total} does not divide into {self.world} processes x RUNTIME.ACCUMULATE "
                f"{self.options.ACCUMULATE}; use a multiple of {parts}"
            )
        return total // parts

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the memory layout and with the kind of BatchNorm that the options ask for."""
        if self.options.SYNC_BN:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.options.CHANNELS_LAST else model

    def distribute(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes in each backward pass.

        Running statistics are averaged after each step instead (`average_buffers`), so that all processes agree.
        """
        if self.world == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        wrapper: Any = nn.parallel.DistributedDataParallel
        new = "forward_sync_buffers" in inspect.signature(wrapper).parameters  # the older name warns
        return wrapper(model, device_ids=ids, **{"forward_sync_buffers" if new else "broadcast_buffers": False})

    def compile(self, model: nn.Module) -> Any:
        """The model as it should be called."""
        return torch.compile(model) if self.options.COMPILE else model

    def autocast(self) -> Any:
        """A context of the precision asked for."""
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.options.PRECISION)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler | None:
        """A loss scaler of its own for each optimizer, for fp16 only."""
        return torch.amp.GradScaler(self.device.type) if self.options.PRECISION == "fp16" else None

    def move(self, images: Any) -> Any:
        """Images or labels on the device, also lists and dicts of them; images in the memory layout of the model."""
        if isinstance(images, (list, tuple)):
            return [self.move(image) for image in images]
        if isinstance(images, dict):
            return {name: self.move(value) for name, value in images.items()}
        images = images.to(self.device, non_blocking=True)
        last = self.options.CHANNELS_LAST and images.ndim == 4
        return images.contiguous(memory_format=torch.channels_last) if last else images

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of the values over all processes; a call that all processes make."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


def start_runtime(cfg: CfgNode) -> Runtime:
    """Joins the processes that torchrun or accelerate launched (or just this one), as `cfg.RUNTIME` says.

    Raises ConfigError if the device or the precision is not to be had.
    """
    from accelerate import PartialState

    options = cfg.RUNTIME
    cuda = torch.cuda.is_available() and options.DEVICE != "cpu"
    if options.DEVICE == "cuda" and not cuda:
        raise ConfigError("RUNTIME.DEVICE: cuda, but this machine has no GPU that torch can use; use cpu or auto")
    for key, wanted in (("PRECISION", options.PRECISION == "fp16"), ("SYNC_BN", options.SYNC_BN)):
        if wanted and not cuda:
            raise ConfigError(f"RUNTIME.{key}: {options[key]} needs a GPU; leave it out on this machine")
    timeout = timedelta(minutes=options.TIMEOUT)
    _join_restarted("nccl" if cuda else "gloo", timeout)
    state = PartialState(cpu=not cuda, timeout=timeout)
    if (state.device.type == "cuda") != cuda and state.num_processes == 1:
        PartialState._reset_state()  # an earlier run in this process was on the other device
        state = PartialState(cpu=not cuda)
    return Runtime(state, options.clone())


def _join_restarted(backend: str, timeout: timedelta) -> None:
    """Joins the processes that torchrun started again after a failure.

    Recent torchruns keep one store for all attempts, where the addresses of dead processes would be found: each
    attempt gets its own part of it.
    """
    attempt = _restarts()
    if not attempt or dist.is_initialized():
        return
    store, rank, world = next(dist.rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"attempt_{attempt}", store)
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def _restarts() -> int:
    """How often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch; on every process alike."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries may draw from it)
    torch.manual_seed(seed)


@torch.no_grad()
def average_buffers(buffers: Iterable[Tensor]) -> None:
    """Averages floating-point buffers over all processes in place, in one message."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    tensors = [buffer for buffer in buffers if buffer.is_floating_point()]
    if tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


# -- the folder ---------------------------------------------------------------------------------------


def open_run(folder: Path, resume: bool) -> bool:
    """Prepares the folder for a run; returns whether there is a checkpoint to go on from.

    A new run replaces a finished one. Raises FileError if it would replace an unfinished one.
    """
    checkpoints = folder / CHECKPOINTS
    try:
        found = checkpoints.is_dir() and any(name.endswith(".pt") for name in os.listdir(checkpoints))
    except OSError as error:
        raise FileError(f"{checkpoints}: cannot be read: {error.strerror}") from None
    if resume or _restarts():
        if not found:
            _LOG.warning("%s: no checkpoint yet; starting from the beginning", folder)
        else:
            return True
    elif found and not (folder / RESULT).exists():
        raise FileError(f"{folder}: holds an unfinished run; add --resume to go on, or set another OUTPUT_DIR")
    try:
        for name in (CHECKPOINTS, "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (RESULT, "metrics.jsonl"):
            (folder / name).unlink(missing_ok=True)
        checkpoints.mkdir(parents=True)
    except OSError as error:
        raise write_error(folder, error) from None
    return False


def fingerprint(cfg: CfgNode, **parts: Any) -> dict[str, Any]:
    """A flat description of what a run computes: `parts`, then every key of `cfg` that matters."""
    keys = {key: value for key, value in flatten(cfg) if key not in _FREE and key.split(".")[0] != "CHECKPOINT"}
    return {**parts, **keys}


class MetricsLog:
    """`metrics.jsonl`, one record a line, and the same numbers for TensorBoard; nothing on other processes.

    Times are not recorded: a resumed run writes the very bytes of an uninterrupted one.
    """

    def __init__(self, folder: Path, active: bool, position: int = 0, step: int = 0):
        """Goes on after `position` bytes, at `step`: what an interrupted run wrote later is dropped."""
        self._file: Any = None
        self._board: Any = None
        self._path = folder / "metrics.jsonl"
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115  (held until close)
            self._cut(position)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        except OSError as error:
            self.close()
            raise write_error(self._path, error) from None

    def _cut(self, position: int) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if size < position:  # removed or restored by hand: what is left of it, up to its last whole line
            _LOG.warning("%s: %d bytes are missing that an earlier part of this run wrote; going on without", self._path, position - size)
            self._file.seek(0)
            position = self._file.read().rfind(b"\n") + 1
        self._file.truncate(position)

    @property
    def position(self) -> int:
        """Bytes written so far, made to last; a checkpoint keeps the number. Raises FileError."""
        if self._file is None:
            return 0
        try:
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise write_error(self._path, error) from None

    def write(self, step: int, **record: Any) -> None:
        """One record. Numbers are also drawn over `step`. Raises FileError."""
        if self._file is None or self._board is None:
            return
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps({"step": step, **finite}).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):  # the rest did not fit
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for name, value in record.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise write_error(self._path, error) from None

    def close(self) -> None:
        for file in [part for part in (self._file, self._board) if part is not None]:
            with contextlib.suppress(OSError):  # was reported before, or is of TensorBoard alone
                file.close()


def count_skipped(runtime: Runtime, loaders: Iterable[Loader]) -> int:
    """Images that could not be read, over all loaders and processes; a call that all processes make.

    Raises DataError where they are too many together: each process by itself sees only its own.
    """
    total = 0
    for loader in loaders:
        skipped = set().union(*runtime.gather(loader.skipped))
        loader.check_skipped(len(skipped))
        total += len(skipped)
    return total


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Marks the run as finished."""
    atomic_write(folder / RESULT, json.dumps(result, indent=2) + "\n")


def progress_bar(runtime: Runtime, total: int, done: int, name: str) -> Any:
    """A tqdm bar on stderr, on the main process and a terminal only; `epoch_line` serves for log files."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=name, disable=None if runtime.main else True, dynamic_ncols=True, smoothing=0.05)


def epoch_line(runtime: Runtime, text: str) -> None:
    """Prints a line of progress on the main process where there is no terminal to draw a bar on."""
    if runtime.main and not sys.stderr.isatty():
        print(text, flush=True)
