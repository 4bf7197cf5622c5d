"""Networks and backbones in TorchScript and under torch.export: the same outputs, whole and in parts."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

import mobile_cv_nas as nas

# ends in an ir_pool, of grey images; in a convolution, with skips and channel shuffles, with squeeze-and-excite
FEW, MORE = ("FBNetV2_F1", "Digits"), ("FBNet_C", "FBNet_A", "EfficientNet_B0", "FBNetV3_A0", "EfficientNet_Lite0")
BUILDS = [(name, features) for name in FEW for features in (False, True)]
BUILDS += [pytest.param(name, features, marks=pytest.mark.sweep) for name in MORE for features in (False, True)]
SEARCHED = [["conv_k3", 8, 2, 1]], [["ir_k3", 8, 1, 2, {"expansion": 2}], ["skip", 16, 1, 1]], [["ir_pool", 24, 1, 1]]


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        return torch.jit.script(network)


def built(name: str, features: bool) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = nas.fbnet_builder(name, features_only=features).eval()
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    return network, torch.randn(2, channels, 64, 64)


@pytest.mark.parametrize(("name", "features"), BUILDS)
@torch.inference_mode()
def test_scripted(name, features, tmp_path):
    network, x = built(name, features)
    script = scripted(network)
    torch.testing.assert_close(script(x), network(x), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.(save|load)` is deprecated", FutureWarning)
        script.save(tmp_path / "net.pt")
        again = torch.jit.load(tmp_path / "net.pt")
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
    if not features:
        ends = again.forward_features(x)
        torch.testing.assert_close(ends, network.forward_features(x), rtol=0, atol=0)
        torch.testing.assert_close(again.forward_head(ends), network(x), rtol=0, atol=0)
        assert again.forward_head(ends, pre_logits=True).shape == (2, network.head_hidden_size)


@pytest.mark.parametrize(("name", "features"), BUILDS)
@torch.inference_mode()
def test_exported_for_any_batch(name, features):
    network, x = built(name, features)
    program = torch.export.export(network, (x,), dynamic_shapes={"x": {0: Dim("batch", min=1)}}).module()
    for images in (x, x[:1], torch.cat([x, x, x])):
        torch.testing.assert_close(program(images), network(images), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_scripted_child_of_a_search_and_its_options():
    arch = nas.ArchDef.parse({"input_size": 32, "stages": SEARCHED})
    network = nas.build_model(arch, num_classes=3)
    network.drop_rate = 0.5
    network.set_drop_path(0.5)
    network.set_grad_checkpointing()
    x = torch.randn(2, 3, 32, 32)
    network.eval()
    torch.testing.assert_close(scripted(network)(x), network(x), rtol=0, atol=0)
    network.reset_classifier(0, "")
    torch.testing.assert_close(scripted(network)(x), network(x), rtol=0, atol=0)
    assert network(x).shape == (2, 24, 16, 16)


def test_padding_that_depends_on_the_size_is_traced():
    arch = nas.ArchDef.parse({"input_size": 32, "defaults": {"padding": "same"}, "stages": [[["conv_k3", 8, 2, 1]], [["ir_k5", 8, 2, 1]]]})
    network = nas.build_model(arch, num_classes=3).eval()
    for traced in (torch.fx.symbolic_trace(network), scripted(network)):
        for side in (32, 33):
            x = torch.randn(2, 3, side, side)
            torch.testing.assert_close(traced(x), network(x), rtol=0, atol=0)


def test_a_scripted_network_learns():
    torch.manual_seed(0)
    network = nas.build_model(nas.get_arch("FBNetV2_F1"), num_classes=3)
    script = scripted(network)
    x = torch.randn(2, 3, 64, 64)
    script(x).square().sum().backward()
    grads = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network(x).square().sum().backward()
    for a, p in zip(grads, network.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4)


def test_a_whole_network_is_saved_and_copied(tmp_path):
    network = nas.fbnet_builder("FBNetV2_F1").eval()
    torch.save(network, tmp_path / "network.pt")
    x = torch.randn(1, 3, 64, 64)
    for again in (torch.load(tmp_path / "network.pt", weights_only=False), copy.deepcopy(network)):
        torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
        assert again.arch == network.arch


def test_activations_are_kept_until_it_is_asked_otherwise():
    network = nas.fbnet_builder("Digits")
    for part in (network, nas.fbnet_builder("Digits", features_only=True)):
        assert not part.grad_checkpointing
        part.set_grad_checkpointing()
        assert part.grad_checkpointing
        part.set_grad_checkpointing(False)
        assert not part.grad_checkpointing
