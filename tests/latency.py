"""Latency tables of devices that do not exist, for tests."""

from __future__ import annotations

import random
from typing import Any

from mobile_cv_nas.deploy.latency.features import FEATURES
from mobile_cv_nas.deploy.latency.table import LatencyTable

OPERATORS = ("conv3", "conv5", "pointwise", "depthwise3", "depthwise5", "depthwise7", "linear", "pool", "scale", "add", "resize")
OPERATORS += ("shuffle", "hswish", "sigmoid", "hsigmoid", "silu")
ANY = {"c_in": (1, 10**6), "c_out": (1, 10**6), "side": (1, 10**4)}


def made_up(coefficients: dict[str, dict[str, float]], operators: tuple[str, ...] = OPERATORS, **changes: Any) -> LatencyTable:
    """A table with these coefficients, and zero for all others of these operators."""
    values: dict[str, Any] = {
        "device": "made up",
        "processor": "none",
        "runtime": "none",
        "version": "1",
        "threads": 1,
        "precision": "fp32",
        "batch": 1,
        "date": "2026-01-01",
        "space": "tiny",
        "digest": "",
        "statistic": "min",
        "method": "nets",
        "constant": 0.125,
        "coefficients": {name: coefficients.get(name, {}) for name in operators},
        "ranges": dict.fromkeys(OPERATORS, ANY),
    }
    return LatencyTable(**{**values, **changes})


def random_table(seed: int = 0, **changes: Any) -> LatencyTable:
    """Every coefficient is there, and no two are equal."""
    rng = random.Random(seed)
    return made_up({name: {key: rng.uniform(1e-9, 1e-7) for key in FEATURES} for name in OPERATORS}, **changes)
