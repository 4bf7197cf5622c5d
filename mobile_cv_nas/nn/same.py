"""TensorFlow's SAME padding: as many zeros as make ceil(side / stride) pixels, and the odd one at the right and at the bottom.

Source: TensorFlow, `tf.nn.convolution`, notes on padding.
"""

from __future__ import annotations

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

torch.fx.wrap("pad_same")  # its zeros depend on the map's size, which a trace does not know


def same_zeros(size: int, kernel: int, stride: int, rate: int = 1, own_stride: int = 0) -> tuple[int, int]:
    """Zeros before and after a row of `size` pixels.

    With a stride and odd kernels they depend on the size: 0 and 1 for kernel 3 and stride 2 at even sizes, 1 and 1 at odd ones.

    Args:
        size, kernel: in pixels.
        stride: of the convolution.
        rate: its dilation.
        own_stride: the stride that it was made for, where that was taken out and the map kept dense; 0 is `stride`.

    >>> [same_zeros(size, kernel, 2) for kernel in (3, 5) for size in (224, 225)]
    [(0, 1), (1, 1), (1, 2), (2, 2)]
    """
    own = own_stride if own_stride > 0 else stride
    coarse = (size + rate - 1) // rate  # what it was made for had every rate-th pixel of this map
    before = max((coarse - 1) // own * own + kernel - coarse, 0) // 2 * rate
    total = max((size - 1) // stride * stride + (kernel - 1) * rate + 1 - size, 0)
    return before, max(total - before, 0)


def pad_same(x: Tensor, kernel: int, stride: int, rate: int = 1, own_stride: int = 0) -> Tensor:
    """A map (N, C, H, W) with the zeros of `same_zeros` around it."""
    top, bottom = same_zeros(x.shape[-2], kernel, stride, rate, own_stride)
    left, right = same_zeros(x.shape[-1], kernel, stride, rate, own_stride)
    return F.pad(x, [left, right, top, bottom])


class SameConv2d(nn.Conv2d):
    """A convolution with SAME padding, for strides above 1 (at stride 1 and an odd kernel it is `kernel // 2` on every side).

    Its stride may be taken out and its dilation raised later (`networks.backbone.dilate`): the pixels of the coarser map keep their values.

    Shapes: (N, c_in, H, W) to (N, c_out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1, bias: bool = True):
        super().__init__(c_in, c_out, kernel, stride, 0, groups=groups, bias=bias)
        self.own_stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0], self.own_stride)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
