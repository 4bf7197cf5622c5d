"""A digest of a data set: whether two runs saw the same images in the same splits."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from torch import Tensor

from .data_set import Data, Source

_LABELS = (int, float, str)


def data_digest(data: Data) -> dict[str, str]:
    """Of each split 16 hexadecimal digits, which change with the names of the classes and with its images, their order or their classes.

    Images in memory count by their values, files by their names (the folder and the file) and not by what is in them: no file is
    opened. Of boxes and masks the labels do not count.
    """
    found: dict[str, str] = {}
    memory: dict[int, str] = {}
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split is None:
            continue
        source = split.source
        if id(source) not in memory:
            memory[id(source)] = _of_memory(source)
        digest = hashlib.sha256(f"{data.classes!r} {len(split)} {memory[id(source)]}".encode())
        labelled = source.kind == "classes"
        for index in split.indices:
            label: Any = source.labels[index] if labelled else ""
            digest.update(f"{index} {_name(source, index)} {label if isinstance(label, _LABELS) else int(label)}\n".encode())
        found[name] = digest.hexdigest()[:16]
    return found


def _of_memory(source: Source) -> str:
    images = source.images.numpy() if isinstance(source.images, Tensor) else source.images
    return hashlib.sha256(images.tobytes()).hexdigest() if isinstance(images, np.ndarray) else ""


def _name(source: Source, index: int) -> str:
    """The last parts of a path, which stay where the whole is moved or has another name."""
    if source.in_memory:
        return ""
    return "/".join(source.name(index).replace(os.sep, "/").split("/")[-2:])
