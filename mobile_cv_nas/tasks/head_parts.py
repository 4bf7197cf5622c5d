"""What heads are made of besides torchvision's classes: named maps, and checks of options and targets."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from .features import Features

# arguments of torchvision's classes that the heads make themselves
_MADE = {"self", "backbone", "num_classes", "min_size", "max_size", "size", "rpn_anchor_generator", "anchor_generator", "rpn_head", "head"}
_MADE |= {"box_roi_pool", "box_head", "box_predictor", "proposal_matcher", "kwargs", "low_channels", "high_channels", "inter_channels"}
_MADE |= {"classifier", "aux_classifier"}


class MapsByName(nn.Module):
    """A feature module as torchvision's heads take it: chosen maps by name, and a neck after them.

    Args:
        features: whose maps to return.
        names: of the maps, in order.
        neck: mapping to mapping; None for none.

    Attributes:
        body: the feature module.
        out_channels: of the neck's maps, all alike; torchvision's detectors read it.

    Shapes: (N, 3, H, W) to {name: (N, C, h, w)}.
    """

    def __init__(self, features: Features, names: Sequence[str], neck: nn.Module | None = None, out_channels: int = 0):
        super().__init__()
        self.body, self.neck, self.out_channels = features.body, neck, out_channels
        self._maps = tuple(zip(names, features.indices, strict=True))

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        maps = self.body(x)
        maps = list(maps.values()) if isinstance(maps, Mapping) else maps
        named = OrderedDict((name, maps[index]) for name, index in self._maps)
        return named if self.neck is None else self.neck(named)


def check_targets(model: nn.Module, args: tuple, kwargs: dict[str, Any], num_classes: int) -> None:
    """A hook before `forward` in training: torchvision would index by a label out of range, or ignore it."""
    if not model.training:
        return
    targets = args[1] if len(args) > 1 else kwargs.get("targets")
    images = args[0] if args else kwargs.get("images", ())
    if targets is None or len(targets) != len(images):
        raise InputError(f"targets: {'none' if targets is None else len(targets)} for {len(images)} images; training needs one for each")
    if not len(targets):
        raise InputError("images: none; give one or more")
    for index, target in enumerate(targets):
        _check_target(target, f"image {index} of the batch")
    _check_boxes(images, targets)
    labels = [target["labels"] for target in targets]
    together = torch.cat(labels)
    if not ((together < 1) | (together > num_classes)).any():  # one wait for the device, not one an image
        return
    for index, values in enumerate(labels):
        for label in values.tolist():
            if not 1 <= label <= num_classes:
                raise InputError(f"image {index} of the batch: label {label} is not one of 1 to {num_classes} (0 is the background)")


def _check_target(target: Mapping[str, Any], where: str) -> None:
    """Keys, types and shapes."""
    for key in ("boxes", "labels"):
        if not isinstance(target, Mapping) or not isinstance(target.get(key), Tensor):
            raise InputError(f"{where}: no tensor of {key}; give boxes (n, 4) and labels (n,)")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise InputError(f"{where}: boxes of shape {tuple(boxes.shape)}, {boxes.dtype}; give (n, 4) of floating point, n may be 0")
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise InputError(f"{where}: labels of shape {tuple(labels.shape)}, {labels.dtype}; give (n,) of int64")
    if len(boxes) != len(labels):
        raise InputError(f"{where}: {len(boxes)} boxes and {len(labels)} labels; give one each")


def _check_boxes(images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> None:
    """Finite, of some area, and not wholly outside the image (augmentation may leave a box that reaches out)."""
    boxes = torch.cat([target["boxes"] for target in targets])
    sizes = torch.tensor([[image.shape[-1], image.shape[-2]] for image in images], device=boxes.device)
    limits = sizes.repeat_interleave(torch.tensor([len(target["boxes"]) for target in targets], device=boxes.device), dim=0)
    bad = ~(torch.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    bad |= (boxes[:, :2] >= limits).any(1) | (boxes[:, 2:] <= 0).any(1)
    if not bad.any():  # one wait for the device, not one an image
        return
    first = int(bad.nonzero()[0])
    for index, (image, target) in enumerate(zip(images, targets)):
        if first < len(target["boxes"]):
            box = ", ".join(f"{value:g}" for value in target["boxes"][first].tolist())
            raise InputError(
                f"image {index} of the batch: box {first} ({box}) in an image of {image.shape[-1]}x{image.shape[-2]} pixels; "
                "give x1, y1, x2, y2 in pixels, not outside it, x1 < x2 and y1 < y2"
            )
        first -= len(target["boxes"])


def no_background(head: nn.Module, args: tuple, outputs: dict[str, Tensor]) -> None:
    """A hook after RetinaNet's head: its column of label 0 is never right, and must not be detected either."""
    if not head.training:
        outputs["cls_logits"][..., 0] = -math.inf


def check_batch(model: nn.Module, args: tuple) -> None:
    """A hook before `forward`: DeepLabV3 pools each image to one pixel and normalises over the batch."""
    if model.training and args and len(args[0]) < 2:
        raise InputError(
            "deeplabv3: a batch of one image: its norm of pooled values needs two or more in each forward pass of training; "
            "use a larger batch (TRAIN.BATCH_SIZE over the processes and RUNTIME.ACCUMULATE)"
        )


def own_options(head: str, kind: type, options: Mapping[str, Any], **own: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options in `own`, with those defaults, and the rest. Raises InputError for one that neither they nor the class take."""
    known = sorted({*own, *inspect.signature(kind).parameters} - _MADE)
    for name in options:
        if name not in known:
            hint = ", did you mean input_size?" if name in ("min_size", "max_size", "size") else did_you_mean(name, known)
            raise InputError(f"{head}: no such option {name!r}{hint or '; it takes ' + (', '.join(known) or 'none')}")
    rest = {name: value for name, value in options.items() if name not in own}
    return {name: options.get(name, default) for name, default in own.items()}, rest


def choose(head: str, builders: Mapping[str, Callable[..., nn.Module]]) -> Callable[..., nn.Module]:
    """The builder of a head by its name. Raises InputError."""
    if not isinstance(head, str) or head not in builders:
        raise InputError(f"head {head!r}: no such head{did_you_mean(str(head), builders, few=8)}")
    return builders[head]


def positive(**values: Any) -> None:
    """Raises InputError naming the first value that is not an int of 1 or more."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} {value!r}: give a whole number of 1 or more")
