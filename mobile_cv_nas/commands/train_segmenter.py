"""Trains a segmenter on images with masks, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

python tools/train_segmenter.py --config-file configs/segmentation/digit_scenes.yaml [--resume] [KEY VALUE ...]
python tools/train_segmenter.py --config-file configs/segmentation/voc.yaml MODEL.ARCH FBNetV2_F4 DATA.ROOT VOC2012

HEAD.NAME is the head, MODEL.ARCH its backbone: an arch file or a name of the model zoo. On several GPUs:
torchrun --nproc-per-node 8 tools/train_segmenter.py ...
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from .. import cli
from ..tasks.options import SEGMENTERS
from .train_net import run


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and trains a segmenter; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    return cli.main(functools.partial(run, heads=SEGMENTERS), argv, __doc__ or "", purpose="train")
