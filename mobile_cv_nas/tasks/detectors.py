"""Detectors and segmenters: torchvision's heads on any network of the library, with defaults for small backbones and images."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from ..config.files import nearest
from ..errors import InputError
from .features import Features
from .head_parts import CoarserMaps, MapsByName, check_batch, check_targets, no_background, own_options, positive

_ROI_SIZE = 7
_EXTRA_SMALLEST = 2  # pixels: norms need more than one value where a batch is one image


def build_detector(
    head: str,
    backbone: Any,
    num_classes: int,
    input_size: int = 256,
    strides: Sequence[int] | None = None,
    channels: int | None = None,
    pretrained: bool = False,
    weights: str | os.PathLike | None = None,
    frozen_stages: int = 0,
    frozen_norm: bool = False,
    **options: Any,
) -> nn.Module:
    """A detector of torchvision: FasterRCNN or RetinaNet on a feature pyramid, or SSD with SSDLite's head.

    In training it takes a list of images (3, H, W) in 0..1 and a list of {"boxes": (n, 4) float x1, y1, x2, y2 in pixels, "labels":
    (n,) int64 from 1 to num_classes}, and returns losses by name. In evaluation it takes the images alone and returns a list of
    {"boxes", "labels", "scores"}. It resizes and normalises images itself. The backbone's module is `detector.backbone.body`.

    Args:
        head: faster_rcnn, retinanet or ssdlite.
        backbone: a name of the zoo, an ArchDef, the path of an arch file, or a feature module (`features.Features` says which).
        num_classes: kinds of objects, background not counted.
        input_size: in pixels: the longer side of a resized image, or for ssdlite both sides.
        strides: of the maps used, ascending; None is (4, 8, 16, 32) for faster_rcnn, (8, 16, 32) for retinanet, (16, 32) for ssdlite. The
            head adds coarser maps to these: one for faster_rcnn, two for retinanet, for ssdlite as many as are 2 pixels wide or more.
        channels: of the pyramid, or of ssdlite's added maps; a multiple of 8. None is 64, or 128 for ssdlite.
        pretrained: start from the network's published weights.
        weights: a file to start from; goes before `pretrained`. Of a detector or a segmenter of this library its backbone is taken.
        frozen_stages: so many first stages of the arch keep weights and norm statistics.
        frozen_norm: every norm of the backbone keeps its statistics and its affine part.
        options: of torchvision's class, such as score_thresh (faster_rcnn: box_score_thresh), image_mean, image_std; beside them
            `aspect_ratios` of the anchors; `anchor_scale`, their side in strides (faster_rcnn 4, retinanet 3); `representation_size` of
            faster_rcnn's box head (256); `min_ratio` and `max_ratio` (0.95), the sides of ssdlite's boxes on its first and last map as
            a share of the image.

    Raises:
        InputError: an unknown head or option, strides that the backbone lacks, or a number out of range; and in training, labels
            out of range.
        ZooError, ArchError, WeightsError: as `fbnet_builder`.
    """
    build = _choose(head, _DETECTORS)
    positive(num_classes=num_classes, input_size=input_size)
    features = Features(backbone, pretrained, weights)
    features.pick(_STRIDES[head] if strides is None else strides, f"{head}: strides")
    if input_size < 2 * features.strides[-1]:
        raise InputError(f"{head}: input_size {input_size}: less than two pixels of the map at stride {features.strides[-1]}; use more")
    features.freeze(frozen_stages, frozen_norm)
    width = _CHANNELS[head] if channels is None else channels
    positive(channels=width)
    if width % 8:
        raise InputError(f"{head}: channels {width}: give a multiple of 8")
    options = {"image_mean": list(features.mean), "image_std": list(features.std), **options}
    model = build(features, num_classes + 1, input_size, width, options)
    model.register_forward_pre_hook(partial(check_targets, num_classes=num_classes), with_kwargs=True)
    return model


def build_segmenter(
    head: str,
    backbone: Any,
    num_classes: int,
    output_stride: int = 16,
    low_stride: int = 8,
    channels: int | None = None,
    pretrained: bool = False,
    weights: str | os.PathLike | None = None,
    frozen_stages: int = 0,
    frozen_norm: bool = False,
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
        pretrained: as of `build_detector`, like `weights`, `frozen_stages` and `frozen_norm`.
        options: `atrous_rates` of deeplabv3, in pixels of the last map; by default (3, 6, 9) at output stride 16, in proportion at
            others: for images of about 256 pixels, half of what the paper has for 513.

    Raises:
        InputError: an unknown head or option, a stride that the backbone lacks; and in training, a batch of one image where the head
            normalises pooled values.
        ZooError, ArchError, WeightsError: as `fbnet_builder`.
    """
    build = _choose(head, _SEGMENTERS)
    positive(num_classes=num_classes)
    width = 128 if channels is None else channels
    positive(channels=width)
    features = Features(backbone, pretrained, weights)
    if head == "lraspp":
        positive(low_stride=low_stride)
    elif low_stride != 8:
        raise InputError(f"{head}: low_stride {low_stride!r}: it is lraspp's; leave it out")
    features.pick_last(output_stride, low_stride if head == "lraspp" else None)
    features.freeze(frozen_stages, frozen_norm)
    return build(features, num_classes, width, options)


# -- detectors ----------------------------------------------------------------------------------------


def _faster_rcnn(features: Features, labels: int, size: int, width: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    strides, names = features.strides, _names(features)
    if any(after != 2 * before for before, after in pairwise(strides)):
        raise InputError(f"faster_rcnn: strides {tuple(strides)}: it picks a map by a box's size, so each must be twice the one before")
    own = own_options("faster_rcnn", FasterRCNN, options, anchor_scale=4, aspect_ratios=(0.5, 1.0, 2.0), representation_size=256)
    levels = [*strides, 2 * strides[-1]]
    small = {"rpn_pre_nms_top_n_train": 1000, "rpn_pre_nms_top_n_test": 500, "rpn_post_nms_top_n_train": 500}
    small |= {"rpn_post_nms_top_n_test": 200, "box_batch_size_per_image": 128}
    positive(representation_size=own["representation_size"])
    return FasterRCNN(
        MapsByName(features, names, FeaturePyramidNetwork(features.channels, width, LastLevelMaxPool()), width),
        min_size=size,
        max_size=size,
        rpn_anchor_generator=AnchorGenerator(tuple((_side(own, stride),) for stride in levels), (_ratios(own),) * len(levels)),
        # half of torchvision's canonical scale, as the anchors are half of its own
        box_roi_pool=MultiScaleRoIAlign(names, _ROI_SIZE, sampling_ratio=2, canonical_scale=112),
        box_head=TwoMLPHead(width * _ROI_SIZE**2, own["representation_size"]),
        box_predictor=FastRCNNPredictor(own["representation_size"], labels),
        **{**small, **options},
    )


def _retinanet(features: Features, labels: int, size: int, width: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    own = own_options("retinanet", RetinaNet, options, anchor_scale=3, aspect_ratios=(0.5, 1.0, 2.0))
    levels = [*features.strides, 2 * features.strides[-1], 4 * features.strides[-1]]
    # two sizes an octave instead of three: with many classes most of the cost is in the outputs, one set an anchor
    sides = tuple((_side(own, stride), int(_side(own, stride) * 2**0.5)) for stride in levels)
    anchors = AnchorGenerator(sides, (_ratios(own),) * len(levels))
    # groups of 8 channels: statistics of an image alone, since the head sees maps of very different sizes
    head = RetinaNetHead(width, anchors.num_anchors_per_location()[0], labels, norm_layer=partial(nn.GroupNorm, width // 8))
    head.register_forward_hook(no_background)
    return RetinaNet(
        MapsByName(features, _names(features), FeaturePyramidNetwork(features.channels, width, LastLevelP6P7(width, width)), width),
        num_classes=labels,
        min_size=size,
        max_size=size,
        anchor_generator=anchors,
        head=head,
        **{"detections_per_img": 100, **options},
    )


def _ssdlite(features: Features, labels: int, size: int, width: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.detection import ssd, ssdlite
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

    first = min(3 * features.strides[0] / size, 0.5)
    own = own_options("ssdlite", ssd.SSD, options, aspect_ratios=(2, 3), min_ratio=first, max_ratio=0.95)
    low, high = own["min_ratio"], own["max_ratio"]
    if not all(isinstance(ratio, (int, float)) for ratio in (low, high)) or not 0 < low < high <= 1:
        raise InputError(f"ssdlite: min_ratio {low!r}, max_ratio {high!r}: give shares of the image, above 0 to 1, the second larger")
    pixels, added = -(-size // features.strides[-1]), 0
    while (pixels := -(-pixels // 2)) >= _EXTRA_SMALLEST:
        added += 1
    widths = [*features.channels, *[width] * added]
    boxes = DefaultBoxGenerator([list(_ratios(own))] * len(widths), low, high)
    return ssd.SSD(
        MapsByName(features, _names(features), CoarserMaps(features.channels[-1], width, added)),
        boxes,
        (size, size),
        labels,
        head=ssdlite.SSDLiteHead(widths, boxes.num_anchors_per_location(), labels, nn.BatchNorm2d),
        **{"nms_thresh": 0.55, "detections_per_img": 100, "topk_candidates": 300, **options},
    )


def _names(features: Features) -> list[str]:
    return [f"s{stride}" for stride in features.strides]


def _side(own: Mapping[str, Any], stride: int) -> int:
    scale = own["anchor_scale"]
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf or int(scale * stride) < 1:
        raise InputError(f"anchor_scale {scale!r}: give the side of the anchors in strides, such as 4")
    return int(scale * stride)


def _ratios(own: Mapping[str, Any]) -> tuple[float, ...]:
    ratios = own["aspect_ratios"]
    if not isinstance(ratios, Sequence) or not ratios or not all(isinstance(r, (int, float)) and 0 < r < math.inf for r in ratios):
        raise InputError(f"aspect_ratios {ratios!r}: give numbers above 0, such as (0.5, 1, 2)")
    return tuple(ratios)


# -- segmenters ---------------------------------------------------------------------------------------


def _lraspp(features: Features, classes: int, width: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.segmentation import LRASPP

    own_options("lraspp", LRASPP, options)
    low, high = features.channels
    return LRASPP(MapsByName(features, ("low", "high")), low, high, classes, width)


def _deeplabv3(features: Features, classes: int, width: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.segmentation import DeepLabV3
    from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead

    rate = max(1, 48 // features.strides[-1])
    rates = own_options("deeplabv3", DeepLabV3, options, atrous_rates=(rate, 2 * rate, 3 * rate))["atrous_rates"]
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


_DETECTORS: dict[str, Callable[..., nn.Module]] = {"faster_rcnn": _faster_rcnn, "retinanet": _retinanet, "ssdlite": _ssdlite}
_SEGMENTERS: dict[str, Callable[..., nn.Module]] = {"lraspp": _lraspp, "deeplabv3": _deeplabv3}
_STRIDES = {"faster_rcnn": (4, 8, 16, 32), "retinanet": (8, 16, 32), "ssdlite": (16, 32)}
_CHANNELS = {"faster_rcnn": 64, "retinanet": 64, "ssdlite": 128}


def _choose(head: str, builders: Mapping[str, Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    if not isinstance(head, str) or head not in builders:
        raise InputError(f"head {head!r}: no such head; {nearest(str(head), list(builders))}")
    return builders[head]
