"""Weights of a second source: what a card says of timm's is what timm says, and `pretrained="timm"` builds the network that they are of."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mobile_cv_nas as nas
from mobile_cv_nas.model_zoo import weights as zoo_weights
from mobile_cv_nas.model_zoo.card import all_cards
from mobile_cv_nas.weights.file import WeightsError

timm = pytest.importorskip("timm")
SOURCES = {card.name: card.source("timm") for card in all_cards() if "timm" in card.elsewhere and card.name != "MobileNetV2_0.35"}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(folder))
    return folder


@pytest.mark.parametrize("name", SOURCES)
def test_cards_say_what_timm_says(name):
    """Hub, licence and transform (at the size timm tests at) are those of timm's own configuration."""
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    card = SOURCES[name]
    own = get_pretrained_cfg(card.elsewhere["timm"].model)
    said = resolve_data_config(pretrained_cfg=own.to_dict(), use_test_size=True)
    assert card.weights.url == f"https://huggingface.co/{own.hf_hub_id}/resolve/main/model.safetensors"
    assert card.weights.license.lower() == own.license
    assert (card.in_channels, card.input_size, card.input_size) == said["input_size"]
    assert card.arch.input_size == card.input_size
    assert card.resize == math.floor(card.input_size / said["crop_pct"])
    assert (card.interpolation, card.mean, card.std) == (said["interpolation"], said["mean"], said["std"])
    assert 60 < card.published.top1 < card.published.top5 < 100


@pytest.mark.parametrize(
    ("name", "model", "built"),
    [
        ("MobileNetV3_Small", "mobilenetv3_small_100", "MobileNetV3_Small_torchvision"),
        ("MnasNet_A1", "semnasnet_100", "MnasNet_A1"),
        ("FBNetV3_B", "fbnetv3_b", "FBNetV3_B_timm"),
    ],
)
def test_pretrained_timm_is_the_network_that_timm_has_under_this_name(name, model, built, cache):
    torch.manual_seed(0)
    other = timm.create_model(model).eval()
    save_file(other.state_dict(), cache / f"{built}.timm.safetensors")
    x = torch.randn(1, 3, 65, 71)
    network = nas.fbnet_builder(name, pretrained="timm").eval()
    loaded = nas.load("pretrained:timm", name)
    features = nas.fbnet_builder(name, pretrained="timm", features_only=True)
    with torch.inference_mode():
        expected = other(x)
        for found in (network, loaded.network):
            torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-5 * max(1, float(expected.abs().max())))
    assert network.arch.name == loaded.arch.name == built
    assert torch.equal(features.blocks.s0b0.conv.weight, network.blocks.s0b0.conv.weight)
    card = nas.get_card(name).source("timm")
    assert (loaded.transform.input_size, loaded.transform.resize, loaded.transform.interpolation) == (
        card.input_size,
        card.resize,
        card.interpolation,
    )
    assert loaded.about["licence"] == "Apache-2.0"
    assert loaded.classes[281] == "tabby"


def test_true_keeps_its_meaning():
    card = nas.get_card("MobileNetV3_Large")
    assert card.weights.url.startswith("https://dl.fbaipublicfiles.com/")
    assert card.source("timm").weights.url.startswith("https://huggingface.co/timm/mobilenetv3_large_100")
    assert "MobileNetV3_Large" in nas.list_models(pretrained=True)
    assert nas.list_models("FBNet*", pretrained="timm") == [
        "FBNetV3_B",
        "FBNetV3_B_timm",
        "FBNetV3_D",
        "FBNetV3_G",
        "FBNet_C",
        "FBNet_C_timm",
    ]
    assert nas.list_models(pretrained="nobody") == []
    assert card.source("torchvision") == nas.get_card("MobileNetV3_Large_torchvision")
    assert nas.list_models("MobileNetV3_Large*", pretrained="torchvision") == ["MobileNetV3_Large", "MobileNetV3_Large_torchvision"]


def test_offline_the_error_names_the_url_and_the_place(cache, monkeypatch):
    def offline(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(zoo_weights, "_fetch", offline)
    with pytest.raises(WeightsError) as caught:
        nas.fbnet_builder("MobileNetV3_Large", pretrained="timm", progress=False)
    text = str(caught.value)
    assert "https://huggingface.co/timm/mobilenetv3_large_100.ra_in1k/resolve/main/model.safetensors" in text
    assert str(cache / "MobileNetV3_Large_torchvision.timm.safetensors") in text
    assert "\n" not in text
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "pretrained", "message"),
    [
        ("FBNetV2_F4", "timm", "FBNetV2_F4: no weights of 'timm'; pretrained may be True$"),
        ("MobileNetV3_Large", "tim", "no weights of 'tim'; pretrained may be True, 'torchvision', 'timm'$"),
        ("MnasNet_B1", "torchvision", "MnasNet_B1: no weights of 'torchvision'; pretrained may be 'timm'$"),
        ("FBNetV2_F0", "timm", "pretrained may be False"),
        ("arch", "timm", "an arch alone has no published weights"),
        ("MnasNet_A1", True, "no pretrained weights of its own; give pretrained='timm'"),
    ],
)
def test_where_there_are_none(source, pretrained, message):
    with pytest.raises(ValueError, match=message):
        nas.fbnet_builder(nas.get_arch("FBNetV2_F1") if source == "arch" else source, pretrained=pretrained)
