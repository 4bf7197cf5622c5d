"""Norms folded into the convolutions in front of them: the same function in fewer operations, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..networks.supernet import Supernet
from ..nn.layers import ConvNormAct
from ..nn.same import SameConv2d


def fold(network: nn.Module, channels_last: bool = True) -> nn.Module:
    """A copy of a network for inference, in eval mode, without the norms that follow a convolution.

    A norm of fixed statistics is affine: its gain goes into the convolution's weights and the rest into the bias, computed in float64.
    Norms that follow no convolution, or in a module that does more than call its parts in order, stay as they are.

    Args:
        network: of this library, a detector, a segmenter, or any module; it is not changed.
        channels_last: put it into this memory layout, the faster one on most CPUs and GPUs.

    Returns:
        The same function up to rounding, as long as it is not trained; its state dict is another one.

    Raises:
        InputError: a supernet, whose norms are masked anew in each step.

    >>> from mobile_cv_nas import build_model, get_arch
    >>> folded = fold(build_model(get_arch("Digits"), 10))
    >>> any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    False
    """
    if any(isinstance(module, Supernet) for module in network.modules()):
        raise InputError("fold: a supernet's norms are masked in each step; fold the child: build_model(arch), inherit_weights")
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    parents = Counter(id(child) for module in folded.modules() for child in module.children())
    for parent, conv_name, norm_name in list(_pairs(folded)):
        conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
        if parents[id(conv)] == parents[id(norm)] == 1 and not _watched(conv) and not _watched(norm):
            _absorb(conv, norm)
            setattr(parent, norm_name, nn.Identity())
    return folded.to(memory_format=torch.channels_last) if channels_last else folded  # type: ignore[call-overload]


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Every module that feeds the output of a convolution to a norm and to nothing else, with the names of the two."""
    for module in network.modules():
        if isinstance(module, ConvNormAct) and type(module).forward is ConvNormAct.forward:
            names = ["conv", "norm"]
        elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            names = [name for name, _ in module.named_children()]
        else:
            continue
        for first, second in pairwise(names):
            if type(getattr(module, first)) in (nn.Conv2d, SameConv2d) and _affine(getattr(module, second)):
                yield module, first, second


def _affine(norm: nn.Module) -> bool:
    """Whether a norm is an affine function of constants in eval mode."""
    from torchvision.ops import FrozenBatchNorm2d

    return isinstance(norm, FrozenBatchNorm2d) or (type(norm) is nn.BatchNorm2d and norm.running_mean is not None)


def _watched(module: nn.Module) -> bool:
    """Whether hooks look at what goes in or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _absorb(conv: nn.Conv2d, norm: Any) -> None:
    """Takes a norm into the convolution in front of it, in place."""
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    before = norm.running_mean.new_zeros(()) if conv.bias is None else conv.bias
    bias = (before.double() - norm.running_mean.double()) * gain
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = conv.weight.double() * gain.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
