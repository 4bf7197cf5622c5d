"""Counting by fvcore leaves the model as it was, and counts what the papers count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mobile_cv_nas as nas
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
    assert cost == nas.Cost(100 * 27 * 8 + 100 * 8 + 40, 27 * 8 + 8 + 16 + 40)
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
