"""Core ML: an .mlpackage. Converted, and not verified: only macOS can run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, require
from .interface import INPUT, Interface
from .onnx import quiet


def write_coreml(module: nn.Module, interface: Interface, content: Mapping[str, Any], path: Path) -> None:
    """Writes what `wrap` gives as an .mlpackage of float16, with `content` in its metadata.

    Raises:
        InputError: without the packages of the extra `coreml`; a transform inside, for which Core ML has types of its own.
    """
    if interface.with_transform:
        raise InputError("with_transform: Core ML scales images by its own ImageType; leave it out")
    tools: Any = require("coremltools", "coreml")
    example = torch.zeros(interface.shape(interface.batch or 1))
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(module, example, check_trace=False)
        model = tools.convert(
            traced,
            inputs=[tools.TensorType(name=INPUT, shape=tuple(example.shape))],
            outputs=[tools.TensorType(name=name) for name in interface.outputs],
            convert_to="mlprogram",
        )
    for name, value in content.items():
        model.user_defined_metadata[name] = json.dumps(value)
    model.save(str(path))
