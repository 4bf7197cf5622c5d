"""Networks of a space that are measured: extremes, which span the range of what a table may say, and random ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...arch import ArchDef, SearchSpace
from ...errors import FileError, InputError
from ...files import atomic_write, read_bytes
from ...networks.build import build_model
from ...nn.heads import HeadDef
from ..export import export

MANIFEST = "manifest.json"
FORMAT = 1
PRECISIONS = ("fp32", "int8")
_CALIBRATING = 4  # random images: ranges do not change the time


@dataclass(frozen=True)
class Sample:
    """One network to measure. Its `part` is "ends", an extreme of the space, or "fit", a random one, to both of which a table is fitted, or
    "check": random too, and kept to judge tables by.
    """

    name: str
    arch: ArchDef
    part: str


@dataclass(frozen=True)
class Manifest:
    """What was sampled."""

    space: str  # name of the space
    digest: str  # of the space's content
    head: HeadDef
    in_channels: int
    samples: tuple[Sample, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `read_manifest` takes them."""
        networks = [{"name": one.name, "part": one.part, "arch": one.arch.to_dict()} for one in self.samples]
        head = {"name": self.head.name, "num_classes": self.head.num_classes, "options": dict(self.head.options)}
        about = {"format": FORMAT, "space": self.space, "digest": self.digest, "head": head, "in_channels": self.in_channels}
        return {**about, "networks": networks}


def digest(space: SearchSpace) -> str:
    """Of all that a space is, its name aside: equal for equal spaces."""
    text = json.dumps({**space.to_dict(), "name": ""}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def extremes(space: SearchSpace) -> list[ArchDef]:
    """For each block of a space two archs that have it wherever they may: all widths and the input largest, and smallest."""
    names = list(dict.fromkeys(name for layer in space.layers for name in layer.candidates))
    found = []
    for name in names:
        for end in (-1, 0):
            picks = {choice.name: len(choice.options) - 1 if end else 0 for choice in space.choices}
            for layer in space.layers:
                if len(layer.names) > 1:
                    picks[f"{layer.key}.block"] = layer.names.index(name if name in layer.candidates else layer.candidates[0])
            found.append(space.decode(picks))
    return list(dict.fromkeys(found))


def draw_samples(space: SearchSpace, count: int, check: int, seed: int = 0) -> list[Sample]:
    """`count` networks of a space: its extremes and random ones to fit a table to, and `check` random ones to judge it by.

    Raises InputError where that leaves no random ones to fit to.
    """
    rng, ends = random.Random(seed), extremes(space)
    if count < len(ends) + check + 1:
        raise InputError(f"{count} networks: {len(ends)} are the extremes of the space and {check} are kept for the check; sample more")
    archs = dict.fromkeys(ends)
    for _ in range(1000 * count):
        if len(archs) == count:
            break
        archs[space.sample(rng)] = None
    if len(archs) < count:
        raise InputError(f"{count} networks: the space has hardly more than {len(archs)}; sample fewer")
    parts = ["ends"] * len(ends) + ["fit"] * (count - check - len(ends)) + ["check"] * check
    return [Sample(f"net{i:03d}", arch, part) for i, (arch, part) in enumerate(zip(archs, parts, strict=True))]


def write_samples(
    space: SearchSpace,
    samples: Sequence[Sample],
    folder: str | os.PathLike,
    formats: Sequence[str],
    precision: str = "fp32",
    head: HeadDef | None = None,
    build: Callable[[ArchDef], nn.Module] | None = None,
    in_channels: int = 3,
) -> Iterator[str]:
    """Writes networks, of random weights, as name.onnx or name.pte (int8: name_int8...), with a manifest; what is there stays.

    Args:
        space: of the samples.
        samples: of `draw_samples`.
        folder: made if missing.
        formats: of ".onnx" and ".pte".
        precision: of PRECISIONS.
        head: of the networks; a classifier of 1000 classes by default.
        build: gives the network of an arch, where the head is no classifier.
        in_channels: of the images.

    Yields:
        The name of each network once its files are there.
    """
    target, head = Path(folder).expanduser(), head or HeadDef("classifier", 1000)
    target.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(space.name, digest(space), head, in_channels, tuple(samples))
    _check_same(target / MANIFEST, manifest)
    atomic_write(target / MANIFEST, json.dumps(manifest.to_dict()))
    for one in samples:
        missing = [path for path in (sample_file(target, one.name, ending, precision) for ending in formats) if not path.is_file()]
        if missing:
            torch.manual_seed(0)
            network = build(one.arch) if build else build_model(one.arch, head.num_classes, in_channels)
            shape = (_CALIBRATING, in_channels, one.arch.input_size, one.arch.input_size)
            images: Any = torch.randn(shape).unbind() if precision == "int8" else None
            for path in missing:
                export(network.eval(), path, batch=1, check=False, int8=images)
        yield one.name


def sample_file(folder: Path, name: str, ending: str, precision: str) -> Path:
    """The file of a network."""
    return folder / f"{name}{'_int8' if precision == 'int8' else ''}{ending}"


def _check_same(path: Path, manifest: Manifest) -> None:
    if path.is_file() and read_manifest(path.parent).to_dict() != manifest.to_dict():
        raise InputError(f"{path}: the folder has other networks; name another one, or the same space, number, seed, head and channels")


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """What `write_samples` left in a folder. Raises FileError."""
    path = Path(folder).expanduser() / MANIFEST
    try:
        content: Mapping[str, Any] = json.loads(read_bytes(path, 256 * 2**20))
        about = content["head"]
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in about["options"].items()}
        head = HeadDef(about["name"], about["num_classes"], options)
        samples = tuple(Sample(str(one["name"]), ArchDef.parse(one["arch"], one["name"]), str(one["part"])) for one in content["networks"])
        return Manifest(content["space"], content["digest"], head, content["in_channels"], samples)
    except FileError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise FileError(f"{path}: no manifest of tools/latency.py sample ({' '.join(str(error).split())[:100]})") from None
