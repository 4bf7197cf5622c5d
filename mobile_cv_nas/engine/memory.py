"""How much memory a process took, and what is said when there is too little."""

from __future__ import annotations

import sys

import torch

from ..errors import InputError

_SAID = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


class OutOfMemory(InputError):
    """A step that did not fit into the memory of the device."""


def memory_error(error: BaseException, section: str) -> OutOfMemory | None:
    """What to say of an error that is of too little memory, with the keys of a section that lower it; None of any other error."""
    text = str(error).casefold()
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and any(said in text for said in _SAID)):
        return None
    where = "GPU" if "cuda" in text or "mps" in text else "machine"
    keys = "RUNTIME.ACCUMULATE 2 or more splits a step; only norms then see fewer images at once, and masks count by part"
    if section == "SEARCH":
        keys += "; or lower SEARCH.BATCH_SIZE, set SEARCH.SHARING full, or SEARCH.RECOMPUTE true"
    else:
        keys += f"; or lower {section}.BATCH_SIZE (in validation TEST.BATCH_SIZE)"
    return OutOfMemory(f"{section}.BATCH_SIZE: a step does not fit into the memory of the {where}: {keys}")


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has used so far, on a GPU those of its tensors; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
