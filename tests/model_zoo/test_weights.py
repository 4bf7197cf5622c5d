"""Weights: what is read, what is refused, and how they are converted."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints import HEAD, NAME, STEM, Evil, changed, numbered, released, saved, truncated, written
from released_facts import facts, released_keys
from safetensors.torch import save_file

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.model_zoo.weights import WeightsError, adapt_stem, load_weights
from mobile_cv_nas.weights.file import MAX_BYTES
from mobile_cv_nas.weights.file import load_weights as load_safetensors

ROOT = Path(__file__).parents[2]


# -- reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(facts()["keys"]))
def test_every_released_key_finds_its_place(name, tmp_path):
    state = nas.fbnet_builder(name, weights=released(tmp_path / "model.pth", name)).state_dict()
    theirs = list(numbered(name).values())
    assert [value.flatten()[0].item() for value in state.values()] == [value.flatten()[0].item() for value in theirs]


FORMS = {
    "averaged first": lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "model_ema": s},
    "averaged, nested": lambda s: {"state_dict": {}, "model_ema": {"state_dict": s, "decay": 0.9}},
    "averaged, absent": lambda s: {"state_dict": s, "model_ema": None},
    "plain": lambda s: s,
    "parallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "twice wrapped": lambda s: {"model": {f"module.module.{k}": v for k, v in s.items()} | {"n_averaged": torch.ones(1)}},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_checkpoint(form, tmp_path):
    path = saved(FORMS[form](numbered()), tmp_path / "model.pth")
    state = nas.fbnet_builder(NAME, weights=path).state_dict()
    assert [v.flatten()[0].item() for v in state.values()] == [v.flatten()[0].item() for v in numbered().values()]


def test_own_names_in_both_file_formats(tmp_path):
    network = nas.fbnet_builder(NAME)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    for path in (tmp_path / "own.safetensors", saved(network.state_dict(), tmp_path / "own.pth")):
        loaded = nas.fbnet_builder(NAME, weights=str(path)).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())


def test_torchvision_names(tmp_path):
    from torchvision.models import mobilenet_v3_small

    other = mobilenet_v3_small().eval()
    path = saved(other.state_dict(), tmp_path / "model.pth")
    ours = nas.fbnet_builder("MobileNetV3_Small_torchvision", weights=path).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-4, atol=1e-5)


def test_another_number_of_classes_renews_the_head_and_says_so(tmp_path):
    path = released(tmp_path / "model.pth")
    with pytest.warns(UserWarning, match="1000 classes and the network 7.*head is new"):
        network = nas.fbnet_builder(NAME, weights=path, num_classes=7)
    assert network.classifier.weight.shape[0] == 7
    assert network.classifier.weight.abs().max() < 1, "untrained, not a piece of the old one"
    assert network.state_dict()["blocks.s1b0.dw.conv.weight"].unique().numel() == 1


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_another_number_of_inputs_adapts_the_stem_as_timm_does(channels, tmp_path):
    manipulate = pytest.importorskip("timm.models._manipulate")
    weight = torch.randn(released_keys(NAME)["backbone.stages.xif0_0.conv.weight"])
    path = released(tmp_path / "model.pth", **{"backbone.stages.xif0_0.conv.weight": weight})
    network = nas.fbnet_builder(NAME, weights=path, in_channels=channels)
    torch.testing.assert_close(network.state_dict()[STEM], manipulate.adapt_input_conv(channels, weight))
    torch.testing.assert_close(adapt_stem(weight, channels), network.state_dict()[STEM])


# -- refusing -----------------------------------------------------------------------------------------


BAD = {
    "absent": (lambda p: p, "no such file"),
    "folder": (lambda p: p.mkdir() or p, "not a file"),
    "empty": (written(b""), "empty"),
    "text": (written(b"<html>not found</html>"), "not a checkpoint|truncated"),
    "truncated": (truncated, "truncated"),
    "code": (lambda p: saved({"state_dict": numbered(), "x": Evil()}, p), "refused.*code"),
    "pickle": (written(pickle.dumps(Evil())), "refused|not a checkpoint"),
    "other network": (lambda p: released(p, "FBNetV2_F0"), "not the weights of FBNetV2_F1: .*missing.*unknown.*shape"),
    "other width": (lambda p: released(p, "FBNetV2_F3"), r"of another shape.*blocks\.s6b0"),
    "missing key": (changed(lambda s: s.pop("head.conv.bias")), r"1 missing \(classifier.bias\)"),
    "extra key": (changed(lambda s: s.update(more=torch.ones(1))), r"1 unknown \(more\)"),
    "other shape": (changed(lambda s: s.update({HEAD: s[HEAD][:, :5]})), "classifier.weight is 1000x5x1x1|1000x5, not"),
    "kind": (changed(lambda s: s.update({HEAD: s[HEAD].long()})), "int64"),
    "half a head": (changed(lambda s: s.update({HEAD: s[HEAD][:5]})), "differ in length"),
    "no state dict": (lambda p: saved({"epoch": 3}, p), "no state dict.*epoch"),
    "tensor": (lambda p: saved(torch.ones(3), p), "no state dict.*Tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, message = BAD[case]
    path = write(tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        nas.fbnet_builder(NAME, weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_a_damaged_safetensors_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(nas.fbnet_builder(NAME).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="not a whole safetensors"):
        nas.fbnet_builder(NAME, weights=path)


def test_archives_that_unpack_to_more_are_refused(tmp_path):
    path = saved(numbered(), tmp_path / "model.pth")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for item in archive.infolist():
            bomb.writestr(item.filename, archive.read(item))
    with pytest.raises(WeightsError, match=r"bomb.pth: refused: a compressed archive"):
        nas.fbnet_builder(NAME, weights=tmp_path / "bomb.pth")


@pytest.mark.parametrize("name", ["huge.pth", "huge.safetensors"])
def test_files_over_the_limit_are_refused_unread(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole, which takes no room
    with pytest.raises(InputError, match=f"{name}: larger than the limit"):
        nas.fbnet_builder(NAME, weights=tmp_path / name)


def test_a_network_that_cannot_take_the_weights_stays_as_it_was(tmp_path):
    network = nas.fbnet_builder(NAME)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError):
        load_weights(network, None, released(tmp_path / "model.pth", "FBNetV2_F3"))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


# -- converting ---------------------------------------------------------------------------------------


def run_convert(*arguments: object) -> int:
    spec = importlib.util.spec_from_file_location("convert_weights", ROOT / "tools" / "convert_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(a) for a in arguments])


def test_convert_writes_safetensors_with_the_cards_metadata(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(tmp_path))
    path, output = released(tmp_path / "model.pth"), tmp_path / f"{NAME}.safetensors"
    assert run_convert(path, "--model", NAME.lower(), "--output", output) == 0
    state, metadata = load_safetensors(output)
    assert state.keys() == nas.fbnet_builder(NAME).state_dict().keys()
    assert (metadata["model"], metadata["licence"]) == (NAME, "CC-BY-NC-4.0")
    assert metadata["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert nas.ArchDef.parse(metadata["arch"]) == nas.get_arch(NAME)
    assert metadata["published"]["top1"] == 68.278
    assert nas.fbnet_builder(NAME, pretrained=True).state_dict()[STEM].unique().tolist() == [1], "found in the cache"


def test_what_was_converted_is_prepared_as_its_card_says(tmp_path):
    """By mean, std, resize and interpolation of the card, and with its classes, as the file that it was made of."""
    torch.manual_seed(0)
    torch.save(nas.fbnet_builder("EfficientNet_Lite0").state_dict(), tmp_path / "own.pth")
    assert run_convert(tmp_path / "own.pth", "--model", "EfficientNet_Lite0", "--output", tmp_path / "own.safetensors") == 0
    before = nas.load(tmp_path / "own.pth", "EfficientNet_Lite0")
    assert (before.transform.interpolation, before.classes[0]) == ("bicubic", "tench")
    for after in (nas.load(tmp_path / "own.safetensors"), nas.load(tmp_path / "own.safetensors", "EfficientNet_Lite0")):
        assert (after.transform, after.classes) == (before.transform, before.classes)
        assert all(map(torch.equal, after.network.state_dict().values(), before.network.state_dict().values()))


def test_what_was_converted_for_an_arch_file_loads_without_it(tmp_path):
    arch = nas.ArchDef.parse({"name": "mine", "input_size": 16, "stages": [[["conv_k3", 8, 2]]]})
    arch.save(tmp_path / "mine.yaml")
    torch.save(nas.build_model(arch, 1000).state_dict(), tmp_path / "mine.pth")
    assert run_convert(tmp_path / "mine.pth", "--model", tmp_path / "mine.yaml", "--output", tmp_path / "mine.safetensors") == 0
    assert nas.load(tmp_path / "mine.safetensors").arch == arch


def test_an_arch_is_for_weights_that_bring_none():
    for name in ("Digits", "CIFAR10_1.5M"):
        with pytest.raises(InputError, match=f"{name}: brings its own arch; leave the other one out"):
            nas.load(name, "FBNetV2_F1")


def test_convert_refuses_in_one_line(tmp_path, capsys):
    path = released(tmp_path / "model.pth")
    for arguments in (
        (path, "--model", "FBNetV2_F0", "--output", tmp_path / "out.safetensors"),
        (path, "--model", "FBNetV2_F9", "--output", tmp_path / "out.safetensors"),
        (path, "--model", NAME, "--output", tmp_path / "out.pth"),
        (path, "--model", NAME, "--output", tmp_path / "nowhere" / "out.safetensors"),
    ):
        assert run_convert(*arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_reading_runs_no_code_even_in_old_pickles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    torch.save({"state_dict": Evil()}, stream, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pth").write_bytes(stream.getvalue())
    with pytest.raises(WeightsError, match=r"code|not a checkpoint"):
        nas.fbnet_builder(NAME, weights=tmp_path / "old.pth")
    assert not (tmp_path / "evil").exists()
