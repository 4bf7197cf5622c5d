"""From alphas to one arch: the most probable one, or the best of those drawn near the target."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..networks.inherit import inherit_weights
from ..networks.recalibrate import recalibrate_batchnorm
from ..networks.supernet import Supernet
from ..nn.shapes import subsample
from ..tasks.task import Task
from .evolve import Evolution
from .goal import DeriveError, Goal
from .judge import Choosing, Judge, Score

Batch = tuple[Any, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An arch within the tolerance, its exact cost, and the logarithm of its probability under the alphas.

    What does not change the arch, such as the widths of a layer that is skipped, does not count.
    """

    arch: ArchDef
    cost: float
    log_probability: float


HOW = {
    "argmax": "argmax of the alphas",
    "sampled": "drawn from the alphas",
    "evolved": "evolution",
    "random": "at random",
    "given": "as named",
    "scaled": "uniformly scaled",
    "slimmed": "slimmed",
}
"""What `Derived.how` may be, in words."""


@dataclass(frozen=True)
class Derived:
    """The arch of a finished search, and how it was found; see `HOW`."""

    arch: ArchDef
    how: str
    within: int  # distinct archs drawn within the tolerance
    compared: int  # of these, how many were compared on images that no weight was trained on
    score: float  # on these images, with inherited weights; nan where nothing was compared


def draw_candidates(space: SearchSpace, probabilities: Mapping[str, Tensor], goal: Goal, draws: int, seed: int) -> list[Candidate]:
    """Draws archs from softmax(alpha) and keeps those within the tolerance, the most probable first.

    Where none of `draws` archs is near enough, the distribution is flattened (alpha halved) and drawn from again.

    Args:
        probabilities: {choice name: (options,)}, for every choice of the space.
        seed: makes the draw repeatable.

    Raises:
        DeriveError: nothing was found; names the nearest cost seen.
    """
    rng = random.Random(seed)
    nearest = math.inf
    for sharpness in (1.0, 0.5, 0.25, 0.125, 0.0):
        found: dict[ArchDef, Candidate] = {}
        tables = {name: _flatten(p, sharpness) for name, p in probabilities.items()}
        for _ in range(draws):
            picks = {name: rng.choices(range(len(table)), table)[0] for name, table in tables.items()}
            arch = space.decode(picks)
            cost = goal.cost(space, arch)
            nearest = min(nearest, cost, key=lambda c: abs(c / goal.target - 1))
            if goal.met(cost) and arch not in found and goal.allows(arch):
                deciding = space.deciding(picks).items()
                chance = sum(math.log(max(float(probabilities[name][i]), 1e-300)) for name, i in deciding)
                found[arch] = Candidate(arch, cost, chance)
        if found:
            return sorted(found.values(), key=lambda c: -c.log_probability)
        log.warning("none of %d archs drawn is within %.0f%% of the target; drawing more widely", draws, 100 * goal.tolerance)
    limited = "that keeps SEARCH.LIMITS " if goal.limits else ""
    raise DeriveError(
        f"SEARCH.TOLERANCE: no arch within {goal.tolerance:.0%} of {goal.text(goal.target)} {limited}was found; "
        f"the nearest has {goal.text(nearest)}. Widen the tolerance, or give the space finer steps"
    )


def _flatten(probabilities: Tensor, sharpness: float) -> list[float]:
    return F.softmax(probabilities.double().clamp_min(1e-30).log() * sharpness, dim=0).tolist()


def derive_arch(
    space: SearchSpace,
    argmax: ArchDef | None,
    probabilities: Mapping[str, Tensor],
    goal: Goal,
    judge: Judge,
    choosing: Choosing,
    evolution: Evolution | None = None,
) -> Derived:
    """The arch of a finished search: the best of some that are drawn, with which the argmax competes if it meets the goal.

    The most probable of the archs drawn that meet the goal are measured; `argmax` None leaves it out. Where one alone is to be compared,
    and the argmax meets the goal, it is taken. With an evolution the measured ones are its first generation, and all that it saw compete.

    Raises:
        DeriveError: no arch near the target was found.
    """
    first = [argmax] if argmax is not None and goal.fits(argmax) else []
    if first and choosing.compare == 1 and evolution is None:
        return Derived(first[0], "argmax", 1, 0, math.nan)
    try:
        drawn = [one.arch for one in draw_candidates(space, probabilities, goal, choosing.draws, choosing.seed)]
    except DeriveError:
        if not first:
            raise
        drawn = []
    near = list(dict.fromkeys([*first, *drawn]))
    archs = near[: choosing.compare]
    if evolution is None:
        seen, scores = archs, judge.scores(archs)
    else:
        seen, scores = map(list, zip(*evolution.run(space, goal, judge.scores, random.Random(choosing.seed), archs)))
    arch, score = choosing.best(judge, seen, scores)
    how = "argmax" if arch in first else "sampled" if arch in archs else "evolved"
    return Derived(arch, how, len({*near, *seen}), len(seen), score[0])


def inherited_child(supernet: Supernet, arch: ArchDef, task: Task, train: Sequence[Any]) -> nn.Module:
    """The child of an arch with the supernet's weights, on its device; norm statistics renewed on the batches `train`."""
    child = task.child(arch).network(arch).to(next(iter(supernet.weight_parameters())).device)
    inherit_weights(child, supernet)
    recalibrate_batchnorm(child, (resized(images, arch.input_size) for images in train))
    return child


def resized(images: Any, size: int) -> Any:
    """A batch at an input size of the space, as the supernet takes it; a list of images, which a detector resizes itself, as it is."""
    return subsample(images, size) if isinstance(images, Tensor) else images


def measure_arch(supernet: Supernet, arch: ArchDef, task: Task, train: Sequence[Any], images: Iterable[Batch]) -> Score:
    """What `task.rank` gives for an arch with inherited weights and renewed norm statistics.

    Args:
        train: batches of training images for the norm statistics.
        images: batches that no weight was trained on.
    """
    child = inherited_child(supernet, arch, task, train)
    batches = ((resized(batch, arch.input_size), targets) for batch, targets in images)
    return task.rank(task.child(arch).evaluate(child, batches))
