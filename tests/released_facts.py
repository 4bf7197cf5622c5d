"""Facts of the released networks, and weights that any implementation can reproduce from key names and shapes."""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

RULES = {"A": (2.0, 0.05), "B": (1.0, 0.5)}  # gain of the weights, scale of the biases


@lru_cache(maxsize=1)
def facts() -> dict[str, Any]:
    """`keys` (name to [key, shape] in order), `published` figures, `vectors` of two networks."""
    return json.loads(gzip.decompress((Path(__file__).parent / "data" / "released.json.gz").read_bytes()))


def released_keys(name: str) -> dict[str, tuple[int, ...]]:
    """State-dict keys of a released network with their shapes, in order."""
    return {key: tuple(shape) for key, shape in facts()["keys"][name]}


def _random(text: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    return np.random.default_rng(seed).standard_normal(shape)


def filled(name: str, rule: str) -> dict[str, torch.Tensor]:
    """The deterministic filling of a released network, under its released keys."""
    gain, bias = RULES[rule]
    return {key: _fill(key, shape, gain, bias) for key, shape in released_keys(name).items()}


def _fill(key: str, shape: tuple[int, ...], gain: float, bias: float) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    v = _random(key, shape)
    if key.endswith("running_var"):
        v = np.abs(v) * 0.5 + 0.75
    elif key.endswith("running_mean"):
        v = 0.1 * v
    elif key.endswith(".bias"):
        v = bias * v
    elif len(shape) == 1:
        v = 1 + 0.1 * v
    else:
        v = v * np.sqrt(gain / np.prod(shape[1:]))
    return torch.from_numpy(v.astype(np.float32))


def image(name: str, size: int) -> torch.Tensor:
    """The input that belongs to the filling: (2, 3, size, size)."""
    return torch.from_numpy(_random(f"input:{name}", (2, 3, size, size)).astype(np.float32))


def digest(tensors: list[torch.Tensor]) -> str:
    """sha256 of the bytes of tensors, one after another: tells a changed random stream from a wrong network."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
