"""The folder of a run: who may write to it, what it already holds, and what marks it as finished."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..data.loader import check_main_guard
from ..errors import FileError
from ..files import TEMPORARY, atomic_write, write_error
from .about import ABOUT
from .runtime import restarts

_LOG = logging.getLogger(__name__)
RESULT = "result.json"  # written last: a folder that has it holds a finished run
CHECKPOINTS = "checkpoints"
# What nobody would lose, even without a result.json beside it: a copy of a run, or weights that were saved there.
_DEAR = ("model.safetensors", "search.pt", "child/model.safetensors")

# Keys that may differ when a run goes on: they change where or how often, not what; ON_NAN lets it past a step that failed, and
# MAX_SKIPPED_SHARE past images.
_FREE = (
    *("DATA.ROOT", "DATA.WORKERS", "DATA.MAX_SKIPPED_SHARE", "RUNTIME.TIMEOUT", "CHECKPOINT.MINUTES", "CHECKPOINT.KEEP"),
    *("SEARCH.ON_NAN", "TRAIN.ON_NAN"),
)


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
        check_main_guard()
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise FileError(f"{self.path}: a file, where OUTPUT_DIR needs a folder; name another") from None
        except OSError as error:
            raise write_error(self.path, error) from None
        self._lock = FileLock(str(self.path / ".lock"), timeout=0)  # held until __exit__
        try:
            self._lock.acquire()
        except Timeout:
            raise FileError(f"{self.path}: another run is using this folder; wait for it or set OUTPUT_DIR") from None
        except OSError as error:
            raise write_error(self.path, error) from None
        _LOCKS.add(self._lock)
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
        self._lock.release()  # as at any death of the process
        _LOCKS.discard(self._lock)


_LOCKS: set[Any] = set()


def _forget_locks() -> None:
    """In a forked process, such as one that reads images: it would keep a lock for the seconds by which it outlives the run."""
    for lock in _LOCKS:
        descriptor = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
        if descriptor is not None:  # recent versions of filelock have closed it themselves
            with contextlib.suppress(OSError):
                os.close(descriptor)
    _LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def check_free(folder: Path, resume: bool, overwrite: bool = False) -> bool:
    """Whether there is a checkpoint that a run in the folder goes on from.

    Raises FileError where a new run would replace what another one left, unless `overwrite` says that it is meant.
    """
    checkpoints = folder / CHECKPOINTS
    try:
        found = checkpoints.is_dir() and any(name.endswith(".pt") for name in os.listdir(checkpoints))
    except OSError as error:
        raise FileError(f"{checkpoints}: cannot be read: {error.strerror}") from None
    if found and (resume or restarts()):
        return True
    if not overwrite:
        if (folder / RESULT).exists():
            more = ", --resume and more TRAIN.EPOCHS to extend it" if found else ""
            raise FileError(f"{folder}: holds a finished run; set another OUTPUT_DIR, or add --overwrite to replace it{more}")
        if found:
            raise FileError(
                f"{folder}: holds an unfinished run; add --resume to go on, --overwrite to replace it, or set another OUTPUT_DIR"
            )
        if dear := next((name for name in _DEAR if (folder / name).exists()), ""):
            raise FileError(f"{folder}: holds {dear}, and no run to go on with; set another OUTPUT_DIR, or add --overwrite to replace it")
    return False


def open_run(folder: Path, resume: bool, overwrite: bool = False, made: Sequence[str] = ()) -> bool:
    """Prepares the folder for a run; returns whether there is a checkpoint to go on from.

    A new run removes what another one left there, also the files and folders of the names `made`, if it may: see `check_free`.
    """
    if check_free(folder, resume, overwrite):
        return True
    if resume or restarts():
        _LOG.warning("%s: no checkpoint yet; starting from the beginning", folder)
    remove(folder, (RESULT, "metrics.jsonl", CHECKPOINTS, "tensorboard", ABOUT, "report.html", *made))
    try:
        (folder / CHECKPOINTS).mkdir(parents=True)
    except OSError as error:
        raise write_error(folder, error) from None
    return False


def remove(folder: Path, names: Iterable[str]) -> None:
    """Removes files and folders of these names, as far as they are there. Raises FileError."""
    try:
        for name in names:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Marks the run as finished."""
    atomic_write(folder / RESULT, json.dumps(result, indent=2) + "\n")


def key_values(section: str, options: Any) -> dict[str, Any]:
    """The fields of an options dataclass by the names of their configuration keys, such as TRAIN.LR.

    A field whose key is called otherwise says so in its metadata, as `key`.
    """
    found = {}
    for one in dataclasses.fields(options):
        key, value = one.metadata.get("key", f"{section}.{one.name.upper()}"), getattr(options, one.name)
        found[key] = list(value) if isinstance(value, tuple) else value
    return found


def fingerprint(parts: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A flat description of what a run computes: `parts`, then every option of each section that matters."""
    values = [key_values(name.upper(), options) for name, options in sections.items()]
    return {**parts, **{key: value for section in values for key, value in section.items() if key not in _FREE}}
