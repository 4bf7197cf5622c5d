"""What the time of an operator is linear in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...nn.operators import Operator

_LANES = 16  # channels that a runtime computes together on AVX-512; on other processors a divisor of it


def _up(channels: Any) -> Any:
    """Channels rounded up to whole vectors."""
    return np.ceil(np.asarray(channels, float) / _LANES) * _LANES


def _padded(one: Operator) -> Any:
    if one.kind not in ("conv", "pointwise", "linear", "depthwise"):
        return _up(one.c_out) * one.out_area
    wide = one._replace(c_out=_up(one.c_out))
    return (wide.macs if one.kind == "depthwise" else wide._replace(c_in=_up(one.c_in)).macs) * 1.0


def _ragged(one: Operator) -> Any:
    return np.asarray(one.c_in) % _LANES != 0


FEATURES: dict[str, Callable[[Operator], Any]] = {
    "one": lambda one: (np.asarray(one.c_out) > 0) * 1.0,  # the call itself
    "macs": lambda one: one.macs,
    "padded": _padded,  # macs, or elements, with the channels rounded up to whole vectors
    "read": lambda one: one.c_in * one.in_area,  # elements
    "written": lambda one: one.c_out * one.out_area,
    "weights": lambda one: one.weights,
    "ragged": lambda one: one.c_in * one.in_area * _ragged(one),  # elements read whose channels are no whole number of vectors
    "ragged_macs": lambda one: one.macs * _ragged(one),  # macs of the same
}


def features(one: Operator) -> dict[str, Any]:
    """The value of each of FEATURES, as the operator's dimensions broadcast."""
    return {name: of(one) for name, of in FEATURES.items()}
