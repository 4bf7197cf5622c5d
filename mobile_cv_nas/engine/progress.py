"""What a running loop shows and keeps: a progress bar, metrics.jsonl and TensorBoard scalars."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import require
from ..files import write_error
from .runtime import Runtime

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
SILENT = 30.0  # seconds after which a log file gets a line


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
        require("tensorboard", "search")
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


def progress_bar(runtime: Runtime, total: int, done: int, name: str, leave: bool = True) -> Any:
    """A tqdm bar on stderr, on the main process and a terminal only; `Lines` serves for log files. It stays at the end if `leave`."""
    from tqdm.auto import tqdm

    return tqdm(
        total=total,
        initial=done,
        desc=name,
        leave=leave,
        disable=None if runtime.main else True,
        dynamic_ncols=True,
        smoothing=0.05,
        bar_format="{desc} {percentage:3.0f}% {remaining} left{postfix} {bar}",  # what matters first: it is cut to the terminal's width
    )


class Lines:
    """Lines of progress on the main process: one an epoch, and in a log file, where no bar is drawn, one each half a minute.

    Args:
        runtime: whose main process prints.
        bar: of `progress_bar`.
        total, done: steps of the run, and those done.
        what: is counted.
        last: when the last line was written, by time.monotonic(); now, if nothing is said.
    """

    def __init__(self, runtime: Runtime, bar: Any, total: int, done: int, what: str = "step", last: float | None = None):
        self.runtime, self.bar, self.total, self.first, self.what = runtime, bar, total, done, what
        self.begin = time.monotonic()
        self.last = self.begin if last is None else last

    def epoch(self, text: str) -> None:
        """A line of the epoch that has ended, which stays."""
        if not self.runtime.main:
            return
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)
        self.last = time.monotonic()

    def step(self, done: int, status: Callable[[], str]) -> None:
        """A line within an epoch, where it is time for one."""
        now = time.monotonic()
        if self.runtime.main and self.bar.disable and now - self.last >= SILENT:
            left = (now - self.begin) / max(1, done - self.first) * (self.total - done)
            print(f"{self.what} {done:,}/{self.total:,}, {left:.0f} s left: {status()}", flush=True)
            self.last = now


class Pieces:
    """Progress of what is done beside a loop's steps, in lots of pieces: a bar for each lot, and lines as `Lines` has them, over all lots.

    Args:
        runtime: whose main process shows it.
        what: a piece is.
    """

    def __init__(self, runtime: Runtime, what: str):
        self.runtime, self.what, self.last = runtime, what, time.monotonic()

    def each(self, lot: Sequence[T], status: Callable[[], str]) -> Iterator[T]:
        """The pieces of a lot; `status` says how it stands after each."""
        bar = progress_bar(self.runtime, len(lot), 0, self.what, leave=False)
        lines = Lines(self.runtime, bar, len(lot), 0, self.what, self.last)
        try:
            for done, piece in enumerate(lot, 1):
                yield piece
                bar.set_postfix_str(status(), refresh=False)
                bar.update()
                lines.step(done, status)
        finally:
            self.last = lines.last
            bar.close()


def short(value: float) -> str:
    """A number for people: 412k, 56.3M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # rounds up to it
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
