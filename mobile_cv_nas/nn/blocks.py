"""The blocks that archs and spaces name, each with its construction, forward and cost side by side.

`BLOCKS` maps a name to a class with the arguments that the name stands for (`ir_k3_se_hs`: an `InvertedResidual` with kernel 3, ...).
A class of your own joins with `BLOCKS._do_register("my_block", MyBlock)`, or as `functools.partial(MyBlock, kernel=7)`; see `Block`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

from fvcore.common.registry import Registry
from torch import Tensor, nn

from .choice import Dist, Gates, largest
from .layers import ACTIVATIONS, ConvNormAct, SqueezeExcite, activate
from .options import OPTIONS
from .shapes import Cost, out_size

BLOCKS: Registry = Registry("BLOCKS")


class Dims(NamedTuple):
    """The dimensions a block is built with: ints in a child, `Dist` where a space may choose.

    c_in is what the stream takes up in memory and arrives masked. `hidden`, `squeeze` and `expand` matter to blocks that have them.
    """

    c_in: int
    c_out: int | Dist
    stride: int = 1
    hidden: int | Dist = 0
    squeeze: int | Dist = 0
    expand: bool = True


class Shape(NamedTuple):
    """The same as numbers, for the cost: ints in a child, float64 vectors of expectations over many blocks in a supernet.

    Products of dimensions that one choice decides are dimensions of their own: their expectation is not a product.
    Areas are in pixels.
    """

    c_in: Any
    c_out: Any
    hidden: Any
    squeeze: Any
    hidden_squeeze: Any
    in_area: Any
    out_area: Any


class Block(nn.Module):
    """What a block class has. A class of your own needs `__init__(dims, **options)` and `forward(x)` to stand in an arch; to be a
    candidate in a space also `transform` and `cost`.

    Attributes:
        options: names of the options that a row may give (`OPTIONS` says which values), over the arguments of the name.
        residual: whether the block adds its input at stride 1 and equal widths.
        sizes: the options that decide dimensions, and so are no constructor arguments.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    sizes: ClassVar[frozenset[str]] = frozenset({"expansion", "hidden", "divisor", "squeeze", "squeeze_from"})
    residual: ClassVar[bool] = False

    @staticmethod
    def constants(**arguments: Any) -> dict[str, int]:
        """The numbers, beside a `Shape`, that the cost depends on, from the constructor's arguments."""
        return {}

    @staticmethod
    def cost(shape: Shape, **constants: Any) -> Cost:
        """What one image costs: ints from ints, vectors from vectors."""
        raise NotImplementedError

    @staticmethod
    def out_size(size: int, stride: int, **arguments: Any) -> int:
        """Side of the output for an input of side `size`."""
        return out_size(size, 1, stride, 0)

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        """The block without its residual, times `scale`, and masked to its output width: (N, c_in, H, W) to (N, c_out, H', W')."""
        raise NotImplementedError


class ConvBlock(ConvNormAct, Block):
    """Convolution, norm, activation: `conv_k1`, `conv_k3`, `conv_k5`, each also `_hs`."""

    options = frozenset({"bias", "activation", "norm_eps"})

    def __init__(self, dims: Dims, kernel: int = 3, activation: str = "relu", bias: bool = False, norm_eps: float = 1e-5):
        super().__init__(dims.c_in, dims.c_out, kernel, dims.stride, activation, bias=bias, norm_eps=norm_eps)

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        return _scaled(self(x, gates), gates, self.c_out, scale)

    @staticmethod
    def constants(kernel: int = 3, bias: bool = False, **_: Any) -> dict[str, int]:  # type: ignore[override]
        return {"kernel": kernel, "bias": int(bias)}

    @staticmethod
    def cost(s: Shape, kernel: Any, bias: Any) -> Cost:  # type: ignore[override]
        weights = kernel * kernel * s.c_in * s.c_out
        return Cost(weights * s.out_area, weights + (2 + bias) * s.c_out)

    @staticmethod
    def out_size(size: int, stride: int, kernel: int = 3, **_: Any) -> int:  # type: ignore[override]
        return out_size(size, kernel, stride, kernel // 2)


class InvertedResidual(Block):
    """Pointwise, depthwise, squeeze-and-excite, pointwise-linear, residual: `ir_k3|k5|k7 [_se|_sehsig] [_hs]`.

    Args:
        dims: widths and stride. Without `expand` there is no first convolution, and hidden equals c_in.
        kernel: depthwise kernel; under `sharing: full` a `Dist`, as are activation and se.
        activation: after the first two convolutions.
        se: gate of squeeze-and-excite, or None.
        bias: whether the three convolutions have biases in front of their norms.
        groups: groups of both pointwise convolutions, with a channel shuffle in front of the depthwise one.
        padding: of the depthwise convolution; None is kernel // 2.
        se_activation: inside squeeze-and-excite; None is the block's.
        zero_gamma: start the last norm's gain at zero where there is a residual.
        norm_eps: epsilon of the norms.
    """

    options = frozenset(OPTIONS) - {"se"}
    residual = True

    def __init__(
        self,
        dims: Dims,
        kernel: int | Dist = 3,
        activation: str | Dist = "relu",
        se: str | Dist | None = None,
        bias: bool = False,
        groups: int = 1,
        padding: int | None = None,
        se_activation: str | None = None,
        zero_gamma: bool = False,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        c_in, c_out, stride, hidden, squeeze, expand = dims
        self.groups = groups
        self.pw = ConvNormAct(c_in, hidden, 1, 1, activation, groups, bias, norm_eps=norm_eps) if expand else None
        self.dw = ConvNormAct(hidden, hidden, kernel, stride, activation, None, bias, padding, norm_eps)
        self.se = SqueezeExcite(hidden, squeeze, se, se_activation or activation) if se is not None else None
        # Squeeze-and-excite hands on a masked map.
        masked = largest(hidden) if self.se is not None else hidden
        self.pwl = ConvNormAct(masked, c_out, 1, 1, None, groups, bias, norm_eps=norm_eps)
        self.adds_input = stride == 1 and c_in == c_out
        if zero_gamma and stride == 1 and (isinstance(c_out, Dist) or self.adds_input):
            nn.init.zeros_(self.pwl.norm.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.transform(x)
        return y.add_(x) if self.adds_input else y  # in place: no norm needs its output for the backward pass

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        y = x if self.pw is None else self.pw(x, gates)
        if self.groups > 1:
            y = nn.functional.channel_shuffle(y, self.groups)
        y = self.dw(y, gates)
        if self.se is not None:
            y = self.se(y, gates)
        return self.pwl(y, gates, scale)

    @staticmethod
    def constants(  # type: ignore[override]
        kernel: int = 3, se: str | None = None, bias: bool = False, groups: int = 1, expand: bool = True, **_: Any
    ) -> dict[str, int]:
        return {"kernel": kernel, "se": int(se is not None), "bias": int(bias), "groups": groups, "expand": int(expand)}

    @staticmethod
    def cost(s: Shape, kernel: Any, se: Any, bias: Any, groups: Any, expand: Any) -> Cost:  # type: ignore[override]
        pw = expand * _divide(s.c_in * s.hidden, groups)
        dw = kernel * kernel * s.hidden
        pwl = _divide(s.hidden * s.c_out, groups)
        macs = pw * s.in_area + (dw + pwl + se * s.hidden) * s.out_area + se * 2 * s.hidden_squeeze
        per_unit = 2 + bias  # gain and bias of the norm, bias of the convolution
        units = per_unit * ((expand + 1) * s.hidden + s.c_out)
        return Cost(macs, pw + dw + pwl + units + se * (2 * s.hidden_squeeze + s.hidden + s.squeeze))

    @staticmethod
    def out_size(size: int, stride: int, kernel: int = 3, padding: int | None = None, **_: Any) -> int:  # type: ignore[override]
        return out_size(size, kernel, stride, kernel // 2 if padding is None else padding)


class IRPool(Block):
    """Pointwise, global pool, pointwise with activation and no norm: `ir_pool[_hs]`, the last block of MobileNetV3 and FBNetV2.

    Args as of `InvertedResidual`; `se` stands in front of the pool, `bias` is the last convolution's. The stride has no effect.

    Shapes: (N, c_in, H, W) to (N, c_out, 1, 1).
    """

    options = frozenset({"expansion", "hidden", "divisor", "se", "squeeze", "se_activation", "activation", "bias", "norm_eps"})

    def __init__(
        self,
        dims: Dims,
        activation: str = "relu",
        se: str | None = None,
        bias: bool = False,
        se_activation: str | None = None,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        c_in, c_out, _, hidden, squeeze, expand = dims
        self.hidden, self.c_out, self.activation = hidden, c_out, activation
        self.pw = ConvNormAct(c_in, hidden, 1, 1, activation, norm_eps=norm_eps) if expand else None
        self.se = SqueezeExcite(hidden, squeeze, se, se_activation or activation) if se is not None else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.pwl = nn.Conv2d(largest(hidden), largest(c_out), 1, bias=bias)
        self.act = ACTIVATIONS[activation](inplace=True)
        nn.init.kaiming_normal_(self.pwl.weight, mode="fan_out")
        if bias:
            nn.init.zeros_(self.pwl.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.pw is None else self.pw(x)
        if self.se is not None:
            y = self.se(y)
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
    def constants(se: str | None = None, bias: bool = False, expand: bool = True, **_: Any) -> dict[str, int]:  # type: ignore[override]
        return {"se": int(se is not None), "bias": int(bias), "expand": int(expand)}

    @staticmethod
    def cost(s: Shape, se: Any, bias: Any, expand: Any) -> Cost:  # type: ignore[override]
        pw, pwl = expand * s.c_in * s.hidden, s.hidden * s.c_out
        macs = (pw + (1 + se) * s.hidden) * s.in_area + pwl + se * 2 * s.hidden_squeeze
        return Cost(macs, pw + expand * 2 * s.hidden + pwl + bias * s.c_out + se * (2 * s.hidden_squeeze + s.hidden + s.squeeze))

    @staticmethod
    def out_size(size: int, stride: int, **_: Any) -> int:  # type: ignore[override]
        return 1


class Skip(Block):
    """No block: the identity at equal width and stride 1, else a 1x1 convolution with norm and ReLU.

    As a candidate in a space it is always the identity, of whatever width comes in, and is no module at all.
    """

    def __init__(self, dims: Dims):
        super().__init__()
        same = dims.stride == 1 and dims.c_in == dims.c_out
        self.proj = None if same else ConvNormAct(dims.c_in, dims.c_out, 1, dims.stride, "relu")

    def forward(self, x: Tensor) -> Tensor:
        return x if self.proj is None else self.proj(x)

    def transform(self, x: Tensor, gates: Gates | None = None, scale: Tensor | None = None) -> Tensor:
        return x if self.proj is None else self.proj(x, gates)

    @staticmethod
    def constants(expand: bool = True, **_: Any) -> dict[str, int]:  # type: ignore[override]
        return {"projects": int(expand)}

    @staticmethod
    def cost(s: Shape, projects: Any) -> Cost:  # type: ignore[override]
        weights = projects * s.c_in * s.c_out
        return Cost(weights * s.out_area, weights + projects * 2 * s.c_out)


def _scaled(y: Tensor, gates: Gates | None, c_out: int | Dist, scale: Tensor | None) -> Tensor:
    """Masks and scales the output of an activation, which no weights can take over."""
    mask = None if gates is None else gates.tensor(c_out)
    if mask is not None:
        mask = mask.view(1, -1, 1, 1)
        scale = mask if scale is None else mask * scale
    return y if scale is None else y * scale.to(y.dtype)


def _divide(product: Any, groups: Any) -> Any:
    return product // groups if isinstance(product, int) else product / groups


def block_type(name: str) -> tuple[type[Block], Mapping[str, Any]]:
    """The class behind a registered name, and the arguments that the name stands for. Raises KeyError."""
    entry: Any = BLOCKS.get(name)
    if isinstance(entry, partial):
        return entry.func, entry.keywords  # type: ignore[return-value]
    return entry, {}


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
