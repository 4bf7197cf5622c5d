"""What a result folder says of its run: of a search, of one target of a search, or of a training."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..arch import ArchDef, SearchSpace
from ..engine.about import ABOUT
from ..engine.run_folder import RESULT
from ..errors import FileError, InputError
from ..files import read_bytes, read_yaml
from .tables import NAMES
from .test import TEST

FRONT = "front.yaml"  # in the folder of a search for several targets
CHILD = "child"
_BIGGEST = 1 << 28  # bytes of a file of records


@dataclass(frozen=True)
class RunFiles:
    """The files of a finished run, read.

    Attributes:
        result: of result.json.
        about: of run.json: seconds, machine, versions, images, options.
        keys: of config.yaml, by dotted name; without that file the options that were given from Python.
        config: whether there is a config.yaml.
        arch: of the network that was found or trained; None for a search for several targets.
        space: that was searched; None for a training.
        search: records of the epochs of the search.
        training: records of the epochs of the training.
        test: what test.json holds, or None.
        pictures: of the worst images of that test, worst first.
        front: one entry a target, of front.yaml.
    """

    folder: Path
    result: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    config: bool = False
    arch: ArchDef | None = None
    space: SearchSpace | None = None
    search: Sequence[Mapping[str, Any]] = ()
    training: Sequence[Mapping[str, Any]] = ()
    test: Mapping[str, Any] | None = None
    pictures: Sequence[Path] = ()
    front: Sequence[Mapping[str, Any]] = ()

    @property
    def score(self) -> str:
        """The name of the score that counts, "" where nothing was trained."""
        return next((key for key in ("top1", "miou", "ap50", "ap") if f"val_{key}" in self.result), "")

    @property
    def error(self) -> float | None:
        """One standard error of the test accuracy, which is a share of so many images; None for other scores."""
        count = self.about.get("data", {}).get("images", {}).get("test")
        if self.score != "top1" or "top1" not in self.result or not count:
            return None
        return standard_error(self.result["top1"], count)


def standard_error(share: float, count: int) -> float:
    """Of a share of `count` independent images: sqrt(p (1 - p) / n)."""
    return math.sqrt(max(0.0, share * (1 - share)) / count)


def read_run(folder: str | os.PathLike) -> RunFiles:
    """Reads a result folder. Raises InputError where it holds no finished run, FileError where a file is damaged."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the result folder of a search or a training")
    if not (path / RESULT).is_file():
        unfinished = (path / "checkpoints").is_dir()
        raise InputError(f"{path}: holds {'an unfinished run; finish it with --resume' if unfinished else 'no ' + RESULT}")
    about = _json(path / ABOUT) if (path / ABOUT).is_file() else {}
    options = about.get("options", {})
    config = path / "config.yaml"
    keys = dict(_flat(read_yaml(config))) if config.is_file() else {k: v for k, v in options.items() if k.isupper()}
    search = [record for record in _records(path) if record.get("phase") == "search"]
    child = path / CHILD if (path / CHILD / RESULT).is_file() else path
    tested = next((one for one in (path / TEST, child / TEST, path, child) if (one / "test.json").is_file()), None)
    return RunFiles(
        path,
        _json(path / RESULT),
        about,
        keys,
        config.is_file(),
        ArchDef.load(path / "arch.yaml") if (path / "arch.yaml").is_file() else None,
        SearchSpace.parse(json.loads(options["space"])) if "space" in options else None,
        search,
        [record for record in _records(child) if record.get("phase") != "search"],
        None if tested is None else _json(tested / "test.json"),
        () if tested is None else sorted(tested.glob("worst_*.png")),
        read_yaml(path / FRONT) if (path / FRONT).is_file() else (),
    )


def score_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The scores of a result by what people call them."""
    rows = [(f"test {NAMES[key]}", f"{result[key]:.4f}") for key in NAMES if key in result]
    return rows + [(f"validation {NAMES[key]}", f"{result[f'val_{key}']:.4f}") for key in NAMES if f"val_{key}" in result]


def _json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path, _BIGGEST))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise FileError(f"{path}: not valid JSON: {error}; restore it, or repeat the run") from None


def _records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in read_bytes(path, _BIGGEST).splitlines()]
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise FileError(f"{path}: not valid JSON: {error}; restore it, or repeat the run") from None


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
