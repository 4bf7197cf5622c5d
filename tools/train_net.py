"""Trains a network, tests it and leaves weights, metrics and the result in OUTPUT_DIR.

python tools/train_net.py --config-file configs/train/base.yaml MODEL.ARCH arch.yaml [--resume] [KEY VALUE ...]

MODEL.ARCH is an arch file or a name of the model zoo. On several GPUs:
torchrun --nproc-per-node 8 tools/train_net.py ...
"""

import sys

from mobile_cv_nas.cli import main
from mobile_cv_nas.commands.train_net import run

if __name__ == "__main__":
    sys.exit(main(run, description=__doc__, purpose="train"))
