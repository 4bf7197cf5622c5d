"""Stopping by a signal, after the step that has begun."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any


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
