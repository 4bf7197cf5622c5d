"""The search itself: epochs that train the weights, then the alphas, under falling temperature."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from yacs.config import CfgNode

from ..arch import SearchSpace
from ..commands.options import loader_from as build_loader
from ..data import Data, DataError, derive_seed
from ..engine.checkpoint import StopRequest, rng_state, set_rng_state
from ..engine.runtime import MAX_DROPPED, NotFinite, Runtime, count_skipped, seed_everything
from ..networks.supernet import Supernet
from .monitor import Monitor
from .step import Phase, Totals
from .tasks import search_task

log = logging.getLogger(__name__)
PHASES = ("weights", "alphas")
RUNNING = ("running_mean", "running_var")


def temperature(cfg: CfgNode, epoch: int) -> float:
    """Tau of an epoch: `geometric` falls from START to END over the run, `paper` by exp(-DECAY) an epoch."""
    schedule, epochs = cfg.SEARCH.TEMPERATURE, cfg.SEARCH.EPOCHS
    if schedule.SCHEDULE == "paper":
        return schedule.START * math.exp(-schedule.DECAY * epoch)
    return schedule.START * (schedule.END / schedule.START) ** (epoch / max(1, epochs - 1))


class Searcher:
    """A search in progress; its whole state is in `state_dict()`.

    Args:
        cfg: the complete configuration.
        space: what is searched.
        data: the training images are split into those for the weights and those for the alphas.
        runtime: device, precision and ranks.

    Attributes:
        supernet: the network that is trained.
        epoch, phase, done: where the search is: epochs and phases done, and steps of the current phase.
    """

    def __init__(self, cfg: CfgNode, space: SearchSpace, data: Data, runtime: Runtime):
        self.cfg, self.space, self.runtime = cfg, space, runtime
        seed_everything(cfg.SEED)
        s = cfg.SEARCH
        self.task = search_task(cfg, space, data.num_classes)
        self.num_classes = data.num_classes
        self.supernet: Supernet = runtime.place(self.task.supernet(space, s))  # type: ignore[assignment]
        self.warmup = round(s.WARMUP_FRACTION * s.EPOCHS)
        self.epoch = self.phase = self.done = self.skipped_steps = self.skipped_in_a_row = 0
        self.totals = {name: Totals() for name in PHASES}
        halves = data.train.halves(s.ALPHA_FRACTION, cfg.SEED)
        per_rank = runtime.batch_size(s.BATCH_SIZE)
        self.loaders = {
            name: build_loader(cfg, half, space.max_input_size, per_rank, True, runtime.shard, derive_seed(cfg.SEED, i))
            for i, (name, half) in enumerate(zip(PHASES, halves, strict=True))
        }
        self.steps = {name: len(loader) // cfg.RUNTIME.ACCUMULATE for name, loader in self.loaders.items()}
        for name, steps in self.steps.items():
            if not steps:
                images = len(self.loaders[name].split)
                raise DataError(f"SEARCH.BATCH_SIZE: {s.BATCH_SIZE} is more than the {images} images for the {name}")
        self.phases = self._build_phases()

    def _build_phases(self) -> dict[str, Phase]:
        s, supernet = self.cfg.SEARCH, self.supernet
        alphas = supernet.alphas()
        known = {id(alpha) for alpha in alphas.values()}
        weights = {name: p for name, p in supernet.named_parameters() if id(p) not in known}
        fused = self.runtime.device.type == "cuda"
        sgd = torch.optim.SGD(weights.values(), lr=s.WEIGHT_LR, momentum=s.WEIGHT_MOMENTUM, weight_decay=s.WEIGHT_DECAY, fused=fused)
        adam = torch.optim.Adam(alphas.values(), lr=s.ALPHA_LR, weight_decay=s.ALPHA_WEIGHT_DECAY, fused=fused)
        model = self.runtime.compile(supernet)
        buffers = [buffer for name, buffer in supernet.named_buffers() if name.endswith(RUNNING)]
        autocast, scalers = self.runtime.autocast, [self.runtime.scaler() for _ in PHASES]
        return {
            "weights": Phase("weights", weights, sgd, model, buffers, self.task.loss, self._cost, autocast, scalers[0], s.CLIP_GRAD),
            "alphas": Phase("alphas", alphas, adam, model, buffers, self.task.loss, self._cost_term, autocast, scalers[1]),
        }

    # -- costs ---------------------------------------------------------------------------------------------------------

    def _cost(self) -> tuple[None, Tensor]:
        with torch.no_grad():
            return None, getattr(self.supernet.cost(), self.cfg.SEARCH.OBJECTIVE)

    def _cost_term(self) -> tuple[Tensor, Tensor]:
        s = self.cfg.SEARCH
        cost = getattr(self.supernet.cost(), s.OBJECTIVE)
        return s.COST_WEIGHT * (cost / s.TARGET - 1).abs(), cost

    @torch.no_grad()
    def costs(self) -> dict[str, float]:
        """The cost under the noise-free softmax and that of the argmax, in units of the target."""
        objective = self.cfg.SEARCH.OBJECTIVE
        argmax = self.space.cost(self.supernet.derive(), self.task.head)
        return {
            "cost_expected": float(getattr(self.supernet.expected_cost(), objective)),
            "cost_argmax": float(getattr(argmax, objective)),
        }

    def entropy(self) -> float:
        """Mean normalised entropy of the alphas: 1 at the start, 0 when all are decided."""
        values = self.supernet.entropies().values()
        return sum(values) / len(values) if values else 0.0

    @property
    def phase_name(self) -> str:
        """Of the current phase."""
        return PHASES[self.phase]

    @property
    def tau(self) -> float:
        """The current temperature."""
        return temperature(self.cfg, self.epoch)

    # -- running -------------------------------------------------------------------------------------------------------

    @property
    def total_steps(self) -> int:
        """Steps of the whole search, of both phases."""
        s = self.cfg.SEARCH
        return s.EPOCHS * self.steps["weights"] + (s.EPOCHS - self.warmup) * self.steps["alphas"]

    @property
    def steps_done(self) -> int:
        """Steps of both phases so far."""
        alphas = max(0, self.epoch - self.warmup) * self.steps["alphas"]
        done = self.epoch * self.steps["weights"] + alphas + self.done
        return done + (self.steps["weights"] if self.phase else 0)

    def run(self, stop: StopRequest, save: Callable[[], None], monitor: Monitor) -> bool:
        """Searches on from where it is; returns whether the search is complete (False: stopped on request).

        Args:
            stop: a StopRequest, asked at each step; a step that has begun is finished, and the state saved.
            save: writes a checkpoint; called at each epoch's end, when one is due and when stopping.
            monitor: told of each step and epoch.

        Raises:
            NotFinite: names step, learning rate and term; the state before that step has been saved.
        """
        while self.epoch < self.cfg.SEARCH.EPOCHS:
            while self.phase < len(PHASES):
                name = PHASES[self.phase]
                learns = name == "weights" or self.epoch >= self.warmup
                if learns and not self._run_phase(name, stop, save, monitor):
                    return False
                self.phase, self.done = self.phase + 1, 0
            self._check_ranks_agree()
            record = self._record()
            self.epoch, self.phase, self.done = self.epoch + 1, 0, 0
            self.totals = {name: Totals() for name in PHASES}
            monitor.epoch(self, record)
            save()
        return True

    def _run_phase(self, name: str, stop: StopRequest, save: Callable[[], None], monitor: Monitor) -> bool:
        phase, accumulate = self.phases[name], self.cfg.RUNTIME.ACCUMULATE
        for other in self.phases.values():
            for parameter in other.parameters.values():
                parameter.requires_grad_(other is phase)
        self.supernet.train()
        batches: Any = self.loaders[name].epoch(self.epoch, start=self.done * accumulate, stop=self.steps[name] * accumulate)
        with contextlib.closing(batches):
            while self.done < self.steps[name]:
                parts = (map(self.runtime.move, batch) for batch in itertools.islice(batches, accumulate))
                flags = self._step(phase, parts, accumulate, stop, save)
                self.done += 1
                monitor.step(self)
                if flags[0] or flags[1]:
                    save()
                if flags[0]:
                    return False
        return True

    def _step(self, phase: Phase, parts: Iterator, accumulate: int, stop: StopRequest, save: Callable) -> list[float]:
        rate = self._learning_rate(phase.name)
        for group in phase.optimizer.param_groups:
            group["lr"] = rate
        flags = [float(stop.requested), float(self.runtime.main and stop.due())]
        random_state = torch.get_rng_state()  # of the noise
        self.supernet.sample(self.tau)
        try:
            flags = phase.step(parts, accumulate, self.totals[phase.name], flags)
            self.skipped_in_a_row = 0
            return flags
        except NotFinite as error:
            where = f"epoch {self.epoch + 1}, step {self.done + 1} of {self.steps[phase.name]} of the {phase.name}"
            self.skipped_in_a_row += 1
            what = f"{where}, learning rate {rate:g}: {error} is not finite"
            if self.cfg.SEARCH.ON_NAN == "skip" and self.skipped_in_a_row <= MAX_DROPPED:
                self.skipped_steps += 1
                log.warning("%s; step skipped (%d so far)", what, self.skipped_steps)
                return [0.0, 0.0]  # a wish to stop is this rank's own here: the next step's flags tell it to all
            torch.set_rng_state(random_state)
            save()
            key = "SEARCH.WEIGHT_LR" if phase.name == "weights" else "SEARCH.ALPHA_LR"
            remedy = f"--resume with SEARCH.ON_NAN skip, or start again with a lower {key}"
            again = f" {self.skipped_in_a_row} times in a row" if self.skipped_in_a_row > 1 else ""
            raise NotFinite(f"{what}{again}; the state before that step is saved: {remedy}") from None

    def _learning_rate(self, phase: str) -> float:
        s = self.cfg.SEARCH
        if phase == "alphas":
            return s.ALPHA_LR
        position = (self.epoch * self.steps[phase] + self.done) / (s.EPOCHS * self.steps[phase])
        return s.WEIGHT_LR * 0.5 * (1 + math.cos(math.pi * position))

    def _record(self) -> dict[str, Any]:
        """The line of metrics.jsonl of the epoch that is now complete."""
        weights, alphas = self.totals["weights"], self.totals["alphas"]
        return {
            "phase": "search",
            "epoch": self.epoch,
            "tau": self.tau,
            "weight_lr": self._learning_rate("weights"),
            "weight_loss": weights.mean_loss,
            "weight_accuracy": weights.accuracy,
            "alpha_loss": alphas.mean_loss,
            "alpha_accuracy": alphas.accuracy,
            "cost_sampled": alphas.mean_cost if alphas.steps else weights.mean_cost,
            **self.costs(),
            "entropy": self.entropy(),
            **{f"entropy/{name}": value for name, value in self.supernet.entropies().items()},
            "probabilities": {name: p.tolist() for name, p in self.supernet.probabilities().items()},
            "skipped_steps": self.skipped_steps,
            "skipped_images": count_skipped(self.runtime, self.loaders.values()),
        }

    def _check_ranks_agree(self) -> None:
        if self.runtime.world == 1:
            return
        alphas = torch.cat([alpha.detach().flatten() for alpha in self.supernet.alphas().values()])
        first = alphas.clone()
        dist.broadcast(first, src=0)
        differs = (first != alphas).any().float()
        dist.all_reduce(differs)
        if differs.item():
            raise RuntimeError(f"epoch {self.epoch + 1}: the alphas differ between the processes")

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to end as an uninterrupted one does."""
        return {
            "supernet": self.supernet.state_dict(),
            "optimizers": {name: phase.optimizer.state_dict() for name, phase in self.phases.items()},
            "scalers": {name: phase.scaler.state_dict() for name, phase in self.phases.items() if phase.scaler},
            "loaders": {name: loader.state_dict() for name, loader in self.loaders.items()},
            "totals": {name: vars(totals).copy() for name, totals in self.totals.items()},
            "position": [self.epoch, self.phase, self.done, self.skipped_steps, self.skipped_in_a_row],
            "random": rng_state(),  # of the Gumbel noise, the first rank's; the images are seeded by place
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a state of `state_dict`."""
        self.supernet.load_state_dict(state["supernet"])
        for name, phase in self.phases.items():
            phase.optimizer.load_state_dict(state["optimizers"][name])
            if phase.scaler is not None:
                phase.scaler.load_state_dict(state["scalers"][name])
            self.loaders[name].load_state_dict(state["loaders"][name])
            self.totals[name] = Totals(**state["totals"][name])
        self.epoch, self.phase, self.done, self.skipped_steps, self.skipped_in_a_row = state["position"]
        set_rng_state(state["random"])
