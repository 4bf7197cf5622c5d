"""Which operators a block or a head runs, in order: what the time of a network is made of, where a `Cost` is one sum.

They stand apart from the blocks because only tables of latency and functions of one's own read them. A block or head of a user's own says
its operators by a static method `operators` with the arguments of those below. Dimensions are numbers or arrays that broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import InputError
from .blocks import ConvBlock, InvertedResidual, IRPool, Shape, Skip
from .heads import LRASPP, Classifier, HeadDef, SSDLite, _coarser
from .whole import WholeCandidate

FREE = ("relu", "relu6", None)  # activations that every runtime computes within the convolution in front of them


class Operator(NamedTuple):
    """One operator on one image.

    `kind` is conv, pointwise, depthwise, linear (a pointwise one on a single pixel), pool (global), scale (a map times a vector), add,
    shuffle, resize, or the name of an activation. Areas are in pixels, of what it reads and what it writes.
    """

    kind: str
    c_in: Any
    c_out: Any
    in_area: Any
    out_area: Any
    kernel: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        """The kind, of a convolution with its kernel: `depthwise5`."""
        return f"{self.kind}{self.kernel}" if self.kind in ("conv", "depthwise") else self.kind

    @property
    def macs(self) -> Any:
        """Multiply-accumulates, as `Cost` counts them."""
        if self.kind in ("conv", "pointwise", "linear", "depthwise"):
            return self.weights * self.out_area
        if self.kind == "pool":
            return self.c_in * self.in_area
        return 4 * self.c_out * self.out_area if self.kind == "resize" else 0 * self.c_out

    @property
    def weights(self) -> Any:
        """Of its kernel, biases and norms aside."""
        if self.kind == "depthwise":
            return self.kernel * self.kernel * self.c_out
        if self.kind in ("conv", "pointwise", "linear"):
            return self.kernel * self.kernel * self.c_in * self.c_out / self.groups
        return 0 * self.c_out


def block_operators(kind: Any, s: Shape, args: Any, expand: bool) -> list[Operator]:
    """The operators of a block, its residual aside.

    Args:
        kind: class of the block.
        s: its dimensions.
        args: its `Arguments`.
        expand: whether an expand convolution (of a skip: the projection) exists.

    Raises:
        InputError: a class of a user's own that does not say them.
    """
    found: Any = getattr(kind, "operators", None) or _of_class(kind, _BLOCKS)
    if found is None:
        raise InputError(f"the block class {kind.__name__} does not say its operators: define {kind.__name__}.operators(s, args, expand)")
    return list(found(s, args, expand))


def head_operators(head: HeadDef, n: int, width: Any, sides: Sequence[int]) -> list[Operator]:
    """What map number `n` adds to the operators of a head; arguments as of `HeadDef.cost`, of one input size. Raises InputError."""
    kind = head.kind
    found: Any = getattr(kind, "operators", None) or _of_class(kind, _HEADS)
    if found is None:
        raise InputError(f"the head {head.name} does not say its operators: define {kind.__name__}.operators(n, width, sides, num_classes)")
    return list(found(n, width, sides, head.num_classes, **head.arguments))


def _of_class(kind: type, known: dict[type, Callable[..., Any]]) -> Any:
    return next((known[one] for one in kind.__mro__ if one in known), None)


def _activation(name: Any, channels: Any, area: Any) -> Iterator[Operator]:
    if name not in FREE:
        yield Operator(name, channels, channels, area, area)


def _squeeze(s: Shape, args: Any, area: Any) -> Iterator[Operator]:
    """Squeeze-and-excite on a map of `hidden` channels."""
    if args.se is None:
        return
    yield Operator("pool", s.hidden, s.hidden, area, 1)
    yield Operator("linear", s.hidden, s.squeeze, 1, 1)
    yield from _activation(args.se_activation or args.activation, s.squeeze, 1)
    yield Operator("linear", s.squeeze, s.hidden, 1, 1)
    yield Operator(args.se, s.hidden, s.hidden, 1, 1)
    yield Operator("scale", s.hidden, s.hidden, area, area)


def _conv(s: Shape, args: Any, expand: bool) -> Iterator[Operator]:
    kind = "conv" if args.kernel > 1 else "pointwise"
    yield Operator(kind, s.c_in, s.c_out, s.in_area, s.out_area, args.kernel)
    yield from _activation(args.activation, s.c_out, s.out_area)


def _inverted_residual(s: Shape, args: Any, expand: bool) -> Iterator[Operator]:
    if expand:
        yield Operator("pointwise", s.c_in, s.hidden, s.in_area, s.in_area, 1, args.groups)
        yield from _activation(args.activation, s.hidden, s.in_area)
    if args.groups > 1:
        yield Operator("shuffle", s.hidden, s.hidden, s.in_area, s.in_area)
    yield Operator("depthwise", s.hidden, s.hidden, s.in_area, s.out_area, args.kernel)
    yield from _activation(args.activation, s.hidden, s.out_area)
    yield from _squeeze(s, args, s.out_area)
    yield Operator("pointwise", s.hidden, s.c_out, s.out_area, s.out_area, 1, args.groups)


def _whole_candidate(s: Shape, args: Any, expand: bool) -> Iterator[Operator]:
    same = InvertedResidual.Arguments(kernel=args.kernel, activation=args.activation, groups=args.groups)
    return _inverted_residual(s._replace(hidden=args.ratio * s.c_in, squeeze=0, hidden_squeeze=0), same, True)


def _ir_pool(s: Shape, args: Any, expand: bool) -> Iterator[Operator]:
    if expand:
        yield Operator("pointwise", s.c_in, s.hidden, s.in_area, s.in_area)
        yield from _activation(args.activation, s.hidden, s.in_area)
    yield from _squeeze(s, args, s.in_area)
    yield Operator("pool", s.hidden, s.hidden, s.in_area, 1)
    yield Operator("linear", s.hidden, s.c_out, 1, 1)
    yield from _activation(args.activation, s.c_out, 1)


def _skip(s: Shape, args: Any, expand: bool) -> Iterator[Operator]:
    if expand:
        yield Operator("pointwise", s.c_in, s.c_out, s.out_area, s.out_area)


def _classifier(n: int, width: Any, sides: Sequence[int], num_classes: int) -> Iterator[Operator]:
    yield Operator("pool", width, width, sides[1] ** 2, 1)
    yield Operator("linear", width, num_classes, 1, 1)


def _lraspp(n: int, width: Any, sides: Sequence[int], num_classes: int, channels: int, low_stride: int) -> Iterator[Operator]:
    area = sides[n + 1] ** 2
    if n == 0:  # fine detail, and the sum at its size
        yield Operator("resize", channels, channels, sides[2] ** 2, area)
        yield Operator("pointwise", width, num_classes, area, area)
        yield Operator("pointwise", channels, num_classes, area, area)
        yield Operator("add", num_classes, num_classes, area, area)
        yield Operator("resize", num_classes, num_classes, area, sides[0] ** 2)
        return
    yield Operator("pointwise", width, channels, area, area)
    yield Operator("pool", width, width, area, 1)
    yield Operator("linear", width, channels, 1, 1)
    yield Operator("sigmoid", channels, channels, 1, 1)
    yield Operator("scale", channels, channels, area, area)


def _ssdlite(
    n: int, width: Any, sides: Sequence[int], num_classes: int, channels: int, strides: Sequence[int], ratios: int
) -> Iterator[Operator]:
    anchors = 2 + 2 * ratios

    def predicted(width: Any, area: int) -> Iterator[Operator]:
        for columns in (4, num_classes + 1):
            yield Operator("depthwise", width, width, area, area, 3)
            yield Operator("pointwise", width, anchors * columns, area, area)

    yield from predicted(width, sides[n + 1] ** 2)
    before, inner = sides[-1] ** 2, channels // 2
    for side in _coarser(sides[-1]) if n == len(strides) - 1 else []:
        yield Operator("pointwise", width, inner, before, before)
        yield Operator("depthwise", inner, inner, before, side**2, 3)
        yield Operator("pointwise", inner, channels, side**2, side**2)
        yield from predicted(channels, side**2)
        width, before = channels, side**2


_BLOCKS: dict[type, Callable[..., Any]] = {
    ConvBlock: _conv,
    InvertedResidual: _inverted_residual,
    IRPool: _ir_pool,
    Skip: _skip,
    WholeCandidate: _whole_candidate,
}
_HEADS: dict[type, Callable[..., Any]] = {Classifier: _classifier, LRASPP: _lraspp, SSDLite: _ssdlite}
