"""Other networks from a finished search, for a target that it was not run for: drawn from its alphas, ranked with its weights.

Where the alphas of the search are far from the target, they alone first learn on for some epochs, with the weights as they are.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch import ArchDef
from ..data.build import build_loader
from ..data.data_set import Data
from ..data.digest import data_digest
from ..data.loader import derive_seed
from ..engine.about import about_run
from ..engine.randomness import seed_everything
from ..engine.run_folder import CHECKPOINTS, RESULT, fingerprint
from ..engine.runtime import Runtime
from ..engine.step import Loss
from ..engine.stop import StopRequest
from ..errors import FileError, InputError
from ..files import atomic_write, dump_yaml
from ..networks.supernet import Supernet
from ..nn.shapes import Cost
from ..report.network import draw_arch
from ..report.run import CHILD
from ..training.options import Recipe
from ..training.trainer import data_for
from .derive import Candidate, Derived, draw_candidates
from .folder import empty, write_results
from .goal import Goal
from .objective import parse_limits, parse_target
from .options import SearchOptions
from .pace import paced
from .result import SearchResult
from .run import SearchRun
from .saved import SEARCH, SavedSearch, load_search, set_alphas
from .strategies import find_strategy
from .strategies.base import Setting

_LOG = logging.getLogger(__name__)
_FAR = 2.0  # tolerances between the expected cost and the target, beyond which the alphas learn on
NETWORKS = "networks.yaml"


@dataclass(frozen=True)
class Ranked:
    """A network near the target: its exact cost, with the classes that the target is of; its score with inherited weights; and its
    log-probability under the alphas."""

    arch: ArchDef
    cost: Cost
    score: float
    log_probability: float


@dataclass(frozen=True)
class Derivation:
    """Networks from a finished search, the best first.

    Attributes:
        networks: within the tolerance of the target.
        goal: what they were derived for.
        within: how many archs were drawn within the tolerance.
        compared: how many of them were compared on the validation images.
        epochs: that the alphas learned on; 0 where those of the search were near enough.
        supernet: with the alphas that were drawn from.
    """

    networks: tuple[Ranked, ...]
    goal: Goal
    within: int
    compared: int
    epochs: int
    supernet: Supernet

    def rows(self) -> list[dict[str, Any]]:
        """The networks as networks.yaml lists them."""
        return [
            {
                "arch": f"arch_{rank}.yaml",
                **self.goal.costs(one.arch),
                "macs": one.cost.macs,
                "params": one.cost.params,
                "score": one.score,
                "log_probability": round(one.log_probability, 3),
            }
            for rank, one in enumerate(self.networks, 1)
        ]

    def chosen(self) -> Derived:
        """The best of them, as a search names its own."""
        return Derived(self.networks[0].arch, "sampled", self.within, self.compared, self.networks[0].score)

    def save(self, folder: Path) -> None:
        """Writes arch_1.yaml, ... and networks.yaml, the list of them, in place of those of an earlier one. Raises FileError."""
        for earlier in folder.glob("arch_[0-9]*.yaml"):
            earlier.unlink()
        rows = self.rows()
        for one, row in zip(self.networks, rows, strict=True):
            one.arch.save(folder / row["arch"])
        content = {"target": self.goal.target, "objective": self.goal.objective, "alpha_epochs": self.epochs, "networks": rows}
        atomic_write(folder / NETWORKS, dump_yaml(content))


def derive_networks(
    run: str | os.PathLike,
    target: str | float,
    train: Any = None,
    val: Any = None,
    *,
    count: int = 5,
    epochs: int = 10,
    recipe: Recipe | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    limits: Any = None,
) -> Derivation:
    """Derives networks for a new target from a finished search, without searching again.

    Args:
        run: the result folder of a search, or of one of its targets.
        target: what they shall cost: "80e6 macs", "4M params", or a number in the units of the search.
        train, val: the images of the search again, where they were torch Datasets; else they are read as then.
        count: networks that are wanted.
        epochs: at most, in which the alphas alone learn on where they are far from the target; 0 for none.
        recipe: in place of the one that was searched with, such as another root of the images.
        loss: the one of the search, where it had one of its own.
        limits: at most so much of other costs, {"params": "2M"}, in place of those of the search.

    Raises:
        InputError: no finished search, other images than those of the search, a target out of reach; DeriveError: none was found near it.
    """
    saved = load_search(run)
    recipe = recipe or saved.recipe
    if train is None and recipe.data.dataset == "imagefolder" and not recipe.data.root:
        raise InputError(f"{run}: was searched on Datasets from Python; give the same ones as train and val")
    data = data_for(recipe, recipe.data.root if train is None else train, val, None, None if train is None else saved.task.classes)
    options = saved.options if limits is None else replace(saved.options, limits=limits)
    search = again(saved, target, data, recipe, options, loss=loss, source=str(run))
    return derive_more(search, saved, count, epochs)


def again(
    saved: SavedSearch,
    target: str | float,
    data: Data,
    recipe: Recipe,
    options: SearchOptions,
    inherit: bool = False,
    loss: Callable[[Any, Any], Tensor] | None = None,
    source: str = "",
) -> SearchRun:
    """A search of the same kind for another target, not begun. Raises InputError where images or target do not go with it."""
    digest = data_digest(data)
    if any(digest[split] != saved.digest[split] for split in ("train", "val")):
        raise InputError(
            f"{source}: was searched on other images, or on others in each split: a network ranked on images that the supernet has learnt "
            "from would look better than it is; give the same data set (DATA.ROOT, DATA.SPLIT_SEED, fractions)"
        )
    number, objective = parse_target(target, saved.options.objective)
    limits = {name: most for name, most in parse_limits(options.limits).items() if name != objective}  # that has a target now
    options = replace(options, target=number, targets=(), objective=objective, table=options.table or saved.options.table, limits=limits)
    options = paced(options, data.train, recipe.seed, told=False)
    return SearchRun(saved.space, data, options, recipe, inherit, loss, source)


def derive_more(search: SearchRun, saved: SavedSearch, count: int = 5, epochs: int = 10) -> Derivation:
    """Draws, ranks, and, where the target is far, first lets the alphas learn on; see `derive_networks`."""
    if count < 1 or epochs < 0:
        raise InputError(f"count {count}, epochs {epochs}: give 1 network or more, and no fewer than 0 epochs")
    (goal,) = search.goals.values()
    supernet = _nearest(saved, goal, search.runtime)
    passed = _learn_on(search, saved, supernet, goal, epochs)
    o = search.options
    candidates = draw_candidates(saved.space, supernet.probabilities(), goal, o.draws, search.recipe.seed)
    compared = _with_argmax(supernet, goal, candidates)[: max(count, o.candidates)]
    scores = search.measured(supernet, [one.arch for one in compared])
    order = sorted(range(len(compared)), key=lambda i: (*(-value for value in scores[i]), i))[:count]
    found = tuple(
        Ranked(
            compared[i].arch,
            saved.space.cost(compared[i].arch, in_channels=search.task.in_channels, head=goal.head),
            scores[i][0],
            compared[i].log_probability,
        )
        for i in order
    )
    return Derivation(found, goal, len(candidates), len(compared), passed, supernet)


def train_derived(
    search: SearchRun, found: Derivation, folder: Path, seconds: float = 0.0, stop: StopRequest | None = None
) -> SearchResult:
    """Trains and tests the best network into a folder, which is left as a search leaves it; goes on with an interrupted training.

    `seconds` are those of the derivation. The folder's lock is the caller's.
    """
    best, start = found.chosen(), time.monotonic()
    trained = search.train_child(found.supernet, best.arch, folder / CHILD, stop)
    if not trained.finished:
        return SearchResult(folder)
    spent = (seconds, time.monotonic() - start)
    result = SearchResult(folder, True, best.arch, search.child_cost(best.arch), found.goal, best, found.supernet, trained, spent)
    if search.runtime.main:
        best.arch.save(folder / "arch.yaml")
        draw_arch(best.arch, folder / "arch.png")
        recipe = search.recipe
        parts = {"kind": "derivation", "space": json.dumps(search.space.to_dict()), "SEED": recipe.seed}
        options = fingerprint(parts, data=recipe.data, search=search.options, head=recipe.head, runtime=recipe.runtime)
        about = about_run(search.runtime, search.data, options, {"derivation": seconds, "training": trained.seconds})
        write_results(result, about, search.task, 0)
    return result


def prepare_derived(folder: Path, resume: bool, overwrite: bool = False) -> None:
    """Prepares the folder of a derivation: what an earlier one left is removed, unless its training shall go on.

    Raises FileError where that would be a training, unless `overwrite` says that it is meant, or something else than a derivation.
    """
    child = folder / CHILD
    if not (folder / NETWORKS).exists() and ((folder / RESULT).exists() or (folder / SEARCH).exists() or (folder / CHECKPOINTS).exists()):
        raise FileError(f"{folder}: holds another run, which this would replace; give another --output")
    if resume:
        return
    trained = "a finished" if (child / RESULT).exists() else "an unfinished" if any((child / CHECKPOINTS).glob("*.pt")) else ""
    if trained and not overwrite:
        raise FileError(f"{folder}: holds {trained} training; add --resume to go on, --overwrite to replace it, or give another --output")
    empty(folder)


@torch.no_grad()
def _expected(supernet: Supernet, goal: Goal) -> float:
    return float(goal.expected(supernet, noise=False))


def _nearest(saved: SavedSearch, goal: Goal, runtime: Runtime) -> Supernet:
    """The supernet with those alphas of the search whose expected cost is nearest to the target."""
    supernet: Supernet = runtime.place(saved.supernet())  # type: ignore[assignment]

    def distance(target: Any) -> float:
        set_alphas(supernet, target.alphas)
        return abs(math.log(_expected(supernet, goal) / goal.target))

    set_alphas(supernet, min(saved.targets, key=distance).alphas)
    return supernet


def _with_argmax(supernet: Supernet, goal: Goal, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The most probable arch first, if it meets the goal and was not drawn."""
    arch = supernet.derive()
    cost = goal.cost(supernet.space, arch)
    if not (goal.met(cost) and goal.allows(arch)) or any(one.arch == arch for one in candidates):
        return list(candidates)
    chance = sum(math.log(float(p.max())) for p in supernet.probabilities().values())
    return [Candidate(arch, cost, chance), *candidates]


def _learn_on(search: SearchRun, saved: SavedSearch, supernet: Supernet, goal: Goal, epochs: int) -> int:
    """Lets the alphas learn towards the goal until their expected cost is within the tolerance; the number of epochs it took."""
    o = search.options
    if epochs == 0 or abs(_expected(supernet, goal) / goal.target - 1) <= _FAR * goal.tolerance:
        return 0
    if saved.own_loss and search.task.losses.own is None:
        raise InputError("the search had a loss of its own, and the target is far: give the same `loss`, or epochs=0")
    o = paced(o, search.data.train, search.recipe.seed, told=False)
    strategy = find_strategy(o.strategy)(Setting(supernet, search.task, goal, o, search.runtime, search.recipe.seed))
    if "alphas" not in strategy.steppers:
        return 0
    _, half = search.data.train.halves(o.alpha_fraction, search.recipe.seed)
    runtime, stepper, last = search.runtime, strategy.steppers["alphas"], o.epochs - 1
    parts = runtime.options.accumulate
    per_rank, seed = runtime.batch_size(o.batch_size), derive_seed(search.recipe.seed, 2)
    loader = build_loader(search.recipe.data, half, saved.space.max_input_size, per_rank, True, runtime.shard, seed)
    for group in stepper.optimizer.param_groups:
        group["lr"] = strategy.rate("alphas", 1.0)
    seed_everything(search.recipe.seed)
    for epoch in range(epochs):
        strategy.begin("alphas", last)
        steps = len(loader) // parts
        batches = loader.epoch(epoch, stop=steps * parts)
        for step in range(steps):
            strategy.prepare("alphas", last, step)
            moved = [[runtime.move(part) for part in batch] for batch in itertools.islice(batches, parts)]

            def loss(batch: Any, number: int, place: tuple[int, int] = (o.epochs + epoch, step)) -> Loss:
                return strategy.loss("alphas", batch, (*place, number))

            term = stepper.step(moved, parts, loss, list).term
            if term is not None:
                _LOG.warning("epoch %d of the alphas, step %d: %s is not finite; step skipped", epoch + 1, step + 1, term)
        if abs(_expected(supernet, goal) / goal.target - 1) <= goal.tolerance:
            return epoch + 1
    return epochs
