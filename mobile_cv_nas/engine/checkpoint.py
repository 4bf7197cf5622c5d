"""Checkpoints that survive: whole or not there, checksummed, loaded without running code."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import FileError, InputError, shown
from ..files import atomic_open, atomic_write, read_bytes

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
                f"{source}: the checkpoint is of another run: {key} was {shown(old)} and is {shown(new)}; "
                "restore it, or set another OUTPUT_DIR"
            )


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
