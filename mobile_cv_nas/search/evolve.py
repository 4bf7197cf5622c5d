"""Evolution of archs under a target, by mutation and crossover of the fittest; no arch off the target is ever looked at."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..arch import ArchDef, SearchSpace
from .goal import Goal
from .judge import Score
from .sampling import led, mutated, random_archs

TRIES = 100  # of making one arch of a generation


@dataclass(frozen=True)
class Evolution:
    """How far evolution goes; Guo et al. (2020) have 50 archs, 20 generations, a mutation rate of 0.1.

    Args:
        population: archs of a generation; a quarter of all seen, but 2 at least, are parents of the next.
        generations: after the first.
        mutation: probability of each choice to be drawn anew.
    """

    population: int
    generations: int
    mutation: float

    @property
    def archs(self) -> int:
        """That it looks at, at most, if no more are given to begin with."""
        return max(2, self.population) * (1 + self.generations)

    def run(
        self,
        space: SearchSpace,
        goal: Goal,
        fitness: Callable[[Sequence[ArchDef]], list[Score]],
        rng: random.Random,
        first: Sequence[ArchDef] = (),
    ) -> list[tuple[ArchDef, Score]]:
        """All archs seen with their fitness, the best first.

        All of `first` are in the first generation, which random ones fill up.

        Raises:
            DeriveError: the space has too few archs at the target.
        """
        size = max(2, self.population)
        start = list(dict.fromkeys(first))
        if len(start) < size:
            start += [arch for arch in self._fill(space, goal, size, rng) if arch not in start][: size - len(start)]
        seen = dict(zip(start, fitness(start)))
        for _ in range(self.generations):
            ranked = sorted(seen, key=lambda arch: seen[arch], reverse=True)
            parents = ranked[: max(2, size // 4)]
            born = self._born(space, goal, parents, set(seen), size, rng)
            if not born:
                break  # the space has no other arch near these
            seen.update(zip(born, fitness(born)))
        return sorted(seen.items(), key=lambda pair: pair[1], reverse=True)

    def _fill(self, space: SearchSpace, goal: Goal, size: int, rng: random.Random) -> list[ArchDef]:
        while True:
            try:
                return random_archs(space, goal, size, rng)
            except ValueError:
                if size == 1:
                    raise
                size //= 2  # a small space

    def _born(
        self, space: SearchSpace, goal: Goal, parents: Sequence[ArchDef], seen: set[ArchDef], size: int, rng: random.Random
    ) -> list[ArchDef]:
        """Archs that nobody has seen and that meet the goal: half by crossover and mutation, half by mutation alone."""
        picks = [space.encode(parent) for parent in parents]
        born: dict[ArchDef, None] = {}
        for number in range(size):
            for _ in range(TRIES):
                one = rng.choice(picks)
                if number % 2 and len(picks) > 1:
                    other = rng.choice(picks)
                    one = {name: rng.choice((one[name], other[name])) for name in one}
                child = led(space, goal, mutated(space, one, rng, self.mutation), rng)
                arch = None if child is None else space.decode(child)
                if arch is not None and arch not in seen and arch not in born:
                    born[arch] = None
                    break
        return list(born)
