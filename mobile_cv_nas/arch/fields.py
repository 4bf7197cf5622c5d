"""Single fields of a table: numbers that may be choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ..errors import InputError, shown

MAX_OPTIONS = 1024


class ArchError(InputError):
    """An arch or a space that is not valid, a ValueError: says which file, stage, block and key, and what would be.

    >>> from mobile_cv_nas import ArchDef
    >>> ArchDef.parse({"input_size": 8, "stages": [[["conv_k33", 8]]]})
    Traceback (most recent call last):
    mobile_cv_nas.arch.fields.ArchError: arch: stage 0, block 0: unknown block 'conv_k33', did you mean conv_k3...
    """


def numbers(value: Any, where: str, what: str, limit: int, integer: bool = True) -> tuple[Fraction, ...]:
    """The options of a number: itself, [low, high, step], or {any: [...]}; ascending, exact, each once."""
    if isinstance(value, Mapping):
        if set(value) != {"any"} or not isinstance(value["any"], Sequence) or isinstance(value["any"], str) or not value["any"]:
            raise ArchError(f"{where}: a set of options is {{any: [8, 12, 32]}} with at least one, not {shown(value)}")
        if len(value["any"]) > MAX_OPTIONS:
            raise ArchError(f"{where}: more than {MAX_OPTIONS} options")
        found = tuple(sorted(_exact(v, where, what, limit, integer) for v in value["any"]))
        if len(set(found)) < len(found):
            raise ArchError(f"{where}: an option stands twice in {shown(value)}")
        return found
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 3:
            raise ArchError(f"{where}: a choice is [low, high, step] or {{any: [...]}}, not {shown(value)}")
        low, high, step = (_exact(v, where, what, limit, integer) for v in value)
        if low > high or (high - low) % step:
            raise ArchError(f"{where}: [low, high, step] must go up and meet high, not {shown(value)}")
        if (high - low) / step >= MAX_OPTIONS:
            raise ArchError(f"{where}: more than {MAX_OPTIONS} options in {shown(value)}")
        return tuple(low + i * step for i in range(int((high - low) / step) + 1))
    return (_exact(value, where, what, limit, integer),)


def _exact(value: Any, where: str, what: str, limit: int, integer: bool) -> Fraction:
    ok = isinstance(value, int) if integer else isinstance(value, (int, float))
    if not ok or isinstance(value, bool) or not 0 < value <= limit:
        raise ArchError(f"{where}: must be {what} (at most {limit}), [low, high, step] of such, or {{any: [...]}}, not {shown(value)}")
    return Fraction(str(value))
