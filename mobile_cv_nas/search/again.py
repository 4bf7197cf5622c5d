"""Other networks from a finished search, for a target that it was not run for: drawn from its alphas, ranked with its weights.

Where the alphas of the search are far from the target, they alone first learn on for some epochs, with the weights as they are.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..arch import ArchDef
from ..data.data_set import Data
from ..data.digest import data_digest
from ..deploy.latency.table import digest_matches
from ..engine.about import about_run
from ..engine.run_folder import fingerprint, remove
from ..engine.runtime import Runtime
from ..engine.stop import StopRequest
from ..errors import InputError
from ..files import atomic_write, dump_yaml
from ..networks.supernet import Supernet
from ..nn.shapes import Cost
from ..report.run import CHILD
from ..training.options import Recipe
from ..training.trainer import data_for
from .derive import Candidate, Derived, draw_candidates
from .facts import cost_facts
from .folder import NETWORKS, arch_name, earlier_archs, write_results
from .goal import Goal
from .learn_on import expected_cost, learn_on
from .objective import parse_limits, parse_target, table_of
from .options import SearchOptions
from .pace import paced
from .result import SearchResult
from .run import SearchRun
from .saved import SavedSearch, load_search, set_alphas

_LOG = logging.getLogger(__name__)


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
                "arch": arch_name(rank),
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
        best = self.networks[0]
        how = "argmax" if best.arch == self.supernet.derive() else "sampled"
        return Derived(best.arch, how, self.within, self.compared, best.score)

    def save(self, folder: Path) -> None:
        """Writes arch_1.yaml, ... and networks.yaml, the list of them, in place of those that an earlier one lists. Raises FileError."""
        remove(folder, earlier_archs(folder) or ())
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
    test: Any = None,
    table: Any = None,
) -> Derivation:
    """Derives networks for a new target from a finished search, without searching again.

    Args:
        run: the result folder of a search, or of one of its targets.
        target: what they shall cost: "80e6 macs", "4M params", or a number in the units of the search.
        train, val: the images of the search again, where they were torch Datasets; else they are read as then.
        count: networks that are wanted.
        epochs: at most, in which the alphas alone learn on where they are far from the target; 0 for none.
        recipe: in place of the one that was searched with, such as another root of the images; its seed stays that of the search.
        loss: the one of the search, where it had one of its own.
        limits: at most so much of other costs, {"params": "2M"}, in place of those of the search.
        test: the test images of the search, where they were a torch Dataset; no network is ranked on them.
        table: of latency, for a target or limits in milliseconds: a file, the name of a shipped one, or a LatencyTable; by default that of
            the search.

    Raises:
        InputError: no finished search, other images than those of the search, milliseconds without a table, a target out of reach;
            DeriveError: none was found near it.
    """
    saved = load_search(run)
    recipe = recipe or saved.recipe
    if train is None and recipe.data.dataset == "imagefolder" and not recipe.data.root:
        raise InputError(f"{run}: was searched on Datasets from Python; give the same ones as train and val")
    data = data_for(recipe, recipe.data.root if train is None else train, val, test, None if train is None else saved.task.classes)
    options = saved.options if limits is None else replace(saved.options, limits=limits)
    options = replace(options, table=table or options.table)
    search = again(saved, target, data, recipe, options, False, loss, str(run))
    return derive_more(search, saved, count, epochs)


def again(
    saved: SavedSearch,
    target: str | float,
    data: Data,
    recipe: Recipe,
    options: SearchOptions,
    inherit: bool,
    loss: Callable[[Any, Any], Tensor] | None = None,
    source: str = "",
) -> SearchRun:
    """A search of the same kind for another target, not begun. Raises InputError where images or target do not go with it."""
    if saved.options.strategy == "single_path":
        raise InputError(
            f"{source}: was searched by single_path, whose thresholds decide by norms of weights and are of its own target alone; search "
            "for the new target, or by another SEARCH.STRATEGY"
        )
    recipe = replace(recipe, seed=saved.recipe.seed)  # another would split the training images otherwise than the weights learnt from them
    digest = data_digest(data)
    if any(digest[split] != saved.digest[split] for split in ("train", "val")):
        raise InputError(
            f"{source}: was searched on other images, or on others in each split: a network ranked on images that the supernet has learnt "
            "from would look better than it is; give the same data set (DATA.ROOT, DATA.SPLIT_SEED, fractions)"
        )
    number, objective = parse_target(target, saved.options.objective)
    limits = {name: most for name, most in parse_limits(options.limits).items() if name != objective}  # that has a target now
    options = replace(options, target=number, targets=(), objective=objective, table=options.table or saved.options.table, limits=limits)
    _check_table(saved, options, source)
    options = paced(options, data.train, recipe.seed)
    return SearchRun(saved.space, data, options, recipe, inherit, loss, source)


def _check_table(saved: SavedSearch, options: SearchOptions, source: str) -> None:
    """Raises InputError where milliseconds are counted without a table, or one is given for nothing; says where it is of another space."""
    given = options.table if options.table != saved.options.table else None
    if options.objective != "latency" and "latency" not in options.limits:
        if given:
            raise InputError("--table: neither the target nor a limit is in milliseconds; leave it out, or give --target '8 ms'")
        return
    if not options.table:
        raise InputError(
            f"{source}: was searched without a latency table, which milliseconds need; name its file, or a shipped one: "
            "--table phone.json, from Python table='phone.json'"
        )
    table = table_of(options.table)
    if given and not digest_matches(table, saved.space):
        of, mine = table.space or "another space", saved.space.name or "a space without a name"
        _LOG.warning("the table was made for %s, and the search was of %s: what it does not know of these networks is an error", of, mine)


def derive_more(search: SearchRun, saved: SavedSearch, count: int, epochs: int) -> Derivation:
    """Draws, ranks, and, where the target is far, first lets the alphas learn on; see `derive_networks`."""
    if count < 1 or epochs < 0:
        raise InputError(f"count {count}, epochs {epochs}: give 1 network or more, and no fewer than 0 epochs")
    (goal,) = search.goals.values()
    supernet = _nearest(saved, goal, search.runtime)
    passed = learn_on(search, saved, supernet, goal, epochs)
    o = search.options
    candidates = draw_candidates(saved.space, supernet.probabilities(), goal, o.draws, search.recipe.seed)
    compared = _with_argmax(supernet, goal, candidates)[: max(count, o.candidates)]
    # Of a search with test images the validation images judged, and weights may have learnt from all others.
    images = search.data.val if "test" in saved.digest else search.judges()
    scores = search.measured(supernet, [one.arch for one in compared], images)
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
    search: SearchRun,
    found: Derivation,
    folder: Path,
    seconds: float = 0.0,
    stop: StopRequest | None = None,
    config: str = "",
    command: str = "",
) -> SearchResult:
    """Trains and tests the best network into a folder, which is left as a search leaves it; goes on with an interrupted training.

    `seconds` are those of the derivation, `config` is kept as config.yaml, and the report says that `command` repeats it. The folder's
    lock is the caller's.
    """
    best, start = found.chosen(), time.monotonic()
    trained = search.train_child(found.supernet, best.arch, folder / CHILD, stop)
    if not trained.finished:
        return SearchResult(folder)
    spent = (seconds, time.monotonic() - start)
    result = SearchResult(folder, True, best.arch, search.child_cost(best.arch), found.goal, best, found.supernet, trained, spent)
    if search.runtime.main:
        result = replace(result, facts=cost_facts(found.goal, found.supernet, best.arch, partial(search.child, best.arch)))
        if config:
            atomic_write(folder / "config.yaml", config)
        best.arch.save(folder / "arch.yaml")
        recipe = search.recipe
        parts = {"kind": "derivation", "space": json.dumps(search.space.to_dict()), "SEED": recipe.seed}
        options = fingerprint(parts, data=recipe.data, search=search.options, head=recipe.head, runtime=recipe.runtime)
        about = about_run(search.runtime, search.data, options, {"derivation": seconds, "training": trained.seconds})
        write_results(result, about | ({"command": command} if command else {}), search.task, 0)
    return result


def _nearest(saved: SavedSearch, goal: Goal, runtime: Runtime) -> Supernet:
    """The supernet with those alphas of the search whose expected cost is nearest to the target."""
    supernet: Supernet = runtime.place(saved.supernet())  # type: ignore[assignment]

    def distance(target: Any) -> float:
        set_alphas(supernet, target.alphas)
        return abs(math.log(expected_cost(supernet, goal) / goal.target))

    set_alphas(supernet, min(saved.targets, key=distance).alphas)
    return supernet


def _with_argmax(supernet: Supernet, goal: Goal, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The most probable arch first, if it meets the goal and was not drawn."""
    arch = supernet.derive()
    cost = goal.cost(supernet.space, arch)
    if not (goal.met(cost) and goal.allows(arch)) or any(one.arch == arch for one in candidates):
        return list(candidates)
    probabilities = supernet.probabilities()
    chance = sum(math.log(float(probabilities[name][i])) for name, i in supernet.space.deciding(supernet.space.encode(arch)).items())
    return [Candidate(arch, cost, chance), *candidates]
