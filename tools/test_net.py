"""Tests a network: top-1, top-5, MACs, parameters and images/s; of a detector or a segmenter AP or mean IoU.

python tools/test_net.py --config-file CONFIG MODEL.WEIGHTS output/model.safetensors [KEY VALUE ...]
python tools/test_net.py --config-file CONFIG MODEL.ARCH FBNetV2_F4 MODEL.WEIGHTS pretrained DATA.ROOT imagenet
python tools/test_net.py --config-file configs/detection/digit_scenes.yaml MODEL.WEIGHTS output/detect/model.safetensors
"""

import sys
from argparse import Namespace

from yacs.config import CfgNode

from mobile_cv_nas.cli import main
from mobile_cv_nas.tasks.evaluate import run_test


def run(cfg: CfgNode, args: Namespace) -> None:
    table = run_test(cfg)
    if table is not None:
        print(table)


if __name__ == "__main__":
    sys.exit(main(run, description=__doc__, resumable=False))
