"""Searches an architecture, derives it, trains it from scratch and tests it; all of it is left in OUTPUT_DIR.

python tools/search_net.py --config-file configs/search/digits.yaml [--resume] [KEY VALUE ...]

On several GPUs: torchrun --nproc-per-node 8 tools/search_net.py ...
"""

import sys
from argparse import Namespace

from yacs.config import CfgNode

from mobile_cv_nas.cli import main
from mobile_cv_nas.search import run_search


def run(cfg: CfgNode, args: Namespace) -> None:
    result = run_search(cfg, resume=args.resume)
    if result is not None:
        print(result)


if __name__ == "__main__":
    sys.exit(main(run, description=__doc__))
