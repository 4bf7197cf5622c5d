"""Our own weight files: whole, damaged, with nonsense inside, and of another network."""

import json

import pytest
import torch
from helpers import flip_a_bit, tiny_arch
from safetensors.torch import save_file

import mobile_cv_nas as nas
from mobile_cv_nas import ArchDef, build_model
from mobile_cv_nas.errors import FileError
from mobile_cv_nas.weights.file import WeightsError, load_weights, save_weights
from mobile_cv_nas.weights.fit import fit_weights


def test_weights_bring_their_arch(tmp_path):
    arch = tiny_arch()
    model = build_model(arch, 3)
    save_weights(tmp_path / "w.safetensors", model.state_dict(), arch, ["a", "b", "c"], mean=[0.5])
    loaded, content = load_weights(tmp_path / "w.safetensors")
    assert (content["classes"], content["mean"], content["arch"]) == (["a", "b", "c"], [0.5], arch.to_dict())
    other = build_model(arch, 3)
    fit_weights(other, loaded, "w")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    save_weights(tmp_path / "again.safetensors", model.state_dict(), arch, ["a", "b", "c"], mean=[0.5])
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(tiny_arch(), 3).state_dict(), tiny_arch())
    whole = path.read_bytes()
    for data, reason in ((whole[:-5], "not a whole"), (b"", "not a whole"), (b"\x00" * 100, "not a whole")):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=reason):
            load_weights(path)
    path.write_bytes(whole)
    flip_a_bit(path, 0.9)
    with pytest.raises(WeightsError, match="checksum does not match"):
        load_weights(path)
    for name in ("none.safetensors", "."):
        with pytest.raises(FileError, match=r"no such file|a folder"):
            load_weights(tmp_path / name)


def test_weights_with_nonsense_inside_are_refused(tmp_path):
    path, state = tmp_path / "w.safetensors", build_model(tiny_arch(), 3).state_dict()
    save_weights(path, state, tiny_arch())
    assert len(nas.load(path).network.classifier.bias) == 3
    save_file(state, path, {"mobile_cv_nas": json.dumps({"arch": tiny_arch().to_dict(), "classes": 5})})
    with pytest.raises(WeightsError, match="names of the classes"):
        nas.load(path)
    for head in (torch.tensor(1.0), torch.zeros(10**9, 0)):
        save_weights(path, {**state, "classifier.weight": head}, tiny_arch())
        with pytest.raises(WeightsError, match=r"has no classifier\.weight"):
            nas.load(path)
    wide = {"input_size": 8, "stages": [[["conv_k3", 65536, 1, 9]]]}  # 1.4 TB
    save_weights(path, state, ArchDef.parse(wide))
    with pytest.raises(WeightsError, match="of another arch"):
        nas.load(path)


def test_weights_that_do_not_fit_are_named(caplog):
    model, more = build_model(tiny_arch(), 3), build_model(tiny_arch(), 4).state_dict()
    with pytest.raises(WeightsError, match=r"classifier.weight is \(4, 16\) and should be \(3, 16\)"):
        fit_weights(model, more, "w")
    own = model.classifier.weight.clone()
    fit_weights(model, more, "w", new_classifier=True)
    assert torch.equal(model.classifier.weight, own)
    assert "starts at random" in caplog.text
    lacking = {name: value for name, value in model.state_dict().items() if name != "classifier.bias"}
    with pytest.raises(WeightsError, match=r"misses classifier\.bias"):
        fit_weights(model, lacking, "w")
    with pytest.raises(WeightsError, match="has an unknown extra"):
        fit_weights(model, {**model.state_dict(), "extra": own}, "w")


def arch_with(size=16, **options):
    return ArchDef.parse({"input_size": size, "stages": [[["conv_k3", 8, 2]], [["ir_k3", 8, 2, 2, {"expansion": 2, **options}]]]})


@pytest.mark.parametrize(("key", "value"), [("activation", "hswish"), ("norm_eps", 0.001), ("padding", "same")])
def test_weights_whose_arch_differs_where_no_shape_shows_it_are_refused(key, value, tmp_path):
    """By the builder, by `load`, and as the backbone of a head."""
    path, other = tmp_path / "w.safetensors", arch_with(**{key: value})
    save_weights(path, build_model(other, 3).state_dict(), other)
    said = rf"w\.safetensors: the weights of another arch: {key} of block s1b0 is {value} in the arch saved with them, not .*; build that"
    for load in (lambda arch: nas.fbnet_builder(arch, weights=path), lambda arch: nas.load(path, arch)):
        load(other)
        with pytest.raises(WeightsError, match=said):
            load(arch_with())
    body = {f"backbone.body.{name}": value for name, value in build_model(other, 3).state_dict().items() if "classifier" not in name}
    save_weights(path, body, other, head={"name": "deeplabv3"})
    nas.build_segmenter("deeplabv3", other, 3, output_stride=4, weights=path)
    with pytest.raises(WeightsError, match=said):
        nas.build_segmenter("deeplabv3", arch_with(), 3, output_stride=4, weights=path)


def test_weights_load_at_another_input_size_and_written_in_other_words(tmp_path):
    """Initial values and the name that stands for an activation decide no function."""
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(arch_with(activation="hswish"), 3).state_dict(), arch_with(activation="hswish"))
    said = {"hidden": 16, "zero_gamma": True, "padding": 1}  # that of a 3x3, which is not said otherwise
    other = {"input_size": 32, "stages": [[["conv_k3", 8, 2]], [["ir_k3_hs", 8, 2, 2, said]]]}
    nas.fbnet_builder(ArchDef.parse(other), weights=path)
