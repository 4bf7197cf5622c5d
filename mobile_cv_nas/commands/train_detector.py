"""Trains a detector on images with boxes, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

python tools/train_detector.py --config-file configs/detection/digit_scenes.yaml [--resume] [KEY VALUE ...]
python tools/train_detector.py --config-file configs/detection/coco.yaml MODEL.ARCH FBNetV2_F4 DATA.ROOT COCO

HEAD.NAME is the detector, MODEL.ARCH its backbone: an arch file or a name of the model zoo. On several GPUs:
torchrun --nproc-per-node 8 tools/train_detector.py ...
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from .. import cli
from ..tasks.options import DETECTORS
from .train_net import run


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and trains a detector; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    return cli.main(functools.partial(run, heads=DETECTORS), argv, __doc__ or "", purpose="train")
