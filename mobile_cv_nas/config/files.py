"""Merging of config files and command line options into a tree of defaults."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..configs import config_path
from ..errors import FileError, InputError, did_you_mean, shown
from ..files import parse_yaml, read_yaml

# Definition files are found from the config file that names them; data and output from the current folder.
PATHS = ("MODEL.ARCH", "MODEL.WEIGHTS", "SEARCH.SPACE", "SEARCH.ARCH", "SEARCH.TABLE")
COMMAND_LINE = "command line"  # as the source of a value
_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}  # of SEARCH.TARGET and SEARCH.TARGETS
_FLOATS = ("SEARCH.TARGETS",)  # lists that are empty by default, of any numbers
_TEXTS = ("EXPORT.FORMATS", "SEARCH.LIMITS")  # lists of names; others are of numbers
_TEXTS_LIKE = {"EXPORT.FORMATS": "[onnx, pte]", "SEARCH.LIMITS": "{macs: 60M, params: 4M}"}
# What a target's unit says: its scale and the objective; as search.objective has them.
_OBJECTIVES = {"ms": (1.0, "latency"), "us": (1e-3, "latency"), "s": (1e3, "latency"), "bytes": (1.0, "memory"), "kb": (1e3, "memory")}
_OBJECTIVES |= {"mb": (1e6, "memory"), "kib": (1024.0, "memory"), "mib": (1024.0**2, "memory")}
_OBJECTIVES |= {"mac": (1.0, "macs"), "macs": (1.0, "macs"), "params": (1.0, "params"), "parameters": (1.0, "params")}


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
            raise ConfigError(f"{path}: _BASE_: {shown(base)} is not a file name")
        merge_file(cfg, defaults, path.parent / os.path.expanduser(base), sources, path)
    seen = set()
    for key, value in _flatten_dict(content, str(path), defaults):
        if key in seen:
            raise ConfigError(f"{path}: {key}: given twice")
        seen.add(key)
        if key in PATHS and isinstance(value, str):
            value = _resolve(value, path.parent, key, str(path))
        _set(cfg, defaults, key, value, str(path))
        sources[key] = str(path)
    values = dict(_flatten_dict(content, str(path), defaults))
    for key in ("SEARCH.TARGET", "SEARCH.TARGETS"):
        _set_objective(cfg, key, values.get(key), seen, str(path), sources)


def merge_options(cfg: CfgNode, defaults: CfgNode, opts: Sequence[str], sources: dict[str, str]) -> None:
    """Sets `[KEY, VALUE, ...]`, `[KEY=VALUE, ...]` or a mixture of a command line in `cfg`. As `merge_file`."""
    given, targets = set(), {}
    for key, text in pairs(opts):
        default = _find(defaults, key, COMMAND_LINE)
        value: Any = text
        if key in PATHS:
            value = _resolve(text, Path(), key, COMMAND_LINE)
        elif not isinstance(default, (str, CfgNode)):
            try:
                value = parse_yaml(text, f"{COMMAND_LINE}: {key}")
            except FileError as error:
                raise ConfigError(str(error)) from None
        _set(cfg, defaults, key, value, COMMAND_LINE)
        sources[key] = COMMAND_LINE
        given.add(key)
        if key in ("SEARCH.TARGET", "SEARCH.TARGETS"):
            targets[key] = value
    for key, value in targets.items():
        _set_objective(cfg, key, value, given, COMMAND_LINE, sources)


def pairs(opts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The keys of a command line and their values. A key holds no "=", so that one in its place parts the two."""
    rest = iter(opts)
    for key in rest:
        name, equals, value = key.partition("=")
        if not equals:
            found = next(rest, None)
            if found is None:
                raise ConfigError(f"{COMMAND_LINE}: key {key!r} has no value; options are KEY VALUE or KEY=VALUE pairs")
            value = found
        yield name, value


def flatten(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) of `cfg`."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _flatten_dict(content: dict, source: str, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted key, value) pairs of a file, each checked to exist; a dotted key may be written as such too."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        default = _find(defaults, key, source)
        if isinstance(default, CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {key}: a section of keys, not {shown(value)}")
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
            hint = did_you_mean(key, names) or "; mobile_cv_nas/config/keys.py lists all of them"
            raise ConfigError(f"{source}: {key[:60]}: no such key{hint}")
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
    kind = [""] if key in _TEXTS else [0.0] if key in _FLOATS else default
    if key == "SEARCH.TARGET":
        value = _number(_in_units(value)[0])
    elif key == "SEARCH.TARGETS" and isinstance(value, list):
        value = [_number(_in_units(one)[0]) for one in value]
    elif key == "SEARCH.LIMITS" and isinstance(value, dict):
        value = [f"{objective}: {most}" for objective, most in value.items()]
    node[name] = _coerce(value, kind, f"{source}: {key}")


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
    if default == [""]:
        raise ConfigError(f"{where}: {shown(value)} is not a list of names, such as {_TEXTS_LIKE[where.rpartition(': ')[2]]}")
    raise ConfigError(f"{where}: {shown(value)} is not {kinds[type(default)]}; the default is {default!r}")


def _in_units(value: Any) -> tuple[Any, str]:
    """A target without its unit, and the objective that the unit says: "8 ms" is 8 of latency; "" where there is none."""
    words = value.split() if isinstance(value, str) else []
    if len(words) == 1:
        unit = words[0].lstrip("0123456789.+-eE_")
        words = [words[0][: len(words[0]) - len(unit)], unit]
    scale, objective = _OBJECTIVES.get(words[1].lower(), (1.0, "")) if len(words) == 2 else (1.0, "")
    if not objective:
        return value, ""
    number = _number(words[0])
    try:
        return float(number) * scale, objective
    except ValueError:
        return value, ""


def _set_objective(cfg: CfgNode, key: str, target: Any, given: Collection[str], source: str, sources: dict[str, str]) -> None:
    """The unit of a target, or of several, says the objective. Raises ConfigError where the same source names another."""
    found = {_in_units(one)[1] for one in (target if isinstance(target, list) else [target])}
    if len(found) > 1:
        raise ConfigError(f"{source}: {key}: {shown(target)}: not all of one objective; write the same unit after each")
    (objective,) = found or {""}
    if not objective or objective == cfg.SEARCH.OBJECTIVE:
        return
    if "SEARCH.OBJECTIVE" in given:
        raise ConfigError(f"{source}: {key}: {shown(target)} is of {objective}, and SEARCH.OBJECTIVE is {cfg.SEARCH.OBJECTIVE}")
    cfg.SEARCH.OBJECTIVE = objective
    sources["SEARCH.OBJECTIVE"] = source


def _number(value: Any) -> Any:
    """A number written as 60M or 400k; anything else as it is."""
    if not isinstance(value, str) or value[-1:].lower() not in _UNITS:
        return value
    try:
        return float(value[:-1]) * _UNITS[value[-1].lower()]
    except ValueError:
        return value


def _resolve(value: str, folder: Path, key: str, source: str) -> str:
    """A path, absolute; the name of a shipped space as its path; a zoo name or "pretrained" as it is."""
    if value.lower().endswith((".yaml", ".yml", ".json", ".safetensors", ".pt", ".pth")) or "/" in value or os.sep in value:
        return os.path.normpath(folder.absolute() / os.path.expanduser(value))
    if key != "SEARCH.SPACE" or not value:
        return value
    spaces = config_path("spaces/fbnetv2_l.yaml").parent
    names = sorted(path.stem for path in spaces.glob("*.yaml"))
    if value not in names:
        raise ConfigError(f"{source}: {key}: {shown(value)}: no shipped space{did_you_mean(value, names, few=12)}; or name a .yaml file")
    return str(spaces / f"{value}.yaml")
