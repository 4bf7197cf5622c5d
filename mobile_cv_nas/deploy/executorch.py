"""ExecuTorch: a .pte file for XNNPACK, in float or int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import require
from .calibrate import within
from .file_network import as_input
from .interface import Interface
from .onnx import quiet

MOST = 8  # images a call of a file of any number: memory is reserved for so many, and beyond the width of a layer not granted
_XNNPACK = "executorch.backends.xnnpack"


def write_pte(module: nn.Module, interface: Interface, path: Path, images: Sequence[Tensor] = (), keep_float: Sequence[str] = ()) -> int:
    """Writes what `wrap` gives as a .pte file; with `images`, (C, S, S) and normalised, calibrated on these, in int8.

    A file of a fixed number of images hands XNNPACK the whole network in one call; one of any number, 1 to `MOST`, reshapes outside of it.

    Returns:
        Calls of the delegate.

    Raises:
        InputError: without the packages of the extra `executorch`.
    """
    with quiet():  # torchao speaks while it is imported
        exir: Any = require("executorch.exir", "executorch")
        partition: Any = require(f"{_XNNPACK}.partition.xnnpack_partitioner", "executorch")
    example = torch.zeros(interface.shape(interface.batch or 2), dtype=torch.uint8 if interface.with_transform else torch.float32)
    shapes = None if interface.batch else ({0: torch.export.Dim("batch", min=1, max=MOST)},)
    with quiet(), torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=shapes)
        if images:
            quantized = _quantized(program.module(), interface, images, keep_float)
            program = torch.export.export(quantized, (example,), dynamic_shapes=shapes)
        edge = exir.to_edge_transform_and_lower(program, partitioner=[partition.XnnpackPartitioner()])
        calls = sum("call_delegate" in str(node.target) for node in edge.exported_program().graph.nodes)
        with open(path, "wb") as file:
            edge.to_executorch().write_to_file(file)
    return calls


def _quantized(graph: Any, interface: Interface, images: Sequence[Tensor], keep_float: Sequence[str]) -> Any:
    """A graph whose layers are int8: PT2E, weights by channel."""
    pt2e: Any = require("torchao.quantization.pt2e", "executorch")
    steps: Any = require("torchao.quantization.pt2e.quantize_pt2e", "executorch")
    xnnpack: Any = require(f"{_XNNPACK}.quantizer.xnnpack_quantizer", "executorch")
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    # of its observers the default one is slow, and cuts off what is rare
    observer = pt2e.MinMaxObserver.with_args(eps=2**-12)
    activation = {
        name: replace(getattr(config, name), observer_or_fake_quant_ctr=observer) for name in ("input_activation", "output_activation")
    }
    quantizer = xnnpack.XNNPACKQuantizer().set_global(replace(config, **activation))
    quantizer.set_filter_function(lambda node: _is_layer(node, keep_float))
    prepared = steps.prepare_pt2e(graph, quantizer)
    for image in images:
        given = as_input(image[None], interface)
        prepared(given.repeat(interface.batch or 1, 1, 1, 1))
    _restrict_relu6(prepared)
    return steps.convert_pt2e(prepared)


def _is_layer(node: Any, keep_float: Sequence[str]) -> bool:
    """Whether a node belongs to a layer, and not to the transform before or the boxes after them, and is none to keep in float."""
    if node.op != "call_function":  # weights are asked for together with the layer, and belong to none
        return True
    names = [name.removeprefix("L['self'].") for name, _ in node.meta.get("nn_module_stack", {}).values()]
    name = names[-1] if names else ""
    return name not in ("", "network") and not within(name.removeprefix("network."), keep_float)


def _restrict_relu6(prepared: Any) -> None:
    """Gives what a relu6 reads the range that it writes: the quantizer makes both share one, which would be the wider.

    Quantising to 0..6 is relu6. Without this a map in 0..6 may keep 8 of 256 levels.
    """
    for node in prepared.graph.nodes:
        if node.op == "call_function" and "hardtanh" in str(node.target) and node.args[0].op == "call_module":
            observer = getattr(prepared, node.args[0].target)
            low, high = node.args[1:3] if len(node.args) > 2 else (-1.0, 1.0)
            observer.min_val.fill_(low)
            observer.max_val.fill_(high)
