"""Prints a network block by block: name, output shape, MACs and parameters; totals, checked by fvcore.

python tools/summarize_net.py MODEL.ARCH FBNetV2_F4
python tools/summarize_net.py MODEL.ARCH output/arch.yaml
"""

import sys
from argparse import Namespace

from yacs.config import CfgNode

from mobile_cv_nas.cli import main
from mobile_cv_nas.tasks.evaluate import run_summary


def run(cfg: CfgNode, args: Namespace) -> None:
    print(run_summary(cfg))


if __name__ == "__main__":
    sys.exit(main(run, description=__doc__, resumable=False))
