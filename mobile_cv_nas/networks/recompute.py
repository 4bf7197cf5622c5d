"""Gradient checkpointing of a block: its activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)` without its activations; norm statistics are updated once, by the first pass."""
    if torch.compiler.is_compiling():  # the compiler replays no side effect
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _kept_statistics(block)))


@contextlib.contextmanager
def _kept_statistics(block: nn.Module) -> Iterator[None]:
    """Within it norms update copies of their statistics."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    kept = [dict(norm.named_buffers()) for norm in norms]
    for norm, buffers in zip(norms, kept):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
