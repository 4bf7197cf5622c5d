"""How long a step takes, measured on a few before a run."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from .memory import memory_error
from .runtime import Runtime


def seconds_a_step(phase: Any, runtime: Runtime, section: str, epoch: int = 0, steps: int = 3) -> float:
    """Mean seconds of the steps of a phase (`engine.loop.Phase`) after the first; 0 if it has none. Its networks are trained by them.

    Raises OutOfMemory if one does not fit; all processes make this call.
    """
    parts, steps = runtime.options.accumulate, min(steps, phase.steps)
    if not steps:
        return 0.0
    phase.begin(epoch)
    batches = phase.loader.epoch(epoch, stop=steps * parts)
    begin, done = time.monotonic(), 0
    try:
        for step in range(steps):
            found = list(itertools.islice(batches, parts))
            phase.prepare(epoch, step)
            phase.stepper.step(found, len(found), lambda batch, n: phase.loss([runtime.move(p) for p in batch], (epoch, 0, n)), list)
            if runtime.device.type == "cuda":
                torch.cuda.synchronize()
            if step == 0 and steps > 1:  # starts the readers, chooses algorithms
                begin = time.monotonic()
            else:
                done += 1
    except (RuntimeError, MemoryError) as error:
        told = memory_error(error, section)
        if told is None:
            raise
        raise told from error
    finally:
        batches.close()  # type: ignore[attr-defined]
    return runtime.sum([(time.monotonic() - begin) / done])[0] / runtime.world


def long(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3 h 20 min, 5 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 60 / 24:.1f} days"
