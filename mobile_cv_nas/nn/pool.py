"""The global pool of a classifier, under timm's names of its kinds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, did_you_mean

POOLS = ("avg", "max", "avgmax", "catavgmax", "")


class GlobalPool(nn.Module):
    """The global pool: (N, C, H, W) to (N, C).

    Args:
        pool_type: avg, max, avgmax (the mean of both), catavgmax (both, (N, 2C)), or "" for none: the map as it is.
        flatten: False leaves (N, C, 1, 1).

    Raises:
        InputError: no such pool.
    """

    def __init__(self, pool_type: str = "avg", flatten: bool = True):
        super().__init__()
        if pool_type not in POOLS:
            raise InputError(f"global_pool {pool_type!r}: no such pool{did_you_mean(str(pool_type), POOLS, few=len(POOLS))}")
        self.pool_type, self.flattens = pool_type, flatten

    def feat_mult(self) -> int:
        """How many times as many channels come out as go in."""
        return 2 if self.pool_type == "catavgmax" else 1

    def forward(self, x: Tensor) -> Tensor:
        if self.pool_type == "":
            return x
        if self.pool_type == "avg":
            x = F.adaptive_avg_pool2d(x, 1)
        elif self.pool_type == "max":
            x = F.adaptive_max_pool2d(x, 1)
        elif self.pool_type == "avgmax":
            x = 0.5 * (F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1))
        else:
            x = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1)
        return x.flatten(1) if self.flattens else x

    def extra_repr(self) -> str:
        return f"{self.pool_type!r}"
