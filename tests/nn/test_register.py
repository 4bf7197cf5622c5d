"""Blocks of a user's own: in an arch, in a space, and the errors that name them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from spaces import randomise
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.nn import registered
from mobile_cv_nas.nn.blocks import ConvBlock, Dims, InvertedResidual, IRPool, Skip
from mobile_cv_nas.nn.choice import Gates
from mobile_cv_nas.nn.layers import ACTIVATIONS, SE_GATES
from mobile_cv_nas.nn.options import OPTIONS
from mobile_cv_nas.nn.register import arguments_type, make_block, value_error
from mobile_cv_nas.nn.whole import WholeCandidate


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    before = dict(nas.BLOCKS._obj_map)
    yield
    nas.BLOCKS._obj_map.clear()
    nas.BLOCKS._obj_map.update(before)


class Plain(nn.Module):
    """Knows nothing of the library but the dimensions."""

    def __init__(self, dims: Any, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(dims.c_in, dims.c_out, kernel, dims.stride, kernel // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Wide(InvertedResidual):
    """An inverted residual whose kernel is another by default."""

    def __init__(self, dims: Any, kernel: int = 9, **rest: Any):
        super().__init__(dims, kernel=kernel, **rest)


class Pointwise(nas.Block):
    """A convolution that a space can search, with no norm."""

    @dataclass(frozen=True)
    class Arguments:
        bias: bool = False

    options = frozenset({"bias"})

    def __init__(self, dims: Any, **arguments: Any):
        super().__init__()
        a = self.Arguments(**arguments)
        self.c_out = dims.c_out
        self.conv = nn.Conv2d(dims.c_in, getattr(dims.c_out, "options", (dims.c_out,))[-1], 1, dims.stride, bias=a.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def transform(self, x: torch.Tensor, gates: Gates | None = None, scale: torch.Tensor | None = None) -> torch.Tensor:
        assert gates is not None
        width = gates.value(self.c_out)
        bias = None if self.conv.bias is None else self.conv.bias[:width]
        y = nn.functional.conv2d(x, self.conv.weight[:width, : x.shape[1]], bias, self.conv.stride)
        mask = gates.tensor(self.c_out)
        y = y if mask is None else y * mask.view(1, -1, 1, 1)
        return y if scale is None else y * scale

    @staticmethod
    def constants(args: Any, expand: bool) -> dict[str, int]:
        return {"bias": int(args.bias)}

    @staticmethod
    def cost(s: Any, n: Any) -> nas.Cost:
        weights = s.c_in * s.c_out
        return nas.Cost(weights * s.out_area, weights + n.bias * s.c_out)


def table(*rows: list) -> dict:
    return {"input_size": 16, "stages": [[["conv_k3", 8, 2]], list(rows)]}


def test_a_plain_module_stands_in_an_arch() -> None:
    nas.register_block("mine", Plain, kernel=5)
    arch = nas.ArchDef.parse(table(["mine", 12], ["ir_k3", 16]))
    model = nas.build_model(arch, 4)
    assert model.blocks.s1b0.conv.kernel_size == (5, 5)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 4)


def test_a_variant_of_a_block_of_ours_is_searched() -> None:
    """The default that its constructor names is the one that is counted."""
    nas.register_block("wide", Wide)
    assert arguments_type(Wide)().kernel == 9
    space = nas.SearchSpace.parse(table([["wide", "ir_k3"], [8, 16, 4], 1, 2, {"expansion": 2}]))
    arch = next(arch for arch in map(space.sample, range(50)) if {layer.names[0] for layer in arch.layers} >= {"wide", "ir_k3"})
    child = nas.build_model(arch, 4)
    assert nas.count(child, 16) == arch.cost(4)
    supernet = nas.build_supernet(space, 4)
    randomise(supernet)
    supernet.select(arch)
    nas.inherit_weights(child, supernet)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(child.eval()(x), supernet.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_block_of_ones_own_is_searched(bias: bool) -> None:
    nas.register_block("point", Pointwise)
    space = nas.SearchSpace.parse(table([["point", "ir_k3", "skip"], [8, 16, 4], 1, 2, {"bias": bias}]))
    supernet = nas.build_supernet(space, 4)
    randomise(supernet)
    for seed in range(10):
        arch = space.sample(seed)
        child = nas.build_model(arch, 4)
        supernet.select(arch)
        nas.inherit_weights(child, supernet)
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(child.eval()(x), supernet.eval()(x), rtol=1e-5, atol=1e-5)
        counted = nas.count(child, 16)
        assert (counted.macs, counted.params) == (supernet.cost().macs.item(), supernet.cost().params.item())


def test_a_block_without_constants_is_searched() -> None:
    class Same(Pointwise):
        constants = nas.Block.constants

        @staticmethod
        def cost(s: Any, n: Any) -> nas.Cost:
            return nas.Cost(s.c_in * s.c_out * s.out_area, s.c_in * s.c_out)

    nas.register_block("same", Same)
    space = nas.SearchSpace.parse(table([["same", "ir_k3"], [8, 16, 4], 1, 2]))
    supernet = nas.build_supernet(space, 4)
    for seed in range(4):
        arch = space.sample(seed)
        supernet.select(arch)
        counted = nas.count(nas.build_model(arch, 4), 16)
        assert (counted.macs, counted.params) == (supernet.cost().macs.item(), supernet.cost().params.item())


def refused(name: Any, kind: Any, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        nas.register_block(name, kind, **arguments)
    assert str(name)[:10] not in nas.BLOCKS or name == "skip"
    return str(caught.value)


def test_what_cannot_be_registered_says_why() -> None:
    class NoDims(nn.Module):
        def __init__(self) -> None:
            super().__init__()

    class Needs(nn.Module):
        def __init__(self, dims: Any, width: int):
            super().__init__()

    class Options(nas.Block):
        options = frozenset({"bias"})

        def __init__(self, dims: Any):
            super().__init__()

    assert "already called skip" in refused("skip", Plain)
    assert "letters, digits and underscores" in refused("a b", Plain)
    assert "letters, digits and underscores" in refused(3, Plain)
    assert "must be a class derived from nn.Module" in refused("mine", 3)
    assert "must be a class derived from nn.Module" in refused("mine", dict)
    assert "NoDims.__init__ takes the dimensions first" in refused("mine", NoDims)
    assert "Plain has no argument kernal; it takes kernel" in refused("mine", Plain, kernal=5)
    assert "Needs needs a value for width: register_block('mine', Needs, width=...)" in refused("mine", Needs)
    assert "Options.options names bias" in refused("mine", Options)


def test_a_block_that_cannot_be_searched_says_what_it_lacks() -> None:
    nas.register_block("mine", Plain)
    fixed = nas.ArchDef.parse(table(["mine", 8]))
    with pytest.raises(ValueError, match=r"s1b0: the block mine has no cost: define Plain\.cost\(s, n\)"):
        fixed.cost()
    space = nas.SearchSpace.parse(table([["mine", "ir_k3"], 8]))
    with pytest.raises(ValueError, match=r"s1b0: the block mine cannot stand in a space: define Plain\.transform and Plain\.cost"):
        nas.build_supernet(space, 4)


def test_a_constructor_that_knows_no_choice_is_named() -> None:
    class Fixed(Pointwise):
        def __init__(self, dims: Any, bias: bool = False):
            nas.Block.__init__(self)
            self.conv = nn.Conv2d(dims.c_in, dims.c_out, 1)

    nas.register_block("mine", Fixed)
    space = nas.SearchSpace.parse(table([["mine", "ir_k3"], [8, 16, 4]]))
    with pytest.raises(
        ValueError, match=r"the block mine: Fixed\(.*raised TypeError.*in a space c_out may be a choice: build at its largest"
    ):
        nas.build_supernet(space, 4)


def test_a_constructor_that_fails_is_named() -> None:
    class Broken(nn.Module):
        def __init__(self, dims: Any):
            super().__init__()
            self.conv = nn.Conv2d(dims.c_in, dims.width, 1)

    nas.register_block("mine", Broken)
    with pytest.raises(ValueError, match=r"the block mine: Broken\(Dims.*raised AttributeError: .*width.*; correct its __init__"):
        nas.build_model(nas.ArchDef.parse(table(["mine", 8])), 4)


def test_an_option_of_ones_own_is_checked() -> None:
    class Shuffle(nas.Block):
        options = frozenset({"parts"})

        def __init__(self, dims: Any, parts: int = 2):
            super().__init__()
            self.parts = parts

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.channel_shuffle(x, self.parts)

    nas.register_block("shuffle", Shuffle)
    assert nas.build_model(nas.ArchDef.parse(table(["shuffle", 8, 1, 1, {"parts": 4}])), 4).blocks.s1b0.parts == 4
    with pytest.raises(nas.ArchError, match="stage 1, block 0: key parts: must be a number, a word"):
        nas.ArchDef.parse(table(["shuffle", 8, 1, 1, {"parts": [1]}]))
    with pytest.raises(nas.ArchError, match="unknown option 'part', did you mean parts"):
        nas.ArchDef.parse(table(["shuffle", 8, 1, 1, {"part": 4}]))


def test_arguments_are_values():
    """Equal ones are one key, and none can be changed behind the back of a block that was made of them."""
    kind = arguments_type(InvertedResidual)
    assert len({kind(kernel=5), kind(kernel=5), kind(kernel=3)}) == 2
    made = arguments_type(Wide)
    assert len({made(), made()}) == 1


def test_dimensions_that_are_left_out():
    assert Dims(6, 8) == (6, 8, 1, 0, 0, True)


def test_an_error_inside_a_block_of_this_library_is_not_the_users():
    dims = Dims(c_in=6, c_out=8, hidden=6)
    with pytest.raises(ValueError, match="divisible by groups") as caught:
        make_block("ir_k3", InvertedResidual, dims, {"groups": 4})
    assert "correct its" not in str(caught.value)


@pytest.mark.parametrize("name", ["mine", "block_type"])
def test_a_network_with_a_plain_module_is_pickled(name: str) -> None:
    """By the name it is registered under, which may be that of anything in the library."""
    nas.register_block(name, Plain, kernel=5)
    arch = nas.ArchDef.parse(table([name, 12], ["ir_k3", 16]))
    model = nas.build_model(arch, 4).eval()
    x = torch.randn(1, 3, 16, 16)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(arch, protocol)) == arch
        assert torch.equal(pickle.loads(pickle.dumps(model, protocol))(x), model(x))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), model(x))
    assert type(copy.deepcopy(model).blocks.s1b0) is type(model.blocks.s1b0)


class Searched(nn.Module):
    """A plain module that has what a space needs."""

    def __init__(self, dims: Any):
        super().__init__()
        self.inner = Pointwise(dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)

    def transform(self, *arguments: Any) -> torch.Tensor:
        return self.inner.transform(*arguments)

    constants, cost = staticmethod(lambda args, expand: {"bias": 0}), Pointwise.cost


def test_a_supernet_and_a_variant_are_pickled() -> None:
    nas.register_block("mine", Searched)
    nas.register_block("wide", Wide)
    space = nas.SearchSpace.parse(table([["mine", "wide", "skip"], [8, 16, 4], 1, 2]))
    supernet = nas.build_supernet(space, 4).eval()
    again = pickle.loads(pickle.dumps(supernet))
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again(x), supernet(x))
    assert again.cost() == supernet.cost()
    assert again.space == space
    arch = space.sample(0)
    arch.cost()
    assert pickle.loads(pickle.dumps(arch)) == arch


def test_a_pickled_network_needs_its_block() -> None:
    nas.register_block("mine", Plain)
    data = pickle.dumps(nas.build_model(nas.ArchDef.parse(table(["mine", 12])), 4))
    nas.BLOCKS._obj_map.pop("mine")
    with pytest.raises(AttributeError, match=r"'mine' on <module 'mobile_cv_nas\.nn\.registered'"):
        pickle.loads(data)
    with pytest.raises(AttributeError, match=r"no block is called mine: register_block\('mine', ...\) it before"):
        _ = registered.mine


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (InvertedResidual, {"kernel": "7"}, "InvertedResidual: kernel must be an odd int from 1 to 65535, not '7'"),
        (InvertedResidual, {"kernel": 4}, "kernel must be an odd int from 1 to 65535, not 4"),
        (InvertedResidual, {"kernel": 3.0}, "kernel must be an odd int from 1 to 65535, not 3.0"),
        (ConvBlock, {"kernel": -1}, "ConvBlock: kernel must be an odd int from 1 to 65535, not -1"),
        (ConvBlock, {"kernel": None}, "kernel must be an odd int from 1 to 65535, not None"),
        (InvertedResidual, {"activation": "gelu"}, "activation must be one of relu, relu6, hswish, silu, not 'gelu'"),
        (InvertedResidual, {"activation": None}, "activation must be one of relu, relu6, hswish, silu, not None"),
        (IRPool, {"activation": nn.ReLU}, "IRPool: activation must be one of relu"),
        (IRPool, {"se": "relu"}, "se must be one of sigmoid, hsigmoid or None, not 'relu'"),
        (InvertedResidual, {"se_activation": "gelu"}, "se_activation must be one of relu, relu6, hswish, silu or None"),
        (InvertedResidual, {"groups": 0}, "groups must be an int from 1 to 65536, not 0"),
        (InvertedResidual, {"padding": "valid"}, "padding must be an int from 0 to 16, or same or None"),
        (InvertedResidual, {"norm_eps": 0}, "norm_eps must be a number above 0"),
        (InvertedResidual, {"bias": "no"}, "bias must be true or false, not 'no'"),
        (WholeCandidate, {"kernel": 3, "ratio": 1.5, "groups": 1}, "ratio must be an int from 1 to 65536, not 1.5"),
        (Wide, {"activation": "gelu"}, "Wide: activation must be one of relu"),
    ],
)
def test_an_argument_of_a_block_of_ours_is_checked(kind: Any, arguments: dict[str, Any], words: str) -> None:
    assert words in refused("mine", kind, **arguments)


def test_what_blocks_of_ours_take_stays_legal() -> None:
    for number, activation in enumerate(ACTIVATIONS):
        for gate in (*SE_GATES, None):
            nas.register_block(f"ir_{number}_{gate}", InvertedResidual, kernel=2 * number + 1, activation=activation, se=gate)
        nas.register_block(f"pool_{number}", IRPool, activation=activation, se_activation=None)
        nas.register_block(f"conv_{number}", ConvBlock, kernel=9, padding=[None, 0, 4, "same"][number], bias=True, norm_eps=1)
    nas.register_block("nothing", Skip)
    nas.register_block("whole", WholeCandidate, kernel=7, ratio=2, groups=2, activation="silu")
    for entry in [entry for _, entry in nas.BLOCKS if hasattr(entry, "func")]:  # every one that is shipped
        nas.register_block(f"again{len(nas.BLOCKS._obj_map)}", entry.func, **entry.keywords)


def test_an_argument_of_ones_own_may_mean_anything() -> None:
    """A constructor that names an argument reads it itself, and so does a class that is not of this library."""

    class Twice(InvertedResidual):
        def __init__(self, dims: Any, kernel: str = "3x3", **rest: Any):
            super().__init__(dims, kernel=int(kernel[0]), **rest)

    class Gelu(nn.Module):
        def __init__(self, dims: Any, activation: str):
            super().__init__()
            self.act = getattr(nn, activation)()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x)

    nas.register_block("twice", Twice, kernel="5x5")
    nas.register_block("gelu", Gelu, activation="GELU")
    assert nas.build_model(nas.ArchDef.parse(table(["gelu", 8])), 4)(torch.randn(1, 3, 16, 16)).shape == (1, 4)


def test_a_block_without_a_cost_leaves_its_places_empty() -> None:
    nas.register_block("mine", Plain, kernel=5)
    lines = repr(nas.ArchDef.parse(table(["mine", 12], ["ir_k3", 16]))).splitlines()
    mine, after, total = (line.split() for line in lines[-3:])
    assert mine[:2] == ["s1b0", "mine"]
    assert len(mine) == len(after) - 3  # no hidden width, MACs or parameters
    assert total[0] == "total"


# The values at both ends of what an option takes, and those just beyond.
ENDS: dict[str, tuple[list, list]] = {
    "expansion": ([0.001, 1, 100], [0, -1, 100.1, 101, True, "6", None]),
    **{key: ([1, 65536], [0, -1, 65537, 1.0, True, "8", None]) for key in ("hidden", "divisor", "groups", "squeeze")},
    **{key: ([True, False], [0, 1, "true", None]) for key in ("bias", "zero_gamma")},
    "padding": ([0, 1, 16, "same"], [-1, 17, 1.0, True, "valid", None]),
    "squeeze_from": (["hidden", "input"], ["output", 1, None]),
    "se": (["hsigmoid", "sigmoid"], ["relu", 1, True, None]),
    **{key: (["relu", "hswish"], ["softmax", 1, True, None]) for key in ("activation", "se_activation")},
    "norm_eps": ([1e-12, 1e-3, 1], [0, -1e-3, 1.1, True, "1e-3", None]),
}


def test_options_take_values_up_to_their_ends() -> None:
    assert set(ENDS) == set(OPTIONS)
    for key, (good, bad) in ENDS.items():
        assert [value_error(key, value) for value in good] == [""] * len(good), key
        assert [value_error(key, value) for value in bad] == [OPTIONS[key][0]] * len(bad), key
    assert not any(value_error("own", value) for value in (True, 3, 0.5, "word"))
    assert value_error("own", [1]) == value_error("own", None) == "a number, a word, true or false"
