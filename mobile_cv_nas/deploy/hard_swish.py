"""Hard activations of an int8 .onnx file: ranges of what they tell apart, and hard swish in integers alone.

onnxruntime has no integer form of x hardsigmoid(x): it computes it in float between two conversions, which cost what integer convolutions
save. An addition that saturates is a clip, so that hard swish is one integer addition and one integer product.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

_CODES = 255  # the largest of an unsigned byte
_LOW, _HIGH = -3.0, 3.0  # hard sigmoid is 0 below and 1 above


@dataclass
class _Range:
    """What the codes of a map stand for: scale (code - zero)."""

    scale: np.float32
    zero: np.uint8

    @classmethod
    def of(cls, low: float, high: float) -> _Range:
        scale = np.float32((high - low) / _CODES)
        return cls(scale, np.uint8(round(-low / float(scale))))

    @property
    def ends(self) -> tuple[float, float]:
        return float(self.scale) * -int(self.zero), float(self.scale) * (_CODES - int(self.zero))


class _Graph:
    """A quantized graph: its constants by name, and who writes and reads each value."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx, self.graph = onnx, graph
        self.constants = {one.name: one for one in graph.initializer}
        self.writer = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def range(self, node: Any) -> _Range | None:
        """Of a QuantizeLinear or DequantizeLinear of unsigned bytes; None of any other node."""
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) != 3:
            return None
        if not all(name in self.constants for name in node.input[1:]):
            return None
        scale, zero = (self.onnx.numpy_helper.to_array(self.constants[name]) for name in node.input[1:])
        return _Range(np.float32(scale), np.uint8(zero)) if scale.ndim == 0 and zero.dtype == np.uint8 else None

    def constant(self, name: str, value: Any) -> str:
        """A constant of the graph, made or given another value."""
        if name in self.constants:
            self.constants[name].CopyFrom(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        else:
            self.constants[name] = self.graph.initializer.add()
            self.constants[name].CopyFrom(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name


def hard_activations(onnx: Any, graph: Any) -> None:
    """Trims the ranges of maps that only hard activations read, and writes hard swish in integers.

    Args:
        onnx: the package.
        graph: of a file in QDQ form, activations unsigned; changed in place.
    """
    known = _Graph(onnx, graph)
    nodes: list[Any] = []
    for node in list(graph.node):
        if node.op_type in ("HardSwish", "HardSigmoid"):
            _trim(known, node)
        nodes += (_in_integers(known, node) if node.op_type == "HardSwish" else None) or [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _trim(known: _Graph, node: Any) -> None:
    """Codes for what an activation gives another value for: it is constant below -3, and a hard sigmoid above 3."""
    after = known.writer.get(node.input[0])
    found = known.range(after)
    if after is None or found is None:
        return
    before, names = known.writer.get(after.input[0]), list(after.input[1:])
    if before is None or known.range(before) is None or list(before.input[1:]) != names:
        return
    shared = [one for name in names for one in known.readers[name] if one.name not in (before.name, after.name)]
    if shared or len(known.readers[after.input[0]]) != 1 or len(known.readers[node.input[0]]) != 1:
        return
    low, high = found.ends
    trimmed = _Range.of(max(low, _LOW), min(high, _HIGH) if node.op_type == "HardSigmoid" else high)
    known.constant(names[0], trimmed.scale)
    known.constant(names[1], trimmed.zero)


def _in_integers(known: _Graph, node: Any) -> list[Any] | None:
    """x * min(max(x + 3, 0), 6) / 6, where x and the result are bytes; None where they are not.

    Beside the rounding of the result it is less than a step of it off, and less than two where x hardly reaches above 0.
    """
    x, y = node.input[0], node.output[0]
    read = known.range(known.writer.get(x))
    writes = [one.op_type == "QuantizeLinear" and known.range(one) for one in known.readers[y]]
    if read is None or not writes or not all(writes):
        return None
    gate = _Range.of(0.0, min(read.ends[1], _HIGH) - _LOW)  # its codes end where the sum does: to saturate is to clip
    make = known.onnx.helper.make_node
    three = known.constant("hard_swish_three", np.uint8(_CODES))
    of_three = known.constant("hard_swish_three_scale", np.float32(-_LOW / _CODES))
    zero = known.constant("hard_swish_zero", np.uint8(0))
    scale = known.constant(f"{y}_gate_scale", gate.scale)
    sixth = known.constant(f"{y}_gate_sixth", np.float32(gate.scale / (_HIGH - _LOW)))  # the division by 6 costs nothing
    return [
        make("DequantizeLinear", [three, of_three, zero], [f"{y}_three"], f"{node.name}_three"),
        make("Add", [x, f"{y}_three"], [f"{y}_sum"], f"{node.name}_sum"),
        make("QuantizeLinear", [f"{y}_sum", scale, zero], [f"{y}_codes"], f"{node.name}_clip"),
        make("DequantizeLinear", [f"{y}_codes", sixth, zero], [f"{y}_gate"], f"{node.name}_gate"),
        make("Mul", [x, f"{y}_gate"], [y], f"{node.name}_product"),
    ]
