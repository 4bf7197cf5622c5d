"""The operators of blocks and heads: their multiply-accumulates are the blocks' own cost, which is what fvcore counts."""

from __future__ import annotations

import pytest

from mobile_cv_nas.arch import SearchSpace
from mobile_cv_nas.arch.layer import map_sizes
from mobile_cv_nas.nn.blocks import BLOCKS, Block, Shape
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.nn.operators import block_operators, head_operators

NAMES = sorted(name for name, _ in BLOCKS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"expansion": 1}])
def test_macs_of_the_operators_are_those_of_the_cost(name: str, options: dict) -> None:
    if options and (not name.startswith("ir_k") or "_e" in name):
        pytest.skip("no such option")
    stride = 2 if name != "skip" else 1
    space = SearchSpace.parse({"input_size": 15, "stages": [[["conv_k3", 8, 1]], [[name, 24, stride, 1, options]]]})
    layer = space.layers[1]
    for c_in, c_out, hidden in ((8, 24, layer.hidden[0]), (12, 36, 52)):
        squeeze = layer.squeeze(hidden) if hidden else 0
        out = layer.out_size(15)
        shape = Shape(c_in, c_out, hidden, squeeze, hidden * squeeze, 15**2, out**2)
        one = layer.arguments[name]
        found = block_operators(one.kind, shape, one.args, layer.expand)
        assert sum(op.macs for op in found) == layer.cost(name, c_in, c_out, hidden, 15).macs


def test_a_pooled_block_ends_on_one_pixel() -> None:
    layer = SearchSpace.parse({"input_size": 16, "stages": [[["conv_k3", 8, 1]], [["ir_pool_hs", 24, 1, 1, {"expansion": 3}]]]}).layers[1]
    one = layer.arguments["ir_pool_hs"]
    found = block_operators(one.kind, Shape(8, 24, 24, 0, 0, 256, 1), one.args, True)
    (linear,), (pool,) = ([op for op in found if op.kind == kind] for kind in ("linear", "pool"))
    assert (linear.c_in, linear.c_out, linear.in_area, linear.out_area) == (24, 24, 1, 1)
    assert (pool.in_area, pool.out_area) == (256, 1)


def test_a_head_without_options_has_those_of_its_cost() -> None:
    for head, sides in ((HeadDef("ssdlite", 5), (256, 16, 8)), (HeadDef("lraspp", 5), (64, 8, 2))):
        for n in (0, 1):
            assert sum(op.macs for op in head_operators(head, n, 32, sides)) == head.cost(n, 32, sides).macs
    rows = [[["conv_k3", 8, 2]], [["ir_k3", 16, 2]], [["ir_k3", 24, 2]], [["ir_k3", 40, 2]], [["ir_k3", 48, 2]]]
    layers = SearchSpace.parse({"input_size": 64, "stages": rows}).layers
    assert HeadDef("lraspp", 5).reads(layers) == (2, 4)  # strides 8 and the last
    assert HeadDef("ssdlite", 5).reads(layers) == (3, 4)  # strides 16 and 32


@pytest.mark.parametrize(
    "head",
    [HeadDef("classifier", 10), HeadDef("lraspp", 7, {"channels": 32}), HeadDef("ssdlite", 5, {"channels": 24, "strides": (4, 8)})],
    ids=lambda head: head.name,
)
def test_macs_of_a_heads_operators_are_those_of_its_cost(head: HeadDef) -> None:
    rows = [[["conv_k3", 8, 2]], [["ir_k3", 16, 2]], [["ir_k3", 24, 2]], [["ir_k3", 40, 2]]]
    strides = 4 if head.name == "lraspp" else 3
    space = SearchSpace.parse({"input_size": 72, "stages": rows[:strides]})
    sizes, reads = map_sizes(space.layers, 72), head.reads(space.layers)
    sides = [sizes[0], *(sizes[i + 1] for i in reads)]
    for n, width in enumerate((16, 24)[: len(reads)]):
        assert sum(op.macs for op in head_operators(head, n, width, sides)) == head.cost(n, width, sides).macs


def test_the_coarse_map_of_a_segmenter_is_resized_to_the_fine_one_and_that_to_the_image() -> None:
    found = [op for op in head_operators(HeadDef("lraspp", 7, {"channels": 32}), 0, 16, (72, 9, 5)) if op.kind == "resize"]
    assert [(op.c_in, op.c_out, op.in_area, op.out_area) for op in found] == [(32, 32, 25, 81), (7, 7, 81, 72**2)]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ["hswish"] * 3),
        ({"se_activation": "silu"}, ["hswish", "hswish", "silu"]),
        ({"se_activation": "relu"}, ["hswish", "hswish"]),
        ({"activation": "relu", "se_activation": "silu"}, ["silu"]),
        ({"activation": "silu"}, ["silu"] * 3),
    ],
)
def test_the_activation_inside_squeeze_and_excite_is_its_own_or_the_blocks(options: dict, kinds: list[str]) -> None:
    layer = SearchSpace.parse(
        {"input_size": 16, "stages": [[["conv_k3", 8, 1]], [["ir_k3_se_hs", 24, 1, 1, {"expansion": 3, **options}]]]}
    ).layers[1]
    one = layer.arguments["ir_k3_se_hs"]
    found = block_operators(one.kind, Shape(8, 24, 24, 8, 192, 256, 256), one.args, True)
    assert sorted(op.kind for op in found if op.kind in ("hswish", "silu")) == sorted(kinds)


def test_a_class_of_ones_own_says_its_operators_or_is_named() -> None:
    class Mine(Block):
        pass

    with pytest.raises(ValueError, match=r"Mine does not say its operators: define Mine.operators"):
        block_operators(Mine, Shape(*[1] * 7), None, True)


def operators_of(row: list, side: int, squeeze: int = 6) -> list[tuple]:
    """Of a block that reads 8 channels of a map, as tuples."""
    layer = SearchSpace.parse({"input_size": side, "stages": [[["conv_k3", 8, 1]], [row]]}).layers[1]
    one, hidden, out = layer.arguments[row[0]], layer.hidden[0], layer.out_size(side)
    shape = Shape(8, row[1], hidden, squeeze if hidden else 0, hidden * squeeze, side**2, out**2)
    return [tuple(op) for op in block_operators(one.kind, shape, one.args, layer.expand)]


def test_the_operators_of_blocks_one_by_one() -> None:
    """(kind, channels in and out, pixels in and out, kernel, groups)."""
    assert operators_of(["conv_k3_hs", 24, 2, 1], 15) == [("conv", 8, 24, 225, 64, 3, 1), ("hswish", 24, 24, 64, 64, 1, 1)]
    assert operators_of(["conv_k1", 24, 1, 1], 15) == [("pointwise", 8, 24, 225, 225, 1, 1)]
    assert operators_of(["skip", 24, 1, 1], 15) == [("pointwise", 8, 24, 225, 225, 1, 1)]
    assert operators_of(["skip", 8, 1, 1], 15) == []
    assert operators_of(["ir_k5_se_hs", 24, 2, 1, {"hidden": 32, "groups": 2}], 15) == [
        ("pointwise", 8, 32, 225, 225, 1, 2),
        ("hswish", 32, 32, 225, 225, 1, 1),
        ("shuffle", 32, 32, 225, 225, 1, 1),
        ("depthwise", 32, 32, 225, 64, 5, 1),
        ("hswish", 32, 32, 64, 64, 1, 1),
        ("pool", 32, 32, 64, 1, 1, 1),
        ("linear", 32, 6, 1, 1, 1, 1),
        ("hswish", 6, 6, 1, 1, 1, 1),
        ("linear", 6, 32, 1, 1, 1, 1),
        ("sigmoid", 32, 32, 1, 1, 1, 1),
        ("scale", 32, 32, 64, 64, 1, 1),
        ("pointwise", 32, 24, 64, 64, 1, 2),
    ]
    assert operators_of(["ir_pool_hs", 24, 1, 1, {"expansion": 3}], 15) == [
        ("pointwise", 8, 24, 225, 225, 1, 1),
        ("hswish", 24, 24, 225, 225, 1, 1),
        ("pool", 24, 24, 225, 1, 1, 1),
        ("linear", 24, 24, 1, 1, 1, 1),
        ("hswish", 24, 24, 1, 1, 1, 1),
    ]
    found = operators_of(["ir_k3_e3", 8, 1, 1], 15)
    assert found == [("pointwise", 8, 24, 225, 225, 1, 1), ("depthwise", 24, 24, 225, 225, 3, 1), ("pointwise", 24, 8, 225, 225, 1, 1)]


def test_the_operators_of_heads_one_by_one() -> None:
    assert [tuple(op) for op in head_operators(HeadDef("classifier", 10), 0, 24, (72, 3))] == [
        ("pool", 24, 24, 9, 1, 1, 1),
        ("linear", 24, 10, 1, 1, 1, 1),
    ]
    lraspp = HeadDef("lraspp", 7, {"channels": 32})
    assert [tuple(op) for op in head_operators(lraspp, 0, 16, (72, 9, 5))] == [
        ("resize", 32, 32, 25, 81, 1, 1),
        ("pointwise", 16, 7, 81, 81, 1, 1),
        ("pointwise", 32, 7, 81, 81, 1, 1),
        ("add", 7, 7, 81, 81, 1, 1),
        ("resize", 7, 7, 81, 5184, 1, 1),
    ]
    assert [tuple(op) for op in head_operators(lraspp, 1, 24, (72, 9, 5))] == [
        ("pointwise", 24, 32, 25, 25, 1, 1),
        ("pool", 24, 24, 25, 1, 1, 1),
        ("linear", 24, 32, 1, 1, 1, 1),
        ("sigmoid", 32, 32, 1, 1, 1, 1),
        ("scale", 32, 32, 25, 25, 1, 1),
    ]
    ssdlite = HeadDef("ssdlite", 5, {"channels": 24, "strides": (4, 8)})
    predicted = [("depthwise", 16, 16, 81, 81, 3, 1), ("pointwise", 16, 24, 81, 81, 1, 1)]
    predicted += [("depthwise", 16, 16, 81, 81, 3, 1), ("pointwise", 16, 36, 81, 81, 1, 1)]
    assert [tuple(op) for op in head_operators(ssdlite, 0, 16, (72, 9, 5))] == predicted  # six anchors, four sides and six scores each
    last = [tuple(op) for op in head_operators(ssdlite, 1, 16, (72, 9, 5))]
    assert last[4:7] == [("pointwise", 16, 12, 25, 25, 1, 1), ("depthwise", 12, 12, 25, 9, 3, 1), ("pointwise", 12, 24, 9, 9, 1, 1)]
    assert [op[3] for op in last] == [25] * 6 + [9] * 7 + [4] * 5  # pixels that are read, of 5x5, 3x3 and 2x2
    assert [op[4] for op in last] == [25] * 5 + [9] * 7 + [4] * 6
