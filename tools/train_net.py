"""Trains a network, tests it and leaves weights, metrics and the result in OUTPUT_DIR; see mobile_cv_nas/commands/train_net.py."""

import sys

from mobile_cv_nas.commands.train_net import main

if __name__ == "__main__":
    sys.exit(main())
