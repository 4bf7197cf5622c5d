"""int8 of an .onnx file: QDQ with fixed ranges, activations unsigned by tensor, weights signed by channel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import require
from .calibrate import within
from .file_network import as_input
from .hard_swish import hard_activations
from .interface import INPUT, Interface
from .onnx import quiet

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_AT_ONCE = 1  # images whose ranges are held before they are merged: bounds the memory


def quantize_onnx(
    source: Path, target: Path, interface: Interface, images: Sequence[Tensor], keep_float: Sequence[str], weight_bits: int = 8
) -> None:
    """Writes the int8 form of an .onnx file of `write_onnx`.

    What stands before the first and after the last layer with weights, such as a transform or the boxes of a detector, stays in float.

    Args:
        source: the float file.
        target: the file to write.
        interface: of both.
        images: to calibrate on, normalised, (C, S, S).
        keep_float: names of layers or blocks that stay in float.
        weight_bits: 8, or 7: onnxruntime adds products of neighbours in 16 bits on x86 processors without VNNI, which products of 8 bits
            overflow, silently.

    Raises:
        InputError: without the packages of the extra `onnx`.
    """
    onnx: Any = require("onnx", "onnx")
    quantization: Any = require("onnxruntime.quantization", "onnx")
    shapes: Any = require("onnxruntime.quantization.shape_inference", "onnx")

    ready = target.with_name(f"ready_{target.name}")
    with quiet():
        # the graph is as simple as it gets already, and optimising would rename its nodes
        shapes.quant_pre_process(str(source), str(ready), skip_optimization=True, skip_symbolic_shape=True)
        graph = onnx.load(str(ready)).graph
        quantization.quantize_static(
            str(ready),
            str(target),
            _reader(quantization, interface, images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=weight_bits == 7,
            nodes_to_exclude=_excluded(graph, keep_float),
            # not CalibMaxIntermediateOutputs: in onnxruntime 1.32 it drops what it has collected
            extra_options={"CalibStridedMinMax": _AT_ONCE},
        )
    new = onnx.load(str(target))
    hard_activations(onnx, new.graph)
    _keep_metadata(onnx.load(str(source)), new, weight_bits)
    onnx.save(new, str(target))


def _reader(quantization: Any, interface: Interface, images: Sequence[Tensor]) -> Any:
    """Hands the images to onnxruntime's calibration."""

    class Reader(quantization.CalibrationDataReader):
        """Image by image; onnxruntime sets the range that it wants next."""

        def __init__(self) -> None:
            self.set_range(0, len(images))

        def __len__(self) -> int:
            return len(images)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(images[start_index:end_index])

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rest, None)
            if image is None:
                return None
            given = as_input(image[None], interface)
            return {INPUT: given.repeat(interface.batch or 1, 1, 1, 1).numpy()}

    return Reader()


def _excluded(graph: Any, keep_float: Sequence[str]) -> list[str]:
    """The nodes to leave alone: named so, or with no layer with weights before or after them."""
    readers: dict[str, list[Any]] = defaultdict(list)
    writer = {}
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
        for name in node.output:
            writer[name] = node

    def reached(start: list[Any], forward: bool) -> set[str]:
        seen: set[str] = set()
        while start:
            node = start.pop()
            if node.name in seen:
                continue
            seen.add(node.name)
            if forward:
                start += [reader for name in node.output for reader in readers[name]]
            else:
                start += [writer[name] for name in node.input if name in writer]
        return seen

    layers = [node for node in graph.node if node.op_type in _WEIGHTED]
    between = reached(list(layers), True) & reached(list(layers), False)
    kept = {node.name for node in layers if within(node.name.partition(":")[0], keep_float)}
    return [node.name for node in graph.node if node.name not in between or node.name in kept]


def _keep_metadata(old: Any, new: Any, weight_bits: int) -> None:
    """The float file's word on itself, and nothing else."""
    del new.metadata_props[:]
    new.metadata_props.extend(old.metadata_props)
    new.metadata_props.add(key="int8", value="true")
    new.metadata_props.add(key="weight_bits", value=str(weight_bits))
