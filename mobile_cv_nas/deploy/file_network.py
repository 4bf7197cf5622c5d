"""Networks that run an exported file in its own runtime, and otherwise behave as the network that it came from."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FileError, InputError, require
from ..files import read_bytes
from .interface import INPUT, Interface
from .suppress import detections, fitted

log = logging.getLogger(__name__)


class FileNetwork(nn.Module):
    """A file as a module without parameters, on the CPU.

    Shapes: normalised images (N, C, S, S), whatever the file takes, to what its network gave: logits, a list of maps, {"out": logits}; of a
    detector, a list of images (C, H, W) in 0..1 to a list of {"boxes", "labels", "scores"}.
    """

    def __init__(self, interface: Interface):
        super().__init__()
        self.interface = interface

    def run(self, image: Tensor) -> list[Tensor]:
        """The file's outputs for an input of exactly the shape that it takes."""
        raise NotImplementedError

    def raw(self, images: Tensor) -> list[Tensor]:
        """The file's outputs for normalised images (N, C, S, S), any number of them."""
        interface, size = self.interface, self.interface.input_size
        if images.shape[1:] != (interface.in_channels, size, size):
            raise InputError(f"images of shape {tuple(images.shape[1:])}: the file takes ({interface.in_channels}, {size}, {size})")
        given = as_input(images.detach().cpu().float(), interface)
        step = interface.batch or interface.most or max(1, len(given))
        parts = []
        for start in range(0, len(given), step):
            part = given[start : start + step]
            missing = 0 if interface.batch is None else step - len(part)
            if missing:  # a file of a fixed batch takes nothing less
                part = torch.cat([part, part[-1:].repeat(missing, 1, 1, 1)])
            parts.append([output[: step - missing] for output in self.run(part.contiguous())])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def forward(self, images: Any) -> Any:
        kind = self.interface.kind
        if kind == "detection":
            return self._detect(images)
        found = self.raw(images)
        if kind == "features":
            return found
        return {"out": found[0]} if kind == "segmentation" else found[0]

    def _detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        how, size = self.interface.suppression, self.interface.input_size
        assert how is not None
        found = []
        for image in images:
            square, used = fitted(image.cpu(), size, how)
            boxes, scores = self.raw(square[None])
            found.append(detections(boxes[0], scores[0], how, used, (image.shape[1], image.shape[2])))
        return found


def as_input(images: Tensor, interface: Interface) -> Tensor:
    """Normalised images (N, C, S, S) as a file takes them: themselves, or the bytes (N, S, S, C) that they were made of."""
    if not interface.with_transform:
        return images
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in interface.scaling)
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class OnnxNetwork(FileNetwork):
    """An .onnx file, run by onnxruntime.

    Args:
        path: of the file.
        threads: of onnxruntime; 0 is as many as it likes.
        exact: of an int8 file whose products overflow on this processor (`overflows`), compute in float what int8 means; slower.

    Attributes:
        content: what the file says of itself.

    Raises:
        FileError: no ONNX file, or one of another origin.
        InputError: without onnxruntime.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 0, exact: bool = True):
        runtime: Any = require("onnxruntime", "onnx")
        if not Path(path).is_file():
            raise FileError(f"{path}: no such file; check the name and the folder you run from")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors; warnings of graphs are not for a user
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes have no common base but this
            raise FileError(f"{path}: onnxruntime cannot read it: {' '.join(str(error).split())[:160]}") from None
        self.content = read_content(session.get_modelmeta().custom_metadata_map, path)
        super().__init__(Interface.from_dict(self.content))
        if exact and self.content.get("weight_bits") == 8 and overflows():
            log.warning("%s: 8-bit weights overflow on this processor (x86 without VNNI): computed in float, as others would", path)
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL  # which leaves its layers apart
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._session = session

    def run(self, image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in self._session.run(list(self.interface.outputs), {INPUT: image.numpy()})]


@cache
def overflows() -> bool:
    """Whether onnxruntime's products of unsigned and signed bytes overflow on this processor."""
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    helper, types, size = onnx.helper, onnx.TensorProto, 64
    weights = onnx.numpy_helper.from_array(np.full((size, 16), 127, np.int8), "w")
    given, found = helper.make_tensor_value_info("x", types.UINT8, [1, size]), helper.make_tensor_value_info("y", types.INT32, [1, 16])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "sums", [given], [found], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((1, size), 255, np.uint8)})
    return bool((sums != 255 * 127 * size).any())


def read_content(metadata: Mapping[str, str], path: object) -> dict[str, Any]:
    """What a file's metadata say. Raises FileError for a file of another origin."""
    try:
        content = {name: json.loads(value) for name, value in metadata.items()}
        Interface.from_dict(content)
    except (ValueError, TypeError):
        raise FileError(f"{path}: does not say what it takes and gives: not exported by this library; run it with onnxruntime") from None
    return content


def _beside(path: str | os.PathLike) -> dict[str, Any]:
    """What the .json file beside a .pte file says of it. Raises FileError."""
    name = f"{os.fspath(path)}.json"
    try:
        content = json.loads(read_bytes(name, 64 * 2**20))
        Interface.from_dict(content)
    except (ValueError, TypeError) as error:
        why = str(error) if isinstance(error, FileError) else f"{name}: does not say what {path} takes and gives"
        raise FileError(f"{why}; nas.export writes it beside the .pte file: keep them together") from None
    return content


class PteNetwork(FileNetwork):
    """A .pte file, run by ExecuTorch's runtime with XNNPACK.

    Args:
        path: of the file.
        interface: of its network, which the file itself does not keep; None: as the .json file beside it says.
        threads: of XNNPACK, in this process; 0 leaves it as it is.
    """

    def __init__(self, path: str | os.PathLike, interface: Interface | None = None, threads: int = 0):
        runtime: Any = require("executorch.runtime", "executorch")
        if not Path(path).is_file():
            raise FileError(f"{path}: no such file; check the name and the folder you run from")
        self.content = _beside(path) if interface is None else {}
        super().__init__(interface or Interface.from_dict(self.content))
        if threads:
            require("executorch.extension.pybindings._C", "executorch")._unsafe_reset_threadpool(threads)
        # the method does not keep its program alive
        try:
            self._program = runtime.Runtime.get().load_program(Path(path), verification=runtime.Verification.Minimal)
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            why = " ".join(str(error).split())[:160]
            raise FileError(f"{path}: ExecuTorch cannot load it ({why}); of int8, keep_float its head, or use .onnx") from None

    def run(self, image: Tensor) -> list[Tensor]:
        try:
            return [output.clone() for output in self._method.execute([image])]  # the runtime may use its buffers again
        except RuntimeError as error:
            raise InputError(
                f"ExecuTorch cannot run an input of shape {tuple(image.shape)}: {' '.join(str(error).split())[:160]}"
            ) from None
