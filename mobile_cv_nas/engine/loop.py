"""The loop that every run goes through: it owns position, stopping, saving, resuming, bad steps, log and progress.

A `Work` says what is done: the phases of an epoch, what a step updates, and what an epoch ends with.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..data.data_set import Data
from ..data.digest import data_digest
from ..data.loader import Loader
from ..errors import InputError
from .checkpoint import check_fingerprint, load_latest, save_checkpoint
from .memory import memory_error
from .progress import Lines, MetricsLog, progress_bar
from .randomness import rng_state, set_rng_state
from .run_folder import CHECKPOINTS
from .runtime import Runtime, count_skipped
from .step import Loss, Stepper
from .stop import StopRequest

_LOG = logging.getLogger(__name__)
OWN_LOSS = "a loss of one's own"  # in the mark of a run
MAX_DROPPED = 50  # steps in a row that ON_NAN skip may drop: after that nothing will mend itself


class NotFinite(InputError):
    """A loss or gradient that is NaN or infinite; the state before that step was saved."""


class Phase(Protocol):
    """A part of each epoch that passes over a loader's images and updates one set of parameters."""

    name: str
    stepper: Stepper
    loader: Loader
    steps: int  # an epoch
    rate_key: str  # the configuration key of its learning rate, for errors

    def runs(self, epoch: int) -> bool:
        """Whether the epoch has this phase."""

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step."""

    def begin(self, epoch: int) -> None:
        """Before the first step of the phase in an epoch, and before going on in the middle of it."""

    def prepare(self, epoch: int, step: int) -> None:
        """Before each step; what it draws from torch's generator is drawn again if the step is repeated."""

    def loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        """The loss of a batch on the device; `key` seeds what is random in it."""


class Work(Protocol):
    """What a loop is told to run."""

    name: str  # beside the progress bar
    section: str  # of its keys, for errors: TRAIN or SEARCH
    epochs: int
    on_nan: str  # stop | skip
    extends: bool  # a finished run may go on for more epochs than it had
    data: Data

    @property
    def phases(self) -> Sequence[Any]:
        """Each a `Phase`, in the order of an epoch."""

    @property
    def loaders(self) -> Sequence[Loader]:
        """All of them, whose skipped images are counted."""

    def status(self, loop: Loop) -> str:
        """A line beside the bar."""

    def end_epoch(self, loop: Loop) -> tuple[dict[str, Any], str]:
        """The record of the epoch that is now complete, and a line for people."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Loop:
    """A run in progress.

    Args:
        work: what is run.
        folder: of the run; its lock is the caller's.
        runtime: device, precision and processes.
        mark: what makes two runs the same; a checkpoint of another one is refused.
        callback: called on the first process with the record of each epoch.

    Attributes:
        epoch, phase, step: where the run is: epochs and phases done, and steps of the current phase.
        dropped: bad steps so far.
        totals: per phase, the sums of this epoch; "steps" counts those that were not dropped.
        results: what was found after the last epoch, by name; saved with the rest.
    """

    def __init__(
        self, work: Work, folder: Path, runtime: Runtime, mark: dict[str, Any], callback: Callable[[dict[str, Any]], None] | None = None
    ):
        self.work, self.folder, self.runtime, self.mark, self.callback = work, folder, runtime, mark, callback
        self.epoch = self.phase = self.step = self.dropped = self.dropped_in_a_row = self._position = 0
        self.totals: list[dict[str, float]] = [{} for _ in work.phases]
        self.results: dict[str, Any] = {}
        self._log: MetricsLog | None = None
        self._earlier, self._begin = 0.0, time.monotonic()

    @functools.cached_property
    def _images(self) -> dict[str, str]:
        """The images of each split: their number, and what changes with any of them."""
        data = self.work.data
        counts = {"train": len(data.train), "val": len(data.val), "test": len(data.test or ())}
        return {f"images of {name}": f"{counts[name]} ({digest})" for name, digest in data_digest(data).items()}

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, of all phases."""
        return sum(phase.steps for epoch in range(self.work.epochs) for phase in self.work.phases if phase.runs(epoch))

    @property
    def steps_done(self) -> int:
        """Steps of all phases so far."""
        done = sum(phase.steps for epoch in range(self.epoch) for phase in self.work.phases if phase.runs(epoch))
        return done + sum(p.steps for p in self.work.phases[: self.phase] if p.runs(self.epoch)) + self.step

    @property
    def seconds(self) -> float:
        """Since the run began, of all parts of an interrupted one up to their last checkpoints; time between them does not count."""
        return self._earlier + time.monotonic() - self._begin

    def close(self) -> None:
        """Ends the processes that read images; what needs them later starts new ones."""
        for loader in self.work.loaders:
            loader.close()

    def skipped_images(self) -> int:
        """Images that could not be read; a call that all processes make."""
        return count_skipped(self.runtime, self.work.loaders)

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> bool:
        """Goes on from where it is; whether the run is complete (False: stopped on request, state saved).

        A step that has begun is finished. Raises NotFinite, which names step, learning rate and term; the state before that step
        has been saved; and OutOfMemory, which names the keys that help.
        """
        self._log = MetricsLog(self.folder, self.runtime.main, self._position, self.steps_done)
        bar = progress_bar(self.runtime, self.total_steps, self.steps_done, self.work.name)
        lines = Lines(self.runtime, bar, self.total_steps, self.steps_done)
        try:
            while self.epoch < self.work.epochs:
                if self.runtime.sum([stop.requested])[0]:
                    self.save()
                    return False
                if not self._run_epoch(stop, bar, lines):
                    return False
                self._end_epoch(lines)
                stop.saved()
            return True
        except (RuntimeError, MemoryError) as error:
            told = memory_error(error, self.work.section)
            if told is None:
                raise
            raise told from error
        finally:
            self._position = self._log.position
            bar.close()
            self._log.close()
            self._log = None

    def _run_epoch(self, stop: StopRequest, bar: Any, lines: Lines) -> bool:
        """The rest of an epoch; False if it was stopped, after saving."""
        while self.phase < len(self.work.phases):
            phase = self.work.phases[self.phase]
            if phase.runs(self.epoch):
                with contextlib.closing(self._batches(phase)) as batches:
                    for parts in batches:
                        flags = self._run_step(phase, parts, stop)
                        self._show(bar, lines)
                        if flags[0] or flags[1]:
                            self.save()
                            stop.saved()
                        if flags[0]:
                            return False
            self.phase, self.step = self.phase + 1, 0
        return True

    def _batches(self, phase: Phase) -> Generator[list[Any], None, None]:
        """The batches of each remaining step of a phase, on the device."""
        parts = self.runtime.options.accumulate
        phase.begin(self.epoch)
        batches = phase.loader.epoch(self.epoch, start=self.step * parts, stop=phase.steps * parts)
        for _ in range(self.step, phase.steps):
            yield list(itertools.islice(batches, parts))

    def _run_step(self, phase: Phase, parts: list[Any], stop: StopRequest) -> list[float]:
        """One step; the wishes of all processes to stop and to save."""
        rate, epoch, step = phase.rate(self.epoch, self.step), self.epoch, self.step
        for group in phase.stepper.optimizer.param_groups:
            group["lr"] = rate
        before = torch.get_rng_state()
        phase.prepare(epoch, step)
        outcome = phase.stepper.step(
            parts,
            len(parts),
            lambda batch, number: phase.loss([self.runtime.move(part) for part in batch], (epoch, step, number)),
            lambda: [stop.requested, self.runtime.main and stop.due()],
        )
        if outcome.term is None:
            self.dropped_in_a_row = 0
            totals = self.totals[self.phase]
            for name, value in (*outcome.sums.items(), ("steps", 1)):
                totals[name] = totals.get(name, 0.0) + value
        else:
            self._drop(phase, outcome.term, rate, before)
        self.step += 1
        return outcome.flags

    def _drop(self, phase: Phase, term: str, rate: float, before: torch.Tensor) -> None:
        """Counts a dropped step, or stops after saving the state before it."""
        self.dropped_in_a_row += 1
        again = f" {self.dropped_in_a_row} times in a row" if self.dropped_in_a_row > 1 else ""
        what = f"epoch {self.epoch + 1}, step {self.step + 1} of {phase.steps} of the {phase.name}, learning rate {rate:.4g}: {term}"
        if self.work.on_nan == "skip" and self.dropped_in_a_row <= MAX_DROPPED:
            self.dropped += 1
            _LOG.warning("%s is not finite; step skipped (%d so far)", what, self.dropped)
            return
        torch.set_rng_state(before)
        self.save()
        raise NotFinite(
            f"{what} is not finite{again}; the state before that step is saved in {self.folder / CHECKPOINTS}: --resume with "
            f"{self.work.section}.ON_NAN skip, or start again with a lower {phase.rate_key}"
        )

    def _show(self, bar: Any, lines: Lines) -> None:
        if not bar.disable:
            bar.set_postfix_str(self.work.status(self), refresh=False)
        bar.update()
        lines.step(self.steps_done, lambda: self.work.status(self))

    def _end_epoch(self, lines: Lines) -> None:
        for phase, totals in zip(self.work.phases, self.totals, strict=True):
            if phase.runs(self.epoch) and not totals.get("steps"):  # fewer than MAX_DROPPED: there would be no loss to report
                raise NotFinite(
                    f"epoch {self.epoch + 1}: all {phase.steps} steps of the {phase.name} were dropped, since none was finite; start again "
                    f"with a lower {phase.rate_key}"
                )
        record, line = self.work.end_epoch(self)
        self.epoch, self.phase, self.step = self.epoch + 1, 0, 0
        self.totals = [{} for _ in self.work.phases]
        assert self._log is not None
        self._log.write(self.steps_done, **record)
        lines.epoch(line)
        if self.callback is not None and self.runtime.main:
            self.callback(record)
        self.save()

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint of everything the rest of the run depends on; a call that all processes make."""
        loaders = [self.runtime.gather(loader.state_dict()) for loader in self.work.loaders]
        rng = self.runtime.gather(rng_state())
        if not self.runtime.main:
            return
        state = {
            "mark": self.mark,
            "images": self._images,
            "work": self.work.state_dict(),
            "steppers": [phase.stepper.state_dict() for phase in self.work.phases],
            "loaders": loaders,
            "rng": rng,
            "place": [self.epoch, self.phase, self.step, self.dropped, self.dropped_in_a_row],
            "totals": self.totals,
            "results": self.results,
            "seconds": self.seconds,
            "log": self._position if self._log is None else self._log.position,
        }
        save_checkpoint(self.folder / CHECKPOINTS, state, self.steps_done, self.runtime.options.keep)

    def _extended(self, mark: dict[str, Any], done: int) -> dict[str, Any]:
        """The mark of a saved run; where it was finished, and may go on for more epochs, with the number of those there are now."""
        key = f"{self.work.section}.EPOCHS"
        before, now = mark.get(key), self.work.epochs
        if not self.work.extends or before != done or now <= done or key not in self.mark:
            return mark
        _LOG.warning(
            "%s: finished after %d epochs; going on to %d, at the learning rates that the longer run has there", self.folder, done, now
        )
        return {**mark, key: self.mark[key]}

    def restore(self) -> None:
        """Goes back to the newest checkpoint. Raises CheckpointError if there is none, or it is of another run."""
        folder = self.folder / CHECKPOINTS
        state = load_latest(folder)
        saved = {OWN_LOSS: self.mark.get(OWN_LOSS), **state["mark"]}  # marks of before did not say it
        check_fingerprint(self._extended(saved, state["place"][0]), self.mark, folder)
        check_fingerprint(state.get("images", self._images), self._images, folder)  # else test images may have been trained on
        self.work.load_state_dict(state["work"])
        for phase, saved in zip(self.work.phases, state["steppers"], strict=True):
            phase.stepper.load_state_dict(saved)
        rank = self.runtime.rank
        for loader, parts in zip(self.work.loaders, state["loaders"], strict=True):
            loader.load_state_dict(parts[min(rank, len(parts) - 1)])
        set_rng_state(state["rng"][min(rank, len(state["rng"]) - 1)])
        self.epoch, self.phase, self.step, self.dropped, self.dropped_in_a_row = state["place"]
        self.totals, self.results, self._position = state["totals"], state["results"], state["log"]
        self._earlier = state.get("seconds", 0.0)
