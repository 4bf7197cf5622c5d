"""What is learnt: one class for each kind of label, the same for training, search, test, prediction and export.

A task owns the head, the loss, the scores, the prediction on an image, and what a weight file says of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..arch import ArchDef, SearchSpace
from ..engine.runtime import Runtime
from ..engine.step import Loss
from ..networks.build import build_supernet
from ..networks.passes import keeping_modes
from ..networks.supernet import Supernet
from ..nn.heads import HeadDef
from ..nn.shapes import Cost
from ..report.test import Examination
from .options import HeadOptions
from .prediction import Prediction

Batch = Sequence[Any]  # images and labels, as a Loader gives them


@dataclass(frozen=True)
class LossOptions:
    """How the loss of a training differs from the plain one."""

    label_smoothing: float = 0.0  # share of the probability spread over all classes
    mixup: float = 0.0  # alpha of MixUp; 0 = off
    class_weights: Sequence[float] = ()  # of an image in the loss, by its class; (): all alike
    own: Callable[[Any, Any], Tensor] | None = None  # (outputs, labels) to the mean loss of a batch, in place of the task's
    seed: int = 0  # of what is random in it


@dataclass(frozen=True)
class SupernetOptions:
    """How a supernet is built; see `build_supernet`."""

    sharing: str = "none"
    recompute: bool = False
    resolution: str = "all"


@dataclass(frozen=True)
class Task:
    """Base of all tasks.

    Args:
        classes: their names.
        head: of the network.
        mean, std: of the images in 0..1, one value a channel.
        losses: of its training.
        label_size: side of masks, where they are not of the network's input size.
    """

    kind: ClassVar[str]  # classification | detection | segmentation
    labels: ClassVar[str]  # of its data: classes | boxes | masks
    main: ClassVar[str]  # the score that counts
    hits: ClassVar[str] = ""  # what the share of right answers in training is called, "" where there is none
    loss_name: ClassVar[str] = "cross-entropy"
    takes: ClassVar[tuple[str, ...]] = ()  # of loss (of one's own), label_smoothing and mixup, what its loss takes

    classes: tuple[str, ...]
    head: HeadOptions = field(default_factory=HeadOptions)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    losses: LossOptions = field(default_factory=LossOptions)
    label_size: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return len(self.mean)

    def input_size(self, arch: ArchDef) -> int:
        """Side of the images that the network of an arch takes."""
        return arch.input_size

    def child(self, arch: ArchDef) -> Task:
        """The task of an arch that a search found: one of a smaller input size is judged by the labels of the largest."""
        return self

    def network(self, arch: ArchDef, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The network of an arch with this head, at random or from a state dict. Raises WeightsError if that does not fit."""
        raise NotImplementedError

    def count(self, network: nn.Module, arch: ArchDef) -> Cost:
        """MACs of one image, and parameters, by fvcore."""
        raise NotImplementedError

    # -- searching ---------------------------------------------------------------------------------------------------

    def head_def(self, space: SearchSpace) -> HeadDef:
        """The head as a block of the supernet. Raises InputError where head and space do not go together."""
        raise NotImplementedError

    def supernet(self, space: SearchSpace, options: SupernetOptions) -> Supernet:
        """All networks of a space in one, under this head."""
        return build_supernet(
            space,
            self.num_classes,
            self.in_channels,
            sharing=options.sharing,
            recompute=options.recompute,
            resolution=options.resolution,
            head=self.head_def(space),
        )

    def learner(self, supernet: Supernet) -> nn.Module:
        """What `loss` calls while a supernet is trained."""
        return supernet

    # -- learning and scoring ----------------------------------------------------------------------------------------

    def loss(self, model: Any, batch: Batch, key: tuple[int, ...], runtime: Runtime) -> Loss:
        """The loss of a batch on the device; `key` seeds what is random. Sums: "loss" and "right", an image counting 1."""
        raise NotImplementedError

    def evaluate(
        self, network: nn.Module, batches: Iterable[Batch], runtime: Runtime | None = None, kept: Examination | None = None
    ) -> dict[str, float]:
        """Scores by name over the images of all processes; a call that all of them make. The network ends in the mode it was in.

        `kept` is filled with what can be said of single classes and images.
        """
        raise NotImplementedError

    def rank(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """How good scores are: the main one, then what breaks ties."""
        return scores[self.main], -scores.get("loss", 0.0)

    # -- using -------------------------------------------------------------------------------------------------------

    def predict(self, network: nn.Module, pictures: Sequence[Any], inputs: Sequence[Tensor], options: PredictOptions) -> list[Prediction]:
        """What a network in eval mode says of pictures (PIL, or None for tensors), given the inputs made of them, (C, H, W) each."""
        raise NotImplementedError

    def content(self, arch: ArchDef) -> dict[str, Any]:
        """What a weight file keeps of the task."""
        return {"task": self.kind}


@dataclass(frozen=True)
class PredictOptions:
    """How much of a prediction is wanted."""

    top: int = 5  # classes, of a classifier
    score: float = 0.5  # the least, of a detected object


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Any:
    """Within it a network is in eval mode and keeps no gradients; afterwards each of its modules is in the mode it was in."""
    with keeping_modes(network), torch.no_grad():
        network.eval()
        yield
