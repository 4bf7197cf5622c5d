"""Every registered block: cost against fvcore, shapes, residuals, gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from spaces import randomise
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.nn.blocks import Block, Dims, InvertedResidual, IRPool
from mobile_cv_nas.nn.layers import ConvNormAct, ConvOptions, SqueezeExcite, _Blend
from mobile_cv_nas.nn.register import block_type

NAMES = sorted(name for name, _ in nas.BLOCKS)


def test_the_registry_is_complete() -> None:
    family = {f"ir_k{k}{se}{hs}" for k in (3, 5, 7) for se in ("", "_se", "_sehsig") for hs in ("", "_hs")}
    convolutions = {f"conv_k{k}{hs}" for k in (1, 3, 5) for hs in ("", "_hs")}
    whole = {f"ir_k{k}_{of}" for k in (3, 5) for of in ("e1", "e1_g2", "e3", "e6")}
    assert set(NAMES) == family | convolutions | whole | {"skip", "ir_pool", "ir_pool_hs"}
    with pytest.raises(AssertionError):
        nas.BLOCKS._do_register("skip", nn.Identity)


OPTIONS = [
    {},
    {"expansion": 1},
    {"expansion": 2.3, "bias": True},
    {"hidden": 16, "groups": 2},
    {"padding": 0},
    {"padding": "same"},
    {"squeeze": 5},
]
OPTIONS += [{"squeeze_from": "input", "se_activation": "relu"}, {"activation": "silu"}, {"divisor": 1, "expansion": 1.7, "norm_eps": 0.01}]
OPTIONS += [{"se": "hsigmoid", "expansion": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_block_counts_runs_and_learns(name: str, options: dict) -> None:
    kind, _ = block_type(name)
    if not set(options) <= kind.options:
        pytest.skip("an option of other blocks")
    if {"squeeze", "squeeze_from"} & set(options) and "_se" not in name:
        pytest.skip("no squeeze-and-excite")
    for channels, stride in ((16, 1), (24, 1), (24, 2)):
        if (channels, stride) == (16, 1) and options.get("padding") == 0:
            continue
        arch = nas.ArchDef.parse({"input_size": 12, "stages": [[["conv_k3", 16]], [[name, channels, stride, 1, options]]]})
        model = nas.build_model(arch, 5)
        randomise(model)
        for module in model.modules():
            if isinstance(module, SqueezeExcite):
                nn.init.constant_(module.reduce.bias, 3.0)  # keeps its ReLUs alive
        assert nas.count(model, 12) == arch.cost(5)
        model(torch.randn(4, 3, 12, 12)).square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            if not (key.endswith("conv.bias")):  # in front of a norm: no effect in training
                assert parameter.grad.abs().max() > 0, key


def test_residual_is_present_at_stride_1_and_equal_widths_only() -> None:
    for c_out, stride, expected in ((16, 1, True), (24, 1, False), (16, 2, False)):
        block = InvertedResidual(Dims(16, c_out, stride, 32)).eval()
        x = torch.randn(2, 16, 8, 8)
        difference = block(x) - block.transform(x)
        assert torch.equal(difference, torch.zeros_like(difference)) != expected


def test_zero_gamma_is_an_initial_value_of_blocks_with_a_residual() -> None:
    gains = [InvertedResidual(Dims(16, c, 1, 32), zero_gamma=True).pwl.norm.weight for c in (16, 24)]
    assert not gains[0].any()
    assert gains[1].all()


def test_initial_values() -> None:
    torch.manual_seed(0)
    conv = ConvNormAct(64, 128, 3, activation="relu", options=ConvOptions(bias=True)).conv
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert not conv.bias.any()


def test_blend_has_the_gradient_of_its_definition() -> None:
    x = (torch.randn(64, dtype=torch.float64) * 3).requires_grad_()
    p = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected = p * nn.functional.hardswish(x) + (1 - p) * nn.functional.relu(x)
    torch.testing.assert_close(_Blend.apply(x, p), expected)
    grad = torch.randn(64, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, (x, p), grad)
    torch.testing.assert_close(torch.autograd.grad(_Blend.apply(x, p), (x, p), grad), wanted, rtol=1e-6, atol=1e-6)


class Shrink(Block):
    """A block of a user's own: averages pairs of channels, then one convolution."""

    options = frozenset({"bias"})

    def __init__(self, dims: Dims, bias: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(dims.c_in, dims.c_out, 1, dims.stride, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_a_block_of_ones_own() -> None:
    nas.BLOCKS._do_register("test_shrink", partial(Shrink))
    try:
        table = {"input_size": 8, "stages": [[["test_shrink", 8, 1, 1, {"bias": True}], ["ir_k3", 8]]]}
        model = nas.build_model(nas.ArchDef.parse(table), 4)
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 4)
        assert model.blocks.s0b0.conv.bias is not None
    finally:
        nas.BLOCKS._obj_map.pop("test_shrink")


def test_stages_of_a_network_have_the_shapes_the_arch_says() -> None:
    table = {"input_size": 32, "stages": [[["conv_k3", 8, 2]], [["ir_k5_se", 16, 2, 2], ["skip", 24]], [["ir_pool", 40]]]}
    model = nas.build_model(nas.ArchDef.parse(table), 4).eval()
    x, shapes = torch.randn(1, 3, 32, 32), {}
    for key, block in model.blocks.named_children():
        x = block(x)
        shapes[key] = tuple(x.shape[1:])
    assert shapes == {"s0b0": (8, 16, 16), "s1b0": (16, 8, 8), "s1b1": (16, 8, 8), "s1b2": (24, 8, 8), "s2b0": (40, 1, 1)}


def test_the_bias_of_a_pooled_convolution_begins_at_zero() -> None:
    pooled, plain = (IRPool(Dims(8, 16, 1, 24), bias=bias) for bias in (True, False))
    assert torch.equal(pooled.pwl.bias, torch.zeros(16))
    assert plain.pwl.bias is None
