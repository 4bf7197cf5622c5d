"""Prints a network block by block: name, output shape, MACs and parameters; totals, checked by fvcore.

See mobile_cv_nas/commands/summarize_net.py.
"""

import sys

from mobile_cv_nas.commands.summarize_net import main

if __name__ == "__main__":
    sys.exit(main())
