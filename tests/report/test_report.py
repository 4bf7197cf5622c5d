"""The figures say what the network and the records say."""

import math

import numpy as np
import pytest
import torch

import mobile_cv_nas as nas
from mobile_cv_nas.report.figures import FAINT
from mobile_cv_nas.report.network import KERNEL_COLOURS, POOL_COLOUR, block_rows, draw_arch
from mobile_cv_nas.report.search import draw_alphas, draw_curves


def parse(*stages):
    return nas.ArchDef.parse({"name": "net", "input_size": 32, "stages": [[list(row) for row in s] for s in stages]})


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def share(image, colour):
    """The share of pixels of exactly this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (image == wanted).all(-1).mean()


def test_block_rows_describe_the_network():
    arch = parse(
        [["conv_k3_hs", 8, 2, 1]],
        [["ir_k5_se_hs", 16, 2, 1, {"expansion": 3}], ["skip", 16, 1, 1], ["ir_k3", 16, 1, 2, {"hidden": 40}]],
        [["ir_pool_hs", 64, 1, 1, {"expansion": 6}]],
    )
    rows = block_rows(arch)
    assert [row.name for row in rows] == ["conv_k3_hs", "ir_k5_se_hs", "skip", "ir_k3", "ir_k3", "ir_pool_hs"]
    assert [row.stage for row in rows] == [0, 1, 1, 1, 1, 2]
    assert [row.size for row in rows] == [16, 8, 8, 8, 8, 1]
    assert [row.width_in for row in rows] == [3, 8, 16, 16, 16, 16]
    assert [row.width for row in rows] == [8, 16, 16, 16, 16, 64]
    assert [row.hidden for row in rows] == [0, 24, 0, 40, 40, 96]
    assert [row.expansion for row in rows] == [1, 3, 0, 2.5, 2.5, 6]
    assert [row.kernel for row in rows] == [3, 5, 0, 3, 3, 0]
    assert [row.se for row in rows] == [False, True, False, False, False, False]
    assert [row.hswish for row in rows] == [True, True, False, False, False, True]


def test_rows_of_random_archs_agree_with_their_models():
    import random

    from mobile_cv_nas.configs import config_path

    space, rng = nas.SearchSpace.load(config_path("spaces/digits.yaml")), random.Random(0)
    for _ in range(20):
        arch = space.sample(rng)
        model, rows = nas.build_model(arch, 10), block_rows(arch)
        x = torch.zeros(1, 3, 16, 16)
        for block, row in zip(model.eval().blocks, rows, strict=True):
            x = block(x)
            assert x.shape == (1, row.width, row.size, row.size)
        assert sum("se" in row.name.split("_") for row in rows) == sum(row.se for row in rows)


@pytest.mark.parametrize(("kernel", "other"), [(3, 5), (5, 7), (7, 3)])
def test_kernel_size_is_colour_and_expansion_is_height(tmp_path, kernel, other):
    shares = []
    for expansion in (2, 4):
        arch = parse([[f"ir_k{kernel}", 16, 2, 3, {"expansion": expansion}], ["ir_k3", 16, 1, 1, {"expansion": 6}]])
        draw_arch(arch, tmp_path / "net.png")
        image = pixels(tmp_path / "net.png")
        shares.append(share(image, KERNEL_COLOURS[kernel]))
        if other != 3:
            assert share(image, KERNEL_COLOURS[other]) == 0
        assert share(image, POOL_COLOUR) == 0
    constant = 6 if kernel == 3 else 0  # the last block
    assert shares[1] / shares[0] == pytest.approx((3 * 4 + constant) / (3 * 2 + constant), rel=0.25)


def test_a_skip_is_a_gap_and_a_pool_has_its_own_colour(tmp_path):
    draw_arch(parse([["ir_k3", 16, 2, 1, {"expansion": 2}], ["ir_k3", 16, 1, 1, {"expansion": 2}]]), tmp_path / "a.png")
    draw_arch(parse([["ir_k3", 16, 2, 1, {"expansion": 2}], ["skip", 16, 1, 1]]), tmp_path / "b.png")
    full, gap = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    assert share(gap, KERNEL_COLOURS[3]) < 0.7 * share(full, KERNEL_COLOURS[3])
    assert share(gap, FAINT) > share(full, FAINT)
    draw_arch(parse([["conv_k3", 8, 2, 1]], [["ir_pool_hs", 32, 1, 1, {"expansion": 6}]]), tmp_path / "c.png")
    assert share(pixels(tmp_path / "c.png"), POOL_COLOUR) > 0.01


CHOICES = (
    nas.Choice("input_size", (12, 16)),
    nas.Choice("s0b0.block", ("ir_k3", "skip")),
    nas.Choice("s0b0.hidden", (8, 16, 24)),
    nas.Choice("s1b0.hidden", (8, 16)),
)


def record(epoch, sharpness=1.0, **values):
    tables = {}
    for choice in CHOICES:
        weights = [math.exp(sharpness * i) for i in range(len(choice.options))]
        tables[choice.name] = [w / sum(weights) for w in weights]
    base = {"epoch": epoch, "tau": 5.0 / (epoch + 1), "entropy": 1 / (epoch + 1), "probabilities": tables}
    costs = {f"cost_{name}": 5e5 - 1e4 * epoch for name in ("sampled", "expected", "argmax")}
    losses = {"weight_loss": 2.0 / (epoch + 1), "alpha_loss": None if epoch == 0 else 1.0}
    return {**base, **costs, **losses, **values}


def test_alphas_darken_where_probability_gathers(tmp_path):
    dark = []
    for sharpness in (0.0, 20.0):
        draw_alphas(CHOICES, [record(e, sharpness) for e in range(5)], tmp_path / "alphas.png")
        dark.append((pixels(tmp_path / "alphas.png").sum(-1) < 30).mean())
    assert dark[1] > 2 * dark[0] + 0.05


def test_curves_move_with_the_target_and_shade_the_warm_up(tmp_path):
    images = {}
    for name, target, warmup in (("a", 4e5, 1), ("b", 8e5, 1), ("c", 4e5, 0)):
        draw_curves([record(e) for e in range(5)], tmp_path / "curves.png", target, 0.05, "MACs", warmup)
        images[name] = pixels(tmp_path / "curves.png")
    assert not np.array_equal(images["a"], images["b"])
    assert share(images["a"], "#eef1f4") > share(images["c"], "#eef1f4") + 0.02


def test_one_epoch_can_be_drawn(tmp_path):
    draw_curves([record(0)], tmp_path / "curves.png", 4e5)
    draw_alphas(CHOICES, [record(0)], tmp_path / "alphas.png")
    assert pixels(tmp_path / "curves.png").ndim == pixels(tmp_path / "alphas.png").ndim == 3
