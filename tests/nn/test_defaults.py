"""What layers, blocks and heads are where nothing is said."""

from __future__ import annotations

import torch

from mobile_cv_nas.nn.block import Dims
from mobile_cv_nas.nn.blocks import BLOCKS, InvertedResidual
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.nn.layers import ConvNormAct


def test_a_convolution() -> None:
    layer = ConvNormAct(4, 8)
    conv = layer.conv
    assert (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups) == ((1, 1), (1, 1), (0, 0), (1, 1), 1)
    assert (conv.bias, layer.act, layer.norm.eps, layer.depthwise) == (None, None, 1e-5, False)
    assert ConvNormAct(4, 8, 3).conv.padding == (1, 1)


def test_an_inverted_residual() -> None:
    block = InvertedResidual(Dims(8, 8, hidden=16))
    convs = [m for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in convs] == [
        (8, 16, 1, 1, 1),
        (16, 16, 3, 1, 16),
        (16, 8, 1, 1, 1),
    ]
    norms = [m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [n.eps for n in norms] == [1e-5] * 3
    assert all(n.weight.eq(1).all() for n in norms)
    assert not any(c.bias is not None for c in convs)
    assert sum(isinstance(m, torch.nn.ReLU) for m in block.modules()) == 2
    assert block.se is None


def test_blocks_by_name() -> None:
    """Kernel, activation, whether there is a bias and a norm's epsilon: the release's."""
    for name, kernel, act in (("conv_k3", 3, torch.nn.ReLU), ("conv_k1_hs", 1, torch.nn.Hardswish), ("conv_k5", 5, torch.nn.ReLU)):
        block = BLOCKS.get(name)
        layers = list(block.func(Dims(4, 8), **block.keywords).modules())
        (conv,) = (m for m in layers if isinstance(m, torch.nn.Conv2d))
        (norm,) = (m for m in layers if isinstance(m, torch.nn.BatchNorm2d))
        assert (conv.kernel_size[0], conv.stride, conv.padding[0], conv.groups, conv.bias) == (kernel, (1, 1), kernel // 2, 1, None)
        assert norm.eps == 1e-5
        assert sum(isinstance(m, act) for m in layers) == 1


def test_heads() -> None:
    """torchvision's LR-ASPP at stride 8, and SSDLite with the ratios 2 and 3."""
    assert HeadDef("classifier", 5).arguments == {}
    assert HeadDef("lraspp", 5).arguments == {"channels": 128, "low_stride": 8}
    assert HeadDef("lraspp", 5, {"channels": 16}).arguments == {"channels": 16, "low_stride": 8}
    assert HeadDef("ssdlite", 5).arguments == {"channels": 128, "strides": (16, 32), "ratios": 2}
