"""DMaskingNAS: weights and alphas in turn, under Gumbel-Softmax gates of falling temperature.

Source: Wan et al., "FBNetV2: Differentiable Neural Architecture Search for Spatial and Channel Dimensions" (CVPR 2020).
    gates    g = softmax((alpha + Gumbel noise) / tau)                          Eq. 4
    weights  w <- w - lr dL/dw, on most of the training images                  Section 4.1
    alphas   alpha <- Adam on L + cost_weight |cost(g) / target - 1|, on the rest
It departs from the paper in the cost term, which is relative to a target instead of alpha * log(cost)^beta.
"""

from __future__ import annotations

import math

from .alphas import AlphaStrategy


class DMasking(AlphaStrategy):
    """Gumbel-Softmax gates, of which widths make masks."""

    def temperature(self, epoch: int) -> float:
        """Tau of an epoch: `geometric` falls from tau_start to tau_end over the run, `paper` by exp(-tau_decay) an epoch.

        Where alphas learn on after the last epoch, its tau stays.
        """
        o, epoch = self.options, min(epoch, self.options.epochs - 1)
        if o.schedule == "paper":
            return o.tau_start * math.exp(-o.tau_decay * epoch)
        return o.tau_start * (o.tau_end / o.tau_start) ** (epoch / max(1, o.epochs - 1))

    def prepare(self, phase: str, epoch: int, step: int) -> None:
        """Draws the gates of a step."""
        self.supernet.sample(self.temperature(epoch))
