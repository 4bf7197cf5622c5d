"""Detectors: torchvision's heads on any network of the library, with defaults for small backbones and images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..networks.supernet import Supernet
from ..nn.heads import CoarserMaps
from .features import Features, backbone_options
from .head_parts import MapsByName, check_targets, choose, no_background, own_options, positive

_ROI_SIZE = 7
_SSD = {"nms_thresh": 0.55, "detections_per_img": 100, "topk_candidates": 300}
_EXTRA_SMALLEST = 2  # pixels: norms need more than one value where a batch is one image


def build_detector(
    head: str,
    backbone: Any,
    num_classes: int,
    input_size: int = 256,
    strides: Sequence[int] | None = None,
    channels: int | None = None,
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
        options: of the backbone: `pretrained` (start from the network's published weights), `weights` (a file to start from, which goes
            before; of a detector or a segmenter of this library its backbone is taken), `frozen_stages` (so many first stages of the
            arch keep weights and norm statistics), `frozen_norm` (every norm of the backbone keeps its statistics and its affine part),
            `in_channels` (of the images; of others than 3 give `image_mean` and `image_std` too).
            Of torchvision's class, such as score_thresh (faster_rcnn: box_score_thresh), image_mean, image_std; beside them
            `aspect_ratios` of the anchors; `anchor_scale`, their side in strides (faster_rcnn 4, retinanet 3); `representation_size` of
            faster_rcnn's box head (256); `min_ratio` and `max_ratio` (0.95), the sides of ssdlite's boxes on its first and last map as
            a share of the image.

    Raises:
        InputError: an unknown head or option, strides that the backbone lacks, or a number out of range; and in training, labels
            out of range.
        ZooError, ArchError, WeightsError: as `fbnet_builder`.
    """
    build = choose(head, _DETECTORS)
    positive(num_classes=num_classes, input_size=input_size)
    of_backbone, options = backbone_options(options)
    features = Features(backbone, of_backbone["pretrained"], of_backbone["weights"], of_backbone["in_channels"])
    features.pick(_STRIDES[head] if strides is None else strides, f"{head}: strides")
    if input_size < 2 * features.strides[-1]:
        raise InputError(f"{head}: input_size {input_size}: less than two pixels of the map at stride {features.strides[-1]}; use more")
    features.freeze(of_backbone["frozen_stages"], of_backbone["frozen_norm"])
    width = _CHANNELS[head] if channels is None else channels
    positive(channels=width)
    if width % 8:
        raise InputError(f"{head}: channels {width}: give a multiple of 8")
    if of_backbone["in_channels"] != len(options.get("image_mean", features.mean)):
        raise InputError(f"{head}: in_channels {of_backbone['in_channels']}: give image_mean and image_std, one value a channel")
    options = {"image_mean": list(features.mean), "image_std": list(features.std), **options}
    model = build(features, num_classes + 1, input_size, width, options)
    model.register_forward_pre_hook(partial(check_targets, num_classes=num_classes), with_kwargs=True)
    return model


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
    own, options = own_options("faster_rcnn", FasterRCNN, options, anchor_scale=4, aspect_ratios=(0.5, 1.0, 2.0), representation_size=256)
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

    own, options = own_options("retinanet", RetinaNet, options, anchor_scale=3, aspect_ratios=(0.5, 1.0, 2.0))
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

    own, options = own_options("ssdlite", ssd.SSD, options, aspect_ratios=(2, 3), min_ratio=0.0, max_ratio=0.95)
    pixels, added = -(-size // features.strides[-1]), 0
    while (pixels := -(-pixels // 2)) >= _EXTRA_SMALLEST:
        added += 1
    widths = [*features.channels, *[width] * added]
    boxes = _default_boxes(own, len(widths), features.strides[0] / size)
    return ssd.SSD(
        MapsByName(features, _names(features), CoarserMaps(features.channels[-1], width, added)),
        boxes,
        (size, size),
        labels,
        head=ssdlite.SSDLiteHead(widths, boxes.num_anchors_per_location(), labels, nn.BatchNorm2d),
        **{**_SSD, **options},
    )


def _default_boxes(own: Mapping[str, Any], maps: int, stride: float) -> Any:
    """SSD's boxes on so many maps, the first of which has a pixel for a share `stride` of the image."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

    low, high = own["min_ratio"] or min(3 * stride, 0.5), own["max_ratio"]
    if not all(isinstance(ratio, (int, float)) for ratio in (low, high)) or not 0 < low < high <= 1:
        raise InputError(f"ssdlite: min_ratio {low!r}, max_ratio {high!r}: give shares of the image, above 0 to 1, the second larger")
    return DefaultBoxGenerator([list(_ratios(own))] * maps, low, high)


class _SupernetMaps(nn.Module):
    """A supernet as the backbone of SSD: the maps of its layers, and the coarser ones that its head adds."""

    def __init__(self, supernet: Supernet):
        super().__init__()
        self.supernet = supernet

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        head: Any = self.supernet.head
        return head.maps(self.supernet.maps(x))


class _SupernetHead(nn.Module):
    """The head of a supernet as that of SSD, under the current gates."""

    def __init__(self, supernet: Supernet):
        super().__init__()
        self.supernet = supernet

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        head: Any = self.supernet.head
        return head.predict(maps, self.supernet.gates().maps)


def searched_detector(supernet: Supernet, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """SSD whose backbone and head are a supernet's: in training it gives the losses of the current gates, as a detector does.

    Args:
        supernet: with the head `ssdlite`; the weights are its own, shared.
        num_classes: kinds of objects.
        options: as of `build_detector`, those of the backbone aside.
    """
    from torchvision.models.detection import ssd

    shape = ("input_size", "strides", "channels")  # which the supernet has already
    given = {name: value for name, value in backbone_options(options)[1].items() if name not in shape}
    own, rest = own_options("ssdlite", ssd.SSD, given, aspect_ratios=(2, 3), min_ratio=0.0, max_ratio=0.95)
    head: Any = supernet.head
    size = supernet.space.max_input_size
    boxes = _default_boxes(own, len(head.predictor.classification_head.module_list), head.strides[0] / size)
    model = ssd.SSD(_SupernetMaps(supernet), boxes, (size, size), num_classes + 1, head=_SupernetHead(supernet), **{**_SSD, **rest})
    model.register_forward_pre_hook(partial(check_targets, num_classes=num_classes), with_kwargs=True)
    return model


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


_DETECTORS: dict[str, Callable[..., nn.Module]] = {"faster_rcnn": _faster_rcnn, "retinanet": _retinanet, "ssdlite": _ssdlite}
_STRIDES = {"faster_rcnn": (4, 8, 16, 32), "retinanet": (8, 16, 32), "ssdlite": (16, 32)}
_CHANNELS = {"faster_rcnn": 64, "retinanet": 64, "ssdlite": 128}


def ssdlite_strides() -> tuple[int, ...]:
    """Of the maps that SSDLite reads where none are named."""
    return _STRIDES["ssdlite"]
