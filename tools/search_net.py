"""Searches an architecture, derives it, trains it and tests it; all of it is left in OUTPUT_DIR.

python tools/search_net.py --config-file configs/search/digits.yaml [--resume] [KEY VALUE ...]

On several GPUs: torchrun --nproc-per-node 8 tools/search_net.py ...
"""

import sys

from mobile_cv_nas.cli import main
from mobile_cv_nas.commands.search_net import run

if __name__ == "__main__":
    sys.exit(main(run, description=__doc__, purpose="search"))
