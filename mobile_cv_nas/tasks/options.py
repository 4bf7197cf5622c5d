"""Which head a network gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config.keys import DETECTORS as DETECTORS
from ..config.keys import SEGMENTERS as SEGMENTERS


@dataclass(frozen=True)
class HeadOptions:
    """A head of a detector or a segmenter, or none for a classifier; the keys of HEAD say the same."""

    name: str = ""  # detection: faster_rcnn | retinanet | ssdlite; segmentation: lraspp | deeplabv3; "": a classifier
    input_size: int = 256  # pixels: the longer side of a detector's image, each side of a segmenter's
    strides: Sequence[int] = ()  # detection: of the maps it reads; (): the head's own
    low_stride: int = 8  # lraspp: of its map of fine detail
    output_stride: int = 16  # segmentation: of the last map; stages beyond it are dilated
    channels: int = 0  # of the head; 0: the head's own
    anchor_scale: float = 0.0  # faster_rcnn, retinanet: side of the anchors in strides; 0: the head's own
    min_ratio: float = 0.0  # ssdlite: side of the boxes on its first map, as a share of the image; 0: the head's own
    frozen_stages: int = 0  # first stages of the backbone that keep their weights and norm statistics
    frozen_norm: bool = False  # all norms of the backbone keep theirs
