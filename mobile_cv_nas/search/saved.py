"""search.pt: a supernet with its alphas and all that deriving other networks from it needs, without running code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch import SearchSpace
from ..data.options import DataOptions
from ..errors import FileError, InputError, listed
from ..files import atomic_open
from ..networks.supernet import Supernet
from ..nn.heads import HeadDef
from ..tasks.build import make_task
from ..tasks.options import HeadOptions
from ..tasks.task import SupernetOptions, Task
from ..training.options import Recipe, TrainOptions
from .goal import Goal, counted_head, limits_of
from .objective import objective_of
from .options import SearchOptions
from .strategies import find_strategy

SEARCH = "search.pt"
_FORMAT = 2


@dataclass(frozen=True)
class Target:
    """One target of a search: the name of its folder, the goal, and the alphas, (options,) by the choice's name."""

    name: str
    goal: Goal
    alphas: Mapping[str, Tensor]


@dataclass(frozen=True)
class SavedSearch:
    """A finished search, as search.pt keeps it.

    Attributes:
        space, task, options, recipe: as they were searched with; a loss of one's own is not kept.
        targets: one each, with its alphas.
        weights: the state dict of the supernet.
        digest: of each split of the data set, see `data.digest`.
        own_loss: whether a loss of one's own took the task's place.
    """

    space: SearchSpace
    task: Task
    options: SearchOptions
    recipe: Recipe
    targets: tuple[Target, ...]
    weights: Mapping[str, Tensor]
    digest: Mapping[str, str]
    own_loss: bool

    def supernet(self, target: Target | None = None) -> Supernet:
        """The supernet with its weights and the alphas of a target, by default the first."""
        o = self.options
        supernet = self.task.supernet(
            self.space, SupernetOptions(find_strategy(o.strategy).sharing or o.sharing, o.recompute, o.resolution)
        )
        supernet.load_state_dict(dict(self.weights))
        chosen = target or self.targets[0]
        supernet.count_under(chosen.goal.head)
        set_alphas(supernet, chosen.alphas)
        return supernet


@torch.no_grad()
def set_alphas(supernet: Supernet, alphas: Mapping[str, Tensor]) -> None:
    """Copies alphas, by the names of their choices, into a supernet."""
    for name, alpha in supernet.alphas().items():
        alpha.copy_(alphas[name])


def save_search(
    folder: Path,
    supernet: Supernet,
    targets: Sequence[Target],
    task: Task,
    options: SearchOptions,
    recipe: Recipe,
    digest: Mapping[str, str],
) -> None:
    """Writes search.pt. Raises FileError."""
    content = {
        "format": _FORMAT,
        "space": supernet.space.to_dict(),
        "task": {"classes": list(task.classes), "head": asdict(task.head), "mean": list(task.mean), "std": list(task.std)},
        "own_loss": task.losses.own is not None,
        "options": asdict(options),
        "recipe": {"train": asdict(recipe.train), "data": asdict(recipe.data), "seed": recipe.seed},
        "digest": dict(digest),
        "targets": [{"name": one.name, **_plain(one.goal), "alphas": dict(one.alphas)} for one in targets],
        "supernet": {name: value.cpu() for name, value in supernet.state_dict().items()},
    }
    with atomic_open(folder / SEARCH) as file:
        torch.save(content, file)


def _plain(goal: Goal) -> dict[str, Any]:
    """The fields of a goal that task and options do not bring."""
    return {key: value for key, value in vars(goal).items() if key in ("objective", "target", "tolerance")}


def load_search(run: str | os.PathLike) -> SavedSearch:
    """A finished search from its result folder, or from that of one of its targets, which is then the only one of `targets`.

    Raises InputError where there is none, FileError where its file is damaged or of another version.
    """
    folder = Path(run).expanduser()
    path, name = folder / SEARCH, ""
    if not path.is_file() and (folder.parent / SEARCH).is_file():
        path, name = folder.parent / SEARCH, folder.name
    if not path.is_file():
        raise InputError(f"{folder}: holds no {SEARCH}; give the result folder of a finished search")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean
        raise FileError(f"{path}: cannot be read: {' '.join(str(error).split())[:120]}; restore it, or search again") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FileError(f"{path}: not of this version of the library; search again")
    space = SearchSpace.parse(content["space"], str(path))
    saved, recipe = content["task"], content["recipe"]
    head = HeadOptions(**saved["head"])
    task = make_task(saved["classes"], head, saved["mean"], saved["std"])
    kept = Recipe(TrainOptions(**recipe["train"]), DataOptions(**recipe["data"]), head, seed=recipe["seed"])
    options = SearchOptions(**content["options"])
    head_def = counted_head(task.head_def(space), options)
    targets = tuple(_target(one, head_def, task.in_channels, options) for one in content["targets"])
    if name:
        targets = tuple(one for one in targets if one.name == name)
        if not targets:
            raise InputError(f"{folder}: is no target of the search in {path.parent}; give that folder")
    return SavedSearch(space, task, options, kept, targets, content["supernet"], content["digest"], content["own_loss"])


def _target(content: Mapping[str, Any], head: HeadDef, in_channels: int, options: SearchOptions) -> Target:
    kept = {key: value for key, value in content.items() if key not in ("name", "alphas")}
    measure = objective_of(kept["objective"], options.table)
    goal = Goal(**kept, head=head, in_channels=in_channels, measure=measure, limits=limits_of(options))
    return Target(content["name"], goal, content["alphas"])


def load_supernet(run: str | os.PathLike, target: str = "") -> Supernet:
    """The supernet of a finished search, on the CPU in eval mode, with its weights and alphas.

    The alphas of `single_path` are thresholds of norms, no logits: `derive`, `probabilities` and the costs before a `select` do not read
    them as that search does.

    Args:
        run: the result folder of a search, or of one of its targets.
        target: of a search for several, the name of the folder whose alphas it shall have, such as "50M"; by default the first.

    Raises:
        InputError: no finished search, or no such target; FileError: a damaged file.
    """
    saved = load_search(run)
    names = [one.name for one in saved.targets]
    if target and target not in names:
        raise InputError(f"target {target!r}: the search in {run} had {listed(names, 8) if any(names) else 'one alone; leave it out'}")
    chosen = saved.targets[names.index(target)] if target else saved.targets[0]
    return saved.supernet(chosen).eval()
