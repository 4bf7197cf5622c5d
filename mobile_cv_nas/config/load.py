"""From files and command lines to a config that has been checked, and back to a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from ..files import dump_yaml
from .files import COMMAND_LINE, ConfigError, flatten, merge_file, merge_options
from .keys import get_cfg
from .validate import PURPOSES, disabled, validate

_GIVEN = "_given_keys"  # in a node's own attributes, which yacs neither lists nor dumps


def load_config(path: str | os.PathLike | None = None, opts: Sequence[str] = (), purpose: str = "") -> CfgNode:
    """Defaults, then the file (its `_BASE_` first), then `[KEY, VALUE, ...]` or `[KEY=VALUE, ...]`; validated, not frozen.

    `purpose` is what the config is for: search | train | test, or "" if that is not known. A key that another one, or the
    purpose, disables is an error if the file sets it to other than its default, or the command line at all. Where only the
    base of the file set it, it goes back to its default: nothing reads it. A ~ in the folders that are written to is the home folder.

    Raises ConfigError, which names file, key and remedy.
    """
    assert purpose in PURPOSES, purpose
    cfg, defaults = get_cfg(), get_cfg()
    sources: dict[str, str] = {}  # where each value was set
    if path is not None:
        merge_file(cfg, defaults, path, sources)
    merge_options(cfg, defaults, opts, sources)
    _choose_aim(cfg, defaults, sources, str(path))
    try:
        validate(cfg, purpose, sources, None if path is None else str(path))
    except ConfigError as error:
        source = sources.get(str(error).split(":")[0])
        raise ConfigError(f"{source}: {error}" if source else str(error)) from None
    for node, name in ((cfg, "OUTPUT_DIR"), (cfg.TEST, "OUTPUT")):  # a shell does not expand the ~ of KEY=~/folder, nor a file any
        node[name] = os.path.expanduser(node[name])
    known = dict(flatten(defaults))
    values, complete = dict(flatten(cfg)), len(sources) == len(known)
    cfg.__dict__[_GIVEN] = frozenset(
        key for key, source in sources.items() if source == COMMAND_LINE or not complete or values[key] != known[key]
    )
    for key, source in sources.items():
        if source not in (COMMAND_LINE, str(path)) and disabled(cfg, key, purpose):
            *sections, name = key.split(".")
            node = cfg
            for section in sections:
                node = node[section]
            node[name] = known[key]
    return cfg


def given_keys(cfg: CfgNode) -> frozenset[str]:
    """The keys that a file or a command line set; a file of all keys, such as a run leaves, sets those that differ from the default."""
    return cfg.__dict__.get(_GIVEN, frozenset())


def own_config(source: str | os.PathLike) -> Path | None:
    """The configuration that a result folder, or the one around a weight file, was made with; None where there is none."""
    path = Path(source).expanduser()
    for folder in (path, path.parent, path.parent.parent):
        if path.exists() and (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    return None


def _choose_aim(cfg: CfgNode, defaults: CfgNode, sources: dict[str, str], file: str) -> None:
    """Of a target and several targets the later one counts: the command line before the file, the file before its base."""
    rank = {COMMAND_LINE: 2, file: 1}
    places = {name: sources[f"SEARCH.{name}"] for name in ("TARGET", "TARGETS") if f"SEARCH.{name}" in sources and cfg.SEARCH.TARGETS}
    if len(places) < 2:
        return
    one, many = (rank.get(place, 0) for place in places.values())
    if one == many:
        if cfg.SEARCH.TARGET == defaults.SEARCH.TARGET:  # in a file of every key
            return
        raise ConfigError(f"{places['TARGET']}: SEARCH.TARGET: given beside SEARCH.TARGETS; name either")
    earlier = "TARGET" if one < many else "TARGETS"
    cfg.SEARCH[earlier] = defaults.SEARCH.clone()[earlier]
    del sources[f"SEARCH.{earlier}"]


def dump_config(cfg: CfgNode) -> str:
    """The complete config as YAML text that `load_config` reads back as an equal one."""

    def plain(node: CfgNode) -> dict:
        return {name: plain(value) if isinstance(value, CfgNode) else value for name, value in node.items()}

    return dump_yaml(plain(cfg))
