"""Weight files: safetensors with the arch and a checksum inside."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..arch import ArchDef
from ..errors import InputError
from ..files import atomic_write, read_bytes
from ..networks.build import Network, build_model

_KEY = "mobile_cv_nas"  # one metadata entry with JSON: safetensors writes several in no fixed order
_LOG = logging.getLogger(__name__)
MAX_BYTES = 16 * 2**30


class WeightsError(InputError):
    """A weight file that is damaged or does not fit."""


def save_weights(path: str | os.PathLike, state: Mapping[str, Tensor], arch: ArchDef, classes: Sequence[str] = (), **extra: Any) -> None:
    """Writes a state dict with its arch, the names of the classes and any plain `extra` values."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = {"version": 1, "arch": arch.to_dict(), "classes": list(classes), "sha256": _digest(tensors), **extra}
    atomic_write(path, save(tensors, metadata={_KEY: json.dumps(content, sort_keys=True)}))


def load_weights(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and what was saved with it ({} for a file of another origin).

    Raises FileError or WeightsError if the file is missing, truncated or was changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_bytes(path, MAX_BYTES)
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        content = json.loads(metadata.get(_KEY, "{}"))
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{path}: not a whole safetensors file ({reason}); copy or download it again") from None
    if not isinstance(content, dict) or content.get("version", 1) != 1:
        raise WeightsError(f"{path}: written by a newer version of this library; upgrade it")
    classes = content.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{path}: its names of the classes are not a list of text; save it again")
    if "sha256" in content and content["sha256"] != _digest(tensors):
        raise WeightsError(f"{path}: damaged, its checksum does not match; copy or download it again")
    return tensors, content


def weights_arch(content: Mapping[str, Any], path: str | os.PathLike) -> ArchDef:
    """The arch saved with weights. Raises WeightsError if there is none."""
    if not content.get("arch"):
        raise WeightsError(f"{path}: has no arch inside; name one with MODEL.ARCH")
    return ArchDef.parse(content["arch"], source=str(path))


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, new_classifier: bool = False) -> None:
    """Loads a state dict. With `new_classifier`, a classifier of other classes keeps its random start.

    Raises WeightsError naming the first name or shape that does not fit.
    """
    own = model.state_dict()
    state = dict(state)
    if new_classifier:
        for name in [n for n in state if n.startswith("classifier.") and n in own and state[n].shape != own[n].shape]:
            _LOG.warning("%s: %s is of other classes and starts at random", source, name)
            state[name] = own[name]
    check_fit(model, state, source)
    model.load_state_dict(state)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raises WeightsError naming the first name or shape that does not fit."""
    own = model.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own:
            where = "misses" if name not in state else "has an unknown"
            raise WeightsError(f"{source}: {where} {name}: the weights of another arch; check MODEL.ARCH")
        if state[name].shape != own[name].shape:
            raise WeightsError(
                f"{source}: {name} is {tuple(state[name].shape)} and should be {tuple(own[name].shape)}; "
                "the weights of another arch or other classes"
            )


def find_arch(name: str) -> ArchDef:
    """The arch of a file (a name with a slash or ending in .yaml) or of the zoo. Raises ArchError or ZooError."""
    if not name:
        raise WeightsError("MODEL.ARCH: empty; name an arch file or a network of the zoo")
    if name.lower().endswith((".yaml", ".yml")) or "/" in name:
        return ArchDef.load(name)
    from ..model_zoo import get_arch

    return get_arch(name)


def load_network(cfg: CfgNode) -> tuple[Network, list[str]]:
    """The network of `cfg.MODEL` with its weights, and the names of its classes where the file has them.

    A .safetensors file may bring its own arch; files of other kinds and "pretrained" go through the zoo. Raises
    WeightsError, FileError, ArchError or ZooError.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        raise WeightsError('MODEL.WEIGHTS: empty; name a .safetensors file, or "pretrained" for a network of the zoo')
    if not path.lower().endswith(".safetensors"):
        from ..model_zoo import fbnet_builder

        if not cfg.MODEL.ARCH:
            raise WeightsError(f"MODEL.ARCH: empty, and {path} brings no arch; name one")
        pretrained = path == "pretrained"
        return fbnet_builder(cfg.MODEL.ARCH, pretrained, weights=None if pretrained else path), []
    state, content = load_weights(path)
    if "head" in content:
        raise WeightsError(f"{path}: the weights of {_head_name(content)}, not of a classifier")
    arch = find_arch(cfg.MODEL.ARCH) if cfg.MODEL.ARCH else weights_arch(content, path)
    head = state.get("classifier.weight")
    if head is None or head.ndim != 2 or not head.numel():
        raise WeightsError(f"{path}: has no classifier.weight: not the weights of a network of this library")
    with torch.device("meta"):  # a file that names a huge arch must not fill the memory
        like = build_model(arch, num_classes=len(head))
    check_fit(like, state, path)
    network = build_model(arch, num_classes=len(head))
    fit_weights(network, state, path)
    return network, list(content.get("classes", []))


def load_start(cfg: CfgNode) -> tuple[ArchDef, Mapping[str, Tensor]]:
    """The arch and the weights that training starts from: a classifier's, or of a detector or segmenter its own."""
    path = cfg.MODEL.WEIGHTS
    if cfg.HEAD.NAME and path.lower().endswith(".safetensors"):
        state, content = load_weights(path)
        if "head" in content:
            if _head_name(content) != cfg.HEAD.NAME:
                raise WeightsError(
                    f"{path}: the weights of {_head_name(content)}, and HEAD.NAME is {cfg.HEAD.NAME}; start from its own or a classifier's"
                )
            return find_arch(cfg.MODEL.ARCH) if cfg.MODEL.ARCH else weights_arch(content, path), state
    network, _ = load_network(cfg)
    return network.arch, network.state_dict()


def _head_name(content: Mapping[str, Any]) -> str:
    head = content["head"]
    return str(head.get("name")) if isinstance(head, dict) else "an unknown head"


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
