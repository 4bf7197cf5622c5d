"""The options that a block row may give, and which values they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .layers import ACTIVATIONS, SE_GATES


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65536


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "expansion": ("a number above 0 and up to 100", lambda v: _number(v) and 0 < v <= 100),
    "hidden": ("an int from 1 to 65536", _positive),
    "divisor": ("an int from 1 to 65536", _positive),
    "bias": ("true or false", _flag),
    "groups": ("an int from 1 to 65536", _positive),
    "padding": ("an int from 0 to 16, or same", lambda v: v == "same" or (isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 16)),
    "squeeze": ("an int from 1 to 65536", _positive),
    "squeeze_from": ("hidden or input", lambda v: v in ("hidden", "input")),
    "se": ("one of " + ", ".join(SE_GATES), lambda v: isinstance(v, str) and v in SE_GATES),
    "se_activation": ("one of " + ", ".join(ACTIVATIONS), lambda v: isinstance(v, str) and v in ACTIVATIONS),
    "activation": ("one of " + ", ".join(ACTIVATIONS), lambda v: isinstance(v, str) and v in ACTIVATIONS),
    "zero_gamma": ("true or false", _flag),
    "norm_eps": ("a number above 0 and up to 1", lambda v: _number(v) and 0 < v <= 1),
}
"""What an option of a block row may be: words for the error message, and the check."""

ARGUMENTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **OPTIONS,
    "kernel": ("an odd int from 1 to 65535", lambda v: _positive(v) and v % 2 == 1),
    "ratio": ("an int from 1 to 65536", _positive),
}
"""The same of what only a name may give: the constructor's arguments of the library's own blocks."""
