"""A .pte file computes what its network does, in float and in int8."""

import json
from pathlib import Path

import pytest
import torch
from networks import NETWORKS, model_of, network_of
from test_onnx import photograph
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.deploy.file_network import PteNetwork
from mobile_cv_nas.errors import FileError

# ExecuTorch and torchao warn of their own code while they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_classifier(tmp_path):
    """At several batch sizes, more than the file takes at once among them, and by nas.load with the transform."""
    model, path = model_of("classifier"), tmp_path / "net.pte"
    result = nas.export(model, path)
    assert (result.interface.batch, result.interface.most) == (None, 8)
    loaded = nas.load(path)
    with torch.no_grad():
        for batch in (1, 2, 5, 33):
            images = torch.randn(batch, 3, 8, 8)
            torch.testing.assert_close(loaded.network(images), model.network(images), atol=1e-4, rtol=0)
    image = photograph()
    assert loaded.predict(image).scores == pytest.approx(model.predict(image).scores, abs=1e-5)
    assert loaded.classes == model.classes
    data, beside = path.read_bytes(), (tmp_path / "net.pte.json").read_text()
    for word in (str(Path(nas.__file__).parents[1]), str(Path(torch.__file__).parents[1]), str(tmp_path)):
        assert word.encode() not in data
        assert word not in beside
    assert json.loads(beside)["report"]["check"][0]["output"] == "logits"
    (tmp_path / "net.pte.json").unlink()
    with pytest.raises(FileError, match="keep them together"):
        nas.load(path)


@pytest.mark.slow
def test_of_one_image_it_is_one_call(tmp_path):
    result = nas.export(network_of("classifier"), tmp_path / "net.pte", batch=1)
    assert result.note == "1 call of XNNPACK"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("classifier", "frozen")])
def test_every_kind(name, tmp_path):
    network, size = network_of(name).requires_grad_(False), NETWORKS[name][1]
    result = nas.export(network, tmp_path / "net.pte")
    loaded = PteNetwork(tmp_path / "net.pte")
    for batch in (1, 2, 5):
        images = torch.rand(batch, 3, size, size)
        given = list(images) if result.interface.kind == "detection" else images
        found, expected = loaded(given), network(given)
        if result.interface.kind == "detection":
            for new, old in zip(found, expected, strict=True):
                assert torch.equal(new["labels"], old["labels"])
                torch.testing.assert_close(new["boxes"], old["boxes"], atol=1e-3, rtol=0)
            continue
        pairs = zip(found, expected, strict=True) if name == "features" else [(found["out"], expected["out"])]
        for new, old in pairs:
            torch.testing.assert_close(new, old, atol=1e-4 * float(old.abs().max()), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classifier", "lraspp", "ssdlite"])
def test_int8(name, tmp_path):
    model = model_of(name)
    result = nas.export(model, tmp_path / "net.pte", int8=[photograph(i) for i in range(24)], images=8)
    assert min(result.int8.sqnr.values()) > (20 if name == "ssdlite" else 25)


@pytest.mark.slow
def test_relu6_keeps_its_levels(tmp_path):
    """Behind convolutions whose outputs go far beyond 6, the ranges of which must not be those of what comes after."""
    torch.manual_seed(0)
    stages = [[["conv_k3", 16, 2, 1]], [["ir_k3", 16, 1, 2, {"expansion": 3}]], [["conv_k1", 32, 1, 1]]]
    arch = nas.ArchDef.parse({"input_size": 16, "defaults": {"activation": "relu6"}, "stages": stages})
    network = nas.build_model(arch, 10).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(20.0)
            module.bias.data.uniform_(-10, 10)
    images = list(torch.randn(24, 3, 16, 16))
    result = nas.export(network, tmp_path / "net.pte", int8=images, images=8)
    assert result.int8.sqnr["logits"] > 20
