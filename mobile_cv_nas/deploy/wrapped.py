"""A network as its file computes it: one tensor in, tensors out, and nothing that depends on the pixels' values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .interface import Interface


class Wrapped(nn.Module):
    """A network with the interface of its file.

    Args:
        network: what `interface_of` knows.
        interface: of the file.

    Shapes: `interface.shape(N)` to a tuple of tensors, one for each of `interface.outputs`.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, interface: Interface):
        super().__init__()
        self.network: nn.Module = RawDetector(network, interface.input_size) if interface.kind == "detection" else network
        self.kind, self.with_transform = interface.kind, interface.with_transform
        if self.with_transform:
            mean, std = (torch.tensor(values, dtype=torch.float64) for values in interface.scaling)
            self.register_buffer("gain", (1 / (255 * std)).float().view(-1, 1, 1))
            self.register_buffer("offset", (-mean / std).float().view(-1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.with_transform:
            image = image.permute(0, 3, 1, 2).float() * self.gain + self.offset
        found = self.network(image)
        if self.kind == "segmentation":
            found = found["out"] if isinstance(found, Mapping) else found
        return (found,) if isinstance(found, Tensor) else tuple(found)


class RawDetector(nn.Module):
    """A one-stage detector of torchvision on images of its own size, before suppression.

    Args:
        detector: SSD or RetinaNet, in eval mode.
        size: S, side of the images in pixels.

    Attributes:
        suppression: what `detections` needs: thresholds and numbers; "levels", boxes of each map where the best of each are kept, or None
            where the best of each class are; "fixed", whether images are squeezed to the square or padded to it.

    Shapes: (N, 3, S, S) in 0..1 to boxes (N, A, 4) in pixels and scores (N, A, labels), label 0 being the background.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    side: Tensor

    def __init__(self, detector: nn.Module, size: int):
        super().__init__()
        found: Any = detector
        self.backbone, self.head = found.backbone, found.head
        self.softmax = bool(found.transform.fixed_size)
        pixels = size if self.softmax else math.ceil(size / 32) * 32
        self.pad = pixels - size
        self.size = size
        anchors, levels = _anchors(found, pixels)
        for name, values in (("mean", found.transform.image_mean), ("std", found.transform.image_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
        self.register_buffer("centre", (anchors[:, :2] + anchors[:, 2:]) / 2)
        self.register_buffer("side", anchors[:, 2:] - anchors[:, :2])
        self.weights, self.clip = tuple(float(w) for w in found.box_coder.weights), math.log(1000 / 16)
        self.suppression = {
            "fixed": self.softmax,
            "levels": None if self.softmax else levels,
            "score_thresh": found.score_thresh,
            "nms_thresh": found.nms_thresh,
            "topk_candidates": found.topk_candidates,
            "detections_per_img": found.detections_per_img,
            "image_mean": [float(value) for value in found.transform.image_mean],
        }

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = (image - self.mean) / self.std
        if self.pad:
            x = nn.functional.pad(x, (0, self.pad, 0, self.pad))
        # past the hook that bars RetinaNet's background: it writes in place
        found = self.head.forward(list(self.backbone(x).values()))
        if self.softmax:
            scores = found["cls_logits"].softmax(-1)
        else:
            scores = found["cls_logits"].sigmoid()
            scores = torch.cat([torch.zeros_like(scores[..., :1]), scores[..., 1:]], -1)
        return self._decode(found["bbox_regression"]), scores

    def learnt(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Of its outputs, what no other detector gives: the corners' way from the anchors', in sides of these, and the objects' scores."""
        half = self.side / 2
        anchors = torch.cat([self.centre - half, self.centre + half], -1).clamp(0, self.size)
        return (boxes - anchors) / self.side.repeat(1, 2), scores[..., 1:]

    def _decode(self, deltas: Tensor) -> Tensor:
        """(N, A, 4) as the head gives them, to boxes in pixels, within the image."""
        x, y, w, h = self.weights
        shift = torch.stack([deltas[..., 0] / x, deltas[..., 1] / y], -1)
        scale = torch.stack([deltas[..., 2] / w, deltas[..., 3] / h], -1).clamp(max=self.clip)
        centre = shift * self.side + self.centre
        half = scale.exp() * self.side / 2
        return torch.cat([centre - half, centre + half], -1).clamp(0, self.size)


@torch.no_grad()
def _anchors(detector: Any, pixels: int) -> tuple[Tensor, list[int]]:
    """The boxes (A, 4) that a detector's outputs are relative to, and how many of them each map has."""
    from torchvision.models.detection.image_list import ImageList

    image = torch.zeros(1, len(detector.transform.image_mean), pixels, pixels)
    maps = list(detector.backbone(image).values())
    per_pixel = detector.anchor_generator.num_anchors_per_location()
    levels = [m.shape[-2] * m.shape[-1] * n for m, n in zip(maps, per_pixel, strict=True)]
    return detector.anchor_generator(ImageList(image, [(pixels, pixels)]), maps)[0], levels


def signals(wrapped: nn.Module, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of the outputs of what `wrap` gives, what noise is to be compared with.

    Of a detector not boxes and scores: these are those of its anchors and of the background, to 10 dB and more, whatever it has learnt.
    """
    detector = getattr(wrapped, "network", None)
    return detector.learnt(*outputs) if isinstance(detector, RawDetector) else outputs


def wrap(network: nn.Module, interface: Interface) -> tuple[Wrapped, Interface]:
    """A network in eval mode as its file computes it, and the interface with what a detector adds to it."""
    wrapped = Wrapped(network.eval(), interface).eval()
    if isinstance(wrapped.network, RawDetector):
        interface = replace(interface, suppression=wrapped.network.suppression)
    return wrapped, interface
