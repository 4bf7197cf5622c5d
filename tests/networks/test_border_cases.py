"""The border cases of the mathematics: blocks without a joint property, first blocks that read any number of channels."""

import random

import pytest
import torch

import mobile_cv_nas as nas
from mobile_cv_nas.nn.heads import HeadDef


def _space(first, rest=()):
    return nas.SearchSpace.parse({"input_size": 16, "stages": [[first], *([row] for row in rest)]})


def test_a_marginal_leaves_out_every_block_without_the_property():
    names = ["conv_k1", "ir_k3", "ir_k5", "conv_k3"]
    supernet = nas.build_supernet(_space(["conv_k3", 8, 1], [[names, 8, 1]]), num_classes=4, sharing="full")
    with torch.no_grad():
        supernet.alphas()["s1b0.block"].copy_(torch.tensor([0.3, -0.2, 0.5, 1.1]))
    kernel = supernet.blocks["s1b0"].units["ir"].dw.kernel
    taps = supernet.gates().tensor(kernel)
    wide = torch.softmax(torch.tensor([-0.2, 0.5]), 0)[1]
    assert taps[2, 2].item() == pytest.approx(1, abs=1e-6)
    assert taps[0, 0].item() == pytest.approx(wide.item(), abs=1e-6)


@pytest.mark.parametrize("sharing", ["none", "full"])
@pytest.mark.parametrize("in_channels", [1, 3, 8])
@pytest.mark.parametrize("options", [{"expansion": 1, "divisor": 1}, {"expansion": 4}, {"expansion": {"any": [1, 4]}}])
def test_a_first_inverted_residual_reads_any_number_of_channels(options, in_channels, sharing):
    space = _space([["ir_k3", "ir_k5"], {"any": [4, 8]}, 1, 1, options], [["conv_k3", 8, 2]])
    torch.manual_seed(0)
    supernet = nas.build_supernet(space, num_classes=4, in_channels=in_channels, sharing=sharing).eval()
    for seed in range(8):
        arch = space.sample(seed)
        supernet.select(arch)
        child = nas.inherit_weights(nas.build_model(arch, 4, in_channels), supernet).eval()
        x = torch.randn(2, in_channels, 16, 16)
        with torch.no_grad():
            assert (supernet(x) - child(x)).abs().max() < 1e-5
        cost = arch.cost(4, in_channels)
        assert nas.count(child, 16, in_channels) == cost
        assert supernet.cost().macs.item() == cost.macs
        assert supernet.cost().params.item() == cost.params


def test_a_fixed_skip_is_a_block_like_others():
    """Alone in its row it is computed, with a convolution where widths change: nothing stands beside it that could be skipped."""
    space = _space(["conv_k3", 8, 1], [["skip", 16], [["ir_k3", "ir_k5"], 8, 2]])
    supernet = nas.build_supernet(space, num_classes=4).eval()
    for seed in range(4):
        arch = space.sample(seed)
        supernet.select(arch)
        child = nas.inherit_weights(nas.build_model(arch, 4), supernet).eval()
        x = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            assert (supernet(x) - child(x)).abs().max() < 1e-5
        assert supernet.cost().macs.item() == arch.cost(4).macs


def test_a_seed_draws_as_its_generator():
    space = _space(["conv_k3", [8, 64, 8], 1], [["ir_k3", [8, 64, 8], 2]])
    assert space.sample(7) == space.sample(random.Random(7))
    assert space.sample(0) == space.sample(0)


def test_a_child_of_other_image_channels_inherits_nothing():
    space = _space(["conv_k3", 8, 2], [[["ir_k3", "ir_k5"], [8, 16, 8], 2]])
    child, supernet = nas.build_model(space.sample(0), 4, 1), nas.build_supernet(space, 4)
    with pytest.raises(ValueError, match="images of 1 channels, the supernet of 3; give as many"):
        nas.inherit_weights(child, supernet)


@pytest.mark.parametrize(
    ("head", "options", "other", "word"),
    [
        ("lraspp", {"channels": 16, "low_stride": 4}, {"channels": 8, "low_stride": 4, "output_stride": 16}, r"classifier\.cbr\.0\.weight"),
        ("ssdlite", {"channels": 16, "strides": (8, 16)}, {"channels": 8, "strides": (8, 16), "input_size": 64}, r"backbone\.neck\.blocks"),
        ("ssdlite", {"channels": 8, "strides": (8, 16), "ratios": 2},
         {"channels": 8, "strides": (8, 16), "input_size": 64, "aspect_ratios": (2,)}, r"head\.classification_head"),
    ],
    ids=["lraspp", "ssdlite", "ratios"],
)  # fmt: skip
def test_a_head_of_other_options_is_no_slice_of_the_supernets(head, options, other, word):
    """Shorter than the supernet's are those dimensions only that belong to the maps: all of the smallest arch's are."""
    stages = [[["conv_k3", 4, 2]], *([[["ir_k3", "ir_k5"], [4, 8, 4], 2, 1, {"expansion": 1}]] for _ in range(3))]
    space = nas.SearchSpace.parse({"input_size": 64, "stages": stages})
    supernet, arch = nas.build_supernet(space, head=HeadDef(head, 3, options)), space.smallest()
    build = nas.build_segmenter if head == "lraspp" else nas.build_detector
    fits = {key: value for key, value in {**other, **options}.items() if key not in ("ratios", "aspect_ratios")}
    nas.inherit_weights(build(head, arch, 3, **fits), supernet)
    with pytest.raises(ValueError, match=rf"{word}.*, the supernet's {head} would have .*; give it the same options"):
        nas.inherit_weights(build(head, arch, 3, **other), supernet)
