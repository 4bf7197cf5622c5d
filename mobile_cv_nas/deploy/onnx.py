"""ONNX: one file, of any number of images, that says what it is and nothing of the machine that wrote it."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import require
from .interface import INPUT, Interface


def write_onnx(module: nn.Module, interface: Interface, content: Mapping[str, Any], path: Path) -> None:
    """Writes what `wrap` gives as an .onnx file, with `content` as its metadata, a JSON value an entry.

    Nodes of convolutions and linear layers have the names of their modules.

    Raises:
        InputError: without the packages of the extra `onnx`.
    """
    onnx: Any = require("onnx", "onnx")
    require("onnxscript", "onnx")
    # An example of one image would be taken for a constant.
    example = torch.zeros(interface.shape(interface.batch or 2), dtype=torch.uint8 if interface.with_transform else torch.float32)
    shapes = None if interface.batch else ({0: torch.export.Dim("batch", min=1)},)
    with quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[INPUT],
            output_names=list(interface.outputs),
            verbose=False,
        )
    program.save(str(path), external_data=False)
    graph = onnx.load(str(path))
    _rename(graph.graph)
    _name_pools(onnx, graph.graph)
    _strip(graph)
    for name, value in content.items():
        graph.metadata_props.add(key=name, value=json.dumps(value))
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def _rename(graph: Any) -> None:
    """Gives convolutions and linear layers the names of their modules: the errors of layers and `keep_float` speak of these."""
    taken: dict[str, int] = {}
    for node in graph.node:
        scopes = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "[]")
        names = ast.literal_eval(scopes)
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(names) < 2:
            continue
        name = names[-2].removeprefix("network.")
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}:{taken[name]}"


def _name_pools(onnx: Any, graph: Any) -> None:
    """Makes global pools of means over both sides: the same, and of these onnxruntime has an int8 form."""
    values = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in values:
            continue
        axes = onnx.numpy_helper.to_array(values[node.input[1]]).tolist()
        keeps = all(one.i for one in node.attribute if one.name == "keepdims")
        if keeps and sorted(axis % 4 for axis in axes) == [2, 3]:  # maps have four dimensions
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    used = {name for node in graph.node for name in node.input}
    for one in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(one)


def _strip(model: Any) -> None:
    """Removes the exporter's notes: they hold stack traces with this machine's paths, and nearly half of a small file."""
    graph = model.graph
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in part:
            del item.metadata_props[:]
            item.doc_string = ""
    del graph.metadata_props[:], model.metadata_props[:], model.functions[:]
    model.doc_string = graph.doc_string = ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it exporters keep their warnings to themselves: what matters is checked afterwards."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
