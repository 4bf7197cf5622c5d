"""Devices, precision and processes of a run."""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.loader import Loader
from ..errors import InputError


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how a run computes, and how often it saves; the keys of RUNTIME and CHECKPOINT say the same."""

    device: str = "auto"  # auto (cuda where there is a GPU, else cpu) | cpu | cuda | mps
    precision: str = "no"  # no (float32) | fp16 | bf16: mixed precision
    accumulate: int = 1  # batches a step is split into, to save memory
    channels_last: bool = False  # memory layout, faster on recent GPUs and on most CPUs
    compile: bool = False  # torch.compile the network
    sync_bn: bool = False  # batch statistics over all processes
    timeout: float = 30.0  # minutes after which a hung process ends the run
    minutes: float = field(
        default=10.0, metadata={"key": "CHECKPOINT.MINUTES"}
    )  # between saves within an epoch; each epoch's end saves too
    keep: int = field(default=2, metadata={"key": "CHECKPOINT.KEEP"})  # newest checkpoints kept


@dataclass(frozen=True)
class Runtime:
    """The device, precision and processes of a run; made by `start_runtime`."""

    options: RuntimeOptions
    device: torch.device
    rank: int = 0
    world: int = 1  # number of processes

    @property
    def shard(self) -> tuple[int, int]:
        return self.rank, self.world

    @property
    def main(self) -> bool:
        """Whether this process writes the files and the progress bar."""
        return self.rank == 0

    def batch_size(self, total: int) -> int:
        """Images of one forward pass when a step takes `total` over all processes. Raises InputError if uneven."""
        parts = self.world * self.options.accumulate
        if total % parts:
            raise InputError(
                f"BATCH_SIZE: {total} does not divide into {self.world} processes x RUNTIME.ACCUMULATE "
                f"{self.options.accumulate}; use a multiple of {parts}"
            )
        return total // parts

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the memory layout and with the kind of BatchNorm that the options ask for."""
        if self.options.sync_bn:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.options.channels_last else model

    def compile(self, model: nn.Module) -> Any:
        """The model as it should be called."""
        return torch.compile(model) if self.options.compile else model

    def autocast(self) -> Any:
        """A context of the precision asked for."""
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.options.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler | None:
        """A loss scaler of its own for each optimizer, for fp16 only."""
        return torch.amp.GradScaler(self.device.type) if self.options.precision == "fp16" else None

    def move(self, images: Any) -> Any:
        """Images or labels on the device, also lists and dicts of them; images in the memory layout of the model."""
        if isinstance(images, (list, tuple)):
            return [self.move(image) for image in images]
        if isinstance(images, dict):
            return {name: self.move(value) for name, value in images.items()}
        images = images.to(self.device, non_blocking=True)
        last = self.options.channels_last and images.ndim == 4
        return images.contiguous(memory_format=torch.channels_last) if last else images

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of the values over all processes; a call that all processes make."""
        device = "cpu" if self.device.type == "mps" else self.device
        return self.total(torch.tensor(values, dtype=torch.float64, device=device))

    def exact(self, value: Tensor) -> Tensor:
        """A tensor as float64, detached; on the CPU where its device has no such numbers."""
        return (value.detach().cpu() if self.device.type == "mps" else value.detach()).double()

    def total(self, values: Tensor) -> list[float]:
        """The sums of a vector of float64 over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Averages floating-point tensors over all processes in place, in one message: all end with the same bits."""
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.world == 1 or not floats:
            return
        with torch.no_grad():
            flat = torch.cat([tensor.flatten() for tensor in floats])
            dist.all_reduce(flat)
            parts = (flat / self.world).split([tensor.numel() for tensor in floats])
            torch._foreach_copy_(floats, [part.view_as(tensor) for part, tensor in zip(parts, floats, strict=True)])


def start_runtime(options: RuntimeOptions | None = None) -> Runtime:
    """Joins the processes that torchrun launched (or is just this one), as `options` say.

    Raises InputError if the device or the precision is not to be had.
    """
    options = options or RuntimeOptions()
    cuda = torch.cuda.is_available() and options.device != "cpu"
    if options.device == "cuda" and not cuda:
        raise InputError("RUNTIME.DEVICE: cuda, but this machine has no GPU that torch can use; use cpu or auto")
    mps = options.device == "mps"
    if mps and not torch.backends.mps.is_available():
        raise InputError("RUNTIME.DEVICE: mps, but this machine has no Apple GPU that torch can use; use cpu or auto")
    cuda = cuda and not mps
    for key, wanted in (("PRECISION", options.precision == "fp16"), ("SYNC_BN", options.sync_bn)):
        if wanted and not cuda:
            raise InputError(f"RUNTIME.{key}: {getattr(options, key.lower())} needs a GPU; leave it out on this machine")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("mps" if mps else "cpu")
    if mps and world > 1:
        raise InputError(f"RUNTIME.DEVICE: mps serves one process, not {world}; start one, or use cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world == 1:
        return Runtime(options, device)
    if not dist.is_initialized():
        _join("nccl" if cuda else "gloo", timedelta(minutes=options.timeout))
    return Runtime(options, device, dist.get_rank(), dist.get_world_size())


def _join(backend: str, timeout: timedelta) -> None:
    """Joins the other processes; those that torchrun started again after a failure too.

    Recent torchruns keep one store for all attempts, where the addresses of dead processes would be found: each
    attempt gets its own part of it.
    """
    importlib.import_module("torch.distributed.nn")  # before there is a group: as a default argument it would hold the one it finds
    atexit.register(_leave)
    if not restarts():
        dist.init_process_group(backend, timeout=timeout)
        return
    store, rank, world = next(dist.rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"attempt_{restarts()}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def _leave() -> None:
    """Ends the threads of the process group before the interpreter does: those that outlive it may abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def restarts() -> int:
    """How often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


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
