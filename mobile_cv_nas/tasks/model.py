"""A trained model: a network with all that using it needs, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arch import ArchDef
from ..data.bands import as_picture
from ..data.images import BadImage, open_image
from ..data.transforms import Preprocess
from ..deploy.file_network import FileNetwork
from ..deploy.fold import fold
from ..errors import InputError, listed
from ..nn.shapes import Cost
from ..weights.file import WeightsError, save_weights
from .prediction import Prediction
from .task import PredictOptions, Task, evaluating

WEIGHTS = "model.safetensors"  # in the folder of a training


class Model:
    """A trained network with its classes and the transform it was validated with; made by `load`, or by a training.

    Args:
        network: of the task; it is put into eval mode.
        arch: of the network, or of its backbone.
        task: what it was trained for.
        transform: PIL image to the network's input (C, H, W).
        about: what else the file keeps.
    """

    def __init__(self, network: nn.Module, arch: ArchDef, task: Task, transform: Preprocess, about: Mapping[str, Any] | None = None):
        self.network, self.arch, self.task, self.transform = network.eval(), arch, task, transform
        self.about = dict(about or {})

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.task.classes

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a file of another runtime."""
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    def _input(self, image: Tensor) -> Tensor:
        """On the device of the weights, and of their precision."""
        dtype = next((parameter.dtype for parameter in self.network.parameters() if parameter.is_floating_point()), torch.float32)
        return image.to(self.device, dtype)

    def __repr__(self) -> str:
        name = self.arch.name or "an arch without name"
        return (
            f"Model({self.task.kind}, {self.task.head.name or 'classifier'} on {name}, {len(self.classes)} classes: {listed(self.classes)})"
        )

    def predict(self, images: Any, top: int = 5, score: float = 0.5) -> Any:
        """What the model says of an image, or of several.

        Args:
            images: a path, a PIL image, an array (H, W), (H, W, C) of uint8 or of floats in 0..1, or a tensor: (C, H, W) uint8 is an image,
                float is the network's own input, made by `transform`; or a list of such, or a batch (N, C, H, W).
            top: classes of a classifier.
            score: the least of a detected object, 0 to 1.

        Returns:
            A `Prediction`, or a list of them for several.

        Raises:
            InputError: what is no image, or one of another number of channels.
        """
        if not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise InputError(f"score {score!r}: give the least score of an object to show, 0 to 1")
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputError(f"top {top!r}: give a number of classes, 1 or more")
        if (isinstance(images, Sequence) and not isinstance(images, (str, bytes))) or (isinstance(images, Tensor) and images.ndim == 4):
            many = list(images)
        else:
            return self._predict([images], PredictOptions(top, score))[0]
        return self._predict(many, PredictOptions(top, score))

    @torch.inference_mode()
    def _predict(self, images: Sequence[Any], options: PredictOptions) -> list[Prediction]:
        pictures: list[Any] = []
        inputs: list[Tensor] = []
        for image in images:
            if isinstance(image, Tensor) and image.is_floating_point():
                if image.ndim != 3 or image.shape[0] != self.task.in_channels:
                    raise InputError(f"a tensor of shape {tuple(image.shape)}: the network takes ({self.task.in_channels}, H, W)")
                pictures.append(None)
                inputs.append(self._input(image))
                continue
            if self.about.get("own_inputs"):
                raise InputError(
                    "this network was trained on tensors that a Dataset of its own prepared; give float tensors (C, H, W) made alike"
                )
            picture = read_picture(image, self.transform.background, self.task.in_channels)
            pictures.append(as_picture(picture))
            inputs.append(self._input(self.transform(picture)))
        with evaluating(self.network):  # whoever has trained it in between
            return self.task.predict(self.network, pictures, inputs, options) if pictures else []

    def to(self, device: str | torch.device) -> Model:
        """The model with its network on a device; in place. Raises InputError for a file of another runtime."""
        if isinstance(self.network, FileNetwork) and torch.device(device).type != "cpu":
            raise InputError(f"device {device}: an exported file runs on the CPU; load the model that it came from")
        self.network.to(device)
        return self

    def count(self) -> Cost:
        """MACs of one image, and parameters; of an exported file those of the network that its arch and head make."""
        exported = isinstance(self.network, FileNetwork)
        return self.task.count(self.task.network(self.arch) if exported else self.network, self.arch)

    def fold(self) -> Model:
        """The model with a faster copy of its network, for inference: see `nas.fold`. It cannot be saved."""
        if isinstance(self.network, FileNetwork):
            return self
        return Model(fold(self.network), self.arch, self.task, self.transform, {**self.about, "folded": True})

    def save(self, path: str | os.PathLike) -> None:
        """Writes a .safetensors file that `load` reads back as an equal model. Raises FileError or WeightsError."""
        if isinstance(self.network, FileNetwork):
            raise WeightsError(f"{path}: an exported file has no weights of its own; save the model that it came from")
        if self.about.get("folded"):
            raise WeightsError(f"{path}: the norms of this model are folded into its weights; save the model that it was folded from")
        save_model(path, self.network, self.arch, self.task, self.transform, self.about)


def read_picture(image: Any, background: str = "white", channels: int | None = None) -> Any:
    """An image by the reader of training, see `open_image`. Raises InputError, which names a file and says why it is no image."""
    try:
        return open_image(image, background, channels)
    except BadImage as error:
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"a {type(image).__name__}"
        raise InputError(f"{name}: no image that can be read: {error}; give a JPEG or PNG, say") from None


def save_model(
    path: str | os.PathLike, network: nn.Module, arch: ArchDef, task: Task, transform: Preprocess, about: Mapping[str, Any] | None = None
) -> None:
    """Writes weights with all that using them needs: arch, task, head, classes, transform, versions."""
    import torchvision

    if Path(path).suffix != ".safetensors":
        raise WeightsError(f"{path}: a model is a safetensors file: let its name end in .safetensors")
    content = {**(about or {}), **task.content(arch), "mean": list(task.mean), "std": list(task.std), "transform": transform.to_dict()}
    content["versions"] = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    save_weights(path, network.state_dict(), arch, task.classes, **content)
