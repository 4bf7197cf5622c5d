"""Loading a trained model: of a folder, a file of this library or of others, an exported file, or a name of the zoo."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch import ArchDef
from ..data.transforms import Preprocess
from ..deploy.file_network import OnnxNetwork, PteNetwork
from ..errors import InputError
from ..model_zoo.builder import fbnet_builder, find_arch
from ..model_zoo.card import Card
from ..model_zoo.checkpoints import library_of, names_for
from ..weights.file import WeightsError, load_weights
from ..weights.fit import check_arch, check_fit, fit_weights
from .build import task_of
from .classification import Classification
from .model import WEIGHTS, Model
from .task import Task

_LOG = logging.getLogger(__name__)


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
        _check_no_arch(text, arch)
        return load_exported(path)
    if path.suffix == ".safetensors" or path.is_file():
        return load_file(path, arch)
    if os.sep in text or path.suffix in (".pt", ".pth", ".yaml"):
        raise InputError(f"{text}: no such file or folder; give a result folder, a .safetensors file or a name of the zoo")
    _check_no_arch(text, arch)
    return load_foreign(None, text)


def _check_no_arch(source: str, arch: Any) -> None:
    if arch:
        raise InputError(f'{source}: brings its own arch; leave the other one out ("pretrained" stands for the weights of a named arch)')


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
    named = arch or str(content.get("model", ""))
    if "transform" not in content and named and _has_card(named):  # converted: the card says how images are prepared
        return load_foreign(path, named, str(content.get("library", "")) or True)
    found = find_arch(arch)[0] if arch else ArchDef.parse(content["arch"], source=str(path))
    task = _with_classes(task_of(content, path), state, path)
    if isinstance(task, Classification):
        with torch.device("meta"):  # a file that names a huge arch must not fill the memory
            like = task.network(found)
        check_fit(like, state, str(path))
    network = task.network(found)
    fit_weights(network, state, str(path))
    check_arch(state, content, found, str(path))
    transform = Preprocess.from_dict(content["transform"]) if "transform" in content else default_transform(task, found)
    task = _judged(task, transform)
    kept = ("version", "arch", "classes", "sha256", "task", "head", "mean", "std", "transform", "versions")
    return Model(network, found, task, transform, {key: value for key, value in content.items() if key not in kept})


def _has_card(arch: str | os.PathLike | ArchDef) -> bool:
    """Whether an arch is a network of the zoo; a converted file of another one names that, which is nowhere to be found."""
    try:
        return find_arch(arch)[1] is not None
    except InputError:
        return False


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
    transform = Preprocess.from_dict(content["transform"])
    return Model(network, arch, _judged(task_of(content, path), transform), transform, about)


def _judged(task: Task, transform: Preprocess) -> Task:
    """A task with the size of its masks: that which images had before they were squeezed to the network's."""
    if task.labels == "masks" and not isinstance(transform.resize, int):
        return replace(task, label_size=transform.resize[0])
    return task


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
        pretrained = _library(path, arch) or (pretrained if isinstance(pretrained, str) else False)
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
    return imagenet_words()


def imagenet_words() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes in words, in the order of the names of their folders (n01440764, the tench, first)."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])
