"""DNAS: Gumbel-Softmax over whole candidates, each with weights of its own; archs are drawn from the distribution that is learnt.

Source: Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search" (CVPR 2019).
    gates    g = softmax((theta + Gumbel noise) / tau), one for each whole candidate of a layer         Eq. 5
    weights  w <- w - lr dL/dw on 80% of the images, theta by Adam on the other 20%                      Section 3.3
    archs    drawn from P(theta); the best of them is taken                                             Section 3.3
Its own space is `configs/spaces/fbnet.yaml`, whose candidates differ in kernel, expansion and groups. Where a space chooses widths too,
which FBNet's cannot, these are masked as in `dmasking`: a candidate of its own for each would cost a pass each. It departs from the paper
in the cost term, which is relative to a target instead of alpha * log(latency)^beta, and in the temperature, which the keys of
SEARCH.TEMPERATURE decide (FBNet: SCHEDULE paper).
"""

from __future__ import annotations

from ..derive import Derived
from ..judge import Judge
from .dmasking import DMasking


class Dnas(DMasking):
    """Gumbel-Softmax gates; archs are drawn, never the argmax alone."""

    sharing = "none"

    def propose(self, judge: Judge) -> Derived:
        return self.derived(None, judge)
