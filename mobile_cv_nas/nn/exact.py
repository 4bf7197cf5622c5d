"""Numbers that must stay exact, whatever precision the weights around them are given."""

from __future__ import annotations

from typing import Any

from torch import nn


class ExactBuffers(nn.Module):
    """A module whose own buffers follow it to a device, but keep their dtype under `half()`, `float()` or `to(dtype)`.

    Costs are float64: float32 is inexact above 2^24, and a product of the two an error.
    """

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)  # of the exact numbers, not of the rounded ones
        return self
