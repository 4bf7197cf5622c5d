"""Counting by fvcore leaves the model as it was, and counts what the papers count."""

from __future__ import annotations

import torch
from torch import nn

import mobile_cv_nas as nas


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
