"""What is said before a search."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

from ..arch import ArchDef, SearchSpace
from ..engine.memory import peak_memory
from ..engine.progress import short
from ..engine.timing import seconds_a_step
from ..training.before import Stage, Start, costs, training_stage
from ..training.trainer import Trainer
from .goal import Goal
from .run import SearchRun
from .searcher import Searcher

_DRAWS = 100
WORDS = """\
acc      accuracy on the images of the epoch so far
H        entropy of the alphas: 1 undecided, 0 decided
tau      temperature of the gates: they harden as it falls
sampled, expected, argmax    cost of the gates that were drawn, under the softmax
         of the alphas, and of the most probable network"""


def search_start(run: SearchRun, folder: str | os.PathLike, train_child: bool = True) -> Start:
    """Before a search, measured on a few steps of a supernet, and of a child near the target, that are thrown away."""
    runtime = run.runtime
    searcher = Searcher(run.task, run.data, run.goals, run.options, run.recipe, runtime, run.space, run.given)
    stages, epochs = [], searcher.epochs
    for phase in searcher.phases:
        times = sum(phase.runs(epoch) for epoch in range(epochs))
        seconds = seconds_a_step(phase, runtime, "SEARCH", epochs - 1) if times else 0.0
        stages.append(Stage(phase.name, times * phase.steps, seconds))
    memory = peak_memory(runtime.device)
    goal = list(run.goals.values())[-1]
    arch, count = near(run.space, goal), len(run.goals)
    archs, alone = searcher.turns[-1].strategy.asks()
    if archs:
        stages.append(Stage("comparison", archs * count, run.measure(searcher.supernet).seconds(arch) / runtime.world))
    del searcher
    if train_child or alone:
        trainer = Trainer(run.child_task.child(arch), arch, run.data, run.recipe, runtime)
        one = training_stage(trainer, "child")
        if alone:
            stages.append(Stage("single archs", trainer.steps * alone * count, one.seconds))
        if train_child:
            stages.append(replace(one, steps=one.steps * count, beside=one.beside * count))
    rows = [
        ("space", f"{run.space.name or 'unnamed'}, {run.space.size():.2g} networks"),
        ("target", ", ".join(_target(one) for one in run.goals.values())),
    ]
    rows.append(("a child near it", costs(run.child_cost(arch))))
    return Start(run.data, run.space.input_sizes, runtime, stages, memory, rows, Path(folder))


def near(space: SearchSpace, goal: Goal) -> ArchDef:
    """Of some networks drawn at random the one nearest to the target."""
    rng = random.Random(0)
    found = [space.smallest(head=goal.head), *(space.sample(rng) for _ in range(_DRAWS))]
    return min(found, key=lambda arch: abs(goal.cost(space, arch) / goal.target - 1))


def _target(goal: Goal) -> str:
    return f"{short(goal.target)} {goal.unit}, within {goal.tolerance:.0%}"
