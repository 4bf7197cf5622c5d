"""Searches an architecture, derives it, trains it and tests it; all of it is left in OUTPUT_DIR.

See mobile_cv_nas/commands/search_net.py.
"""

import sys

from mobile_cv_nas.commands.search_net import main

if __name__ == "__main__":
    sys.exit(main())
