"""Trains a detector on images with boxes, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

python tools/train_detector.py --config-file configs/detection/digit_scenes.yaml [--resume] [KEY VALUE ...]
python tools/train_detector.py --config-file configs/detection/coco.yaml MODEL.ARCH FBNetV2_F4 DATA.ROOT COCO

HEAD.NAME is the detector, MODEL.ARCH its backbone: an arch file or a name of the model zoo. On several GPUs:
torchrun --nproc-per-node 8 tools/train_detector.py ...
"""

import functools
import sys

from mobile_cv_nas.cli import main
from mobile_cv_nas.commands.train_net import run
from mobile_cv_nas.tasks.options import DETECTORS

if __name__ == "__main__":
    sys.exit(main(functools.partial(run, heads=DETECTORS), description=__doc__, purpose="train"))
