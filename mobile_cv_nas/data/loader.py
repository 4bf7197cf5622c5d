"""Batches in a fixed order that can be taken up in mid-epoch, on one or many processes."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .data_set import DataError, Split, own_randomness
from .images import BadImage, open_image
from .options import DataOptions

_LOG = logging.getLogger(__name__)
_MAX_RESTARTS = 3  # of readers that died, without a batch in between
_MAX_TRIES = 50  # next images tried in place of a bad one


def derive_seed(*parts: int) -> int:
    """A seed of 63 bits that depends on every part: the same numbers always give the same one."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class _Key(NamedTuple):
    """What a reader needs to make one batch."""

    epoch: int
    batch: int
    positions: list[int]  # in the split


class _Batch(NamedTuple):
    images: Any  # (N, 3, H, W); of detection a list of (3, H, W)
    labels: Any  # (N,), int64; of segmentation (N, H, W), of detection a list of boxes and their labels
    bad: list[tuple[int, str]]  # positions that could not be read, and why


# (image, label) to both as a network takes them; of a source in memory (images, generator) to images.
# Its attribute `collate` makes a batch of such.
Transform = Callable[..., Any]


class _Reader(Dataset):
    """Makes batches from keys. Randomness is seeded by (seed, epoch, image), never by the order of reading."""

    def __init__(self, split: Split, train: bool, seed: int, transform: Transform, options: DataOptions):
        self.split, self.train, self.seed, self.transform = split, train, seed, transform
        self.background, self.channels = options.background, len(options.mean)
        self.collate = getattr(transform, "collate", default_collate)

    def __getitems__(self, key: _Key) -> _Batch:
        source, indices = self.split.source, self.split.indices
        if source.in_memory:
            chosen = [indices[position] for position in key.positions]
            labels = torch.tensor([source.labels[index] for index in chosen])
            generator = torch.Generator().manual_seed(derive_seed(self.seed, key.epoch, *chosen[:8]))
            return _Batch(self.transform(source.images[chosen], generator), labels, [])
        images, labels_ = [], []
        bad: list[tuple[int, str]] = []
        for position in key.positions:
            found = self._read(key.epoch, position, bad)
            if found is not None:
                images.append(found[0])
                labels_.append(found[1])
        return _Batch(self.collate(images), self.collate(labels_), bad) if images else _Batch([], [], bad)

    def _read(self, epoch: int, position: int, bad: list[tuple[int, str]]) -> tuple[Any, Any] | None:
        """The image there. In training a bad one gives way to the next, so that all batches have the same size."""
        indices = self.split.indices
        for offset in range(_MAX_TRIES if self.train else 1):
            place = (position + offset) % len(indices)
            index = indices[place]
            try:
                with own_randomness(derive_seed(self.seed, epoch if self.train else 0, index), self.split.source.draws):
                    return self._prepared(index)
            except (BadImage, DataError) as error:  # the second of its annotations
                bad.append((place, str(error)))
        return None

    def _prepared(self, index: int) -> tuple[Any, Any]:
        image, label = self.split.source.item(index)
        if not (isinstance(image, Tensor) and image.is_floating_point()):  # such a one is prepared already
            image = open_image(image, self.background, self.channels, self.split.source.turns)
        return self.transform(image, label)


class Loader:
    """Batches of a split: `for images, labels in loader.epoch(number, start=batches_done)`.

    Training: a new random order each epoch, the same on any machine; images beyond the last whole step are left
    out. Testing: every image once, in order, divided among the processes. Images that cannot be read are left out
    with a warning and stay in `skipped`; more than the share `max_skipped_share` raise DataError. A reading process that dies
    is replaced.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        batch_size: int,
        train: bool,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        options: DataOptions | None = None,
    ):
        options = options or DataOptions(workers=0)
        step = batch_size * shard[1]
        if train and step > len(split):
            raise DataError(
                f"{len(split)} training images are fewer than the {step} of one step (TRAIN.BATCH_SIZE, in a search SEARCH.BATCH_SIZE); "
                f"lower that to {len(split)} or less, or add images to the train split"
            )
        self.split, self.train, self.seed = split, train, seed
        self.batch_size, self.shard = batch_size, shard
        self.max_skipped = options.max_skipped_share
        self.channels = len(options.mean)  # of an image
        self.skipped: set[int] = set()  # positions in the split
        self._reader = _Reader(split, train, seed, transform, options)
        self._workers = 0 if split.source.in_memory else usable_workers(options.workers)
        self._keys = _Keys()
        self._held = _Held()
        # Not left to garbage collection: it would end the processes after the threads that speak to them, and wait for half a minute.
        weakref.finalize(self, self._held.end).atexit = False

    def __len__(self) -> int:
        """Batches an epoch, of this process."""
        rank, world = self.shard
        if self.train:
            return len(self.split) // (self.batch_size * world)
        return -(-len(range(rank, len(self.split), world)) // self.batch_size)

    def epoch(self, epoch: int = 0, start: int = 0, stop: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Images (N, 3, H, W) and labels (N,) of the batches `start` to `stop` of an epoch; lists where their sizes differ."""
        keys = self._epoch_keys(epoch)[start:stop]
        done = restarts = 0
        while done < len(keys):
            try:
                for batch in self._start(keys[done:]):
                    done, restarts = done + 1, 0
                    self._note_bad(batch.bad)
                    if self.train and len(batch.images) < self.batch_size:
                        raise DataError(f"{_MAX_TRIES} images in a row cannot be read; check DATA.ROOT and its disk")
                    if len(batch.images):
                        yield batch.images, batch.labels
            except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
                if not self._workers or not _is_death(error):
                    raise
                self.close()
                restarts += 1
                if restarts > _MAX_RESTARTS:
                    raise DataError(
                        f"the processes that read images keep dying ({' '.join(str(error).split())[:120]}); "
                        f"free some memory or set DATA.WORKERS 0{_guard_hint()}"
                    ) from None
                _LOG.warning("a process that reads images died; starting new ones")

    def close(self) -> None:
        """Ends the processes that read images; another epoch starts new ones."""
        self._held.end()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the epoch and the number of batches done."""
        return {"skipped": sorted(self.skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = set(state["skipped"])

    def _epoch_keys(self, epoch: int) -> list[_Key]:
        rank, world = self.shard
        count = len(self.split)
        if not self.train:
            mine = list(range(rank, count, world))
            return [_Key(epoch, b, mine[b * self.batch_size : (b + 1) * self.batch_size]) for b in range(len(self))]
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(count, generator=generator).tolist()
        first = [(b * world + rank) * self.batch_size for b in range(len(self))]
        return [_Key(epoch, b, order[i : i + self.batch_size]) for b, i in enumerate(first)]

    def _start(self, keys: list[_Key]) -> Iterator[_Batch]:
        self._keys.keys = keys
        if self._held.loader is None:
            self._held.loader = DataLoader(
                self._reader,
                batch_sampler=self._keys,  # type: ignore[arg-type]  # it yields keys, which the reader understands
                collate_fn=_identity,
                num_workers=self._workers,
                worker_init_fn=_start_worker,
                persistent_workers=self._workers > 0,
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator().manual_seed(0),  # else an epoch would draw from the global one
            )
        number = getattr(signal, "SIGCHLD", None)  # Windows has none
        before, others = number and signal.getsignal(number), set(multiprocessing.active_children())
        if self._workers:
            check_main_guard()
        try:
            iterator = iter(self._held.loader)
        except (BrokenPipeError, EOFError) as error:  # a process that was spawned ended before it began
            self._held.loader = None
            raise DataError(f"the processes that read images do not start ({type(error).__name__}); {_GUARD}") from None
        _WORKERS.update(set(multiprocessing.active_children()) - others)
        if number and signal.getsignal(number) is not before:
            # Torch's handler raises wherever the main process happens to be when a worker dies, even amid an
            # optimizer step. Without it the death is noticed within 5 seconds, here, where it can be mended.
            signal.signal(number, before)
        return iterator

    def _note_bad(self, bad: list[tuple[int, str]]) -> None:
        for position, reason in bad:
            if position in self.skipped:
                continue
            self.skipped.add(position)
            name = self.split.source.name(self.split.indices[position])
            _LOG.warning("%s: skipped, %s", name, reason)
            self.check_skipped(len(self.skipped), f"{name}: cannot be read ({reason}); with it ")

    def check_skipped(self, count: int, context: str = "") -> None:
        """Raises DataError, which begins with `context`, if `count` images are too many to go on without."""
        if count > self.max_skipped * len(self.split):
            raise DataError(
                f"{context}{count} of {len(self.split)} images cannot be read, more than DATA.MAX_SKIPPED_SHARE "
                f"{self.max_skipped:g}; mend the data or raise that share"
            )


def _is_death(error: Exception) -> bool:
    """Whether a process that reads died, before or while it handed over a batch, and did not raise the error itself."""
    text = str(error)
    raised = " in DataLoader worker process " in text or " in pin memory thread " in text  # torch's words
    return not raised and (not isinstance(error, RuntimeError) or "DataLoader worker" in text or "Pin memory thread" in text)


class _Held:
    """The DataLoader of a `Loader`, which it outlives to be ended in order."""

    def __init__(self) -> None:
        self.loader: DataLoader | None = None
        self.process = os.getpid()

    def end(self) -> None:
        """Ends its processes; of another process, which was forked with a copy of it, none."""
        if os.getpid() != self.process:
            _FOREIGN.append(self)  # torch would wait for processes that are not its children
            return
        iterator: Any = getattr(self.loader, "_iterator", None)
        self.loader = None
        if hasattr(iterator, "_shutdown_workers"):
            with contextlib.suppress(Exception):  # processes that died leave anything
                iterator._shutdown_workers()


_FOREIGN: list[_Held] = []
_GUARD = 'a script must call what it runs under: if __name__ == "__main__":'


def check_main_guard() -> None:
    """Raises DataError in a process that runs a whole script again, where it was to read images: it lacks a main guard."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # multiprocessing's own sign
        raise DataError(f"this process was started to read images, and runs the script again: {_GUARD}")


def _guard_hint() -> str:
    return "" if multiprocessing.get_start_method() == "fork" else f"; {_GUARD}"


def processors() -> int:
    """That this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def usable_workers(wanted: int) -> int:
    """As many processes that read images as were asked for, but over all processes of a machine no more than it has processors."""
    here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    most = max(1, processors() // here)
    if wanted > most:
        _say(f"DATA.WORKERS: {wanted}, but this machine has {processors()} processors for {here} processes; taking {most}")
    return min(wanted, most)


@cache
def _say(line: str) -> None:
    """Once in a process: a run makes several loaders."""
    _LOG.warning(line)


class _Keys:
    """The keys still to be read; a DataLoader asks for them anew at each start."""

    keys: list[_Key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _identity(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # both may reach every process of a job; the main one decides
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


# At exit python would end a worker that is still there by the signal that it ignores, and wait for it forever.
_WORKERS: weakref.WeakSet[multiprocessing.process.BaseProcess] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    for worker in _WORKERS:
        if worker.is_alive():
            worker.kill()
