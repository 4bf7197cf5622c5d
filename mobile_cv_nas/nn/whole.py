"""Whole candidates: inverted residuals whose names decide expansion and groups too, as in the space of FBNet (Table 2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from .blocks import BLOCKS, Block, Dims, InvertedResidual, Shape
from .choice import Gates
from .shapes import Cost, out_size


@dataclass(frozen=True)
class WholeArguments:
    """Of a `WholeCandidate`."""

    kernel: int  # of the depthwise convolution
    ratio: int  # hidden channels over those that come in
    groups: int  # of both pointwise convolutions, with a channel shuffle in front of the depthwise one
    activation: str = "relu"  # after the first two convolutions


class WholeCandidate(Block):
    """`ir_k3_e1`, `ir_k3_e1_g2`, ...: an inverted residual of an expansion and groups of its own, for a fixed input width.

    Without squeeze-and-excite; the expand convolution is always there (FBNet, Fig. 3; the released FBNets leave it out at expansion 1).
    Where a layer chooses among these, each option is one candidate with weights of its own, rather than a mask of a wider one.

    Shapes: (N, c_in, H, W) to (N, c_out, H', W').
    """

    Arguments = WholeArguments
    options = frozenset({"activation"})
    residual = True

    def __init__(self, dims: Dims, **arguments: Any):
        super().__init__()
        a = WholeArguments(**arguments)
        own = dims._replace(hidden=a.ratio * dims.c_in, squeeze=0, expand=True)
        self.block = InvertedResidual(own, kernel=a.kernel, activation=a.activation, groups=a.groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        return self.block.transform(x, gates, scale)

    @staticmethod
    def constants(args: WholeArguments, expand: bool) -> dict[str, int]:
        return {"kernel": args.kernel, "groups": args.groups, "ratio": args.ratio, "se": 0, "bias": 0, "expand": 1}

    @staticmethod
    def cost(s: Shape, n: Any) -> Cost:
        return InvertedResidual.cost(s._replace(hidden=n.ratio * s.c_in, squeeze=0, hidden_squeeze=0), n)

    @staticmethod
    def out_size(size: int, stride: int, args: WholeArguments) -> int:
        return out_size(size, args.kernel, stride, args.kernel // 2)


for _kernel in (3, 5):
    for _ratio, _groups in ((1, 1), (1, 2), (3, 1), (6, 1)):
        _name = f"ir_k{_kernel}_e{_ratio}" + ("_g2" if _groups == 2 else "")
        BLOCKS._do_register(_name, partial(WholeCandidate, kernel=_kernel, ratio=_ratio, groups=_groups))
