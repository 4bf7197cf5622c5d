"""Blocks by name: how one is found, how a class of a user's own joins, and what it lacks to be searched."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, make_dataclass
from functools import cache, partial
from typing import Any

from torch import nn

from ..errors import InputError, shown
from .blocks import BLOCKS, Block, Dims, Skip
from .options import ARGUMENTS, OPTIONS

_REGISTERED = f"{__package__}.registered"


def block_type(name: str) -> tuple[type[Block], Mapping[str, Any]]:
    """The class behind a registered name, and the arguments that the name stands for. Raises KeyError."""
    entry: Any = BLOCKS.get(name)
    kind: Any = entry.func if isinstance(entry, partial) else entry
    return kind, entry.keywords if isinstance(entry, partial) else {}


def register_block(name: str, kind: Any, **arguments: Any) -> None:
    """Makes a block of your own available to archs and spaces by `name`.

    Args:
        name: letters, digits and underscores; not yet taken.
        kind: a `Block`, or any `nn.Module` whose constructor is `__init__(self, dims, ...)` and whose forward maps (N, dims.c_in, H, W) to
            (N, dims.c_out, H', W'). To stand in a space it also needs `transform`, `constants` and `cost`, as `Block` says.
        arguments: what the name stands for; the rest of the constructor's arguments keep their defaults, or are a row's options where
            `kind.options` names them.

    Raises:
        InputError: says what about the name, the class or an argument is wrong.

    >>> from mobile_cv_nas.nn.blocks import InvertedResidual
    >>> register_block("ir_k9_silu", InvertedResidual, kernel=9, activation="silu")
    >>> BLOCKS._obj_map.pop("ir_k9_silu").keywords["kernel"]
    9
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w{1,100}", name):
        raise InputError(f"a block's name is made of letters, digits and underscores, not {shown(name)}")
    if name in BLOCKS:
        raise InputError(f"a block is already called {name}; choose another name")
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise InputError(f"the block {name} must be a class derived from nn.Module, not {shown(kind)}")
    if not issubclass(kind, Block):  # the class made of it is pickled by its place in `registered`
        kind = type(kind.__name__, (kind, Block), {"__module__": _REGISTERED, "__qualname__": name, "__doc__": kind.__doc__})
    where = f"the block {name}: {kind.__name__}"
    takes = inspect.signature(kind.__init__).parameters.values()
    positional = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(positional) < 2:
        raise InputError(f"{where}.__init__ takes the dimensions first: def __init__(self, dims, ...), with dims.c_in, .c_out, .stride")
    known = {one.name: one.default for one in fields(arguments_type(kind))}
    for key in arguments:
        if key not in known:
            raise InputError(f"{where} has no argument {key}; it takes {', '.join(known) or 'none beside dims'}")
    _check_ours(kind, arguments, known, where)
    unknown = sorted(set(kind.options) - set(known) - Block.sizes)
    if unknown:
        raise InputError(f"{where}.options names {unknown[0]}, which its constructor does not take; it takes {', '.join(known) or 'none'}")
    missing = [key for key, default in known.items() if default is MISSING and key not in arguments and key not in kind.options]
    if missing:
        raise InputError(f"{where} needs a value for {missing[0]}: register_block({name!r}, {kind.__name__}, {missing[0]}=...)")
    BLOCKS._do_register(name, partial(kind, **arguments))


def _check_ours(kind: Any, arguments: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Checks the values of those arguments that a constructor of this library reads; a class of a user's may mean others by its own."""
    if getattr(kind.Arguments, "__module__", "").partition(".")[0] != __name__.partition(".")[0]:
        return
    own = inspect.signature(kind.__init__).parameters
    for key, value in arguments.items():
        words, fits = ARGUMENTS[key] if key in ARGUMENTS and key not in own else ("", lambda _: True)
        if not fits(value) and not (value is None and defaults[key] is None):
            also = " or None" if defaults[key] is None else ""
            raise InputError(f"{where}: {key} must be {words}{also}, not {shown(value)}")


@cache
def arguments_type(kind: Any) -> type[Any]:
    """The frozen dataclass of a block class's arguments: its own, with the defaults that its constructor names, or made from those."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[2:]  # after self and dims
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if kind.Arguments is not None and not named:
        return kind.Arguments
    defaults = {} if kind.Arguments is None else {one.name: one.default for one in fields(kind.Arguments)}
    defaults |= {p.name: MISSING if p.default is p.empty else p.default for p in named}
    rows: Any = [(key, Any) if default is MISSING else (key, Any, default) for key, default in defaults.items()]
    return make_dataclass(f"{kind.__name__}Arguments", sorted(rows, key=len), frozen=True)


def make_block(name: str, kind: Any, dims: Dims, arguments: Mapping[str, Any]) -> Block:
    """A block, built. Raises InputError if the class cannot be, which names the block and the remedy."""
    try:
        return kind(dims, **arguments)
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:
        if kind.__module__ == Skip.__module__:  # of this library
            raise
        searched = [key for key, value in dims._asdict().items() if not isinstance(value, (int, bool))]
        what = f"{kind.__name__}({dims}, ...) raised {type(error).__name__}: {error}"
        remedy = "correct its __init__(self, dims, ...)"
        if searched:
            remedy = f"in a space {' and '.join(searched)} may be a choice: build at its largest and mask it, or fix it in the table"
        raise InputError(f"the block {name}: {what}; {remedy}") from error


def lacks(kind: type[Block]) -> list[str]:
    """What a block class lacks to stand in a space."""
    return [what for what in ("transform", "cost") if getattr(kind, what) is getattr(Block, what)]


def value_error(key: str, value: Any) -> str:
    """Why a row's option cannot have this value, in words that follow "must be"; nothing if it can."""
    if key in OPTIONS:
        words, fits = OPTIONS[key]
        return "" if fits(value) else words
    return "" if isinstance(value, (bool, int, float, str)) else "a number, a word, true or false"
