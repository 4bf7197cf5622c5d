"""Hard activations of int8 .onnx files: ranges of what they tell apart, and hard swish by integers alone, code by code."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import renewed
from onnx import helper, numpy_helper
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.deploy.hard_swish import hard_activations

FUNCTIONS = {"HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1), "HardSigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1)}


def around(function, low, high, also=()):
    """A graph in QDQ form: x in bytes from `low` to `high`, the function, and its result y in bytes of just its range; and a step of y."""
    codes, node = np.linspace(low, high, 2001), helper.make_node
    y = FUNCTIONS[function](codes)
    steps = [(high - low) / 255, (max(y.max(), 0) - min(y.min(), 0)) / 255]
    zeros = [round(-low / steps[0]), round(-min(y.min(), 0) / steps[1])]
    options = {"alpha": 1 / 6, "beta": 0.5} if function == "HardSigmoid" else {}
    nodes = [
        node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_codes"], "x_q"),
        node("DequantizeLinear", ["x_codes", "x_scale", "x_zero"], ["x_read"], "x_d"),
        node(function, ["x_read"], ["f"], "function", **options),
        node("QuantizeLinear", ["f", "y_scale", "y_zero"], ["y_codes"], "y_q"),
        node("DequantizeLinear", ["y_codes", "y_scale", "y_zero"], ["y"], "y_d"),
        *also,
    ]
    constants = [numpy_helper.from_array(np.float32(step), f"{name}_scale") for name, step in zip("xy", steps, strict=True)]
    constants += [numpy_helper.from_array(np.uint8(zero), f"{name}_zero") for name, zero in zip("xy", zeros, strict=True)]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "around", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), steps[1]


def run(model, x, optimized):
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": np.float32(x)})[0]


def constant(model, name):
    return next(numpy_helper.to_array(one).item() for one in model.graph.initializer if one.name == name)


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize(
    ("low", "high", "most"),
    [
        (-3, 3, 1),
        (-10, 12, 1),
        (-200, 40, 1),
        (-1, 1, 1),
        (-0.02, 0.03, 1),
        (0, 6, 1),
        (0, 0.5, 1),
        (-3, 0.3, 1.1),
        (-6, 0, 2),
        (-2.9, 0.01, 2.4),
    ],
)
def test_every_code(low, high, most, optimized):
    """In bytes that onnxruntime fuses, and as the file says it."""
    model, step = around("HardSwish", low, high)
    hard_activations(onnx, model.graph)
    assert "HardSwish" not in {node.op_type for node in model.graph.node}
    scale, zero = constant(model, "x_scale"), constant(model, "x_zero")
    x = scale * (np.arange(256) - zero)
    lowest, highest = (step * (code - constant(model, "y_zero")) for code in (0, 255))
    expected = np.clip(FUNCTIONS["HardSwish"](x), lowest, highest)
    np.testing.assert_allclose(run(model, x, optimized), expected, rtol=0, atol=most * step * 1.001)


@pytest.mark.parametrize(
    ("function", "ends", "trimmed"),
    [
        ("HardSwish", (-10, 12), (-3, 12)),
        ("HardSwish", (-2, 12), (-2, 12)),
        ("HardSwish", (-8, 0), (-3, 0)),
        ("HardSigmoid", (-10, 12), (-3, 3)),
        ("HardSigmoid", (-1, 12), (-1, 3)),
        ("HardSigmoid", (-10, 2), (-3, 2)),
        ("HardSigmoid", (-1, 2), (-1, 2)),
    ],
)
def test_ranges(function, ends, trimmed):
    model, step = around(function, *ends)
    hard_activations(onnx, model.graph)
    scale, zero = constant(model, "x_scale"), constant(model, "x_zero")
    assert (-zero * scale, (255 - zero) * scale) == pytest.approx(trimmed, abs=(ends[1] - ends[0]) / 255)
    x = np.linspace(*ends, 999)
    # half a step of each side, where the slope is at most 1.5; and the gate's
    np.testing.assert_allclose(run(model, x, True), FUNCTIONS[function](x), rtol=0, atol=0.75 * scale + 2 * step)


def test_a_map_that_others_read_keeps_its_range():
    for also in (
        helper.make_node("Neg", ["x_read"], ["minus"], "other"),
        helper.make_node("DequantizeLinear", ["x_codes", "x_scale", "x_zero"], ["again"], "other"),
        helper.make_node("DequantizeLinear", ["x_codes", "y_scale", "y_zero"], ["again"], "other"),
        helper.make_node("QuantizeLinear", ["f", "x_scale", "x_zero"], ["like_x"], "other"),
    ):
        model, step = around("HardSwish", -10, 12, [also])
        hard_activations(onnx, model.graph)
        assert constant(model, "x_scale") == pytest.approx(22 / 255)
        x = np.linspace(-10, 12, 999)
        np.testing.assert_allclose(run(model, x, True), FUNCTIONS["HardSwish"](x), rtol=0, atol=0.75 * 22 / 255 + step)


def test_what_is_not_in_bytes_stays():
    for also in ([helper.make_node("Neg", ["f"], ["minus"], "other")], []):
        model, _ = around("HardSwish", -10, 12, also)
        if not also:  # of two bytes
            zero = next(one for one in model.graph.initializer if one.name == "y_zero")
            zero.CopyFrom(numpy_helper.from_array(np.uint16(3), "y_zero"))
        hard_activations(onnx, model.graph)
        assert "HardSwish" in {node.op_type for node in model.graph.node}


def test_a_network(tmp_path, monkeypatch):
    """All hard swishes are of integers, and finer ranges lose less."""
    stages = [[["conv_k3_hs", 16, 2, 1]], [["ir_k3_sehsig_hs", 16, 1, 2, {"expansion": 4}]], [["conv_k1_hs", 32, 1, 1]]]
    torch.manual_seed(2)
    network = renewed(nas.build_model(nas.ArchDef.parse({"name": "hard", "input_size": 16, "stages": stages}), 10))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= 8  # so that values leave -3 to 3
    images, noise = list(torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))), []
    for change in (lambda onnx, graph: None, hard_activations):
        monkeypatch.setattr("mobile_cv_nas.deploy.quantize.hard_activations", change)
        result = nas.export(network, tmp_path / "net.onnx", int8=images, images=24)
        noise.append(result.int8.sqnr["logits"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node)
    assert (found["HardSwish"], found["HardSigmoid"]) == (0, 2)
    assert noise[1] > noise[0] + 0.5, noise
