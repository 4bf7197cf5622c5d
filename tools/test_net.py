"""Tests a trained model on a data set: scores, MACs, parameters and images/s; see mobile_cv_nas/commands/test_net.py."""

import sys

from mobile_cv_nas.commands.test_net import main

if __name__ == "__main__":
    sys.exit(main())
