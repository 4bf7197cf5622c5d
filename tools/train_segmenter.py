"""Trains a segmenter on images with masks, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

python tools/train_segmenter.py --config-file configs/segmentation/digit_scenes.yaml [--resume] [KEY VALUE ...]
python tools/train_segmenter.py --config-file configs/segmentation/voc.yaml MODEL.ARCH FBNetV2_F4 DATA.ROOT VOC2012

HEAD.NAME is the head, MODEL.ARCH its backbone: an arch file or a name of the model zoo. On several GPUs:
torchrun --nproc-per-node 8 tools/train_segmenter.py ...
"""

import functools
import sys

from mobile_cv_nas.cli import main
from mobile_cv_nas.commands.train_net import run
from mobile_cv_nas.tasks.options import SEGMENTERS

if __name__ == "__main__":
    sys.exit(main(functools.partial(run, heads=SEGMENTERS), description=__doc__, purpose="train"))
