"""The error that a user can put right, and what all messages share."""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import operator
from collections.abc import Iterable
from types import ModuleType
from typing import Any


class InputError(ValueError):
    """Anything the user can put right: the command lines print it as one line and exit with code 2."""

    def __init__(self, message: object = ""):
        # keys and names come from files: a line break or an escape sequence in one must not reach a terminal
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message)))


class FileError(InputError):
    """A file that cannot be read, written or trusted."""


def did_you_mean(name: Any, known: Iterable[str], few: int = 0) -> str:
    """A hint that goes after an unknown name: ", did you mean ...?" with the nearest known one (any case), or nothing.

    Where there are at most `few` known names, "; one of ..." names them all instead.
    """
    names = list(known)
    if names and len(names) <= few:
        return "; one of " + ", ".join(known or '""' for known in names)
    folded = {known.casefold(): known for known in reversed(names)}
    found = difflib.get_close_matches(name[:100].casefold(), folded, 1, 0.5) if isinstance(name, str) else None
    return f", did you mean {folded[found[0]]}?" if found else ""


def shown(value: Any, length: int = 60) -> str:
    """A value as an error message shows it: its repr, cut to a length that fits a line."""
    try:
        text = repr(value)
    except Exception:
        text = type(value).__name__
    return text if len(text) <= length else text[: length - 3] + "..."


def check_kind(value: Any, kind: type, what: str, remedy: str) -> None:
    """Raises InputError, which names the argument `what` and says the remedy, unless a value is of a class."""
    if not isinstance(value, kind):
        raise InputError(f"{what} must be {_a(kind)}, not {_a(type(value))}; {remedy}")


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOUaeiou' else 'a'} {kind.__name__}"


def positive_int(value: Any, what: str) -> int:
    """An int above 0, of an int or of what stands for one, such as NumPy's. Raises InputError, which names `what`."""
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = 0
    if found < 1:
        raise InputError(f"{what} must be a positive int, not {shown(value)}")
    return found


def real(value: Any) -> float:
    """A number, of Python, NumPy or torch, as a float; of anything else NaN, which is within no bounds."""
    try:
        value = value.item() if hasattr(value, "item") else value
        return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except (ValueError, RuntimeError, OverflowError):  # an array of several, or an int beyond all floats
        return math.nan


def listed(items: Iterable[Any], most: int = 3) -> str:
    """The first of some names, comma between, with "..." only where there are more."""
    names = [str(item) for item in items]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def decimal(value: float, digits: int = 2) -> str:
    """A measure for people: some digits after the point, below 1 as many as leave three that say something: 8.00, 0.0452."""
    size = abs(value)
    more = 2 - math.floor(math.log10(size)) if 0 < size < 1 else 0
    return f"{value:,.{max(digits, more)}f}"


def require(module: str, extra: str) -> ModuleType:
    """Imports a module of one of the extras of setup.py. Raises InputError, which says how to install it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is there, and lacks something itself
        raise InputError(f'needs {package}; run: pip install "mobile_cv_nas[{extra}]"') from None
