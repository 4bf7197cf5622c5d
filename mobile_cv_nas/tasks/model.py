"""A trained model: a network with all that using it needs, in one file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arch import ArchDef
from ..data.bands import as_picture
from ..data.images import BadImage, open_image
from ..data.transforms import Preprocess
from ..deploy.file_network import FileNetwork, OnnxNetwork, PteNetwork
from ..deploy.fold import fold
from ..errors import InputError, listed
from ..model_zoo.builder import fbnet_builder, find_arch
from ..model_zoo.card import Card
from ..model_zoo.checkpoints import library_of, names_for
from ..nn.shapes import Cost
from ..weights.file import WeightsError, load_weights, save_weights
from ..weights.fit import check_fit, fit_weights
from .build import task_of
from .classification import Classification
from .prediction import Prediction
from .task import PredictOptions, Task

_LOG = logging.getLogger(__name__)
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
        if not 0 <= score <= 1:
            raise InputError(f"score {score:g}: give the least score of an object to show, 0 to 1")
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
                inputs.append(image.to(self.device))
                continue
            if self.about.get("own_inputs"):
                raise InputError(
                    "this network was trained on tensors that a Dataset of its own prepared; give float tensors (C, H, W) made alike"
                )
            picture = read_picture(image, self.transform.background, self.task.in_channels)
            pictures.append(as_picture(picture))
            inputs.append(self.transform(picture).to(self.device))
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


# -- loading ----------------------------------------------------------------------------------------------------------


def load(source: str | os.PathLike, arch: str | os.PathLike | ArchDef = "") -> Model:
    """A trained model: of the folder of a training or a search, of a .safetensors file of this library, or of the zoo by name.

    The network is in eval mode, on the CPU. A name of the zoo brings its pretrained weights. An .onnx or .pte file that `nas.export`
    made of a model is one too: its network runs in onnxruntime or ExecuTorch.

    Args:
        source: folder, file or name. "pretrained" stands for the published weights of `arch`, "pretrained:timm" for those on timm's hub.
        arch: a name of the zoo, an ArchDef or an arch file: for weights that bring no arch of their own, such as the .pth files of others.

    Raises:
        InputError: nothing that can be loaded; says what is there and what would be.
        FileError, WeightsError, ArchError, ZooError: a file or a name at fault.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if text == "pretrained" or text.startswith("pretrained:"):
        return load_foreign(None, arch, text.partition(":")[2] or True)
    if path.is_dir():
        return load_file(model_file(path), arch)
    if path.suffix in (".onnx", ".pte"):
        return load_exported(path)
    if path.suffix == ".safetensors" or path.is_file():
        return load_file(path, arch)
    if os.sep in text or path.suffix in (".pt", ".pth", ".yaml"):
        raise InputError(f"{text}: no such file or folder; give a result folder, a .safetensors file or a name of the zoo")
    return load_foreign(None, text)


def model_file(folder: Path) -> Path:
    """The weight file of a result folder. Raises InputError, which says what the folder lacks."""
    for path in (folder / WEIGHTS, folder / "child" / WEIGHTS):
        if path.is_file():
            return path
    unfinished = (folder / "checkpoints").is_dir() or (folder / "child").is_dir()
    why = (
        "holds an unfinished run; finish it with --resume"
        if unfinished
        else f"holds no {WEIGHTS}; give the folder of a search or a training"
    )
    raise InputError(f"{folder}: {why}")


def load_file(path: str | os.PathLike, arch: str | os.PathLike | ArchDef = "") -> Model:
    """The model in a file: of this library, or of others, whose `arch` must be named."""
    if not str(path).lower().endswith(".safetensors"):
        return load_foreign(path, arch)
    state, content = load_weights(path)
    if not content.get("arch"):
        return load_foreign(path, arch)
    found = find_arch(arch)[0] if arch else ArchDef.parse(content["arch"], source=str(path))
    task = _with_classes(task_of(content, path), state, path)
    if isinstance(task, Classification):
        with torch.device("meta"):  # a file that names a huge arch must not fill the memory
            like = task.network(found)
        check_fit(like, state, str(path))
    network = task.network(found)
    fit_weights(network, state, str(path))
    transform = Preprocess.from_dict(content["transform"]) if "transform" in content else default_transform(task, found)
    if task.labels == "masks" and not isinstance(transform.resize, int):  # judged by masks of the size that images had before
        task = replace(task, label_size=transform.resize[0])
    kept = ("version", "arch", "classes", "sha256", "task", "head", "mean", "std", "transform", "versions")
    return Model(network, found, task, transform, {key: value for key, value in content.items() if key not in kept})


def load_exported(path: str | os.PathLike) -> Model:
    """The model of an .onnx or .pte file, run by onnxruntime or ExecuTorch. Raises InputError or FileError."""
    network = OnnxNetwork(path) if Path(path).suffix == ".onnx" else PteNetwork(path)
    content = network.content
    if "task" not in content or "transform" not in content:
        raise InputError(
            f"{path}: exported of a network alone, without classes and transform; export a Model, or run it with its own runtime"
        )
    arch = ArchDef.parse(content["arch"], source=str(path))
    about: dict[str, Any] = {name: content[name] for name in ("licence", "own_inputs") if name in content}
    return Model(network, arch, task_of(content, path), Preprocess.from_dict(content["transform"]), about)


def _with_classes(task: Task, state: Mapping[str, Tensor], path: str | os.PathLike) -> Task:
    """The task with a name for each class: numbers where the file has none."""
    if task.classes or not isinstance(task, Classification):
        return task
    weight = state.get("classifier.weight")
    if weight is None or weight.ndim != 2 or not weight.numel():
        raise WeightsError(f"{path}: has no classifier.weight: not the weights of a network of this library")
    return replace(task, classes=tuple(str(index) for index in range(len(weight))))


def default_transform(task: Task, arch: ArchDef) -> Preprocess:
    """For files that do not say how images were prepared: squeezed for a segmenter, as they are for a detector, else the usual crop."""
    size = task.input_size(arch)
    if task.labels == "classes":
        return Preprocess(size, max(size, round(size / 0.875)), True, "bilinear", task.mean, task.std)
    if task.labels == "masks":
        return Preprocess(size, (size, size), False, "bilinear", task.mean, task.std)
    return Preprocess(size, 0, False, "bilinear", (0.0,) * task.in_channels, (1.0,) * task.in_channels)


def load_foreign(path: str | os.PathLike | None, arch: str | os.PathLike | ArchDef, pretrained: bool | str = True) -> Model:
    """A classifier with the weights of another origin, or (`path` None) the published ones of its card, or of a library's hub."""
    if not arch:
        fits = names_for(path) if path else []
        remedy = f"name one: by keys and shapes it is {' or '.join(fits)}" if fits else "name one"
        raise WeightsError(f"MODEL.ARCH: empty, and {path or 'pretrained'} brings no arch; {remedy}")
    if path is not None:
        pretrained = _library(path, arch) or False
    found, card = find_arch(arch, pretrained)
    network: Any = fbnet_builder(arch, pretrained, weights=path)
    classes, channels = class_names(card, network.num_classes, path is None), network.in_channels
    mean, std = (card.mean, card.std) if card is not None else (Task.mean, Task.std)
    if channels != len(mean):
        if channels != 1:
            raise WeightsError(f"{path}: takes {channels} channels, whose mean and std it does not say; save it as a Model, which does")
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        _LOG.warning("%s: of grey images; mean and std are taken for %.3g and %.3g, those of colour", path, mean[0], std[0])
    task = Classification(classes, mean=mean, std=std)
    if card is None:
        return Model(network, found, task, default_transform(task, found))
    transform = Preprocess(card.input_size, card.resize or card.input_size, True, card.interpolation, mean, std)
    return Model(network, found, task, transform, {"licence": card.weights.license if card.weights else None})


def _library(path: str | os.PathLike, arch: str | os.PathLike | ArchDef) -> str | None:
    """The library whose names a file has, if it has this very network and says how its images are prepared."""
    card, library = find_arch(arch)[1], library_of(path)
    known = card is not None and library is not None and library in card.sources and card.elsewhere[library].card is None
    return library if known else None


def class_names(card: Card | None, count: int, published: bool) -> tuple[str, ...]:
    """What a network's outputs mean: the card's labels, if its weights are `published`, ImageNet's for a card of 1000, else numbers.

    A file of one's own may have as many classes as the card, of other names.
    """
    if card is not None and card.labels and published:
        return card.labels
    if card is None or card.classes != count or count != 1000:
        return tuple(str(index) for index in range(count))
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])
