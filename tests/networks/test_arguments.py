"""Arguments of another kind than is meant are understood, or refused in one line that says what to give."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError

A = nas.ArchDef.parse({"input_size": 32, "stages": [[["conv_k3", 8, 2]], [["ir_k3", 16, 2, 2], ["skip", 16]]]})
S = nas.SearchSpace.parse({"input_size": 16, "stages": [[["conv_k3", 8, 2]], [["ir_k3", [8, 16, 8], 1]]]})
MAPS = torch.arange(32.0).view(1, 2, 4, 4)


def features(out_indices: Any) -> Any:
    return nas.fbnet_builder("Digits", features_only=True, out_indices=out_indices)


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: nas.build_model("FBNetV2_F4"), "build_model: the arch must be an ArchDef, not a str; fbnet_builder builds by name"),
    (lambda: nas.build_model(S), r"a space has many networks: give one, such as space.largest\(\)"),
    (lambda: nas.build_model(A, "10"), "num_classes must be a positive int, not '10'"),
    (lambda: nas.build_model(A, 10, 0), "in_channels must be a positive int, not 0"),
    (lambda: nas.build_supernet({"input_size": 8}), "the space must be a SearchSpace, not a dict; SearchSpace.load reads"),
    (lambda: nas.build_supernet(S, True), "num_classes must be a positive int, not True"),
    (lambda: nas.build_supernet(S, sharing="some"), "sharing must be none or full, not 'some'"),
    (lambda: S.contains({"input_size": 16}), "the arch must be an ArchDef, not a dict; ArchDef.parse reads a mapping"),
    (lambda: S.explain("Digits"), "the arch must be an ArchDef, not a str"),
    (lambda: nas.build_supernet(S, 4).select({"input_size": 16}), "the arch must be an ArchDef, not a dict"),
    (lambda: S.sample("3"), "sample: give a random.Random or an int as its seed, not '3'"),
    (lambda: S.sample(None), "sample: give a random.Random or an int as its seed, not None"),
    (lambda: S.sample(0.5), "sample: give a random.Random or an int as its seed, not 0.5"),
    (lambda: nas.SearchSpace("x", (16,), ["conv_k3"]), "x: a layer must be a Layer, not a str; SearchSpace.parse reads a table"),
    (lambda: nas.SearchSpace("x", (16.5,), S.layers), "x: input_sizes: must be an int"),
    (lambda: features(2), r"out_indices 2: give a sequence of them, such as \(2,\)"),
    (lambda: features("12"), "out_indices: '1' is out of range"),
    (lambda: nas.list_models(3), "list_models: a pattern is text with wildcards, such as 'FBNetV2.', not 3"),
    (lambda: nas.list_models(["FBNetV2*", None]), "list_models: a pattern is text"),
    (lambda: nas.subsample(MAPS, 2.0), "subsample: size must be a positive int, not 2.0"),
    (lambda: nas.subsample(MAPS, (2, 2)), r"subsample: size must be a positive int, not \(2, 2\)"),
    (lambda: nas.subsample(MAPS[0], 2), r"subsample: maps must be \(N, C, H, H\), not of shape \(2, 4, 4\)"),
    (lambda: nas.subsample(MAPS, 5), "cannot subsample maps of 4x4 to 5x5"),
    (lambda: nas.subsample(MAPS, 0), "cannot subsample maps of 4x4 to 0x0"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_an_argument_of_another_kind_says_what_to_give(number: int) -> None:
    call, words = WRONG[number]
    with pytest.raises(InputError, match=words):
        call()


def test_an_arch_is_a_space_with_one_member() -> None:
    supernet = nas.build_supernet(A, 5)
    assert supernet.derive() == A
    assert supernet.alpha_parameters() == []
    child = nas.build_model(A, 5)
    cost = supernet.cost()
    assert (cost.macs.item(), cost.params.item()) == tuple(nas.count(child, 32))
    supernet.sample(1.0)
    x = torch.randn(2, 3, 32, 32)
    nas.inherit_weights(child, supernet)
    torch.testing.assert_close(child.eval()(x), supernet.eval()(x), rtol=1e-5, atol=1e-5)
    supernet.select(A)
    torch.testing.assert_close(child(x), supernet(x), rtol=1e-5, atol=1e-5)


def test_numbers_of_numpy_are_numbers() -> None:
    assert S.sample(np.int64(3)) == S.sample(3) == S.sample(random.Random(3))
    random.seed(3)
    assert S.contains(S.sample(random))  # type: ignore[arg-type]
    assert nas.build_model(A, np.int64(4), np.int64(1)).classifier.out_features == 4
    assert torch.equal(nas.subsample(MAPS, np.int64(2)), nas.subsample(MAPS, 2))
    assert nas.subsample(MAPS, 2).shape == (1, 2, 2, 2)


def test_a_space_of_layers_has_its_sizes_in_order() -> None:
    space = nas.SearchSpace("x", [32, 16], list(S.layers))
    assert (space.input_sizes, space.max_input_size) == ((16, 32), 32)
    assert space == nas.SearchSpace("x", (16, 32), S.layers)
    assert nas.SearchSpace("x", 16, S.layers) == S  # type: ignore[arg-type]


def test_maps_may_be_asked_for_by_any_sequence() -> None:
    assert features(iter((0, 2))).feature_info == features((0, 2)).feature_info


def test_models_are_listed_by_several_patterns_as_timm_has_it() -> None:
    found = nas.list_models(["FBNetV2_F?", "*f4", "digits"])
    assert found == sorted({*nas.list_models("FBNetV2_F?"), *nas.list_models("*f4"), "Digits"})
    assert nas.list_models(("FBNetV2*",), pretrained=True) == nas.list_models("FBNetV2*", pretrained=True)
    assert nas.list_models([]) == []
