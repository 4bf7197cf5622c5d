"""How a space is searched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SearchOptions:
    """A search; the keys of SEARCH say the same."""

    target: float = 400_000.0  # multiply-adds or parameters the derived network shall have
    objective: str = "macs"  # macs | params | latency | memory, or one that was registered: the cost that target limits
    table: Any = ""  # of latency: a file of tools/latency.py, the name of a shipped one, or a LatencyTable
    limits: Any = ()  # at most so much of other costs: {"macs": "60M", "params": "4M"}, or "macs: 60M", ...
    targets: tuple[float, ...] = ()  # several targets in place of one: they share the weights, and each has alphas of its own
    target_classes: int = 0  # of the network that the target is of, where the searched images have fewer; 0: as many as these
    strategy: str = "dmasking"  # one of search.strategies.STRATEGIES
    cost_weight: float = 1.0  # of |cost / target - 1| beside the cross-entropy
    epochs: int = 30  # each trains the weights, then alpha
    batch_size: int = 64  # images a step, over all processes and accumulated parts
    warmup_fraction: float = 0.2  # share of the epochs in which only the weights learn
    alpha_fraction: float = 0.2  # share of the training images that alpha learns from; the weights get the rest
    weight_lr: float = 0.1  # SGD, cosine to 0 over the run
    weight_momentum: float = 0.9  # Nesterov's is not used
    weight_decay: float = 1e-4  # of the weights
    alpha_lr: float = 0.0  # Adam, constant; 0: chosen from the number of steps, see `search.pace`
    alpha_weight_decay: float = 0.0  # of alpha
    schedule: str = field(
        default="geometric", metadata={"key": "SEARCH.TEMPERATURE.SCHEDULE"}
    )  # geometric (start to end over the run) | paper (start, times exp(-decay))
    tau_start: float = field(default=5.0, metadata={"key": "SEARCH.TEMPERATURE.START"})  # temperature of the first epoch
    tau_end: float = field(default=0.2, metadata={"key": "SEARCH.TEMPERATURE.END"})  # geometric: of the last epoch
    tau_decay: float = field(default=0.045, metadata={"key": "SEARCH.TEMPERATURE.DECAY"})  # paper: per epoch
    sharing: str = "none"  # none (each block type has its own weights) | full (one block for all)
    recompute: bool = False  # compute candidates again in the backward pass: less memory, more time
    resolution: str = "all"  # all (every input size each step) | sampled
    draws: int = 2000  # archs drawn from the alphas
    candidates: int = 32  # of those near the target, how many are compared with the argmax, itself included; 1: the argmax if near
    finalists: int = 1  # of these, how many are trained for a while before one is chosen; 1 = none
    finalist_epochs: int = 5  # of each round of their training, after which the better half goes on
    recalibration_images: int = 512  # training images that renew a candidate's norm statistics
    tolerance: float = 0.05  # how far from the target a derived network may be, as a share of it
    clip_grad: float = 0.0  # largest gradient norm of the weights; 0 = off
    ranking_images: int = 0  # random validation images that candidates are compared on; 0 = all
    arch: str = ""  # single: arch file or zoo name to take; "": a uniformly scaled one at the target
    random_archs: int = field(default=16, metadata={"key": "SEARCH.RANDOM.ARCHS"})  # random: archs at the target that are trained
    samples: int = field(default=16, metadata={"key": "SEARCH.PREDICTOR.SAMPLES"})  # predictor: archs at the target that it learns from
    population: int = field(default=32, metadata={"key": "SEARCH.EVOLUTION.POPULATION"})  # evolution: archs of a generation
    generations: int = field(default=10, metadata={"key": "SEARCH.EVOLUTION.GENERATIONS"})  # evolution: after the first
    mutation: float = field(default=0.1, metadata={"key": "SEARCH.EVOLUTION.MUTATION"})  # evolution: probability of each choice
    from_alphas: bool = field(default=False, metadata={"key": "SEARCH.EVOLUTION.FROM_ALPHAS"})  # candidates of alphas evolve as well
    sandwich: bool = field(default=False, metadata={"key": "SEARCH.ONE_SHOT.SANDWICH"})  # one_shot: largest, smallest, two random paths
    distill: bool = field(default=False, metadata={"key": "SEARCH.ONE_SHOT.DISTILL"})  # one_shot: they learn from the largest
    second_order: bool = field(default=False, metadata={"key": "SEARCH.DARTS.SECOND_ORDER"})  # darts: alphas see the weights' next step
    baseline: float = field(default=0.95, metadata={"key": "SEARCH.REINFORCE.BASELINE"})  # policy gradients: decay of the mean reward
    gradient: str = field(
        default="gates", metadata={"key": "SEARCH.PROXYLESS.GRADIENT"}
    )  # proxyless: gates (of two paths) | reinforce (of a reward)
    on_nan: str = "stop"  # stop | skip: what to do with a step whose loss or gradient is not finite
