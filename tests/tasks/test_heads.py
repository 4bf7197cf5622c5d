"""Detectors and segmenters on every backbone: they train, they say what they want, and dilation is not resizing."""

from __future__ import annotations

import copy
import logging
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.networks.backbone import FeatureBackbone, dilate
from mobile_cv_nas.weights.file import save_weights

DETECTORS = ("faster_rcnn", "retinanet", "ssdlite")
SEGMENTERS = ("lraspp", "deeplabv3")
NETWORKS = [name for pattern in ("FBNetV2*", "FBNet_*", "MobileNetV3*") for name in nas.list_models(pattern)]
SIZE = 75  # no multiple of 32, nor of any stride
SMALL = "MobileNetV3_Small"


def images_and_targets(count: int = 2) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images of several shapes, with a small box, a middle-sized one and a large one: some for every map."""
    shapes = [(90, 83), (71, 88)][:count]
    boxes = torch.tensor([[5.0, 6, 17, 20], [20, 10, 60, 55], [0, 0, 62, 67]])
    targets = [{"boxes": boxes[: 3 - i].clone(), "labels": torch.tensor([1, 3, 2])[: 3 - i]} for i in range(count)]
    return [torch.rand(3, *shape) for shape in shapes], targets


def loss_of(model: nn.Module, count: int = 2) -> torch.Tensor:
    """A scalar that training would bring down."""
    if hasattr(model, "transform"):
        losses = model(*images_and_targets(count))
        assert all(value.isfinite() for value in losses.values())
        return sum(losses.values())
    out = model(torch.randn(count, 3, SIZE, SIZE + 12))["out"]
    return nn.functional.cross_entropy(out, torch.randint(0, out.shape[1], (count, SIZE, SIZE + 12)))


def build(head: str, backbone: object, **options: object) -> nn.Module:
    if head in SEGMENTERS:
        return nas.build_segmenter(head, backbone, 4, **options)
    return nas.build_detector(head, backbone, 3, **{"input_size": SIZE, **options})


def wake_norms(model: nn.Module) -> None:
    """Random gains: those that start at zero would hold back the gradients of what is before them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)


# -- every network with every head --------------------------------------------------------------------


def check_training(name: str, head: str) -> None:
    """Every parameter of the network and of the head gets a gradient."""
    torch.manual_seed(0)
    model = build(head, name)
    wake_norms(model)
    loss_of(model).backward()
    modules = dict(model.named_modules())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        owner = modules[key.rsplit(".", 2)[0]]
        cancelled = key.endswith(".conv.bias") and isinstance(getattr(owner, "norm", None), nn.BatchNorm2d)  # the norm takes it out
        assert cancelled or parameter.grad.any(), key
        assert parameter.grad.isfinite().all(), key


HEADS = DETECTORS + SEGMENTERS


@pytest.mark.parametrize(("name", "head"), [(name, HEADS[i % len(HEADS)]) for i, name in enumerate(NETWORKS)])
def test_every_network_trains(name, head):
    """With one head each, in turn: so each head is trained, too."""
    check_training(name, head)


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "head"), [(n, h) for i, n in enumerate(NETWORKS) for k, h in enumerate(HEADS) if i % len(HEADS) != k])
def test_every_network_trains_with_every_other_head(name, head):
    check_training(name, head)


@pytest.mark.parametrize("head", DETECTORS)
def test_detections(head):
    torch.manual_seed(0)
    options = {"box_score_thresh" if head == "faster_rcnn" else "score_thresh": 0.0}
    model = build(head, SMALL, **options).eval()
    images, _ = images_and_targets()
    with torch.inference_mode():
        found = model(images)
    for image, result in zip(images, found, strict=True):
        count = len(result["scores"])
        assert count > 0
        assert result["boxes"].shape == (count, 4)
        assert set(result["labels"].tolist()) <= {1, 2, 3}  # never 0, the background
        assert bool((result["boxes"] >= 0).all())
        assert bool((result["boxes"][:, 2:].amax(0) <= torch.tensor([image.shape[2], image.shape[1]])).all())


@pytest.mark.parametrize("head", SEGMENTERS)
@pytest.mark.parametrize(("output_stride", "low_stride"), [(32, 8), (16, 4), (8, 8)])
def test_segmentations(head, output_stride, low_stride):
    strides = {"low_stride": low_stride} if head == "lraspp" else {}
    model = build(head, SMALL, output_stride=output_stride, **strides).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 75, 90))["out"].shape == (1, 4, 75, 90)
        maps = model.backbone(torch.randn(1, 3, 75, 90))
    sides = [output_stride] if head == "deeplabv3" else [low_stride, output_stride]
    assert [m.shape[2:] for m in maps.values()] == [(-(-75 // side), -(-90 // side)) for side in sides]
    assert model.backbone.body.feature_info.strides == sides


@pytest.mark.parametrize("head", ["faster_rcnn", "retinanet"])
def test_pyramids_of_sizes_that_halve_unevenly(head):
    backbone = build(head, SMALL).backbone.eval()
    strides = {"faster_rcnn": (4, 8, 16, 32, 64), "retinanet": (8, 16, 32, 64, 128)}[head]
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 75, 107))
    assert [tuple(m.shape) for m in maps.values()] == [(1, 64, -(-75 // s), -(-107 // s)) for s in strides]


@pytest.mark.parametrize("strides", [(4,), (8, 16), (8, 16, 32)])
@pytest.mark.parametrize("head", DETECTORS)
def test_strides_and_what_is_not_used_is_not_there(head, strides):
    torch.manual_seed(0)
    model = build(head, SMALL, strides=strides)
    assert model.backbone.body.feature_info.strides == list(strides)
    wake_norms(model)
    loss_of(model).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("size", [64, 75, 128, 130, 256])
def test_ssdlite_adds_maps_while_two_pixels_are_left(size):
    model = nas.build_detector("ssdlite", SMALL, 3, input_size=size).eval()
    with torch.inference_mode():
        sides = [m.shape[-1] for m in model.backbone(torch.randn(1, 3, size, size)).values()]
    assert sides[-1] == 2  # the next would have one
    assert sides == [math.ceil(size / (16 << i)) for i in range(len(sides))]
    loss_of(model.train(), count=1).backward()


@pytest.mark.parametrize("head", [*DETECTORS, "lraspp"])
def test_a_batch_of_one(head):
    assert loss_of(build(head, SMALL), count=1) > 0


def test_deeplabv3_needs_two_images_in_training_alone():
    model = build("deeplabv3", SMALL)
    with pytest.raises(ValueError, match="deeplabv3: a batch of one image"):
        loss_of(model, count=1)
    assert loss_of(model.eval(), count=1) > 0


# -- dilation -----------------------------------------------------------------------------------------


def live(name: str) -> FeatureBackbone:
    """Features of order 1 in evaluation: the norms have the statistics of noise."""
    torch.manual_seed(0)
    features = nas.fbnet_builder(name, features_only=True)
    wake_norms(features)
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        features(torch.randn(4, 3, 96, 96))
    return features.double().eval()


@pytest.mark.parametrize(
    ("name", "output_stride", "size"),
    [
        ("FBNet_A", 16, (64, 64)),
        ("FBNet_A", 16, (75, 90)),
        ("FBNet_A", 16, (97, 33)),
        ("FBNet_A", 8, (75, 58)),
        ("FBNet_C", 16, (75, 58)),
        ("MobileNetV2_1.0", 4, (33, 50)),
        ("EfficientNet_Lite0", 16, (75, 58)),
        ("EfficientNet_Lite0", 8, (64, 50)),
        ("EfficientNet_Lite0", 4, (33, 50)),
    ],
)
def test_every_other_pixel_of_the_dilated_map_is_the_strided_map(name, output_stride, size):
    features = live(name)
    dilated = dilate(features, output_stride)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = features(x), dilated(x)
    assert expected[-1].std() > 0.1
    assert dilated.feature_info.strides == [min(stride, output_stride) for stride in (2, 4, 8, 16, 32)]
    for wanted, dense, stride, now in zip(expected, found, features.feature_info.strides, dilated.feature_info.strides, strict=True):
        assert dense.shape[2:] == tuple(math.ceil(side / now) for side in size)
        step = stride // now
        torch.testing.assert_close(dense[..., ::step, ::step], wanted, rtol=1e-9, atol=1e-9)


def test_a_backbone_that_ends_in_a_stride_is_dilated() -> None:
    rows = [[["conv_k3", 8, 2]], [["ir_k3", 16, 2]], [["ir_k3", 24, 2]]]
    features = FeatureBackbone(nas.build_model(nas.ArchDef.parse({"input_size": 32, "stages": rows}), 4))
    assert features.feature_info.strides == [2, 4, 8]
    assert dilate(features, 4).feature_info.strides == [2, 4, 4]


def test_dilation_leaves_the_original_and_refuses_what_it_cannot_do():
    features = nas.fbnet_builder("FBNet_A", features_only=True)
    dilated = dilate(features, 16)
    assert features.feature_info.strides[-1] == 32
    assert {m.dilation for m in features.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
    assert {m.dilation for m in dilated.blocks.s5b1.modules() if isinstance(m, nn.Conv2d) and m.groups > 8} == {(2, 2)}
    assert features.state_dict().keys() == dilated.state_dict().keys()
    with pytest.raises(ValueError, match="dilated already, to stride 16"):
        dilate(dilated, 8)
    with pytest.raises(ValueError, match="output_stride 3: the backbone goes from stride 2 to no such stride"):
        dilate(features, 3)
    # a dilated backbone is one whose last map has the stride it says
    assert nas.build_segmenter("lraspp", dilated, 4).backbone.body.feature_info.strides == [8, 16]


def with_block(block: nn.Module) -> FeatureBackbone:
    """Features of FBNet_A with another block where the stride becomes 32."""
    features = live("FBNet_A")
    features.blocks.s5b0 = block.double()
    return features


def test_a_block_of_several_convolutions_is_dilated_behind_its_stride():
    c_out = live("FBNet_A").blocks.s5b0.pwl.conv.out_channels
    features = with_block(nn.Sequential(nn.Conv2d(112, 8, 5, 1, 2), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, c_out, 3, 1, 1)))
    x = torch.randn(1, 3, 75, 58, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(dilate(features, 16)(x)[-1][..., ::2, ::2], features(x)[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(112, 184, 1)),
            "s5b0: cannot be dilated: its convolutions stride by 1, its row by 2",
        ),
        (nn.Sequential(nn.Conv2d(112, 184, 3, padding="same")), "s5b0: cannot be dilated: its convolution has padding 'same'"),
    ],
)
def test_blocks_that_cannot_be_dilated(block, message):
    with pytest.raises(ValueError, match=message):
        dilate(with_block(block), 16)


# -- what is frozen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["ssdlite", "deeplabv3"])
def test_frozen_stages_keep_weights_and_statistics(head):
    torch.manual_seed(0)
    model = build(head, "FBNetV2_F1", frozen_stages=3)
    before = copy.deepcopy(model.backbone.body.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss_of(model.train()).backward()
    optimizer.step()
    for key, value in model.backbone.body.state_dict().items():
        frozen = key.startswith(("blocks.s0", "blocks.s1", "blocks.s2"))
        if frozen:
            assert torch.equal(value, before[key]), key
        elif key.endswith(("running_var", "pwl.norm.bias")):
            assert not torch.equal(value, before[key]), key
    stages = {key.split(".")[1][:2]: parameter.requires_grad for key, parameter in model.backbone.body.named_parameters()}
    assert stages == {"s0": False, "s1": False, "s2": False, "s3": True, "s4": True, "s5": True}


def test_frozen_norms_are_the_norms_of_evaluation():
    features = live("MobileNetV3_Large_torchvision").float()  # its norms have an epsilon of their own
    model = nas.build_detector("ssdlite", features, 3, strides=(4, 16, 32), frozen_norm=True)
    body = model.backbone.body.train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    x = torch.randn(2, 3, 75, 90)
    with torch.no_grad():
        for found, wanted in zip(body(x), [features(x)[i] for i in (1, 3, 4)], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.head.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in features.modules()), "what was given stays as it was"


def test_all_stages_frozen_train_the_head_alone():
    model = build("lraspp", SMALL, frozen_stages=5)
    loss_of(model).backward()
    assert {key.split(".")[0] for key, parameter in model.named_parameters() if parameter.requires_grad} == {"classifier"}


# -- backbones of every kind, and their weights -------------------------------------------------------


class Pair(nn.Module):
    """A feature module of another origin, which returns a mapping."""

    class Info:
        channels = (8, 16)
        strides = (8, 16)

    feature_info = Info

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 16, 2, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.a(x)
        return {"fine": fine, "coarse": self.b(fine)}


@pytest.mark.parametrize("head", DETECTORS + SEGMENTERS)
def test_a_module_of_another_origin(head):
    module = Pair()
    model = build(head, module, **({"strides": (8, 16)} if head in DETECTORS else {}))
    assert model.backbone.body is module
    loss_of(model).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("head", ["faster_rcnn", "deeplabv3"])
def test_features_of_timm(head):
    timm = pytest.importorskip("timm")
    stride = {"output_stride": 16} if head == "deeplabv3" else {}
    module = timm.create_model("mobilenetv3_small_050", features_only=True, **stride)
    loss_of(build(head, module)).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_an_arch_and_its_file_build_the_same(tmp_path):
    arch = nas.get_arch(SMALL)
    arch.save(tmp_path / "net.yaml")
    shapes = [[tuple(p.shape) for p in build("ssdlite", b).parameters()] for b in (SMALL, arch, tmp_path / "net.yaml")]
    assert shapes[0] == shapes[1] == shapes[2]


def test_weights_reach_the_backbone(tmp_path):
    network = nas.build_model(nas.get_arch(SMALL), num_classes=7)
    wake_norms(network)
    save_weights(tmp_path / "net.safetensors", network.state_dict(), network.arch)
    for model in (
        nas.build_detector("retinanet", SMALL, 3, weights=tmp_path / "net.safetensors"),
        nas.build_segmenter("lraspp", network.arch, 3, weights=tmp_path / "net.safetensors", frozen_stages=2),
    ):
        state = model.backbone.body.state_dict()
        assert len(state) > 100
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())


def test_pretrained_weights_reach_the_backbone():
    shipped = nas.fbnet_builder("Digits", pretrained=True).state_dict()
    model = nas.build_segmenter("lraspp", "Digits", 3, output_stride=4, low_stride=2, pretrained=True)
    assert all(torch.equal(value, shipped[key]) for key, value in model.backbone.body.state_dict().items())


def test_images_are_normalised_as_the_network_was_trained():
    options = {"num_classes": 3, "strides": (2, 4), "input_size": 64}
    card = nas.get_card("Digits")
    by_name = nas.build_detector("ssdlite", "Digits", **options).transform
    assert (by_name.image_mean, by_name.image_std) == (list(card.mean), list(card.std))
    assert nas.build_detector("ssdlite", card.arch, **options).transform.image_mean == [0.485, 0.456, 0.406]
    given = nas.build_detector("ssdlite", "Digits", **options, image_mean=[0.1, 0.2, 0.3], image_std=[1, 1, 1]).transform
    assert (given.image_mean, given.image_std) == ([0.1, 0.2, 0.3], [1, 1, 1])


# -- sizes and options --------------------------------------------------------------------------------


@pytest.mark.parametrize("head", DETECTORS)
def test_the_input_size_is_the_longer_side(head):
    transform = nas.build_detector(head, SMALL, 3, input_size=100).transform
    batch, _ = transform([torch.rand(3, 60, 40)])
    assert batch.image_sizes == [(100, 100) if head == "ssdlite" else (100, 66)]


def test_options_reach_torchvision():
    frcnn = build("faster_rcnn", SMALL, box_nms_thresh=0.3, representation_size=40, anchor_scale=2.5, aspect_ratios=[1], channels=24)
    assert frcnn.roi_heads.nms_thresh == 0.3
    assert frcnn.roi_heads.box_head.fc6.weight.shape == (40, 24 * 49)
    assert frcnn.rpn.anchor_generator.sizes == ((10,), (20,), (40,), (80,), (160,))
    assert frcnn.rpn.anchor_generator.num_anchors_per_location() == [1] * 5
    retina = build("retinanet", SMALL, topk_candidates=17, anchor_scale=2)
    assert retina.topk_candidates == 17
    assert [sizes[0] for sizes in retina.anchor_generator.sizes] == [16, 32, 64, 128, 256]
    ssd = build("ssdlite", SMALL, min_ratio=0.1, max_ratio=0.5, aspect_ratios=(2,), detections_per_img=9)
    assert ssd.anchor_generator.scales == pytest.approx([0.1, 0.3, 0.5, 1.0])
    assert ssd.anchor_generator.num_anchors_per_location() == [4, 4, 4]
    assert ssd.detections_per_img == 9
    assert nas.build_detector("ssdlite", SMALL, 3, strides=(8, 16)).anchor_generator.scales[0] == pytest.approx(24 / 256)
    deeplab = build("deeplabv3", SMALL, atrous_rates=(2, 5), channels=24)
    assert [m.dilation[0] for m in deeplab.classifier[0].modules() if isinstance(m, nn.Conv2d)] == [1, 2, 5, 1, 1]
    assert {m.out_channels for m in deeplab.classifier.modules() if isinstance(m, nn.Conv2d)} == {24, 4}


def test_a_head_of_torchvisions_width_is_torchvisions():
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    ours = build("deeplabv3", SMALL, channels=256).classifier
    ours.load_state_dict(DeepLabHead(96, 4, (3, 6, 9)).state_dict())
    narrow = build("deeplabv3", SMALL, channels=64).classifier
    assert narrow.state_dict().keys() == ours.state_dict().keys()


@pytest.mark.parametrize("head", DETECTORS + SEGMENTERS)
def test_models_are_copied_and_pickled(head):
    model = build(head, SMALL)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "ssd_lite"}, "head 'ssd_lite': no such head; one of faster_rcnn, retinanet, ssdlite"),
        ({"backbone": "FBNet_Q"}, "no network is called 'FBNet_Q'; did you mean"),
        ({"backbone": "missing.yaml"}, "missing.yaml: no such file"),
        ({"backbone": 3}, "backbone: a int; give a name"),
        ({"backbone": nn.Conv2d(3, 3, 1)}, "a Conv2d without feature_info"),
        ({"num_classes": 0}, "num_classes 0: give a whole number of 1 or more"),
        ({"num_classes": True}, "num_classes True"),
        ({"input_size": 0}, "input_size 0"),
        ({"input_size": 63}, "input_size 63: less than two pixels of the map at stride 32"),
        ({"strides": (8, 64)}, "ssdlite: strides (8, 64): the backbone has maps at strides 2, 4, 8, 16, 32; choose from these"),
        ({"strides": "16"}, "ssdlite: strides ('16'): the backbone has maps at"),
        ({"strides": ()}, "ssdlite: strides (): the backbone has maps at"),
        ({"strides": (16, 8)}, "ssdlite: strides (16, 8): give each once, in ascending order"),
        ({"strides": (8, 32), "head": "faster_rcnn"}, "each must be twice the one before"),
        ({"channels": 20}, "ssdlite: channels 20: give a multiple of 8"),
        ({"channels": 0}, "channels 0"),
        ({"frozen_stages": 6}, "frozen_stages 6: the backbone has 5 stages; give 0 to 5"),
        ({"frozen_stages": -1}, "frozen_stages -1"),
        ({"frozen_stages": 1, "backbone": Pair(), "strides": (8,)}, "frozen_stages 1: this module has no stages"),
        ({"pretrained": True, "backbone": Pair()}, "load the weights into the module before"),
        ({"weights": "net.pth", "backbone": Pair()}, "load the weights into the module before"),
        ({"pretrained": True, "backbone": nas.get_arch(SMALL)}, "an arch alone has no pretrained weights"),
        ({"weights": "missing.pth"}, "missing.pth: no such file"),
        ({"score_tresh": 0.1}, "ssdlite: no such option 'score_tresh', did you mean score_thresh?"),
        ({"zzz": 0.1}, "ssdlite: no such option 'zzz'; it takes aspect_ratios, detections_per_img"),
        ({"size": (9, 9)}, "ssdlite: no such option 'size'"),
        ({"anchor_scale": 4}, "ssdlite: no such option 'anchor_scale'"),
        ({"min_ratio": 0.5, "max_ratio": 0.4}, "min_ratio 0.5, max_ratio 0.4: give shares"),
        ({"aspect_ratios": (0,)}, "aspect_ratios (0,): give numbers above 0"),
        ({"anchor_scale": 0, "head": "retinanet"}, "anchor_scale 0: give the side"),
        ({"anchor_scale": math.nan, "head": "faster_rcnn"}, "anchor_scale nan"),
        ({"representation_size": 0, "head": "faster_rcnn"}, "representation_size 0"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_bad_detectors(arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below, brackets and all
        nas.build_detector(**{"head": "ssdlite", "backbone": SMALL, "num_classes": 3, **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "retinanet"}, "head 'retinanet': no such head; one of lraspp, deeplabv3"),
        ({"num_classes": -1}, "num_classes -1"),
        ({"output_stride": 64}, "output_stride 64: the backbone has maps at strides 2, 4, 8, 16, 32; choose from these"),
        ({"output_stride": 12}, "output_stride 12: the backbone has maps at"),
        ({"low_stride": 6}, "low_stride 6: the backbone has maps at strides 2, 4, 8, 16 for it; choose from these"),
        ({"output_stride": 8, "low_stride": 16}, "low_stride 16: the backbone has maps at strides 2, 4, 8 for it"),
        ({"backbone": Pair(), "output_stride": 8}, "the last map of this module is at stride 16; build it dilated to 8"),
        ({"frozen_stages": 6}, "frozen_stages 6: the backbone has 5 stages"),
        ({"channels": 0}, "channels 0"),
        ({"atrous_rates": (3,)}, "lraspp: no such option 'atrous_rates'; it takes none"),
        ({"head": "deeplabv3", "atrous_rates": (0,)}, "atrous_rates (0,): give whole numbers above 0"),
        ({"head": "deeplabv3", "atrous_rate": (1,)}, "did you mean atrous_rates?"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_bad_segmenters(arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - as above
        nas.build_segmenter(**{"head": "lraspp", "backbone": SMALL, "num_classes": 3, **arguments})
    assert message in str(caught.value)


@pytest.mark.parametrize("label", [0, 4, -1])
@pytest.mark.parametrize("head", DETECTORS)
def test_labels_out_of_range(head, label):
    model = build(head, SMALL)
    images, targets = images_and_targets()
    targets[1]["labels"][1] = label
    for call in (lambda: model(images, targets), lambda: model(images=images, targets=targets)):
        with pytest.raises(ValueError, match=rf"image 1 of the batch: label {label} is not one of 1 to 3"):
            call()
    model.eval()(images, targets)  # nobody reads them


def test_targets_that_do_not_fit_the_images():
    model = build("ssdlite", SMALL)
    images, targets = images_and_targets()
    with pytest.raises(ValueError, match="targets: none for 2 images"):
        model(images)
    with pytest.raises(ValueError, match="targets: 1 for 2 images"):
        model(images, targets[:1])
    targets[0]["labels"] = targets[0]["labels"][:2]
    with pytest.raises(ValueError, match="image 0 of the batch: 3 boxes and 2 labels"):
        model(images, targets)


def test_a_norm_without_a_frozen_form():
    class Own(nn.BatchNorm2d):
        pass

    module = Pair()
    module.c = Own(8)
    with pytest.raises(ValueError, match="frozen_norm: c is a Own, of which no frozen form is known"):
        nas.build_detector("ssdlite", module, 3, strides=(8, 16), frozen_norm=True)


# -- weights of heads, and what is amiss ----------------------------------------------------------------


@pytest.mark.parametrize("head", ["lraspp", "deeplabv3", "ssdlite"])
def test_the_backbone_of_a_trained_head_starts_another(tmp_path, head):
    arch = nas.get_arch(SMALL)
    trained = nas.build_segmenter("lraspp", SMALL, 3)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    save_weights(tmp_path / "m.safetensors", trained.state_dict(), arch, ["a", "b", "c"], head={"name": "lraspp"})
    build = nas.build_detector if head == "ssdlite" else nas.build_segmenter
    model = build(head, SMALL, 7, weights=tmp_path / "m.safetensors")
    own = model.backbone.body.state_dict()
    assert own
    assert all(torch.equal(value, trained.backbone.body.state_dict()[name]) for name, value in own.items())
    with pytest.raises(InputError, match=r"m\.safetensors: blocks\.\S+ .* the weights of another arch"):
        build(head, "FBNetV2_F0", 7, weights=tmp_path / "m.safetensors")


def test_blocks_that_a_head_had_no_use_for_start_at_random(tmp_path, caplog):
    trained = nas.build_detector("ssdlite", SMALL, 3, strides=(8, 16), frozen_norm=True)
    save_weights(tmp_path / "m.safetensors", trained.state_dict(), nas.get_arch(SMALL), list("abc"), head={"name": "ssdlite"})
    with caplog.at_level(logging.WARNING):
        model = nas.build_segmenter("lraspp", SMALL, 3, weights=tmp_path / "m.safetensors")
    assert "which start at random" in caplog.text
    stem = "blocks.s0b0.conv.weight"
    assert torch.equal(model.backbone.body.state_dict()[stem], trained.backbone.body.state_dict()[stem])


BOXES, LABELS = torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([1])
BAD_TARGETS = [
    ({"boxes": BOXES}, "no tensor of labels"),
    ({"labels": LABELS}, "no tensor of boxes"),
    ({"boxes": BOXES, "labels": [1]}, "no tensor of labels"),
    ({"boxes": BOXES, "labels": LABELS.float()}, r"labels of shape \(1,\), torch.float32; give \(n,\) of int64"),
    ({"boxes": torch.zeros(0), "labels": LABELS[:0]}, r"boxes of shape \(0,\)"),
    ({"boxes": BOXES.int(), "labels": LABELS}, "boxes of shape .* torch.int32"),
    ({"boxes": BOXES * float("nan"), "labels": LABELS}, "box 0 .* in an image of 64x48 pixels"),
    ({"boxes": BOXES + 500, "labels": LABELS}, r"box 0 \(501, 502, 530, 540\) in an image of 64x48 pixels"),
    ({"boxes": BOXES.flip(1), "labels": LABELS}, r"box 0 .*, x1 < x2 and y1 < y2"),
]


@pytest.mark.parametrize(("target", "match"), BAD_TARGETS)
def test_targets_that_are_amiss(target, match):
    model = nas.build_detector("ssdlite", SMALL, 3, input_size=64)
    good = {"boxes": BOXES, "labels": LABELS}
    with pytest.raises(InputError, match=f"image 1 of the batch: {match}"):
        model([torch.rand(3, 48, 64)] * 2, [good, target])
    with pytest.raises(InputError, match="images: none"):
        model([], [])


def test_arguments_of_odd_types():
    with pytest.raises(InputError, match="no such head"):
        nas.build_detector(["ssdlite"], SMALL, 3)
    with pytest.raises(InputError, match="low_stride None: give a whole number"):
        nas.build_segmenter("lraspp", SMALL, 3, low_stride=None)
    with pytest.raises(InputError, match="low_stride 4: it is lraspp's"):
        nas.build_segmenter("deeplabv3", SMALL, 3, low_stride=4)
    with pytest.raises(InputError, match=r"output_stride 16\.0"):
        nas.build_segmenter("deeplabv3", SMALL, 3, output_stride=16.0)
    with pytest.raises(InputError, match="no such option 'min_size', did you mean input_size"):
        nas.build_detector("faster_rcnn", SMALL, 3, min_size=300)
    assert len(nas.build_detector("ssdlite", SMALL, 3, strides=np.array([16, 32])).backbone.body.feature_info.strides) == 2
