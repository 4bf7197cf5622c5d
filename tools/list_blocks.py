"""Prints the blocks that archs and spaces may name, and their options; see mobile_cv_nas/commands/list_blocks.py."""

import sys

from mobile_cv_nas.commands.list_blocks import main

if __name__ == "__main__":
    sys.exit(main())
