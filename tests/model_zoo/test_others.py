"""Weights of timm's and torchvision's own networks: they load in ours under any name and wrapping, and give the same logits."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.model_zoo.card import all_cards
from mobile_cv_nas.model_zoo.convert import convert
from mobile_cv_nas.weights.file import WeightsError, load_weights

timm = pytest.importorskip("timm")

TIMM = {
    "mobilenetv3_large_100": "MobileNetV3_Large_torchvision",
    "mobilenetv3_small_100": "MobileNetV3_Small_torchvision",
    "mobilenetv2_100": "MobileNetV2_1.0_torchvision",
    "mobilenetv2_035": "MobileNetV2_0.35",
    "semnasnet_100": "MnasNet_A1",
    "mnasnet_100": "MnasNet_B1",
    "efficientnet_b0": "EfficientNet_B0",
    "fbnetc_100": "FBNet_C_timm",
    "fbnetv3_b": "FBNetV3_B_timm",
    "fbnetv3_d": "FBNetV3_D",
    "fbnetv3_g": "FBNetV3_G",
    "tf_efficientnet_lite0": "EfficientNet_Lite0",
    "tf_efficientnet_lite1": "EfficientNet_Lite1",
    "tf_efficientnet_lite2": "EfficientNet_Lite2",
    "tf_efficientnet_lite3": "EfficientNet_Lite3",
    "tf_efficientnet_lite4": "EfficientNet_Lite4",
}
TORCHVISION = {
    "mobilenet_v3_large": "MobileNetV3_Large_torchvision",
    "mobilenet_v3_small": "MobileNetV3_Small_torchvision",
    "mobilenet_v2": "MobileNetV2_1.0_torchvision",
    "mobilenet_v2(width_mult=0.35)": "MobileNetV2_0.35",
    "mnasnet1_0": "MnasNet_B1",
    "efficientnet_b0": "EfficientNet_B0",
}
PAIRS = [("timm", *pair) for pair in TIMM.items()] + [("torchvision", *pair) for pair in TORCHVISION.items()]
FAST = {"mobilenetv3_small_100", "fbnetv3_b", "mobilenet_v2", "semnasnet_100", "fbnetc_100"}
SMALL = "MobileNetV3_Small_torchvision"


def theirs(library: str, name: str, **options: int) -> nn.Module:
    """A network of that library as it builds it for its pretrained weights, but at random, norms too, in eval mode."""
    torch.manual_seed(0)
    if library == "timm":
        with mock.patch("timm.models._builder.load_pretrained"):  # some have another eps where they are pretrained
            network = timm.create_model(name, pretrained=True, **options)
    else:
        from torchvision.models import get_model

        builder, _, width = name.partition("(width_mult=")
        network = get_model(builder, weights=None, **({"width_mult": float(width[:-1])} if width else {}))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.weight, 1, 0.1)
            for tensor in (module.running_mean, module.bias.data):
                nn.init.normal_(tensor, 0, 0.1)
    return network.eval()


def check(ours: nn.Module, other: nn.Module, size: int = 65) -> None:
    """Equal logits, to 1e-5 of their size, on images of an odd side that is no rectangle of 32s."""
    x = torch.randn(1, 3, size, size + 6)
    with torch.inference_mode():
        found, expected = ours.eval()(x), other(x)
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def written(state: dict, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("library", "model", "name"),
    [pytest.param(*pair, marks=[] if pair[1] in FAST else [pytest.mark.sweep], id=f"{pair[0]} {pair[1]}") for pair in PAIRS],
)
def test_their_weights_give_their_logits(library, model, name, tmp_path):
    other = theirs(library, model)
    save_file(other.state_dict(), tmp_path / "model.safetensors")  # which keeps no order of keys
    check(nas.fbnet_builder(name, weights=tmp_path / "model.safetensors"), other)


def test_every_pair_that_a_card_names_is_tested():
    said = {(library, same.model, card.name) for card in all_cards() for library, same in card.elsewhere.items() if same.model}
    assert {pair for pair in said if pair[0] in ("timm", "torchvision")} == set(PAIRS)
    for card in all_cards():
        for library, same in card.elsewhere.items():
            assert bool(same.model) != bool(same.card), card.name
            assert same.card is None or nas.get_card(same.card).elsewhere[library].model


@pytest.mark.parametrize(
    ("name", "library", "model", "fits"),
    [
        ("MobileNetV3_Small", "timm", "mobilenetv3_small_100", "MobileNetV3_Small_torchvision (mobilenetv3_small_100)"),
        ("MobileNetV3_Small", "torchvision", "mobilenet_v3_small", "MobileNetV3_Small_torchvision (mobilenet_v3_small)"),
        ("FBNet_C", "timm", "fbnetc_100", "FBNet_C_timm (fbnetc_100)"),
        ("FBNetV3_B", "timm", "fbnetv3_b", "FBNetV3_B_timm (fbnetv3_b)"),
        ("EfficientNet_B0", "timm", "fbnetc_100", "FBNet_C_timm (fbnetc_100)"),
        ("FBNetV2_F1", "timm", "mnasnet_small", None),
        ("MobileNetV2_0.35", "torchvision", "shufflenet_v2_x0_5", None),
    ],
)
def test_where_the_network_differs_the_error_names_the_one_that_fits(name, library, model, fits, tmp_path):
    path = written(theirs(library, model).state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError) as caught:
        nas.fbnet_builder(name, weights=path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    if fits:
        assert f"not those of {name}: build {fits}" in text
        nas.fbnet_builder(fits.split()[0], weights=path)
    else:
        assert f"fit neither {name} nor any other" in text or f"not the weights of {name}" in text


def without(state: dict, ending: str) -> dict:
    return {key: value for key, value in state.items() if not key.endswith(ending)}


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in state.items()}


FORMS = {
    "state_dict": (lambda s: {"state_dict": s, "epoch": 3}, ""),
    "model": (lambda s: {"model": s, "optimizer": {}, "args": None}, ""),
    "model_ema": (lambda s: {"model": zeros(s), "model_ema": {**prefixed(s, "module."), "n_averaged": torch.ones(1)}}, "model_ema"),
    "state_dict_ema": (lambda s: {"state_dict": zeros(s), "state_dict_ema": s, "arch": "x"}, "state_dict_ema"),
    "parallel": (lambda s: prefixed(s, "module."), ""),
    "compiled": (lambda s: prefixed(s, "_orig_mod."), ""),
    "both": (lambda s: {"state_dict": prefixed(s, "module._orig_mod.")}, ""),
    "lightning": (lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2.1"}, ""),
    "lightning with a loss": (
        lambda s: {"state_dict": {**prefixed(s, "model."), "loss.weight": torch.ones(3)}, "pytorch-lightning_version": "2.1"},
        "1 tensors that are not of its model",
    ),
    "no counters": (lambda s: without(s, "num_batches_tracked"), ""),
    "scalars as rows": (lambda s: {k: v.reshape(1) if v.ndim == 0 else v for k, v in s.items()}, ""),
}


def zeros(state: dict) -> dict:
    return {key: torch.zeros_like(value) for key, value in state.items()}


@pytest.mark.parametrize("form", FORMS)
def test_files_as_they_come(form, tmp_path, caplog):
    """Of timm's names and of ours; what was chosen or left out is said."""
    wrap, word = FORMS[form]
    other = theirs("timm", "mobilenetv3_small_100")
    ours = nas.fbnet_builder(SMALL, weights=written(other.state_dict(), tmp_path / "plain.pth"))
    for name, state in (("timm.pth", other.state_dict()), ("ours.pth", ours.state_dict())):
        caplog.clear()
        loaded = nas.fbnet_builder(SMALL, weights=written(wrap(state), tmp_path / name)).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in ours.state_dict().items() if not key.endswith("tracked"))
        assert [str(tmp_path / name) in r.message and word in r.message for r in caplog.records if r.levelno >= logging.WARNING] == (
            [True] if word else []
        )


def test_norms_of_another_eps_give_the_same_logits(tmp_path):
    """timm's MobileNetV3 has eps 1e-5, ours 1e-3: small variances would show it most."""
    other = theirs("timm", "mobilenetv3_small_100")
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 1e-4, 1e-2)
            module.weight.data.mul_(0.05)
    ours = nas.fbnet_builder(SMALL, weights=written(other.state_dict(), tmp_path / "model.pth"))
    check(ours, other)
    check(nas.fold(ours), other)


def test_other_classes_and_channels(tmp_path):
    other = theirs("timm", "mobilenetv3_small_100", num_classes=7)
    path = written(other.state_dict(), tmp_path / "model.pth")
    check(nas.fbnet_builder(SMALL, weights=path, num_classes=7), other)
    with pytest.warns(UserWarning, match="7 classes and the network 5.*head is new"):
        assert nas.fbnet_builder(SMALL, weights=path, num_classes=5).classifier.out_features == 5
    assert nas.fbnet_builder(SMALL, weights=path, num_classes=7, in_channels=1)(torch.randn(1, 1, 64, 64)).shape == (1, 7)


def test_an_arch_of_the_zoo_is_known_by_its_layers(tmp_path):
    path = written(theirs("timm", "mobilenetv3_small_100").state_dict(), tmp_path / "model.pth")
    arch = nas.ArchDef.parse({**nas.get_arch(SMALL).to_dict(), "name": "mine", "input_size": 96})
    nas.fbnet_builder(arch, weights=path)
    table = arch.to_dict()
    table["stages"][0][0][4]["activation"] = "relu"
    with pytest.raises(WeightsError, match=f"not those of mine: build {SMALL}"):
        nas.fbnet_builder(nas.ArchDef.parse(table), weights=path)


def test_tensorflows_twin_is_refused_by_the_files_name(tmp_path):
    """timm's tf_mobilenetv3_small_100 has the same keys and shapes, and another padding."""
    path = written(theirs("timm", "mobilenetv3_small_100").state_dict(), tmp_path / "tf_mobilenetv3_small_100-37f49e2b.pth")
    with pytest.raises(WeightsError, match="TensorFlow's padding, which timm's mobilenetv3_small_100 has not"):
        nas.fbnet_builder(SMALL, weights=path)


def test_load_takes_them_and_says_which_arch_to_name(tmp_path):
    other = theirs("torchvision", "mobilenet_v2")
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    model = nas.load(tmp_path / "model.safetensors", "MobileNetV2_1.0_torchvision")
    check(model.network, other)
    model.save(tmp_path / "mine.safetensors")
    check(nas.load(tmp_path / "mine.safetensors").network, other)
    with pytest.raises(WeightsError, match=r"brings no arch; .*MobileNetV2_1\.0_torchvision \(mobilenet_v2\)"):
        nas.load(tmp_path / "model.safetensors")


def test_a_file_of_timm_comes_with_timms_transform(tmp_path):
    """Of the two that a card knows; and `convert` writes no licence and no figures of others."""
    other = theirs("timm", "mobilenetv3_small_100")
    path = written(other.state_dict(), tmp_path / "model.pth")
    assert (nas.get_card(SMALL).interpolation, nas.load(path, SMALL).transform.interpolation) == ("bilinear", "bicubic")
    convert(path, SMALL, tmp_path / "timm.safetensors")
    content = load_weights(tmp_path / "timm.safetensors")[1]
    assert (content["licence"], content["published"]["top1"]) == ("Apache-2.0", 67.656)
    check(nas.load(tmp_path / "timm.safetensors").network, other)
    path = written(theirs("torchvision", "mnasnet1_0").state_dict(), tmp_path / "model.pth")
    assert "licence" not in convert(path, "MnasNet_B1", tmp_path / "torchvision.safetensors")


def test_a_backbone_takes_them(tmp_path):
    other = theirs("timm", "mobilenetv3_small_100")
    path = written(other.state_dict(), tmp_path / "model.pth")
    segmenter = nas.build_segmenter("lraspp", SMALL, 3, weights=path)
    assert torch.equal(segmenter.backbone.body.blocks.s0b0.conv.weight, other.conv_stem.weight)


def test_a_checkpoint_cut_short_is_refused(tmp_path):
    state = theirs("timm", "mobilenetv3_small_100").state_dict()
    path = written(without(state, "blocks.3.0.conv_pw.weight"), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="fit neither"):
        nas.fbnet_builder(SMALL, weights=path)
