"""Counting by fvcore leaves the model as it was, and counts what the papers count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.networks.counting import count_detector


def test_a_network_has_imagenets_classes_and_colours_where_none_are_said() -> None:
    network = nas.build_model(nas.get_arch("Digits"))
    assert network.classifier.out_features == 1000
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 1000)


def test_counts_convolutions_linears_and_pools_but_no_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model[4].bias.requires_grad_(False)
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost = nas.count(model, 10)
    assert cost == nas.Cost(100 * 27 * 8 + 100 * 8 + 40, 27 * 8 + 8 + 16 + 40 + 5)  # the frozen bias is one too
    assert isinstance(cost.macs, int)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("head", ["ssdlite", "retinanet", "faster_rcnn"])
def test_a_detector_costs_what_its_layers_compute_of_a_real_image(head):
    torch.manual_seed(0)
    detector = nas.build_detector(head, "MobileNetV3_Small", 5, input_size=192).eval()
    macs, proposals = [], []

    def look(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(module, nn.AdaptiveAvgPool2d):
            macs.append(args[0].numel())
        else:
            macs.append(output.numel() * module.weight[0].numel())
        if getattr(detector, "roi_heads", None) is not None and module is detector.roi_heads.box_head.fc6:
            proposals.append(len(output))

    for module in detector.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.AdaptiveAvgPool2d):
            module.register_forward_hook(look)
    with torch.inference_mode():
        detector([torch.rand(3, 192, 192)])
    expected = sum(macs)
    strides = {"ssdlite": (), "retinanet": (8, 16), "faster_rcnn": (4, 8, 16)}[head]
    expected += sum(64 * (192 // stride) ** 2 for stride in strides)  # the pyramid's interpolations
    macs.clear()
    cost = count_detector(detector, 192, *proposals)
    assert cost == nas.Cost(expected, sum(p.numel() for p in detector.parameters()))
    if proposals:  # beyond those of this image, each costs one box head more
        roi = detector.roi_heads
        each = sum(m.weight.numel() for part in (roi.box_head, roi.box_predictor) for m in part.modules() if isinstance(m, nn.Linear))
        assert count_detector(detector, 192).macs == expected + (200 - proposals[0]) * each


@pytest.mark.parametrize("head", ["ssdlite", "faster_rcnn"])
def test_count_of_a_detector_is_that_of_an_image_of_the_size_that_is_given(head):
    """The detector's own transform would make one size of all."""
    detector = nas.build_detector(head, "MobileNetV3_Small", 5, input_size=128)
    detector.backbone.body.eval()
    small, large = nas.count(detector, 128), nas.count(detector, 256)
    assert (small, large) == (count_detector(detector, 128), count_detector(detector, 256))
    assert large.macs > 1.5 * small.macs
    assert nas.count(detector, (128, 256)) == count_detector(detector, (128, 256)) == nas.count(detector, (256, 128))
    assert small.macs < nas.count(detector, (128, 256)).macs < large.macs
    assert (detector.training, detector.backbone.body.training) == (True, False)


def test_a_detector_with_heads_that_are_not_counted_is_refused() -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    with torch.device("meta"):
        detector = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    with pytest.raises(InputError, match="masks or keypoints"):
        nas.count(detector, 64)


@pytest.mark.parametrize("size", [(8, 12), [8, 12], (np.int64(8), 12)])
def test_an_image_need_not_be_square(size: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding=(1, 0)), nn.AdaptiveAvgPool2d(1))
    assert nas.count(model, size) == nas.Cost(8 * 8 * (3 * 15 + 1) * 4, 3 * 15 * 4 + 4)
    assert nas.count(model, np.int64(8)) == nas.count(model, 8) == nas.count(model, (8, 8))


@pytest.mark.parametrize("size", [0, -8, 8.0, "8", None, True, (8,), (8, 8, 3), (8, 0), "88", {8: 1, 9: 2}, np.zeros((2, 2))])
def test_what_is_no_size_of_an_image_says_so(size: Any) -> None:
    with pytest.raises(InputError, match=r"input_size must be an int or \(height, width\), in pixels, not"):
        nas.count(nn.Conv2d(3, 4, 1), size)


def test_what_is_no_network_or_number_of_channels_says_so() -> None:
    with pytest.raises(InputError, match="the model must be a Module, not a str; give a network"):
        nas.count("FBNetV2_F4", 224)
    with pytest.raises(InputError, match="in_channels must be a positive int, not '3'"):
        nas.count(nn.Conv2d(3, 4, 1), 8, "3")


def test_a_module_without_parameters_is_counted() -> None:
    assert nas.count(nn.Flatten(), 16) == nas.Cost(0, 0)
    assert nas.count(nn.AdaptiveAvgPool2d(1), 4) == nas.Cost(48, 0)


@pytest.mark.parametrize("channels", [3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [3, 4])
def test_a_first_skip_computes_where_it_changes_the_image(channels, stride, width):
    arch = nas.ArchDef.parse({"input_size": 8, "stages": [[["skip", width, stride, 1]], [["ir_k3", 8, 1, 1]]]})
    model = nas.build_model(arch, 10, channels)
    assert nas.count(model, 8, channels) == arch.cost(10, channels)
    assert any(True for _ in model.blocks[0].parameters()) == (stride != 1 or width != channels)


def test_images_have_three_channels_unless_it_is_said():
    model = nas.fbnet_builder("Digits", in_channels=3)
    assert nas.count(model, 16) == nas.count(model, 16, 3)
    with pytest.raises(RuntimeError, match="channels"):
        nas.count(model, 16, 4)
    detector = nas.build_detector("ssdlite", "FBNetV2_F1", 3)
    assert nas.count(detector, 64) == count_detector(detector, 64) == count_detector(detector, 64, None, 3)
