"""num_classes and in_channels of the builder: None is what the weights or the card have, every number is meant as given."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.model_zoo.weights import adapt_stem

ROOT = Path(__file__).parents[2]
ARCH = nas.ArchDef.parse({"input_size": 32, "stages": [[["conv_k3", 8, 2, 1]], [["ir_k3", 8, 1, 1, {"expansion": 2}]]]})
STEM = "blocks.s0b0.conv.weight"


@pytest.fixture
def own(tmp_path):
    """The weights of a network of five classes and two channels."""
    network = nas.build_model(ARCH, num_classes=5, in_channels=2)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    return network.state_dict(), tmp_path / "own.pth"


def numbers(network: torch.nn.Module) -> tuple[int, int]:
    assert (network.num_classes, network.in_chans) == (network.classifier.out_features, network.in_channels)
    return network.num_classes, network.in_channels


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("Digits", {}, (10, 3)),
        ("Digits", {"num_classes": 1000, "in_channels": 1}, (1000, 1)),
        ("FBNetV2_F1", {}, (1000, 3)),
        ("FBNetV2_F1", {"num_classes": 10, "in_channels": 1}, (10, 1)),
        (ARCH, {}, (1000, 3)),
        (ARCH, {"num_classes": None, "in_channels": 4}, (1000, 4)),
    ],
)
def test_without_weights(source, options, expected):
    assert numbers(nas.fbnet_builder(source, **options)) == expected


def test_weights_bring_their_own_head_and_stem(own):
    state, path = own
    network = nas.fbnet_builder(ARCH, weights=path)
    assert numbers(network) == (5, 2)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    same = nas.fbnet_builder(ARCH, weights=path, num_classes=5, in_channels=2)
    assert torch.equal(same.classifier.weight, state["classifier.weight"])


@pytest.mark.parametrize("classes", [1000, 4])
def test_a_number_that_differs_makes_the_head_new(own, classes):
    state, path = own
    with pytest.warns(UserWarning, match=f"5 classes and the network {classes}.*head is new") as caught:
        network = nas.fbnet_builder(ARCH, weights=path, num_classes=classes)
    assert caught[0].filename == __file__, "the caller's line is named"
    assert numbers(network) == (classes, 2)
    assert torch.equal(network.state_dict()[STEM], state[STEM])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_number_of_channels_that_differs_adapts_the_stem(own, channels):
    state, path = own
    network = nas.fbnet_builder(ARCH, weights=path, in_channels=channels)
    assert numbers(network) == (5, channels)
    assert torch.equal(network.state_dict()[STEM], adapt_stem(state[STEM], channels))


def test_the_shipped_digits():
    assert numbers(nas.fbnet_builder("Digits", pretrained=True)) == (10, 3)
    with pytest.warns(UserWarning, match="10 classes and the network 1000"):
        assert numbers(nas.fbnet_builder("Digits", pretrained=True, num_classes=1000)) == (1000, 3)
    assert numbers(nas.fbnet_builder("Digits", pretrained=True, in_channels=1)) == (10, 1)
    with pytest.warns(UserWarning, match="head is new"):
        assert torch.hub.load(str(ROOT), "digits", source="local", pretrained=True, num_classes=3).classifier.out_features == 3


def test_features_have_no_head_to_warn_of(own):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = nas.fbnet_builder(ARCH, weights=own[1], features_only=True, num_classes=9)
    assert features(torch.randn(1, 2, 32, 32))[-1].shape == (1, 8, 16, 16)


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "10"])
def test_no_number(value):
    for name in ("num_classes", "in_channels"):
        with pytest.raises(InputError, match=f"{name} is .*int of 1 or more, or None"):
            nas.fbnet_builder(ARCH, **{name: value})


def test_a_file_of_others_brings_its_number_of_classes(own, tmp_path):
    grey = nas.build_model(ARCH, num_classes=5, in_channels=1)
    torch.save(grey.state_dict(), tmp_path / "grey.pth")
    model = nas.load(tmp_path / "grey.pth", ARCH)
    assert model.classes == ("0", "1", "2", "3", "4")
    assert len(model.transform.mean) == 1
    assert torch.equal(model.network.classifier.bias, grey.classifier.bias)
    assert len(model.predict(torch.zeros(40, 40, dtype=torch.uint8), top=5).scores) == 5
    with pytest.raises(InputError, match="takes 2 channels"):
        nas.load(own[1], ARCH)
