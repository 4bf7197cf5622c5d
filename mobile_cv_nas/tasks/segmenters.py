"""Segmenters: torchvision's heads on any network of the library, with defaults for small backbones and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..errors import InputError
from .features import Features, backbone_options
from .head_parts import MapsByName, check_batch, choose, own_options, positive


def build_segmenter(
    head: str,
    backbone: Any,
    num_classes: int,
    output_stride: int = 16,
    low_stride: int = 8,
    channels: int | None = None,
    **options: Any,
) -> nn.Module:
    """A segmenter of torchvision, LRASPP or DeepLabV3: normalised images (N, 3, H, W) to {"out": (N, num_classes, H, W)}.

    The backbone's module is `segmenter.backbone.body`.

    Args:
        head: lraspp or deeplabv3.
        backbone: as of `build_detector`; where the last map's stride is beyond `output_stride`, `backbone.dilate` brings it there.
        num_classes: of a pixel; background, if the data has one, is one of them.
        output_stride: input pixels a pixel of the last map.
        low_stride: the same of lraspp's map of fine detail: 4 or 8.
        channels: inside the head. None is 128.
        options: `pretrained`, `weights`, `frozen_stages`, `frozen_norm` and `in_channels` as of `build_detector`; `atrous_rates` of
            deeplabv3, in pixels of the last map; by default (3, 6, 9) at output stride 16, in proportion at others: for images of about
            256 pixels, half of what the paper has for 513.

    Raises:
        InputError: an unknown head or option, a stride that the backbone lacks; and in training, a batch of one image where the head
            normalises pooled values.
        ZooError, ArchError, WeightsError: as `fbnet_builder`.
    """
    build = choose(head, _SEGMENTERS)
    positive(num_classes=num_classes)
    width = 128 if channels is None else channels
    positive(channels=width)
    of_backbone, options = backbone_options(options)
    features = Features(backbone, of_backbone["pretrained"], of_backbone["weights"], of_backbone["in_channels"])
    if head == "lraspp":
        positive(low_stride=low_stride)
    elif low_stride != 8:
        raise InputError(f"{head}: low_stride {low_stride!r}: it is lraspp's; leave it out")
    features.pick_last(output_stride, low_stride if head == "lraspp" else None)
    features.freeze(of_backbone["frozen_stages"], of_backbone["frozen_norm"])
    return build(features, num_classes, width, options)


def _lraspp(features: Features, classes: int, width: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.segmentation import LRASPP

    own_options("lraspp", LRASPP, options)
    low, high = features.channels
    return LRASPP(MapsByName(features, ("low", "high")), low, high, classes, width)


def _deeplabv3(features: Features, classes: int, width: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.segmentation import DeepLabV3
    from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead

    rate = max(1, 48 // features.strides[-1])
    rates = own_options("deeplabv3", DeepLabV3, options, atrous_rates=(rate, 2 * rate, 3 * rate))[0]["atrous_rates"]
    if not isinstance(rates, Sequence) or not rates or not all(isinstance(r, int) and r > 0 for r in rates):
        raise InputError(f"deeplabv3: atrous_rates {rates!r}: give whole numbers above 0, such as (3, 6, 9)")
    head = DeepLabHead(features.channels[-1], classes, rates)
    if width != 256:  # which torchvision's head has in it
        head[0] = ASPP(features.channels[-1], rates, width)
        head[1], head[2] = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        head[4] = nn.Conv2d(width, classes, 1)
    model = DeepLabV3(MapsByName(features, ("out",)), head)
    model.register_forward_pre_hook(check_batch)
    return model


_SEGMENTERS: dict[str, Callable[..., nn.Module]] = {"lraspp": _lraspp, "deeplabv3": _deeplabv3}
