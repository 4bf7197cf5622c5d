"""What a strategy is: how the gates of a step are set, what the step updates and with which gradient, and how archs come out.

Batches, stopping, saving, processes, precision, logs, targets and the measuring of archs are shared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...arch import ArchDef
from ...data.loader import Loader, derive_seed
from ...engine.runtime import Runtime
from ...engine.step import Loss, Stepper
from ...errors import InputError
from ...networks.supernet import Supernet
from ...tasks.task import Task
from ..derive import Derived
from ..evolve import Evolution
from ..goal import Goal
from ..judge import Choosing, Judge
from ..objective import Objective
from ..options import SearchOptions

PHASES = ("weights", "alphas")


@dataclass(frozen=True)
class Setting:
    """What every strategy is given.

    Args:
        supernet: on the device.
        task: its loss.
        goal: the cost to aim at.
        options: of the search.
        runtime: precision and processes.
        seed: of what the strategy draws.
        given: the arch that SEARCH.ARCH names, if it does.
    """

    supernet: Supernet
    task: Task
    goal: Goal
    options: SearchOptions
    runtime: Runtime
    seed: int
    given: ArchDef | None = None


class Strategy:
    """Base of all strategies: phases of steps under losses, and a proposal at the end.

    Attributes:
        sharing: the only one (see `build_supernet`) that it works with; "" if any.
        one_path: whether it runs another path of the supernet each step.
        steppers: of each phase, "weights" and "alphas", in the order of an epoch; empty where no supernet is trained. With both, the
            weights learn from one part of the training images and the alphas from the other; with one, from all.
        warmup: epochs at the start in which only the weights learn.
        loaders: of the phases, set by the searcher.
    """

    sharing: ClassVar[str] = ""
    one_path: ClassVar[bool] = False

    def __init__(self, setting: Setting):
        self.setting = setting
        self.supernet, self.task, self.goal = setting.supernet, setting.task, setting.goal
        self.options, self.runtime = setting.options, setting.runtime
        self.steppers: dict[str, Stepper] = {}
        self.warmup = 0
        self.loaders: Mapping[str, Loader] = {}
        self.model = self.runtime.compile(self.task.learner(self.supernet))

    @classmethod
    def passes(cls, options: SearchOptions) -> dict[str, int]:
        """Of each phase, how often it passes an image forward and backward; {} where no supernet is trained."""
        return {}

    @property
    def epochs(self) -> int:
        """In which the supernet is trained."""
        return self.options.epochs if self.steppers else 0

    def weight_stepper(self) -> Stepper:
        """SGD on everything but the alphas."""
        o, supernet, fused = self.options, self.supernet, self.runtime.device.type == "cuda"
        known = {id(alpha) for alpha in supernet.alphas().values()}
        weights = {name: p for name, p in supernet.named_parameters() if id(p) not in known}
        sgd = torch.optim.SGD(weights.values(), lr=o.weight_lr, momentum=o.weight_momentum, weight_decay=o.weight_decay, fused=fused)
        return Stepper(weights, sgd, supernet, self.runtime, o.clip_grad)

    @property
    def one_size(self) -> bool:
        """Whether a step runs one of several input sizes, not all."""
        return self.options.resolution == "sampled" and len(self.supernet.space.input_sizes) > 1

    def refuse_sampled_sizes(self, why: str) -> None:
        """Raises InputError where a step is to run one of several input sizes, which the gates of the strategy cannot draw."""
        if self.one_size:
            raise InputError(f"SEARCH.RESOLUTION: sampled: {self.options.strategy} {why}; set SEARCH.RESOLUTION all")

    # -- a step ------------------------------------------------------------------------------------------------------

    def temperature(self, epoch: int) -> float | None:
        """Tau of an epoch, where there is one."""
        return None

    def runs(self, phase: str, epoch: int) -> bool:
        """Whether an epoch has a phase."""
        return phase == "weights" or epoch >= self.warmup

    def rate(self, phase: str, progress: float) -> float:
        """The learning rate; `progress` is the share of the phase's steps that are done."""
        return self.options.alpha_lr if phase == "alphas" else self.options.weight_lr * 0.5 * (1 + math.cos(math.pi * progress))

    def begin(self, phase: str, epoch: int) -> None:
        """Only the phase's own parameters have gradients while it runs."""
        for name, stepper in self.steppers.items():
            for parameter in stepper.parameters.values():
                parameter.requires_grad_(name == phase)
        self.supernet.train()

    def prepare(self, phase: str, epoch: int, step: int) -> None:
        """Sets the gates of a step; on all processes alike."""
        raise NotImplementedError

    def loss(self, phase: str, batch: Any, key: tuple[int, ...]) -> Loss:
        """What the backward pass begins with, for a batch on the device; `key` is (epoch, step, part of the step)."""
        raise NotImplementedError

    def rng(self, phase: str, epoch: int, step: int) -> random.Random:
        """Of a step: the same whenever, and on whichever process, that step is made."""
        return random.Random(derive_seed(self.setting.seed, PHASES.index(phase), epoch, step))

    def task_loss(self, batch: Any, key: tuple[int, ...]) -> Loss:
        """The task's loss under the current gates."""
        return self.task.loss(self.model, batch, key, self.runtime)

    def cost_term(self) -> Tensor:
        """cost_weight * |cost / target - 1|, 0-d, under the current gates; with what is above the limits. See `Goal.term`."""
        return self.options.cost_weight * self.goal.term(self.supernet)

    def counted(self, found: Loss, macs: Any, passes: int = 1) -> dict[str, Tensor]:
        """The sums of a loss with what it cost: of the networks under the current gates, and in images and MACs that were passed.

        Args:
            macs: of one image through what was run, all passes together.
            passes: forward and backward, of each image.
        """
        with torch.no_grad():
            value = self.goal.expected(self.supernet)
        device = found.total.device
        spent = torch.as_tensor(macs, dtype=torch.float64, device=device).detach() * found.images
        passed = torch.tensor(float(found.images * passes), dtype=torch.float64, device=device)
        return {**found.sums, "cost": value.to(device), "passed": passed, "macs": spent}

    @cached_property
    def whole_macs(self) -> int:
        """MACs of one image through the whole supernet, under soft gates; where a step runs one input size, the mean over the sizes."""
        if not self.one_size:
            return self._passed_macs(None)
        table, count = self.supernet.table, len(self.supernet.space.input_sizes)

        def at(size: int) -> Tensor:
            gates = table.gates(noise=False)
            gates[table.row["input_size"]] = F.one_hot(torch.tensor(size, device=gates.device), table.columns)
            return gates

        return round(sum(self._passed_macs(partial(at, size)) for size in range(count)) / count)

    @torch.no_grad()
    def _passed_macs(self, gates: Callable[[], Tensor] | None) -> int:
        """MACs of one image through the supernet, all candidates run; see `under`."""
        supernet, mode, side = self.supernet, self.supernet.training, self.supernet.space.max_input_size
        try:
            with under(supernet, gates), FlopCounterMode(display=False) as counter:
                supernet.eval()
                supernet(torch.zeros(1, supernet.in_channels, side, side, device=self.runtime.device))
        finally:
            supernet.train(mode)
        return counter.get_total_flops() // 2

    def path_macs(self, path: Mapping[str, int]) -> int:
        """MACs of one image along a path, under the head that runs: the target's may have other classes."""
        supernet, space = self.supernet, self.supernet.space
        return space.cost(space.decode(path), in_channels=supernet.in_channels, head=supernet.head_def).macs

    # -- what is found -----------------------------------------------------------------------------------------------

    @property
    def choosing(self) -> Choosing:
        """How one of the archs that are proposed is chosen."""
        o = self.options
        return Choosing(o.draws, o.candidates, o.finalists, o.finalist_epochs, self.setting.seed)

    @property
    def evolution(self) -> Evolution:
        """Of archs, where there is one."""
        o = self.options
        return Evolution(o.population, o.generations, o.mutation)

    def asks(self) -> tuple[int, int]:
        """Of its judge, for one proposal, about: archs that are measured, and epochs in which single archs are trained."""
        return 0, 0

    def propose(self, judge: Judge) -> Derived:
        """The arch of the finished search. Raises DeriveError where none meets the target."""
        raise NotImplementedError

    def report(self, epoch: int) -> dict[str, Any]:
        """What a record keeps of an epoch, beside losses and costs."""
        return {}

    def costs(self) -> dict[str, float]:
        """What networks cost now, by name, in units of the target: `cost_expected` and `cost_argmax`, where there are alphas."""
        return {}

    @torch.no_grad()
    def expected(self, measure: Objective) -> float:
        """What networks cost on average that are drawn now, by an objective: under softmax(alpha)."""
        return float(measure.expected(self.supernet, False))

    def entropy(self) -> float | None:
        """How undecided the alphas are, if there are any: 1 at the start, 0 when all are decided."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What it remembers beside the supernet."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


@contextmanager
def under(supernet: Supernet, gates: Callable[[], Tensor] | None) -> Iterator[None]:
    """Within it the supernet has gates of the caller's making, or (None) soft ones of its own; afterwards those that it had."""
    table = supernet.table
    before = table.picked, table.given, supernet.off
    table.picked, table.given, supernet.off = None, gates, set()
    try:
        yield
    finally:
        table.picked, table.given, supernet.off = before
