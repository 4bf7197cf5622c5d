"""Alphas of a finished search that learn on towards another target, with the weights as they are."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import torch

from ..data.build import build_loader
from ..data.loader import Loader, derive_seed
from ..engine.randomness import seed_everything
from ..engine.step import Loss
from ..errors import InputError
from ..networks.supernet import Supernet
from .goal import Goal
from .options import SearchOptions
from .pace import paced
from .run import SearchRun
from .saved import SavedSearch
from .strategies import find_strategy
from .strategies.base import PHASES, Setting

_LOG = logging.getLogger(__name__)
_FAR = 2.0  # tolerances between the expected cost and the target, beyond which the alphas learn on


def learn_on(search: SearchRun, saved: SavedSearch, supernet: Supernet, goal: Goal, epochs: int) -> int:
    """Lets the alphas learn towards the goal until their expected cost is within the tolerance; the number of epochs it took."""
    o = search.options
    if epochs == 0 or abs(expected_cost(supernet, goal) / goal.target - 1) <= _FAR * goal.tolerance:
        return 0
    if saved.own_loss and search.task.losses.own is None:
        raise InputError("the search had a loss of its own, and the target is far: give the same `loss`, or epochs=0")
    o = paced(o, search.data.train, search.recipe.seed)
    strategy = find_strategy(o.strategy)(Setting(supernet, search.task, goal, o, search.runtime, search.recipe.seed))
    if "alphas" not in strategy.steppers:
        return 0
    runtime, stepper = search.runtime, strategy.steppers["alphas"]
    strategy.loaders = _loaders(search, o)
    loader, parts = strategy.loaders["alphas"], runtime.options.accumulate
    for name, one in strategy.steppers.items():
        for group in one.optimizer.param_groups:
            group["lr"] = strategy.rate(name, (o.epochs - 1) / o.epochs)  # of the search's last epoch
    seed_everything(search.recipe.seed)
    for epoch in range(o.epochs, o.epochs + epochs):  # goes on from the search: what it drew is not drawn again
        strategy.begin("alphas", epoch)
        steps = len(loader) // parts
        batches = loader.epoch(epoch, stop=steps * parts)
        for step in range(steps):
            strategy.prepare("alphas", epoch, step)
            moved = [[runtime.move(part) for part in batch] for batch in itertools.islice(batches, parts)]

            def loss(batch: Any, number: int, place: tuple[int, int] = (epoch, step)) -> Loss:
                return strategy.loss("alphas", batch, (*place, number))

            term = stepper.step(moved, parts, loss, list).term
            if term is not None:
                _LOG.warning("epoch %d of the alphas, step %d: %s is not finite; step skipped", epoch - o.epochs + 1, step + 1, term)
        if abs(expected_cost(supernet, goal) / goal.target - 1) <= goal.tolerance:
            return epoch - o.epochs + 1
    return epochs


def _loaders(search: SearchRun, options: SearchOptions) -> dict[str, Loader]:
    """Those of the search, by phase."""
    recipe, runtime = search.recipe, search.runtime
    per_rank, side = runtime.batch_size(options.batch_size), search.space.max_input_size
    halves = search.data.train.halves(options.alpha_fraction, recipe.seed)
    return {
        name: build_loader(recipe.data, half, side, per_rank, True, runtime.shard, derive_seed(recipe.seed, i))
        for i, (name, half) in enumerate(zip(PHASES, halves))
    }


@torch.no_grad()
def expected_cost(supernet: Supernet, goal: Goal) -> float:
    """What a child is expected to cost under softmax(alpha), in units of the target."""
    return float(goal.expected(supernet, noise=False))
