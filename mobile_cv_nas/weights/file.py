"""Weight files: safetensors with the arch and a checksum inside."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arch import ArchDef
from ..errors import InputError
from ..files import atomic_write, read_bytes

_KEY = "mobile_cv_nas"  # one metadata entry with JSON: safetensors writes several in no fixed order
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


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
