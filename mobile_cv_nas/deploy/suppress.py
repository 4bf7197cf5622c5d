"""From a detector's raw boxes and scores to the objects on an image, as torchvision's detectors do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fitted(image: Tensor, size: int, how: Mapping[str, Any]) -> tuple[Tensor, tuple[int, int]]:
    """An image (C, H, W) in 0..1 at (C, size, size), and the height and width that it takes up there."""
    resize = torch.nn.functional.interpolate
    if how["fixed"]:
        return resize(image[None], (size, size), mode="bilinear", align_corners=False)[0], (size, size)
    factor = size / max(image.shape[1:])
    image = resize(image[None], scale_factor=factor, mode="bilinear", recompute_scale_factor=True, align_corners=False)[0]
    height, width = image.shape[1:]
    square = torch.tensor(how["image_mean"], dtype=image.dtype).view(-1, 1, 1).repeat(1, size, size)
    square[:, :height, :width] = image
    return square, (height, width)


def detections(boxes: Tensor, scores: Tensor, how: Mapping[str, Any], used: tuple[int, int], size: tuple[int, int]) -> dict[str, Tensor]:
    """The objects of one image.

    Args:
        boxes: (A, 4), pixels of the network's input.
        scores: (A, labels), label 0 being the background.
        how: the interface's `suppression`.
        used: height and width that the image takes up in the input.
        size: height and width of the image.

    Returns:
        {"boxes" (n, 4) in pixels of the image, "scores" (n,), "labels" (n,), 1 to labels - 1}, the best first.
    """
    from torchvision.ops import batched_nms, clip_boxes_to_image

    boxes = clip_boxes_to_image(boxes, list(used))
    candidates = _by_label(scores, how) if how["levels"] is None else _by_level(scores, how)
    rows, labels = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    found, best = boxes[rows], scores[rows, labels]
    keep = batched_nms(found, best, labels, how["nms_thresh"])[: how["detections_per_img"]]
    scale = found.new_tensor([size[1] / used[1], size[0] / used[0]]).repeat(2)
    return {"boxes": found[keep] * scale, "scores": best[keep], "labels": labels[keep]}


def _by_label(scores: Tensor, how: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The best boxes of each label, as SSD keeps them: rows and labels."""
    found = []
    for label in range(1, scores.shape[1]):
        rows = torch.where(scores[:, label] > how["score_thresh"])[0]
        rows = rows[scores[rows, label].topk(min(how["topk_candidates"], len(rows))).indices]
        found.append((rows, torch.full_like(rows, label)))
    return found


def _by_level(scores: Tensor, how: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The best boxes of each map, whatever their labels, as RetinaNet keeps them: rows and labels."""
    found, first = [], 0
    for level in scores.split(list(how["levels"])):
        flat = level.flatten()
        places = torch.where(flat > how["score_thresh"])[0]
        places = places[flat[places].topk(min(how["topk_candidates"], len(places))).indices]
        found.append((first + places // level.shape[1], places % level.shape[1]))
        first += len(level)
    return found
