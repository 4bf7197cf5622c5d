"""The blocks that archs and spaces name, each with its arguments, construction, forward and cost side by side.

`BLOCKS` maps a name to a class with the arguments that the name stands for (`ir_k3_se_hs`: an `InvertedResidual` with kernel 3, ...).
A class of your own joins by `register_block`; see `Block`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fvcore.common.registry import Registry
from torch import Tensor, nn

from .block import Block, Dims, Shape
from .choice import Dist, Gates, MaybeGates, largest
from .layers import ACTIVATIONS, ConvNormAct, ConvOptions, SqueezeExcite, activate
from .options import OPTIONS
from .shapes import Cost, out_size

BLOCKS: Registry = Registry("BLOCKS")


@dataclass(frozen=True)
class ConvArguments:
    """Of a `ConvBlock`."""

    kernel: int = 3
    activation: str = "relu"
    bias: bool = False  # of the convolution, in front of its norm
    norm_eps: float = 1e-5
    padding: int | str | None = None  # as in `ConvOptions`


class ConvBlock(ConvNormAct, Block):
    """Convolution, norm, activation: `conv_k1`, `conv_k3`, `conv_k5`, each also `_hs`. Takes `ConvArguments`."""

    Arguments = ConvArguments
    options = frozenset({"bias", "activation", "norm_eps", "padding"})

    def __init__(self, dims: Dims, **arguments: Any):
        a = ConvArguments(**arguments)
        options = ConvOptions(a.bias, a.padding, a.norm_eps)
        super().__init__(dims.c_in, dims.c_out, a.kernel, dims.stride, a.activation, options=options)

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        return _scaled(self(x, gates), gates, self.c_out, scale)

    @staticmethod
    def constants(args: ConvArguments, expand: bool) -> dict[str, int]:
        return {"kernel": args.kernel, "bias": int(args.bias)}

    @staticmethod
    def cost(s: Shape, n: Any) -> Cost:
        weights = n.kernel * n.kernel * s.c_in * s.c_out
        return Cost(weights * s.out_area, weights + (2 + n.bias) * s.c_out)

    @staticmethod
    def out_size(size: int, stride: int, args: ConvArguments) -> int:
        return out_size(size, args.kernel, stride, args.padding)


@dataclass(frozen=True)
class InvertedResidualArguments:
    """Of an `InvertedResidual`; under `sharing: full` kernel, activation and se are each a `Dist`."""

    kernel: int | Dist = 3  # of the depthwise convolution
    activation: str | Dist = "relu"  # after the first two convolutions
    se: str | Dist | None = None  # gate of squeeze-and-excite
    bias: bool = False  # of the three convolutions, in front of their norms
    groups: int = 1  # of both pointwise convolutions, with a channel shuffle in front of the depthwise one
    padding: int | str | None = None  # of the depthwise convolution, as in `ConvOptions`
    se_activation: str | None = None  # inside squeeze-and-excite; None is the block's
    zero_gamma: bool = False  # start the last norm's gain at zero where there is a residual
    norm_eps: float = 1e-5


class InvertedResidual(Block):
    """Pointwise, depthwise, squeeze-and-excite, pointwise-linear, residual: `ir_k3|k5|k7 [_se|_sehsig] [_hs]`.

    Takes widths and stride, and `InvertedResidualArguments`. Without `dims.expand` there is no first convolution, and hidden equals c_in.
    """

    Arguments = InvertedResidualArguments
    options = frozenset(OPTIONS) - {"se"}
    residual = True

    def __init__(self, dims: Dims, **arguments: Any):
        super().__init__()
        a = InvertedResidualArguments(**arguments)
        c_in, c_out, stride, hidden, squeeze, expand = dims
        pointwise = ConvOptions(a.bias, norm_eps=a.norm_eps)
        self.groups = a.groups
        self.pw = ConvNormAct(c_in, hidden, 1, 1, a.activation, a.groups, pointwise) if expand else None
        self.dw = ConvNormAct(hidden, hidden, a.kernel, stride, a.activation, None, replace(pointwise, padding=a.padding))
        self.se = SqueezeExcite(hidden, squeeze, a.se, a.se_activation or a.activation) if a.se is not None else None
        # Squeeze-and-excite hands on a masked map.
        masked = largest(hidden) if self.se is not None else hidden
        self.pwl = ConvNormAct(masked, c_out, 1, 1, None, a.groups, pointwise)
        self.adds_input = stride == 1 and c_in == c_out
        self.drop_path: nn.Module | None = None  # stochastic depth, see Network.set_drop_path
        if a.zero_gamma and stride == 1 and (isinstance(c_out, Dist) or self.adds_input):
            gain: Any = self.pwl.norm.weight
            nn.init.zeros_(gain)

    def forward(self, x: Tensor) -> Tensor:
        y = self.transform(x)
        if self.drop_path is not None:
            y = self.drop_path(y)
        return y.add_(x) if self.adds_input else y  # in place: no norm needs its output for the backward pass

    def transform(self, x: Tensor, gates: MaybeGates = None, scale: Tensor | None = None) -> Tensor:
        y = x if self.pw is None else self.pw(x, gates)
        if self.groups > 1:
            y = nn.functional.channel_shuffle(y, self.groups)
        y = self.dw(y, gates)
        if self.se is not None:
            y = self.se(y, gates)
        return self.pwl(y, gates, scale)

    @staticmethod
    def constants(args: Any, expand: bool) -> dict[str, int]:
        flags = {"se": int(args.se is not None), "bias": int(args.bias), "expand": int(expand)}
        return {"kernel": args.kernel, "groups": args.groups, **flags}

    @staticmethod
    def cost(s: Shape, n: Any) -> Cost:
        pw = n.expand * _divide(s.c_in * s.hidden, n.groups)
        dw = n.kernel * n.kernel * s.hidden
        pwl = _divide(s.hidden * s.c_out, n.groups)
        macs = pw * s.in_area + (dw + pwl + n.se * s.hidden) * s.out_area + n.se * 2 * s.hidden_squeeze
        per_unit = 2 + n.bias  # gain and bias of the norm, bias of the convolution
        units = per_unit * ((n.expand + 1) * s.hidden + s.c_out)
        return Cost(macs, pw + dw + pwl + units + n.se * (2 * s.hidden_squeeze + s.hidden + s.squeeze))

    @staticmethod
    def out_size(size: int, stride: int, args: Any) -> int:
        return out_size(size, args.kernel, stride, args.padding)


@dataclass(frozen=True)
class IRPoolArguments:
    """Of an `IRPool`."""

    activation: str = "relu"
    se: str | None = None  # gate of squeeze-and-excite, in front of the pool
    bias: bool = False  # of the last convolution
    se_activation: str | None = None  # inside squeeze-and-excite; None is the block's
    norm_eps: float = 1e-5


class IRPool(Block):
    """Pointwise, global pool, pointwise with activation and no norm: `ir_pool[_hs]`, the last block of MobileNetV3 and FBNetV2.

    Takes `IRPoolArguments`. The stride has no effect.

    Shapes: (N, c_in, H, W) to (N, c_out, 1, 1).
    """

    Arguments = IRPoolArguments
    options = frozenset({"expansion", "hidden", "divisor", "se", "squeeze", "se_activation", "activation", "bias", "norm_eps"})

    def __init__(self, dims: Dims, **arguments: Any):
        super().__init__()
        a = IRPoolArguments(**arguments)
        c_in, c_out, _, hidden, squeeze, expand = dims
        self.hidden, self.c_out, self.activation = hidden, c_out, a.activation
        self.pw = ConvNormAct(c_in, hidden, 1, 1, a.activation, options=ConvOptions(norm_eps=a.norm_eps)) if expand else None
        self.se = SqueezeExcite(hidden, squeeze, a.se, a.se_activation or a.activation) if a.se is not None else None
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.pwl = nn.Conv2d(largest(hidden), largest(c_out), 1, bias=a.bias)
        self.act = ACTIVATIONS[a.activation](inplace=True)
        nn.init.kaiming_normal_(self.pwl.weight, mode="fan_out")
        if self.pwl.bias is not None:
            nn.init.zeros_(self.pwl.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What is pooled: (N, hidden, H, W)."""
        y = x if self.pw is None else self.pw(x)
        return y if self.se is None else self.se(y)

    def head(self, y: Tensor) -> Tensor:
        """The pool and what follows it."""
        return self.act(self.pwl(self.pool(y)))

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        if gates is None:
            return self(x)
        y = x if self.pw is None else self.pw(x, gates)
        mask = gates.tensor(self.hidden)
        if self.se is not None:
            y, mask = self.se(y, gates), None
        y = self.pool(y)
        if mask is not None:
            y = y * mask.view(1, -1, 1, 1)
        width = gates.value(self.c_out)
        bias = None if self.pwl.bias is None else self.pwl.bias[:width]
        y = nn.functional.conv2d(y, self.pwl.weight[:width, : y.shape[1]], bias)
        return _scaled(activate(y, self.activation, gates), gates, self.c_out, scale)

    @staticmethod
    def constants(args: IRPoolArguments, expand: bool) -> dict[str, int]:
        return {"se": int(args.se is not None), "bias": int(args.bias), "expand": int(expand)}

    @staticmethod
    def cost(s: Shape, n: Any) -> Cost:
        pw, pwl = n.expand * s.c_in * s.hidden, s.hidden * s.c_out
        macs = (pw + (1 + n.se) * s.hidden) * s.in_area + pwl + n.se * 2 * s.hidden_squeeze
        return Cost(macs, pw + n.expand * 2 * s.hidden + pwl + n.bias * s.c_out + n.se * (2 * s.hidden_squeeze + s.hidden + s.squeeze))

    @staticmethod
    def out_size(size: int, stride: int, args: IRPoolArguments) -> int:
        return 1


@dataclass(frozen=True)
class SkipArguments:
    """Of a `Skip`: none."""


class Skip(Block):
    """No block: the identity at equal width and stride 1, else a 1x1 convolution with norm and ReLU.

    As a candidate in a space it is always the identity, of whatever width comes in, and is no module at all.
    """

    Arguments = SkipArguments

    def __init__(self, dims: Dims):
        super().__init__()
        same = dims.stride == 1 and dims.c_in == dims.c_out
        self.proj = None if same else ConvNormAct(dims.c_in, dims.c_out, 1, dims.stride, "relu")

    def forward(self, x: Tensor) -> Tensor:
        return x if self.proj is None else self.proj(x)

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        return x if self.proj is None else self.proj(x, gates)

    @staticmethod
    def constants(args: Any, expand: bool) -> dict[str, int]:
        return {"projects": int(expand)}

    @staticmethod
    def cost(s: Shape, n: Any) -> Cost:
        weights = n.projects * s.c_in * s.c_out
        return Cost(weights * s.out_area, weights + n.projects * 2 * s.c_out)


def _scaled(y: Tensor, gates: Gates | None, c_out: int | Dist, scale: Tensor | None) -> Tensor:
    """Masks and scales the output of an activation, which no weights can take over."""
    mask = None if gates is None else gates.tensor(c_out)
    if mask is not None:
        mask = mask.view(1, -1, 1, 1)
        scale = mask if scale is None else mask * scale
    return y if scale is None else y * scale.to(y.dtype)


def _divide(product: Any, groups: Any) -> Any:
    return product // groups if isinstance(product, int) else product / groups


def _register() -> None:
    for suffix, activation in (("", "relu"), ("_hs", "hswish")):
        for k in (1, 3, 5):
            BLOCKS._do_register(f"conv_k{k}{suffix}", partial(ConvBlock, kernel=k, activation=activation))
        for k in (3, 5, 7):
            for se, gate in (("", None), ("_se", "sigmoid"), ("_sehsig", "hsigmoid")):
                block = partial(InvertedResidual, kernel=k, activation=activation, se=gate)
                BLOCKS._do_register(f"ir_k{k}{se}{suffix}", block)
        BLOCKS._do_register(f"ir_pool{suffix}", partial(IRPool, activation=activation))
    BLOCKS._do_register("skip", Skip)


_register()
