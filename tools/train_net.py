"""Trains a network, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

python tools/train_net.py --config-file configs/train/base.yaml MODEL.ARCH arch.yaml [--resume] [KEY VALUE ...]

MODEL.ARCH is an arch file or a name of the model zoo. On several GPUs:
torchrun --nproc-per-node 8 tools/train_net.py ...
"""

import sys
from argparse import Namespace

from yacs.config import CfgNode

from mobile_cv_nas.cli import main
from mobile_cv_nas.training.trainer import run_training


def run(cfg: CfgNode, args: Namespace) -> None:
    result = run_training(cfg, resume=args.resume)
    if result is not None:
        print(result)


if __name__ == "__main__":
    sys.exit(main(run, description=__doc__))
