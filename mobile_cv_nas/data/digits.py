"""digits: scikit-learn's scans of handwritten digits; nothing to download."""

from __future__ import annotations

import torch

from ..errors import require
from .data_set import Data, Source, Split


def digits() -> Data:
    """1,797 scans of 8x8 pixels: 1,257 to train, 180 to validate, 360 to test."""
    found = require("sklearn.datasets", "search").load_digits()
    images = torch.from_numpy(found.images).float().div(16.0)[:, None]  # (N, 1, 8, 8)
    everything = Split.whole(Source(images, tuple(int(label) for label in found.target)))
    rest, test = everything.halves(360 / 1797, seed=0)
    train, val = rest.halves(180 / 1437, seed=0)
    return Data(train, val, test, tuple(str(name) for name in found.target_names))
