"""Merging of config files and command line options into a tree of defaults."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..errors import FileError, InputError
from ..files import parse_yaml, read_yaml

# Definition files are found from the config file that names them; data and output from the current folder.
PATHS = ("MODEL.ARCH", "MODEL.WEIGHTS", "SEARCH.SPACE")


class ConfigError(InputError):
    """A key that does not exist or a value that cannot be."""


def merge_file(cfg: CfgNode, defaults: CfgNode, path: str | os.PathLike, sources: dict[str, str], base_of: Path | None = None) -> None:
    """Sets the values of a YAML file in `cfg`, those of its `_BASE_` (one level, relative to the file) first.

    `base_of` is the file whose base it is. `sources` receives the file of every key that was set. Raises ConfigError
    naming file, key and remedy.
    """
    path = Path(path)
    try:
        content = read_yaml(path)
    except FileError as error:
        raise ConfigError(f"{base_of}: _BASE_: {error}" if base_of else str(error)) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not a {type(content).__name__}")
    content = dict(content)
    version = content.get("VERSION", defaults.VERSION)
    if isinstance(version, int) and version > defaults.VERSION:
        raise ConfigError(f"{path}: VERSION: {version} is newer than this library reads ({defaults.VERSION}); upgrade it")
    base = content.pop("_BASE_", None)
    if base is not None:
        if base_of:
            raise ConfigError(f"{path}: _BASE_: a base may not have a base of its own; merge the two files")
        if not isinstance(base, str):
            raise ConfigError(f"{path}: _BASE_: {short(base)} is not a file name")
        merge_file(cfg, defaults, path.parent / os.path.expanduser(base), sources, path)
    seen = set()
    for key, value in _flatten_dict(content, str(path), defaults):
        if key in seen:
            raise ConfigError(f"{path}: {key}: given twice")
        seen.add(key)
        if key in PATHS and isinstance(value, str):
            value = _resolve(value, path.parent)
        _set(cfg, defaults, key, value, str(path))
        sources[key] = str(path)


def merge_options(cfg: CfgNode, defaults: CfgNode, opts: Sequence[str], sources: dict[str, str]) -> None:
    """Sets `[KEY, VALUE, KEY, VALUE, ...]` of a command line in `cfg`. As `merge_file`."""
    where = "command line"
    if len(opts) % 2:
        raise ConfigError(f"{where}: key {opts[-1]!r} has no value; options are KEY VALUE pairs")
    for key, text in zip(opts[::2], opts[1::2], strict=True):
        default = _find(defaults, key, where)
        value: Any = text
        if key in PATHS:
            value = _resolve(text, Path())
        elif not isinstance(default, (str, CfgNode)):
            try:
                value = parse_yaml(text, f"{where}: {key}")
            except FileError as error:
                raise ConfigError(str(error)) from None
        _set(cfg, defaults, key, value, where)
        sources[key] = where


def flatten(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) of `cfg`."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint at the name that was meant."""
    if len(names) <= 8:
        return "one of " + ", ".join(known or '""' for known in names)
    close = difflib.get_close_matches(name[:80].upper(), names, 1, 0.5)
    return f"the nearest is {close[0]}" if close else "mobile_cv_nas/config/keys.py lists all of them"


def short(value: Any) -> str:
    """`repr(value)`, cut to a length that fits in an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _flatten_dict(content: dict, source: str, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted key, value) pairs of a file, each checked to exist; a dotted key may be written as such too."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        default = _find(defaults, key, source)
        if isinstance(default, CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {key}: a section of keys, not {short(value)}")
            yield from _flatten_dict(value, source, defaults, f"{key}.")
        else:
            yield key, value


def _find(defaults: CfgNode, key: str, source: str) -> Any:
    """The node or value of a dotted key. Raises ConfigError with the nearest key that exists."""
    node: Any = defaults
    for name in key.split("."):
        if not isinstance(node, CfgNode) or name not in node:
            names = [known for known, _ in flatten(defaults)]
            names += sorted({known.rsplit(".", 1)[0] for known in names if "." in known})
            raise ConfigError(f"{source}: {key[:60]}: no such key; {nearest(key, names)}")
        node = node[name]
    return node


def _set(cfg: CfgNode, defaults: CfgNode, key: str, value: Any, source: str) -> None:
    default = _find(defaults, key, source)
    if isinstance(default, CfgNode):
        raise ConfigError(f"{source}: {key}: a section; name one of its keys: {', '.join(default)}")
    *sections, name = key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[name] = _coerce(value, default, f"{source}: {key}")


def _coerce(value: Any, default: Any, where: str) -> Any:
    """`value` as the type of `default`: whole floats serve as ints and ints as floats, nothing else converts."""
    if isinstance(default, bool) or isinstance(value, bool):
        if isinstance(default, bool) and isinstance(value, bool):
            return value
    elif isinstance(default, int):
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    elif isinstance(default, float):
        if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1000):
            return float(value)
    elif isinstance(default, str):
        if isinstance(value, str):
            return value
    elif isinstance(value, (list, tuple)):
        return [_coerce(item, default[0] if default else 0, where) for item in value]
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list of numbers"}
    raise ConfigError(f"{where}: {short(value)} is not {kinds[type(default)]}; the default is {default!r}")


def _resolve(value: str, folder: Path) -> str:
    """A path, absolute; a zoo name or "pretrained" as it is."""
    if not value.lower().endswith((".yaml", ".yml", ".safetensors", ".pt", ".pth")) and "/" not in value:
        return value
    return os.path.normpath(folder.absolute() / os.path.expanduser(value))
