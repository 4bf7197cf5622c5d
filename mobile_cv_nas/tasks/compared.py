"""What can be compared of a source: a run, each target of a search, a file, or a network of the zoo."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..model_zoo.card import Card, ZooError, get_card
from ..report.compare import Compared
from ..report.run import CHILD, RunFiles, read_run, standard_error
from .load import load

_IMAGENET = "ImageNet's validation images, as published"
_IMAGENET_COUNT = 50_000
_FILES = ("safetensors", "onnx", "pte", "mlpackage")


def compared(source: str) -> list[Compared]:
    """The networks of a source: one, or of a search for several targets one each.

    Args:
        source: a result folder, a .safetensors, .onnx or .pte file, or a name of the zoo, whose figures are the published ones.

    Raises:
        InputError: nothing of the kind; FileError, ZooError say more.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        run = read_run(path)
        if run.front:
            return [_of_run(read_run(path / row["folder"]), f"{_name(path)}/{row['folder']}", _name(path)) for row in run.front]
        return [_of_run(run, _name(path), _name(path))]
    if not path.exists():
        try:
            return [_of_card(get_card(source))]
        except ZooError:
            load(source)  # whose error speaks of files too
    model = load(path)
    cost = model.count()
    return [
        Compared(path.name, path.name, cost.macs, cost.params, sizes={path.suffix[1:]: path.stat().st_size}, arch=model.arch, file=path)
    ]


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _of_run(run: RunFiles, name: str, group: str) -> Compared:
    """Of one network that was searched or trained. The score is of the test, or without test of the validation images."""
    score, result = run.score, run.result
    of = "test" if score in result else "validation"
    digest = run.about.get("data", {}).get("digest", {})
    split = "test" if of == "test" else "val"
    return Compared(
        name,
        group,
        result["macs"],
        result["params"],
        score,
        result[score if of == "test" else f"val_{score}"] if score else None,
        run.error,
        of if score else "",
        f"{run.keys.get('DATA.DATASET', 'images')} {split} {digest[split]}" if score and split in digest else "",
        dict(run.about.get("seconds", {})),
        _sizes(run.folder),
        ms=result.get("latency_measured"),
        arch=run.arch,
        file=run.folder if run.score else None,
        classes=len(run.about.get("data", {}).get("classes", ())) or 1000,
        in_channels=len(run.keys.get("DATA.MEAN") or (0, 0, 0)),
    )


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the weights and of each export, by the endings of their names."""
    found = {}
    for ending in _FILES:
        path = next((one for one in (folder / CHILD, folder) if (one / f"model.{ending}").exists()), None)
        if path is not None:
            found[ending] = _bytes(path / f"model.{ending}")
    return found


def _bytes(path: Path) -> int:
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) if path.is_dir() else os.stat(path).st_size


def _of_card(card: Card) -> Compared:
    """As published; MACs and parameters of an arch that is known are counted."""
    published, imagenet = card.published, card.classes == 1000
    found = Compared(card.name, "zoo", classes=card.classes, in_channels=card.in_channels)
    if card.table is not None:
        cost = card.arch.cost(card.classes, in_channels=card.in_channels)
        found = replace(found, macs=cost.macs, params=cost.params, arch=card.arch)
    elif published is not None:
        found = replace(found, macs=published.macs, params=published.params)
    if published is None or published.top1 is None:
        return found
    share = published.top1 / 100
    error = standard_error(share, _IMAGENET_COUNT) if imagenet else None
    images = _IMAGENET if imagenet else f"those of {published.source}"
    return replace(found, score_name="top1", score=share, error=error, score_of="published", images=images)
