"""int8: little is lost where it is calibrated well, what loses is named, and some layers can stay in float."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from networks import model_of, network_of
from PIL import Image
from test_onnx import photograph, session_of
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.data.digits import digits
from mobile_cv_nas.deploy.calibrate import calibration, layer_losses
from mobile_cv_nas.deploy.check import ExportError, differences, sqnr
from mobile_cv_nas.deploy.file_network import FileNetwork, OnnxNetwork, overflows
from mobile_cv_nas.deploy.interface import interface_of
from mobile_cv_nas.deploy.wrapped import wrap
from mobile_cv_nas.errors import InputError


def quantized_weights(path):
    """Of an int8 file: the layers whose weights are int8, by name."""
    graph = onnx.load(path).graph
    integers = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT8}
    by_output = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return {node.name for node in layers if (source := by_output.get(node.input[1])) is not None and source.input[0] in integers}


def test_onnx(tmp_path):
    model, path = model_of("classifier"), tmp_path / "net.onnx"
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(30):
        photograph(i).save(folder / f"{i}.png")
    result = nas.export(model, path, int8=folder, images=10)
    assert (result.int8.images, result.int8.judged) == (10, 16)
    assert result.int8.sqnr["logits"] > 25
    assert result.size == path.stat().st_size
    assert 0 < len(result.int8.layers) <= 10
    names = {name for name, module in model.network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert quantized_weights(path) == names
    assert {name for name, _ in result.int8.layers} <= names
    loaded = nas.load(path)
    assert loaded.predict(folder / "0.png").labels[0] == model.predict(folder / "0.png").labels[0]
    assert "calibrated on 10 images" in str(result)


@pytest.mark.parametrize("ending", [".onnx", pytest.param(".pte", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")])])
def test_a_trained_network_keeps_its_accuracy(ending, tmp_path):
    """The card Digits on its 360 test images."""
    model, data, path = nas.load("Digits"), digits(), tmp_path / f"net{ending}"

    def pictures(split):
        return [Image.fromarray((split.source.images[i, 0] * 255).round().byte().numpy()) for i in split.indices]

    result = nas.export(model, path, int8=pictures(data.train), images=100)
    assert result.int8.sqnr["logits"] >= 28
    tested, right = pictures(data.test), []
    for one in (model, nas.load(path)):
        found = [prediction.labels[0] for prediction in one.predict(tested)]
        right.append(sum(data.classes[data.test.source.labels[i]] == name for i, name in zip(data.test.indices, found, strict=True)))
    assert right[0] == 358
    assert right[1] >= right[0] - 1


def weights_of(path):
    """The int8 weights of a file, as one array."""
    return np.concatenate(
        [onnx.numpy_helper.to_array(one).ravel() for one in onnx.load(path).graph.initializer if "weight_quantized" in one.name]
    )


def test_sums_do_not_overflow(tmp_path, monkeypatch, caplog):
    """onnxruntime adds two products in 16 bits on x86 without VNNI: weights of 7 bits fit, for those of 8 there is another way."""
    model, path = model_of("classifier"), tmp_path / "net.onnx"
    images = [photograph(i) for i in range(30)]
    given = torch.stack([model.transform(image) for image in images])
    expected = model.network(given).detach()

    def noise(network):
        return float(10 * torch.log10(expected.square().mean() / (network(given) - expected).square().mean()))

    narrow = nas.export(model, path, int8=images, images=10)
    assert "7 bits" in narrow.note
    assert -64 <= weights_of(path).min() < -50
    assert 50 < weights_of(path).max() <= 64
    assert min(noise(OnnxNetwork(path, exact=False)), noise(OnnxNetwork(path))) > 25  # on any processor
    monkeypatch.setattr("mobile_cv_nas.deploy.export.ENOUGH_SQNR", 99.0)  # as of a network that 7 bits cost much
    wide = nas.export(model, path, int8=images, images=10)
    assert "VNNI" in wide.note
    assert weights_of(path).max() == 127
    assert wide.int8.sqnr["logits"] > narrow.int8.sqnr["logits"] > 25
    assert noise(OnnxNetwork(path)) > 25
    assert (noise(OnnxNetwork(path, exact=False)) > 25) == (not overflows())
    caplog.clear()
    monkeypatch.setattr("mobile_cv_nas.deploy.file_network.overflows", lambda: True)
    assert noise(OnnxNetwork(path)) > 25
    assert "overflow on this processor" in caplog.text


def test_the_range_is_that_of_all_images(tmp_path):
    """The widest is the first: onnxruntime's own way to bound the memory forgets it."""
    network, path = network_of("classifier"), tmp_path / "net.onnx"
    images = [10 * torch.ones(3, 8, 8), *(0.1 * torch.randn(40, 3, 8, 8)).unbind()]
    nas.export(network, path, int8=images, images=41, check=False)
    graph = onnx.load(path).graph
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    scale = next(onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name == first.input[1])
    assert float(scale) * 255 > 10


def test_layers_that_stay_in_float(tmp_path):
    model, path = model_of("classifier"), tmp_path / "net.onnx"
    images = [photograph(i) for i in range(4)]
    result = nas.export(model, path, int8=images, keep_float=["blocks.s1b0", "classifier"])
    left = {"blocks.s0b0.conv", "blocks.s2b0.pw.conv", "blocks.s2b0.dw.conv", "blocks.s2b0.pwl.conv"}
    assert quantized_weights(path) == left
    assert result.int8.judged == 0
    with pytest.raises(InputError, match=r"did you mean blocks\.s1b0"):
        nas.export(model, path, int8=images, keep_float=["blocks.s1b00"])
    with pytest.raises(InputError, match="in float"):
        nas.export(model, path, keep_float=["classifier"])


def test_a_fixed_batch_and_bytes(tmp_path):
    model, path = model_of("classifier"), tmp_path / "net.onnx"
    images = [photograph(i) for i in range(4)]
    result = nas.export(model, path, int8=images, batch=2, with_transform=True)
    assert result.int8.sqnr["logits"] > 25
    assert session_of(path).get_inputs()[0].type == "tensor(uint8)"
    assert session_of(path).get_inputs()[0].shape == [2, 8, 8, 3]


def test_a_fixed_batch_is_judged_on_all_images(tmp_path):
    """The first call alone said nothing of the others, which are far outside of what was calibrated on."""
    images = list(torch.randn(26, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    judged = calibration(images, None, interface_of(network_of("classifier")), 10)[1]
    for image in judged[1:]:
        image *= 30
    with pytest.raises(ExportError, match=r"int8 logits is \d\.\d dB over the noise"):
        nas.export(network_of("classifier"), tmp_path / "net.onnx", int8=images, images=10, batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lraspp", "ssdlite"])
def test_heads(name, tmp_path):
    model, path = model_of(name), tmp_path / "net.onnx"
    images = [photograph(i) for i in range(24)]
    result = nas.export(model, path, int8=images, images=8)
    assert min(result.int8.sqnr.values()) > 28
    new, old = nas.load(path).predict(images[0], score=0.2), model.predict(images[0], score=0.2)
    if name == "lraspp":
        assert float((new.mask == old.mask).double().mean()) > 0.95
        return
    assert len(quantized_weights(path)) == sum(isinstance(module, nn.Conv2d) for module in model.network.modules())
    # boxes are computed in float: those of int8 could only lie on a grid
    boxes = session_of(path).run(["boxes"], {"image": np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)})[0]
    steps = np.unique(boxes) * 255 / 64
    assert (abs(steps - steps.round()) > 0.02).mean() > 0.8


def test_the_layer_that_loses_most_is_found():
    """One whose weights are of very different sizes within a channel."""
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)))
    network[2].weight.data[:, 0, 0, 0] = 50.0
    network[2].weight.data[:, 1:] *= 0.1
    before = [layer.weight.clone() for layer in network]

    class OneOutput(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return (self.network(x),)

    found = layer_losses(OneOutput(), [torch.rand(4, 8, 8) for _ in range(3)], most=2)
    assert len(found) == 2
    assert found[0][0] == "2"
    assert all(torch.equal(layer.weight, kept) for layer, kept in zip(network, before, strict=True))


class Untaught(FileNetwork):
    """In the place of a detector's file: its anchors, all of them background."""

    def __init__(self, wrapped, interface):
        super().__init__(interface)
        self.wrapped = wrapped

    def run(self, image):
        detector, (boxes, scores) = self.wrapped.network, self.wrapped(image)
        anchors = torch.cat([detector.centre - detector.side / 2, detector.centre + detector.side / 2], -1)
        return [anchors.clamp(0, 64).expand_as(boxes), torch.eye(scores.shape[-1])[0].expand_as(scores)]


@torch.no_grad()
@pytest.mark.parametrize("name", ["ssdlite", "retinanet"])
def test_anchors_and_background_are_no_signal(name):
    """Any detector gives them: beside these the noise of int8 was never above its bound."""
    network = network_of(name)
    for layer in network.head.classification_head.modules() if name == "ssdlite" else ():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias.view(-1, 4)[:, 0] += 4  # as where most anchors have no object
    wrapped, interface = wrap(network, interface_of(network))
    untaught, images = Untaught(wrapped, interface), torch.rand(4, 3, 64, 64)
    assert [one.sqnr for one in differences(wrapped, untaught, images, (4,))] == pytest.approx([0, 0], abs=1e-3)
    if name == "ssdlite":
        assert min(map(sqnr, wrapped(images), untaught.raw(images))) > 5  # as they are given


def test_noise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mobile_cv_nas.deploy.export.LEAST_SQNR", 100.0)
    with pytest.raises(ExportError, match=r"keep_float the layers that lose most: \w+"):
        nas.export(model_of("classifier"), tmp_path / "net.onnx", int8=[photograph()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", "no such folder"),
        ([], "no images"),
        (3, "a int"),
        (["none.png"], "no image that can be read"),
        ([torch.rand(3, 4, 4)], "shape"),
    ],
)
def test_what_cannot_be_calibrated_on(source, message):
    model = model_of("classifier")
    with pytest.raises(InputError, match=message):
        calibration(source, model, interface_of(model.network, model), 4)


def test_a_network_alone_needs_tensors():
    network = network_of("classifier")
    with pytest.raises(InputError, match="export a Model"):
        calibration([photograph()], None, interface_of(network), 4)


def test_a_folder_is_read_as_training_reads_it(tmp_path):
    model = model_of("classifier")
    for name in ("a", ".ipynb_checkpoints", "__MACOSX/a", "a/@eaDir"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        photograph().save(tmp_path / name / "0.png")
    assert [len(part) for part in calibration(tmp_path, model, interface_of(model.network, model), 4)] == [1, 0]


def test_images_are_spread_evenly():
    """A folder has its images class by class: the first ones would be of one class."""
    images = [torch.full((3, 8, 8), float(i)) for i in range(100)]
    network = network_of("classifier")
    used, judged = (sorted(int(one[0, 0, 0]) for one in part) for part in calibration(images, None, interface_of(network), 20))
    assert (len(used), len(judged)) == (20, 16)
    assert not set(used) & set(judged)
    assert max(b - a for a, b in pairwise(used)) < 12
    assert max(b - a for a, b in pairwise(judged)) < 15
