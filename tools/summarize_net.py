"""Prints a network block by block: name, output shape, MACs and parameters; totals, checked by fvcore.

python tools/summarize_net.py MODEL.ARCH FBNetV2_F4
python tools/summarize_net.py MODEL.ARCH output/arch.yaml
python tools/summarize_net.py MODEL.WEIGHTS output/digits
"""

import sys

from mobile_cv_nas.cli import main
from mobile_cv_nas.commands.summarize_net import run

if __name__ == "__main__":
    sys.exit(main(run, description=__doc__, resumable=False))
