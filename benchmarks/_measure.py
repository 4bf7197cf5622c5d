"""What the benchmarks share: exact memory of a training step, times of callables that take turns, and the machine's name."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mobile_cv_nas.engine.about import processor

MIB = 2**20


class _Allocations(TorchDispatchMode):
    """Sees the storage of every tensor that an operation makes, and when it is freed.

    Attributes:
        made: every storage so far (a weak reference, which stands for it alone as long as it is kept), with its bytes.
        live, peak: bytes that exist now, and that existed at most, of what was made here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[StorageWeakRef, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        ref = StorageWeakRef(storage)
        if ref not in self.made:
            self.made[ref] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self.live -= size


def saved_bytes(forward: Callable[[], Tensor], apart: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, each storage once; its result aside.

    Tensors saved by autograd are seen by its hooks. A checkpointed region hides from them what its closure holds; so whatever the pass
    made and is alive after it counts too.

    Args:
        forward: the pass; its result is what backward would be called on.
        apart: parameters and buffers, which exist anyway and do not count.
    """
    saved: dict[StorageWeakRef, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # with its history, a saved result would hold the graph that holds it, for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _Allocations() as made:
        result = forward()
    kept = saved | {ref: size for ref, size in made.made.items() if not ref.expired()}
    known = {StorageWeakRef(tensor.untyped_storage()) for tensor in [*apart, result]}
    return sum(size for ref, size in kept.items() if ref not in known)


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes that existed at once during `step`, of those it made itself; on a GPU as its allocator counts them."""
    if device.type == "cuda":
        gc.collect()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with _Allocations() as made:
        step()
    return made.peak


def release() -> None:
    """Gives freed memory back to the system: the C library keeps it in pieces, gigabytes after networks of many sizes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def state_bytes(parameters: Iterable[Tensor], buffers: Iterable[Tensor], optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes of parameters, buffers, gradients that exist now, and the optimizers' state."""
    tensors = [*parameters, *buffers]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    for optimizer in optimizers:
        tensors += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum({StorageWeakRef(t.untyped_storage()): t.untyped_storage().nbytes() for t in tensors}.values())


def take_turns(calls: Sequence[Callable[[], object]], rounds: int, warmup: int = 1) -> list[list[float]]:
    """Seconds of every call in every round. Each round runs all, the first one in turn, so that what disturbs the machine disturbs all."""
    for call in calls:
        for _ in range(warmup):
            call()
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        for i in range(len(calls)):
            which = (i + turn) % len(calls)
            _wait()
            start = time.perf_counter()
            calls[which]()
            _wait()
            times[which].append(time.perf_counter() - start)
    return times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def medians(times: Sequence[Sequence[float]]) -> list[float]:
    """The median of each list, in seconds."""
    return [statistics.median(of) for of in times]


def machine(device: torch.device) -> str:
    """Name of the card or of the processor, threads, and torch's version."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def headline(*facts: str) -> str:
    """What stands over a table, in lines of 80 columns: names of processors have any length."""
    return textwrap.fill("; ".join(facts), 80)
