"""Prints what a search space holds: choices, exact size, range of costs, extreme children, and the FBNetV2s it contains.

See mobile_cv_nas/commands/space_info.py.
"""

import sys

from mobile_cv_nas.commands.space_info import main

if __name__ == "__main__":
    sys.exit(main())
