"""Staged features: which maps, their channels and strides, and what is kept of a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import mobile_cv_nas as nas
from mobile_cv_nas.networks.backbone import FeatureBackbone

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", nas.list_models())
def test_maps_of_every_network(name):
    card = nas.get_card(name)
    features = nas.fbnet_builder(name, features_only=True).eval()
    info = features.feature_info
    padded = any("padding" in block.options for stage in card.arch.stages for block in stage)
    with torch.inference_mode():
        maps = features(torch.randn(1, card.in_channels, card.input_size, card.input_size))
    assert [m.shape[1] for m in maps] == info.channels
    for found, stride in zip(maps, info.strides, strict=True):
        # some FBNetV3 take a row and a column less where the released tables say so
        assert abs(found.shape[2] - -(-card.input_size // stride)) <= (1 if padded else 0)
    if card.classes == 1000:
        assert info.strides == [2, 4, 8, 16, 32]


def test_channels_are_those_timm_takes():
    assert nas.fbnet_builder("FBNet_C", features_only=True).feature_info.channels == [16, 24, 32, 112, 352]
    assert nas.fbnet_builder("EfficientNet_B0", features_only=True).feature_info.channels == [16, 24, 40, 112, 320]
    assert nas.fbnet_builder("FBNetV2_F4", features_only=True).feature_info.channels == [16, 24, 32, 112, 224]


def test_each_map_is_the_last_of_its_stride():
    network = nas.fbnet_builder("FBNetV2_F1").eval()
    features = FeatureBackbone(network, out_indices=(1, -1)).eval()
    assert features.feature_info.blocks == ["s2b1", "s5b3"]
    x = torch.randn(1, 3, 64, 64)
    expected, y = [], x
    with torch.inference_mode():
        for name, block in network.blocks.named_children():
            y = block(y)
            if name in features.feature_info.blocks:
                expected.append(y.clone())
        for found, wanted in zip(features(x), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_what_no_map_needs_is_dropped_and_names_stay():
    network = nas.fbnet_builder("FBNetV2_F1")
    state = FeatureBackbone(network, out_indices=(0, 2)).state_dict()
    assert {key.split(".")[1] for key in state} == {"s0b0", "s1b0", "s2b0", "s2b1", "s3b0", "s3b1"}
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


def test_every_parameter_gets_a_gradient():
    features = nas.fbnet_builder("FBNetV2_F1", features_only=True)
    for module in features.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a zero gain would hold back what is before it
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    sum(m.square().mean() for m in features(torch.randn(2, 3, 64, 64))).backward()
    # the norm takes out what the bias in front of it adds
    without = [name for name, p in features.named_parameters() if not p.grad.any() and name != "blocks.s0b0.conv.bias"]
    assert not without


@pytest.mark.parametrize("indices", [(5,), (-6,), (), (2, 1), (1, 1), ("2",), (True,)])
def test_bad_indices(indices):
    with pytest.raises(ValueError, match="out_indices"):
        nas.fbnet_builder("FBNetV2_F1", features_only=True, out_indices=indices)


@pytest.mark.parametrize("indices", [[5], [-6], [], [1, "2"], [True], 0, 6, True])
def test_bad_indices_of_intermediates(indices):
    network = nas.fbnet_builder("Digits").eval()
    count = len(network.maps.blocks)
    indices = [5 + count] if indices == [5] else [-1 - count] if indices == [-6] else count + 1 if indices == 6 else indices
    with pytest.raises(ValueError, match="indices"):
        network.forward_intermediates(torch.zeros(1, 3, 16, 16), indices)


def test_weights_reach_the_features(tmp_path):
    network = nas.fbnet_builder("FBNetV2_F1")
    torch.save(network.state_dict(), tmp_path / "net.pth")
    features = nas.fbnet_builder("FBNetV2_F1", features_only=True, weights=tmp_path / "net.pth", in_channels=3)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in features.state_dict().items())


def test_maps_feed_torchvisions_pyramid():
    spec = importlib.util.spec_from_file_location("fpn", ROOT / "examples" / "fpn.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    backbone = example.PyramidBackbone("FBNetV2_F1", width=16)
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {f"p{level}": (2, 16, 64 >> level, 64 >> level) for level in (2, 3, 4, 5)}


def test_a_backbone_can_be_exported():
    features = nas.fbnet_builder("FBNetV2_F1", features_only=True, out_indices=(4,)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(torch.export.export(features, (x,)).module()(x), features(x))


@pytest.mark.parametrize(("stride", "message"), [(24, "goes from stride 16 to no such stride"), (8, "block s4b2: cannot be dilated")])
def test_a_network_that_refuses_an_output_stride_stays_as_it_was(stride, message):
    network = nas.fbnet_builder("FBNetV2_F1")
    if stride == 8:  # behind the blocks that can be
        network.blocks.s4b2 = torch.nn.Conv2d(144, 144, 3, padding="same")
    before = str(list(network.blocks.modules()))
    with pytest.raises(ValueError, match=message):
        network.set_output_stride(stride)
    assert str(list(network.blocks.modules())) == before
    assert (network.dilated, network.maps.strides[-1]) == (False, 32)


def test_a_skip_leaves_no_map_of_its_own():
    """Its map is the one before it; with a change of width it computes one."""
    layer = ["ir_k3", 16, 2, 1, {"expansion": 2}]
    stages = [[["conv_k3", 8, 2, 1]], [layer, ["skip", 16, 1, 1]], [layer, ["skip", 24, 1, 1]], [["ir_k3", 32, 2, 1, {"expansion": 2}]]]
    arch = nas.ArchDef.parse({"input_size": 32, "stages": stages})
    info = FeatureBackbone(nas.build_model(arch, 10)).feature_info
    assert (info.blocks, info.channels) == (["s0b0", "s1b0", "s2b1", "s3b0"], [8, 16, 24, 32])
