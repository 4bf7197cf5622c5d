"""Quantisation-aware training: what it computes, what it leaves alone, and what an export loses afterwards."""

import copy

import numpy as np
import pytest
import torch
from helpers import quick_cfg, run_training, tiny_arch
from spaces import randomise

import mobile_cv_nas as nas
from mobile_cv_nas.config import ConfigError, load_config
from mobile_cv_nas.training.quantised import Quantised, rounded, rounded_weight


def test_rounding_by_hand():
    x = torch.tensor([-1.0, 0.0, 0.004, 3.0])
    step = 4 / 255
    zero = round(1 / step)
    expected = (np.clip(np.rint(x.numpy() / step) + zero, 0, 255) - zero) * step
    assert np.allclose(rounded(x).numpy(), expected, atol=1e-6)
    assert rounded(torch.zeros(3)).tolist() == [0, 0, 0]
    w = torch.tensor([[1.0, -0.5, 0.303], [100.0, 1.0, 50.0]])
    assert torch.allclose(rounded_weight(w), torch.stack([torch.round(r / r.abs().max() * 127) / 127 * r.abs().max() for r in w]))


def test_gradients_pass_straight_through():
    x, w = torch.randn(5, 7, requires_grad=True), torch.randn(4, 7, requires_grad=True)
    (rounded(x).sum() + 2 * rounded_weight(w).sum()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert torch.equal(w.grad, 2 * torch.ones_like(w))


def test_the_network_stays_a_float_network():
    """Its state, its norms' statistics and its own forward; under the wrapper, weights are on their steps and every one learns."""
    torch.manual_seed(0)
    network = nas.build_model(tiny_arch(), 5)
    randomise(network)
    before, images = copy.deepcopy(network.state_dict()), torch.randn(4, 3, 8, 8)
    plain = network.eval()(images)
    quantised = Quantised(network)
    assert torch.equal(quantised.eval()(images), quantised.train()(images))  # no statistics of the batch
    found = quantised.train()(images)
    difference = (found - plain).abs().max() / plain.abs().max()
    assert 1e-4 < difference < 0.1
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network.eval()(images), plain)


def test_it_is_the_float_network_at_many_steps(monkeypatch):
    """With rounding switched off, the wrapper is the network: no layer is forgotten or computed twice."""
    network = nas.build_model(tiny_arch(), 5).eval()
    randomise(network)
    images = torch.randn(4, 3, 8, 8)
    seen = []
    monkeypatch.setattr("mobile_cv_nas.training.quantised.rounded", lambda x: (seen.append(x.shape), x)[1])
    monkeypatch.setattr("mobile_cv_nas.training.quantised.rounded_weight", lambda w: w)
    assert torch.equal(Quantised(network).eval()(images), network(images))
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in network.modules())
    assert len(seen) > convolutions - 2 * sum("se" in name for name in dict(network.named_modules()))


def test_a_run_goes_on_from_a_model_and_exports(tmp_path):
    arch = tmp_path / "arch.yaml"
    tiny_arch().save(arch)
    run_training(quick_cfg(tmp_path / "float", "MODEL.ARCH", str(arch), "TRAIN.EPOCHS", "4"))
    options = ["MODEL.WEIGHTS", str(tmp_path / "float"), "TRAIN.INIT", "inherit", "TRAIN.LR", "0.01", "TRAIN.QAT", "True"]
    printed = run_training(quick_cfg(tmp_path / "qat", *options, "EXPORT.FORMATS", "[onnx]", "EXPORT.INT8", "True", "EXPORT.IMAGES", "64"))
    assert "int8" in printed
    first, second = nas.load(tmp_path / "float").network, nas.load(tmp_path / "qat").network
    norms = [name for name in first.state_dict() if "running" in name]
    assert all(torch.equal(first.state_dict()[name], second.state_dict()[name]) for name in norms)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    int8 = nas.load(tmp_path / "qat" / "model.onnx")
    assert len(int8.classes) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["TRAIN.QAT", "True"], "TRAIN.INIT"),
        (["TRAIN.QAT", "True", "TRAIN.INIT", "inherit", "RUNTIME.COMPILE", "True"], "RUNTIME.COMPILE"),
    ],
)
def test_what_it_does_not_go_with(options, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, options, "train")
