"""Norm statistics are renewed from what loaders give, and a call that fails changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)))
    with torch.no_grad():
        for norm in (model[1], model[2][1]):
            norm.running_mean.fill_(50.0)
            norm.num_batches_tracked.fill_(7)
    return model.eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("pair", [tuple, list])
def test_images_are_taken_of_images_and_labels(pair: Any) -> None:
    batches = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    first, second = network(), network()
    nas.recalibrate_batchnorm(first, batches)
    nas.recalibrate_batchnorm(second, (pair([images, torch.zeros(4)]) for images in batches))
    assert same(state(first), state(second))
    third = network()
    nas.recalibrate_batchnorm(third, (pair([images]) for images in batches))
    assert same(state(first), state(third))
    assert not same(state(first), state(network()))


def test_every_module_ends_in_the_mode_it_was_in() -> None:
    model = network().train()
    model[1].eval()
    nas.recalibrate_batchnorm(model, [torch.randn(4, 3, 8, 8)])
    assert [model.training, *(module.training for module in model)] == [True, True, False, True]
    assert model[1].running_mean.abs().max() < 5  # renewed all the same


def wrong_batches() -> list[Any]:
    good = torch.randn(4, 3, 8, 8)
    return [
        [good, {"image": good}],
        [good, ("a", "b")],
        [[good[0], good[1]]],
        [()],
        [good, torch.randn(4, 5, 8, 8)],  # of five channels: the model itself raises
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_call_that_fails_leaves_the_model_as_it_was(number: int) -> None:
    model = network().train()
    model[2].eval()
    before = state(model)
    error, words = (InputError, r"a batch must be images \(N, C, H, W\) or") if number < 4 else (RuntimeError, "channels")
    with pytest.raises(error, match=words):
        nas.recalibrate_batchnorm(model, wrong_batches()[number])
    assert same(state(model), before)
    assert [module.training for module in model] == [True, True, False]
    assert model[1].momentum == 0.1


@pytest.mark.parametrize("batches", [torch.randn(4, 3, 8, 8), None, 3])
def test_batches_that_are_none_say_so(batches: Any) -> None:
    with pytest.raises(InputError, match=r"batches must be a list of batches or a loader, such as .images., not"):
        nas.recalibrate_batchnorm(network(), batches)
    with pytest.raises(InputError, match="the model must be a Module, not a str;"):
        nas.recalibrate_batchnorm("FBNetV2_F4", [])  # type: ignore[arg-type]


def test_a_detector_takes_lists_of_images_alone_or_with_targets() -> None:
    torch.manual_seed(0)
    detector = nas.build_detector("ssdlite", "MobileNetV3_Small", 3, input_size=64)
    images = list(torch.rand(2, 3, 64, 64))
    nas.recalibrate_batchnorm(detector, [images])
    once = state(detector)
    for batch in ((images, [{}, {}]), torch.stack(images), (torch.stack(images), [{}, {}])):
        nas.recalibrate_batchnorm(detector, [batch])
        assert same(state(detector), once)
    for wrong in ([], [torch.rand(64, 64)], [images[0], torch.rand(64, 64)], {"images": images}):
        with pytest.raises(InputError, match="must be a list of images"):
            nas.recalibrate_batchnorm(detector, [wrong])
    assert same(state(detector), once)
