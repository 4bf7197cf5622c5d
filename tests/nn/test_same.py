"""TensorFlow's padding, against its formula written out and against timm's convolution."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from spaces import parsed, randomise

import mobile_cv_nas as nas
from mobile_cv_nas.nn.same import SameConv2d, same_zeros


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_zeros_are_tensorflows(kernel, stride):
    for size in range(1, 40):
        # tf.nn.convolution: "If padding == 'SAME'"
        out = math.ceil(size / stride)
        total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
        assert same_zeros(size, kernel, stride) == (total // 2, total - total // 2)
        assert (size + total - kernel) // stride + 1 == out


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_equal_to_timms(kernel, stride):
    timm = pytest.importorskip("timm.layers")
    theirs = timm.Conv2dSame(6, 6, kernel, stride, groups=6)
    ours = SameConv2d(6, 6, kernel, stride, groups=6)
    ours.load_state_dict(theirs.state_dict())
    for size in ((12, 12), (13, 12), (15, 17), (2, 3)):
        x = torch.randn(2, 6, *size)
        assert torch.equal(ours(x), theirs(x))
        assert ours(x).shape[2:] == tuple(math.ceil(side / stride) for side in size)


@pytest.mark.parametrize(("stride", "zeros"), [(1, [1, 1, 1, 1]), (2, [0, 1, 0, 1]), (3, [0, 0, 0, 0])])
def test_a_network_pads_so_where_it_strides(stride, zeros):
    """Of 12 pixels, at a kernel of 3: by hand."""
    arch = nas.ArchDef.parse({"input_size": 12, "stages": [[["conv_k3", 8, stride, 1, {"padding": "same"}]]]})
    block = nas.build_model(arch, 4).eval().blocks[0]
    randomise(block)
    x = torch.randn(2, 3, 12, 12)
    by_hand = block.norm(F.conv2d(F.pad(x, zeros), block.conv.weight, block.conv.bias, stride)).relu()
    torch.testing.assert_close(block(x), by_hand)


def test_a_network_with_it_is_counted_for_any_size():
    """Odd, even, and one pixel: sides and MACs of the closed form are those of the tensors."""
    rows = [[["conv_k5", 8, 2]], [["ir_k3", 8, 2], ["ir_k7_se", 16, 3]], [["conv_k3", 16, 4]]]
    for size in (1, 2, 7, 24, 31, 32, 33):
        arch = nas.ArchDef.parse({"input_size": size, "defaults": {"padding": "same"}, "stages": rows})
        assert nas.count(nas.build_model(arch, 4), size) == arch.cost(4)


def test_it_survives_a_file(tmp_path):
    arch = nas.ArchDef.parse({"input_size": 9, "stages": [[["conv_k3", 8, 2, 1, {"padding": "same"}]]]})
    arch.save(tmp_path / "arch.yaml")
    assert nas.ArchDef.load(tmp_path / "arch.yaml") == arch
    with pytest.raises(ValueError, match="key padding: must be an int from 0 to 16, or same, not 'valid'"):
        nas.ArchDef.parse({"input_size": 9, "stages": [[["conv_k3", 8, 2, 1, {"padding": "valid"}]]]})


def test_a_kernel_below_the_stride_shares_no_centre():
    table = {"input_size": 24, "stages": [[["conv_k3", 8]], [[["ir_k3", "ir_k5"], 8, 4, 1, {"padding": "same"}]]]}
    with pytest.raises(ValueError, match=r"s1b0: padding same at stride 4: a kernel of 3 .*sharing none"):
        nas.build_supernet(parsed(table), 4, sharing="full")
    nas.build_supernet(parsed(table), 4, sharing="none")


def test_blocks_of_other_padding_share_no_weights():
    """A block of one's own that pads as TensorFlow stands beside the shared one."""
    nas.register_block("test_ir_k5_same", nas.nn.blocks.InvertedResidual, kernel=5, padding="same")
    try:
        space = parsed({"input_size": 16, "stages": [[["conv_k3", 8]], [[["ir_k3", "ir_k5", "test_ir_k5_same"], 16, 2]]]})
        supernet = nas.build_supernet(space, 4, sharing="full").eval()
        assert set(supernet.blocks["s1b0"].units) == {"ir", "test_ir_k5_same"}
        randomise(supernet)
        x = torch.randn(2, 3, 16, 16)
        for arch in (space.decode({"s1b0.block": i}) for i in range(3)):
            child = nas.inherit_weights(nas.build_model(arch, 4), supernet).eval()
            supernet.select(arch)
            torch.testing.assert_close(supernet(x), child(x), rtol=1e-5, atol=1e-6)
    finally:
        nas.BLOCKS._obj_map.pop("test_ir_k5_same")


@pytest.mark.parametrize("name", ["script", "export"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_it_can_be_compiled_and_exported(name):
    conv = SameConv2d(3, 4, 3, 2).eval()
    x = torch.randn(1, 3, 15, 16)
    made = torch.jit.script(conv) if name == "script" else torch.export.export(conv, (x,)).module()
    torch.testing.assert_close(made(x), conv(x))
