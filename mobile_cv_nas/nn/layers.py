"""Convolution, norm, activation and squeeze-and-excite, whose every dimension is a value or a `Dist`.

Without gates these are ordinary layers. With gates they take masks into account where it costs nothing: the mask of a feature map is
multiplied into the weights that read it (a convolution is linear in its input channels), or into the affine part of a norm that no
activation follows. Both equal masking the map after norm and activation, and no feature map is touched or saved for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choice import Dist, Gates, MaybeGates, largest
from .same import SameConv2d, pad_same

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "silu": nn.SiLU}
SE_GATES: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "hsigmoid": nn.Hardsigmoid}
_FUNCTIONS: dict[str, Any] = {"relu": F.relu, "relu6": F.relu6, "hswish": F.hardswish, "silu": F.silu}
_GATES: dict[Any, Any] = {"sigmoid": torch.sigmoid, "hsigmoid": F.hardsigmoid}


class _Blend(torch.autograd.Function):
    """p * hswish(x) + (1 - p) * relu(x), saving x alone: composed of autograd's own operations it would save three maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(x, p)
        return F.relu(x).lerp_(F.hardswish(x), p.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,), (x, p) = grads, ctx.saved_tensors
        grad_x = grad_p = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.threshold_backward(grad, x, 0)
            grad_x = grad_x.lerp_(torch.ops.aten.hardswish_backward(grad, x), p.to(x.dtype))
        if ctx.needs_input_grad[1]:
            grad_p = F.hardswish(x).sub_(F.relu(x)).mul_(grad).sum(dtype=torch.float32).to(p.dtype)
        return grad_x, grad_p


def activate(x: Tensor, activation: str | Dist, gates: Gates) -> Tensor:
    """The activation `x` gets under the gates: one of the options, or their gated sum; may work in place."""
    weights = gates.tensor(activation)
    if weights is None or not isinstance(activation, Dist):
        return _FUNCTIONS[gates.value(activation)](x, inplace=True)
    if set(activation.options) == {"relu", "hswish"}:  # the library's own blocks have no other pair
        return _Blend.apply(x, weights[activation.options.index("hswish")])
    return reduce(torch.add, (weight * _FUNCTIONS[option](x) for option, weight in zip(activation.options, weights.unbind())))


@dataclass(frozen=True)
class ConvOptions:
    """The rest of a convolution and its norm.

    Args:
        bias: whether the convolution has a bias in front of the norm.
        padding: zeros around the map; None is kernel // 2; "same" is TensorFlow's, which depends on the map's size (`nn.same`).
        norm_eps: epsilon of the norm.
    """

    bias: bool = False
    padding: int | str | None = None
    norm_eps: float = 1e-5


class ConvNormAct(nn.Module):
    """Convolution, BatchNorm, activation.

    Args:
        c_in: input channels. A `Dist` says that the input arrives unmasked and its mask is to be applied here.
        c_out: output channels. Without an activation the output is masked; with one, whoever reads it applies the mask.
        kernel: odd kernel size; a `Dist` takes smaller kernels from the centre of the largest.
        stride: stride of the convolution.
        activation: name in `ACTIVATIONS`, a `Dist` over such names, or None.
        groups: groups of the convolution; None makes it depthwise.
        options: bias, padding and epsilon.

    Shapes: (N, c_in, H, W) to (N, c_out, H', W'), H' as `shapes.out_size`.
    """

    def __init__(
        self,
        c_in: int | Dist,
        c_out: int | Dist,
        kernel: int | Dist = 1,
        stride: int = 1,
        activation: str | Dist | None = None,
        groups: int | None = 1,
        options: ConvOptions = ConvOptions(),
    ):
        super().__init__()
        full_in, full_out, full_kernel = largest(c_in), largest(c_out), largest(kernel)
        self.c_in, self.c_out, self.kernel, self.activation, self.padding = c_in, c_out, kernel, activation, options.padding
        self.conv: nn.Conv2d
        if options.padding == "same" and stride > 1 and full_kernel > 1:
            self.conv = SameConv2d(full_in, full_out, full_kernel, stride, groups or full_in, options.bias)
        else:
            pad = options.padding if isinstance(options.padding, int) else full_kernel // 2
            self.conv = nn.Conv2d(full_in, full_out, full_kernel, stride, pad, groups=groups or full_in, bias=options.bias)
        self.norm: nn.Module = nn.BatchNorm2d(full_out, eps=options.norm_eps)
        self.act = ACTIVATIONS[activation](inplace=True) if isinstance(activation, str) else None
        self.depthwise = groups is None
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, gates: MaybeGates = None, scale: Tensor | None = None) -> Tensor:
        """Applies the unit; `scale` (0-d) multiplies the output of a unit without activation, at no cost."""
        if torch.jit.is_scripting() or gates is None:
            x = self.norm(self.conv(x))
            return x if self.act is None else self.act(x)
        else:  # TorchScript leaves out a branch, not what follows a return
            return self._gated(x, gates, scale)

    def _gated(self, x: Tensor, gates: Gates, scale: Tensor | None) -> Tensor:
        x = self._convolve(x, gates)
        if self.activation is not None:
            return activate(self._normalise(x, gates, None), self.activation, gates)
        mask = gates.tensor(self.c_out)
        if mask is not None:
            scale = mask if scale is None else mask * scale
        return self._normalise(x, gates, scale)

    def _convolve(self, x: Tensor, gates: Gates) -> Tensor:
        conv, kernel, width = self.conv, gates.value(self.kernel), gates.value(self.c_out)
        weight, bias, groups = conv.weight, conv.bias, conv.groups
        if gates.picked is None:
            mask, taps = gates.tensor(self.c_in), gates.tensor(self.kernel)
            if mask is not None:
                weight = weight * mask.view((-1, 1, 1, 1) if self.depthwise else (1, -1, 1, 1))
            if taps is not None:
                weight = weight * taps
        else:
            # Prefixes on channels, the centre on taps; a slice of everything is a view of the whole.
            edge = (conv.kernel_size[0] - kernel) // 2
            inner = slice(edge, edge + kernel)
            groups = width if self.depthwise else groups
            weight = weight[:width, : x.shape[1] // groups, inner, inner]
            bias = None if bias is None else bias[:width]
        padding = self.padding if isinstance(self.padding, int) else kernel // 2
        if isinstance(conv, SameConv2d):
            x, padding = pad_same(x, kernel, conv.stride[0]), 0
        return F.conv2d(x, weight, bias, conv.stride, padding, conv.dilation, groups)

    def _normalise(self, x: Tensor, gates: Gates, scale: Tensor | None) -> Tensor:
        norm: Any = self.norm
        if isinstance(norm, nn.SyncBatchNorm):
            return self._synchronised(x, gates, scale)
        width = x.shape[1]
        weight, bias = prefix(norm.weight, width), prefix(norm.bias, width)
        if scale is not None:
            weight, bias = weight * scale, bias * scale
        mean, var, momentum = prefix(norm.running_mean, width), prefix(norm.running_var, width), norm.momentum
        if self.training and not gates.update:
            mean, var, momentum = mean.clone(), var.clone(), 0.0
        elif self.training and momentum is None:
            norm.num_batches_tracked.add_(1)
            momentum = 1.0 / float(norm.num_batches_tracked)
        return F.batch_norm(x, mean, var, weight, bias, self.training, 0.0 if momentum is None else momentum, norm.eps)

    def _synchronised(self, x: Tensor, gates: Gates, scale: Tensor | None) -> Tensor:
        """The same over all ranks, by torch's own layer, which knows neither prefixes nor a second pass."""
        norm: Any = self.norm
        if x.shape[1] != norm.num_features:
            raise RuntimeError("a selected arch cannot be run with SyncBatchNorm: build the child, or convert the supernet back")
        kept = [] if gates.update or not self.training else [(buffer, buffer.clone()) for buffer in norm.buffers()]
        y = norm(x)
        for buffer, before in kept:
            buffer.copy_(before)
        return y if scale is None else y * scale.view(1, -1, 1, 1)


class SqueezeExcite(nn.Module):
    """Channel attention: global pool, two 1x1 convolutions with bias, a gate, a product.

    Args:
        hidden: channels of the map; a `Dist` says that its mask is to be applied here, to what is pooled and to the output.
        squeeze: channels between the two convolutions.
        gate: "sigmoid" or "hsigmoid"; a `Dist` over these and None blends them with the identity.
        activation: between the convolutions.

    Shapes: (N, hidden, H, W) to the same.
    """

    def __init__(self, hidden: int | Dist, squeeze: int | Dist, gate: str | Dist, activation: str | Dist):
        super().__init__()
        self.hidden, self.squeeze, self.gate, self.activation = hidden, squeeze, gate, activation
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(largest(hidden), largest(squeeze), 1)
        self.expand = nn.Conv2d(largest(squeeze), largest(hidden), 1)
        self.act = ACTIVATIONS[activation](inplace=True) if isinstance(activation, str) else None
        self.gate_fn = SE_GATES[gate]() if isinstance(gate, str) else None
        nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out")
        assert self.reduce.bias is not None
        nn.init.zeros_(self.reduce.bias)

    def forward(self, x: Tensor, gates: MaybeGates = None) -> Tensor:
        if torch.jit.is_scripting() or gates is None:
            assert self.act is not None
            assert self.gate_fn is not None
            return x * self.gate_fn(self.expand(self.act(self.reduce(self.pool(x)))))
        else:
            return self._gated(x, gates)

    def _gated(self, x: Tensor, gates: Gates) -> Tensor:
        gate = gates.value(self.gate)
        if gates.picked is not None and gate is None:
            return x
        mask, squeeze_mask = gates.tensor(self.hidden), gates.tensor(self.squeeze)
        width, squeeze = x.shape[1], gates.value(self.squeeze)
        y = self.pool(x)
        if mask is not None:
            y = y * mask.view(1, -1, 1, 1)
        y = F.conv2d(y, prefix(self.reduce.weight, squeeze, width), prefix(self.reduce.bias, squeeze))
        y = activate(y, self.activation, gates)
        weight = prefix(self.expand.weight, width, squeeze)
        if squeeze_mask is not None:
            weight = weight * squeeze_mask.view(1, -1, 1, 1)
        y = F.conv2d(y, weight, prefix(self.expand.bias, width))
        weights = gates.tensor(self.gate)
        y = _blend_gates(y, self.gate.options, weights) if weights is not None and isinstance(self.gate, Dist) else _GATES[gate](y)
        if mask is not None:
            y = y * mask.view(1, -1, 1, 1)
        return x * y


def _blend_gates(y: Tensor, options: tuple[str | None, ...], weights: Tensor) -> Tensor:
    """The gated sum of squeeze-and-excite gates at `y` (N, C, 1, 1), where None stands for the identity."""
    total: Tensor | None = None
    for option, weight in zip(options, weights.unbind()):
        part = weight if option is None else weight * _GATES[option](y)
        total = part if total is None else total + part
    assert total is not None
    return total


def prefix(tensor: Any, *lengths: int) -> Tensor:
    """The first channels of a tensor, itself if that is all: a slice of everything would cost operations in the backward pass."""
    return tensor if tensor.shape[: len(lengths)] == lengths else tensor[tuple(slice(length) for length in lengths)]
