"""Checkpoints that survive: whole or not there, checksummed, loaded without running code."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from ..errors import FileError, InputError
from ..files import TEMPORARY, atomic_open, atomic_write, read_bytes, write_error

__all__ = [
    "CheckpointError",
    "RunFolder",
    "StopRequest",
    "atomic_write",
    "check_fingerprint",
    "load_latest",
    "rng_state",
    "save_checkpoint",
    "set_rng_state",
]

FORMAT = 1  # of a checkpoint; newer ones are refused
_NAME = re.compile(r"^step_(\d{9,})\.pt$")
_LOG = logging.getLogger(__name__)


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged or of another run."""


# -- saving and loading -------------------------------------------------------------------------------


def save_checkpoint(folder: str | os.PathLike, state: dict[str, Any], step: int, keep: int = 2) -> Path:
    """Writes `state` as `step_<step>.pt` with its checksum beside it, then removes all but the newest `keep`.

    `state` may hold tensors, numbers, strings, lists and dicts: what `torch.load(weights_only=True)` reads. On any
    error (FileError: disk full, folder gone or read-only) the checkpoints that were there stay.
    """
    path = Path(folder) / f"step_{step:09d}.pt"
    checksum = _checksum_path(path)
    replaced = checksum.read_text(encoding="ascii") if path.exists() and checksum.exists() else ""
    with atomic_open(path) as file:
        hashing: Any = _HashingFile(file)  # torch only writes to it
        torch.save({"format": FORMAT, "step": step, "state": state}, hashing)
        # First the checksum: a crash between the two leaves no checkpoint without one, nor one of the same step
        # that is replaced here.
        line = f"{hashing.digest.hexdigest()}  {path.name}\n"
        atomic_write(checksum, line + replaced)
    if replaced:
        atomic_write(checksum, line)
    with contextlib.suppress(OSError):
        for old in _checkpoints(path.parent)[keep:]:
            old.unlink()
            _checksum_path(old).unlink(missing_ok=True)
    return path


def load_latest(folder: str | os.PathLike) -> dict[str, Any]:
    """The state of the newest checkpoint that is whole; each damaged one is passed over with a warning.

    Raises CheckpointError if there is none, or if it is of a newer version.
    """
    paths = _checkpoints(Path(folder))
    if not paths:
        raise CheckpointError(f"{folder}: no checkpoint to resume from; start without --resume")
    for path in paths:
        try:
            return load_checkpoint(path)["state"]
        except _Damaged as error:
            _LOG.warning("%s; falling back to the checkpoint before", error)
            with contextlib.suppress(OSError):  # out of the way: it must not count among those to keep
                path.rename(path.with_suffix(".damaged"))
                _checksum_path(path).unlink(missing_ok=True)
    raise CheckpointError(f"{folder}: all {len(paths)} checkpoints are damaged; start again without --resume")


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """One checkpoint: `step` and `state`. Raises CheckpointError if it is damaged or of a newer version."""
    path = Path(path)
    try:
        lines = read_bytes(_checksum_path(path), 1000).decode("ascii", errors="replace").splitlines()
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            if digest.hexdigest() not in [line.split(" ")[0] for line in lines]:
                raise _Damaged(f"{path}: damaged, its checksum does not match")
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise _Damaged(f"{error.filename}: missing") from None
    except FileError as error:
        raise _Damaged(error) from None
    except OSError as error:
        raise _Damaged(f"{path}: cannot be read: {error.strerror or error}") from None
    except (_Damaged, MemoryError):  # too little memory is no fault of the file
        raise
    except Exception as error:  # torch.load raises many kinds for a file that is not one of its own
        raise _Damaged(f"{path}: not a checkpoint: {' '.join(str(error).split())[:150]}") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int) or "state" not in content:
        raise _Damaged(f"{path}: not a checkpoint of this library")
    if content["format"] > FORMAT:
        raise CheckpointError(f"{path}: format {content['format']} is newer than this library reads ({FORMAT}); upgrade it")
    return content


def check_fingerprint(saved: dict[str, Any], current: dict[str, Any], source: str | os.PathLike) -> None:
    """Raises CheckpointError naming the first difference between two flat descriptions of a run."""
    for key in [*current, *(k for k in saved if k not in current)]:
        old, new = saved.get(key), current.get(key)
        if old != new:
            raise CheckpointError(
                f"{source}: the checkpoint is of another run: {key} was {_short(old)} and is {_short(new)}; "
                "restore it, or set another OUTPUT_DIR"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Damaged(CheckpointError):
    """A checkpoint that another one can stand in for."""


class _HashingFile:
    """Hands bytes on to a file and computes their SHA-256."""

    def __init__(self, file: Any):
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    try:
        found = [(int(match[1]), folder / match[0]) for name in os.listdir(folder) if (match := _NAME.match(name))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror}") from None
    return [path for _, path in sorted(found, reverse=True)]


# -- the folder of a run ------------------------------------------------------------------------------


class RunFolder:
    """The output folder, held by one run: `with RunFolder(path) as folder: ...`.

    Makes the folder, checks that it can be written, locks it and removes what an interrupted write left. Raises
    FileError if that cannot be done or another process has it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(os.path.expanduser(path))
        self._lock: Any = None
        self._made = False

    def __enter__(self) -> Path:
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a")  # held until __exit__
            _LOCKS.add(self._lock)
        except FileExistsError:
            raise FileError(f"{self.path}: a file, where OUTPUT_DIR needs a folder; name another") from None
        except OSError as error:
            raise write_error(self.path, error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise write_error(self.path, error) from None
            raise FileError(f"{self.path}: another run is using this folder; wait for it or set OUTPUT_DIR") from None
        with contextlib.suppress(OSError):
            for leftover in self.path.rglob(f".*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self._made and os.listdir(self.path) == [".lock"]:  # bad input: nothing is left behind
                (self.path / ".lock").unlink()
                self.path.rmdir()
        self._release()

    def _release(self) -> None:
        self._lock.close()  # and with it the lock, as at any death of the process
        _LOCKS.discard(self._lock)


# A forked process, such as one that reads images, would keep a lock for the seconds by which it outlives this one.
_LOCKS: set[Any] = set()
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _LOCKS])


# -- stopping -----------------------------------------------------------------------------------------


class StopRequest:
    """Turns SIGTERM and SIGINT into a question to be asked between steps: `with StopRequest() as stop: ...`.

    The first signal sets `requested`; a second one ends the process at once. `due()` also tells when `minutes` have
    passed since the last save.
    """

    def __init__(self, minutes: float = 10.0):
        self.requested = False
        self._period = minutes * 60
        self._saved = time.monotonic()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        main = threading.current_thread() is threading.main_thread()  # signals can be caught in no other
        for number in (signal.SIGTERM, signal.SIGINT) if main else ():
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
        # os.write: print could have been interrupted by this very signal
        os.write(2, b"\nfinishing this step, then saving; a second signal stops at once\n")

    def due(self) -> bool:
        """Whether it is time for another save."""
        return time.monotonic() - self._saved >= self._period

    def saved(self) -> None:
        """Starts the interval anew."""
        self._saved = time.monotonic()


# -- random numbers -----------------------------------------------------------------------------------


def rng_state() -> dict[str, Any]:
    """The state of all random number generators of this process, in plain types and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  (libraries may draw from it)
    state = {
        "python": [version, list(words), gauss],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what `rng_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
