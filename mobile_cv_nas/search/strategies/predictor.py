"""ChamNet's way: some archs at the target are trained, a Gaussian process learns accuracy from them, evolution asks it.

Source: Dai et al., "ChamNet: Towards Efficient Network Design Through Platform-Aware Model Adaptation" (CVPR 2019).
    predictor  accuracy ~ GP(mean, k(arch, arch')) on trained samples            Section 4.3
    search     argmax over a, cost(a) at the target, of the predicted accuracy, by evolution                         Section 4.1
It departs from the paper in the number of samples (SEARCH.PREDICTOR.SAMPLES, where ChamNet has 240) and in their length, which are what
EPOCHS pays for: E / (samples + finalists) epochs each; all samples are at the target; and the finalists, a quarter as many, that
evolution finds are trained as long before the best of all that were trained is taken.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ...arch import ArchDef, SearchSpace
from ...errors import require
from ..derive import Derived
from ..judge import Judge, Score, best_of
from ..sampling import random_archs
from .base import Strategy


class Predictor(Strategy):
    """Samples, a Gaussian process, evolution on it."""

    def trainings(self) -> tuple[int, int]:
        """Archs that the predictor proposes, and epochs of each training."""
        finalists = max(1, self.options.samples // 4)
        return finalists, max(1, round(self.options.epochs / (self.options.samples + finalists)))

    def asks(self) -> tuple[int, int]:
        finalists, epochs = self.trainings()
        return 0, (self.options.samples + finalists) * epochs

    def propose(self, judge: Judge) -> Derived:
        o, space, rng = self.options, self.supernet.space, random.Random(self.setting.seed)
        finalists, epochs = self.trainings()
        archs = random_archs(space, self.goal, o.samples, rng)
        scores = judge.trained(archs, epochs)
        process = fit(space, archs, [score[0] for score in scores])

        def fitness(asked: Sequence[ArchDef]) -> list[Score]:
            values = self.runtime.gather(predict(process, space, asked))[0]  # the same on all machines
            return [(value, 0.0) for value in values]

        seen = self.evolution.run(space, self.goal, fitness, rng, archs)
        found = [arch for arch, _ in seen if arch not in archs][:finalists]
        archs, scores = [*archs, *found], [*scores, *judge.trained(found, epochs)]
        best = best_of(archs, scores)
        return Derived(archs[best], "evolved", len(seen), len(archs), scores[best][0])


def features(space: SearchSpace, arch: ArchDef) -> list[float]:
    """An arch in numbers: of each layer its width and hidden width over the largest, and its block; the input size."""
    found = [arch.input_size / space.max_input_size]
    for layer, one in zip(space.layers, arch.layers, strict=True):
        found.append(one.channels[0] / layer.c_out[-1])
        found.append(one.hidden[0] / max(1, layer.hidden[-1]))
        found += [float(name == one.names[0]) for name in layer.names] if len(layer.names) > 1 else []
    return found


def fit(space: SearchSpace, archs: Sequence[ArchDef], accuracies: Sequence[float]) -> Any:
    """A Gaussian process of scikit-learn: Matern's kernel and noise, their scales by the marginal likelihood."""
    gp = require("sklearn.gaussian_process", "search")
    kernels = require("sklearn.gaussian_process.kernels", "search")
    kernel = kernels.ConstantKernel(1.0, (1e-3, 1e3)) * kernels.Matern(3.0, (0.1, 1e3), nu=2.5) + kernels.WhiteKernel(0.1, (1e-6, 1e2))
    process = gp.GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a scale at its bound: there is nothing to learn from some samples
        process.fit([features(space, arch) for arch in archs], accuracies)
    return process


def predict(process: Any, space: SearchSpace, archs: Sequence[ArchDef]) -> list[float]:
    """The mean of the process at each arch."""
    return process.predict([features(space, arch) for arch in archs]).tolist()
