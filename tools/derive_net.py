"""Derives networks for another target from a finished search; see mobile_cv_nas/commands/derive_net.py."""

import sys

from mobile_cv_nas.commands.derive_net import main

if __name__ == "__main__":
    sys.exit(main())
