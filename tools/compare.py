"""Compares networks: runs, fronts, files, the zoo; see mobile_cv_nas/commands/compare.py."""

import sys

from mobile_cv_nas.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
