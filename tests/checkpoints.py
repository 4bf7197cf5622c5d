"""Checkpoints of a released network, whole and damaged in every way."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from released_facts import released_keys

NAME = "FBNetV2_F1"
STEM = "blocks.s0b0.conv.weight"
HEAD = "head.conv.weight"


def numbered(name: str = NAME) -> dict[str, torch.Tensor]:
    """Released keys; every tensor holds its own number."""
    keys = released_keys(name).items()
    kinds = {True: torch.int64, False: torch.float32}
    return {k: torch.full(s, i, dtype=kinds[k.endswith("tracked")]) for i, (k, s) in enumerate(keys, 1)}


def saved(content: object, path: Path) -> Path:
    """Written by torch."""
    torch.save(content, path)
    return path


def released(path: Path, name: str = NAME, **changes: torch.Tensor) -> Path:
    """A checkpoint in the released form."""
    state = {**numbered(name), **changes}
    return saved({"state_dict": {}, "model_ema": {f"module.{k}": v for k, v in state.items()}}, path)


class Evil:
    """Unpickled, it makes a folder called evil."""

    def __reduce__(self):
        return (os.mkdir, ("evil",))


def truncated(path: Path) -> Path:
    """A released checkpoint that ends too early."""
    released(path)
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def changed(change):
    """Writes a released state dict after a change to it."""

    def write(path: Path) -> Path:
        state = numbered()
        change(state)
        return saved(state, path)

    return write


def written(content: bytes):
    """Writes bytes."""

    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write
