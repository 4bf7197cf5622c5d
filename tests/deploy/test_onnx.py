"""An .onnx file computes what its network does, says what it is and nothing of this machine, and predicts when it is loaded."""

import os
import runpy
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import NETWORKS, model_of, network_of
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.deploy import export as exporting
from mobile_cv_nas.deploy.check import ExportError
from mobile_cv_nas.deploy.file_network import OnnxNetwork
from mobile_cv_nas.errors import FileError, InputError


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def photograph(seed=0, size=(90, 70)):
    """A picture with edges and colours."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def test_a_classifier(tmp_path):
    """At three batch sizes, by onnxruntime alone, and by nas.load with the transform."""
    model, path = model_of("classifier"), tmp_path / "net.onnx"
    result = nas.export(model, path)
    assert {(one.output, one.batch) for one in result.differences} == {("logits", 1), ("logits", 2)}
    assert result.size == path.stat().st_size
    session = session_of(path)
    assert [one.name for one in session.get_inputs()] == ["image"]
    assert [one.name for one in session.get_outputs()] == ["logits"]
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 8, 8)
        expected = model.network(images).detach().numpy()
        np.testing.assert_allclose(session.run(None, {"image": images.numpy()})[0], expected, atol=1e-4 * abs(expected).max())
    loaded = nas.load(path)
    assert (loaded.classes, loaded.arch, loaded.transform, loaded.about) == (model.classes, model.arch, model.transform, {"licence": "CC0"})
    images = [photograph(0), photograph(1)]
    for new, old in zip(loaded.predict(images, top=3), model.predict(images, top=3), strict=True):
        assert new.labels == old.labels
        assert new.scores == pytest.approx(old.scores, abs=1e-5)
    assert loaded.count() == model.count()
    assert loaded.fold() is loaded


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "classifier"])
def test_every_kind(name, tmp_path):
    network, size = network_of(name).requires_grad_(False), NETWORKS[name][1]
    nas.export(network, tmp_path / "net.onnx")
    loaded = OnnxNetwork(tmp_path / "net.onnx")
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, size, size)
        if loaded.interface.kind == "detection":
            # of any size: both resize them; boxes whose scores are the same in all digits could change places
            given = [torch.rand(3, 48 + 8 * i, 64) for i in range(batch - 1)] + [torch.rand(3, 64, 64)]
            for new, old in zip(loaded(given), network(given), strict=True):
                assert torch.equal(new["labels"], old["labels"])
                assert len(old["labels"]) > 5
                torch.testing.assert_close(new["boxes"], old["boxes"], atol=1e-3, rtol=0)
                torch.testing.assert_close(new["scores"], old["scores"], atol=1e-5, rtol=0)
            continue
        found, expected = loaded(images), network(images)
        pairs = zip(found, expected, strict=True) if name == "features" else [(found["out"], expected["out"])]
        for new, old in pairs:
            torch.testing.assert_close(new, old, atol=1e-4 * float(old.abs().max()), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lraspp", "ssdlite"])
@pytest.mark.parametrize("with_transform", [False, True])
def test_a_loaded_dense_model_predicts(name, with_transform, tmp_path):
    model = model_of(name)
    if name == "lraspp":  # as of a search that found a smaller input size: masks of twice the size judge it
        model.transform, model.task = replace(model.transform, resize=(128, 128)), replace(model.task, label_size=128)
    nas.export(model, tmp_path / "net.onnx", with_transform=with_transform)
    loaded, image = nas.load(tmp_path / "net.onnx"), photograph()
    assert loaded.task.label_size == model.task.label_size
    new, old = loaded.predict(image, score=0.3), model.predict(image, score=0.3)
    if name == "lraspp":
        assert float((new.mask == old.mask).double().mean()) > 0.999
        return
    assert len(old.labels) > 3
    if not with_transform:  # bytes are less exact than the floats of a resized image
        assert new.labels == old.labels
        np.testing.assert_allclose(new.boxes, old.boxes, atol=1e-3)


def test_bytes_in(tmp_path):
    """With the transform inside, the file takes the pixels as a camera has them."""
    model, path = model_of("classifier"), tmp_path / "net.onnx"
    nas.export(model, path, with_transform=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    found = session_of(path).run(None, {"image": pixels})[0]
    normalised = (pixels / 255 - np.array(model.task.mean)) / np.array(model.task.std)
    expected = model.network(torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy()).float()).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())
    image = photograph()
    assert nas.load(path).predict(image).scores == pytest.approx(model.predict(image).scores, abs=1e-5)


def test_bytes_of_a_network_that_never_saw_a_mean(tmp_path):
    """The mean and std of its model are defaults: what its own Dataset did with pixels nobody knows."""
    model = model_of("classifier")
    model.about["own_inputs"] = True
    with pytest.raises(InputError, match=r"with_transform: the network was trained on tensors that a Dataset of its own prepared"):
        nas.export(model, tmp_path / "net.onnx", with_transform=True)
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch(tmp_path):
    """A loaded file of two images a call takes any number."""
    model, path = model_of("classifier"), tmp_path / "net.onnx"
    nas.export(model, path, batch=2)
    assert session_of(path).get_inputs()[0].shape == [2, 3, 8, 8]
    images = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(OnnxNetwork(path)(images), model.network(images).detach(), atol=1e-5, rtol=0)


def test_no_word_of_this_machine(tmp_path):
    path = tmp_path / "net.onnx"
    nas.export(model_of("classifier"), path)
    data = path.read_bytes()
    for word in (str(Path(nas.__file__).parents[1]), str(Path(torch.__file__).parents[1]), str(Path.home()), str(tmp_path), os.getcwd()):
        assert word.encode() not in data
    assert socket.gethostname().encode() not in data
    assert b"File " not in data
    graph = onnx.load(path)
    assert {prop.key for prop in graph.metadata_props} >= {"arch", "classes", "mean", "std", "input_size", "layout", "licence", "outputs"}
    names = [node.name for node in graph.graph.node if node.op_type in ("Conv", "Gemm")]
    assert names[0] == "blocks.s0b0.conv"
    assert names[-1] == "classifier"


def test_a_file_that_differs_is_not_left(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("the one before")
    true = exporting.fold

    def wrong(network, **options):
        folded = true(network, **options)
        folded.classifier.bias.data += 1e-3
        return folded

    monkeypatch.setattr(exporting, "fold", wrong)
    with pytest.raises(ExportError, match="not written"):
        nas.export(network_of("classifier"), path)
    assert path.read_text() == "the one before"
    assert [one.name for one in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (lambda: network_of("classifier"), {"with_transform": True}, "export a Model"),
        (lambda: network_of("classifier"), {"batch": 0}, "number of images"),
        (lambda: network_of("ssdlite"), {"input_size": 32}, "built for 64"),
        (lambda: nas.build_detector("faster_rcnn", "FBNetV2_F1", 3, 64), {}, "use ssdlite"),
        (lambda: torch.nn.Linear(3, 3), {}, "a Linear"),
        (lambda: "net", {}, "a str"),
    ],
)
def test_what_cannot_be_exported(given, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        nas.export(given(), tmp_path / "net.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(InputError, match="ending"):
        nas.export(network_of("classifier"), tmp_path / "net.onx")
    with pytest.raises(FileError, match="no such file"):
        nas.load(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(FileError, match="cannot read"):
        nas.load(tmp_path / "text.onnx")
    nas.export(network_of("classifier"), tmp_path / "alone.onnx", check=False)
    with pytest.raises(InputError, match="export a Model"):
        nas.load(tmp_path / "alone.onnx")
    graph = onnx.load(tmp_path / "alone.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    with pytest.raises(FileError, match="not exported by this library"):
        nas.load(tmp_path / "foreign.onnx")
    nas.export(model_of("classifier"), tmp_path / "net.onnx", check=False)
    loaded = nas.load(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="weights of its own"):
        loaded.save(tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="exported already"):
        nas.export(loaded, tmp_path / "again.onnx")


@pytest.mark.slow
def test_the_example_finds_what_the_detector_finds(tmp_path):
    """With numpy alone, on an image of the network's own size: resizing is another one."""
    path = Path(__file__).resolve().parents[2] / "examples" / "detect_onnx.py"
    detect = runpy.run_path(str(path))["detect"]
    model, image = model_of("ssdlite"), photograph(size=(64, 64))
    nas.export(model, tmp_path / "net.onnx", check=False)
    found, expected = detect(str(tmp_path / "net.onnx"), image, 0.3), model.predict(image, score=0.3)
    assert len(expected.labels) > 3
    assert [name for name, _, _ in found] == expected.labels
    np.testing.assert_allclose([box for _, _, box in found], expected.boxes, atol=1e-3)


def test_pools_are_named(tmp_path):
    """A squeeze-and-excite and the classifier have one each; means over anything else stay means."""
    nas.export(network_of("classifier"), tmp_path / "net.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert kinds.count("GlobalAveragePool") == 2
    assert "ReduceMean" not in kinds
