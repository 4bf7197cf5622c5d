"""Archs near a target: random ones, sane random ones, and the one whose every dimension has the same share of its range."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..arch import ArchDef, SearchSpace
from ..nn.choice import Choice
from .goal import DeriveError, Goal

Picks = dict[str, int]
DRAWS = 1000  # for one arch, before a draw is led to the target
WALK = 400  # steps of being led
STARTS = 20


def random_archs(space: SearchSpace, goal: Goal, count: int, rng: random.Random, sane: bool = False) -> list[ArchDef]:
    """Different archs that meet a goal, every choice drawn uniformly.

    An arch is drawn until it meets the goal; where that is too rare (see `DRAWS`), a draw is led there by random changes of single choices
    that bring its cost nearer. `sane`: output widths that do not fall with depth, see `sane_picks`.

    Raises:
        DeriveError: the space has not as many.
    """
    found: dict[ArchDef, None] = {}
    rare = False
    for _ in range(50 * count):
        if len(found) == count:
            break
        draws = (sane_picks(space, rng) if sane else uniform_picks(space, rng) for _ in range(1 if rare else DRAWS))
        picks = next((p for p in draws if goal.fits(space.decode(p))), None)
        if picks is None:
            rare = True  # drawing alone would take minutes
            start = sane_picks(space, rng) if sane else uniform_picks(space, rng)
            picks = led(space, goal, start, rng, (lambda p: is_sane(space, p)) if sane else None)
        if picks is not None:
            found[space.decode(picks)] = None
    if len(found) < count:
        raise DeriveError(
            f"SEARCH.TOLERANCE: {len(found)} archs within {goal.tolerance:.0%} of {goal.text(goal.target)} were found, "
            f"and {count} are needed; widen the tolerance, or give the space finer steps"
        )
    return list(found)


def uniform_picks(space: SearchSpace, rng: random.Random) -> Picks:
    """An option of every choice, uniform and independent."""
    return {choice.name: rng.randrange(len(choice.options)) for choice in space.choices}


def sane_picks(space: SearchSpace, rng: random.Random) -> Picks:
    """As `uniform_picks`, but output widths do not fall with depth: those of neighbours with the same options are sorted.

    Where ranges of neighbours overlap, a width below the one before is drawn again from those that are not.
    """
    picks, widest = uniform_picks(space, rng), 0
    for _, group in itertools.groupby(_widths(space), key=lambda choice: choice.options):
        choices = list(group)
        options = [i for i, width in enumerate(choices[0].options) if width >= widest] or [len(choices[0].options) - 1]
        for choice, pick in zip(choices, sorted(rng.choice(options) for _ in choices)):
            picks[choice.name] = pick
            widest = max(widest, choice.options[pick])
    return picks


def is_sane(space: SearchSpace, picks: Mapping[str, int]) -> bool:
    """Whether output widths do not fall with depth."""
    widths = [choice.options[picks[choice.name]] for choice in _widths(space)]
    return all(a <= b or b == choice.options[-1] for a, b, choice in zip(widths, widths[1:], _widths(space)[1:]))


def _widths(space: SearchSpace) -> list[Choice]:
    return [choice for choice in space.choices if choice.name.endswith(".channels")]


def led(space: SearchSpace, goal: Goal, picks: Picks, rng: random.Random, allowed: Callable[[Picks], bool] | None = None) -> Picks | None:
    """Picks that meet the goal, from others by random changes of single choices that bring the cost nearer; None where these fail."""

    def distance(picks: Picks) -> float:
        return goal.off(space.decode(picks))

    now = distance(picks)
    for _ in range(WALK):
        if now <= goal.tolerance and goal.fits(space.decode(picks)):
            return picks
        changed = mutated(space, picks, rng, 1 / len(space.choices))
        if allowed is not None and not allowed(changed):
            continue
        then = distance(changed)
        if then < now:
            picks, now = changed, then
    return picks if goal.fits(space.decode(picks)) else None


def mutated(space: SearchSpace, picks: Mapping[str, int], rng: random.Random, rate: float) -> Picks:
    """The picks with each choice drawn anew with probability `rate`; one at least."""
    sure = rng.randrange(len(space.choices))
    redrawn = ((i, choice) for i, choice in enumerate(space.choices) if rng.random() < rate or i == sure)
    return {**picks, **{choice.name: rng.randrange(len(choice.options)) for _, choice in redrawn}}


def scaled_arch(space: SearchSpace, goal: Goal) -> ArchDef:
    """The plain arch of a target: no layer skipped, first candidates, every width and the input size at the same share of its options.

    Where the steps of the space leave it off the target, its widths are changed one after the other until it is met.

    Raises:
        DeriveError: it cannot be met so.
    """
    nearest = min(_scales(space), key=lambda picks: goal.off(space.decode(picks)))
    kept = {c.name: nearest[c.name] for c in space.choices if c.name.endswith(".block")}
    for seed in range(STARTS):
        found = led(space, goal, nearest, random.Random(seed), lambda picks: kept.items() <= picks.items())
        if found is not None:
            return space.decode(found)
    raise DeriveError(
        f"SEARCH.TARGET: no uniformly scaled arch is within {goal.tolerance:.0%} of {goal.text(goal.target)}; name one by SEARCH.ARCH"
    )


def _scales(space: SearchSpace) -> Iterator[Picks]:
    for share in range(101):
        yield {choice.name: _scaled(choice, share / 100) for choice in space.choices}


def _scaled(choice: Choice, share: float) -> int:
    options: tuple[Any, ...] = choice.options
    if choice.name.endswith(".block"):
        return next(i for i, name in enumerate(options) if name != "skip")
    return round(share * (len(options) - 1))
