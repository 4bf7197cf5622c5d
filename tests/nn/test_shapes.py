"""Widths, sizes and costs as the released networks round and count them."""

from __future__ import annotations

import pytest
import torch

from mobile_cv_nas.nn.shapes import Cost, out_size, round_to, widened


@pytest.mark.parametrize(
    ("width", "divisor", "expected"),
    [
        *[(8 * 5.4566, 8, 48), (24 * 1.7912, 8, 48), (26, 8, 32), (10, 8, 16), (18, 8, 24), (27, 8, 32), (12, 8, 16), (20, 8, 24)],
        *[(3, 8, 8), (0.4, 8, 8), (24.9, 1, 25), (24, 8, 24), (96.0, 8, 96), (100, 1, 100), (17, 8, 24), (41, 8, 40)],
    ],
)
def test_rounding_of_the_released_networks(width: float, divisor: int, expected: int) -> None:
    assert round_to(width, divisor) == expected


def test_out_size() -> None:
    assert [out_size(n, 5, 2, 1) for n in (14, 15)] == [6, 7]


def test_cost_adds() -> None:
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)
    assert tuple(Cost(1, 2)) == (1, 2)


def test_zero_channels_come_after_those_of_a_map() -> None:
    x = torch.rand(1, 3, 8, 6)
    for width in (3, 6, 8):  # as many as the map has rows, or columns, too
        wide = widened(x, width)
        assert wide.shape == (1, width, 8, 6)
        assert torch.equal(wide[:, :3], x)
        assert not wide[:, 3:].any()
