"""How a network is trained: the recipe of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ..data.options import DataOptions
from ..engine.runtime import RuntimeOptions
from ..errors import InputError, did_you_mean
from ..tasks.options import HeadOptions

Options = TypeVar("Options")


@dataclass(frozen=True)
class TrainOptions:
    """How weights are trained; the keys of TRAIN say the same."""

    epochs: int = 45  # passes over the training images
    batch_size: int = 64  # images a step, over all processes and accumulated parts
    optimizer: str = "sgd"  # sgd | rmsprop
    lr: float = 0.2  # after the warm-up; cosine to 0 over the run
    momentum: float = 0.9  # of either optimizer
    nesterov: bool = False  # sgd: Nesterov's momentum
    rmsprop_decay: float = 0.9  # rmsprop: of the mean square
    rmsprop_eps: float = 1e-3  # rmsprop: added to its root
    weight_decay: float = 5e-4  # of convolution and linear weights; norms and biases have none
    warmup_epochs: float = 0.0  # linear rise of the learning rate from 0; may be a fraction
    label_smoothing: float = 0.0  # share of the probability spread over all classes
    ema_decay: float = 0.0  # of the moving average of the weights, which is then the result; 0 = off
    clip_grad: float = 0.0  # largest gradient norm; 0 = off
    on_nan: str = "stop"  # stop | skip: what to do with a step whose loss or gradient is not finite
    class_weights: str = "none"  # none | balanced: of an image in the loss, inverse to the number of its class
    qat: bool = False  # quantisation-aware: a classifier goes on from its weights under the rounding of int8
    eval_every: int = 1  # epochs between validations; the last epoch is always validated
    eval_batch_size: int = field(default=256, metadata={"key": "TEST.BATCH_SIZE"})  # images a step in validation and test, of each process


@dataclass(frozen=True)
class Recipe:
    """Everything a run is told beside its network, its images and its folder."""

    train: TrainOptions = field(default_factory=TrainOptions)
    data: DataOptions = field(default_factory=DataOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    seed: int = 0  # of everything random: weights, order of the images, augmentation, Gumbel noise


def changed(options: Options, changes: Mapping[str, Any]) -> Options:
    """A copy of an options dataclass with some fields changed. Raises InputError for a name that it does not have."""
    plain: Any = options
    known = [one.name for one in fields(plain)]
    for name in changes:
        if name not in known:
            raise InputError(f"{name}: no such option of {type(options).__name__}{did_you_mean(name, known)}")
    return replace(plain, **changes)
