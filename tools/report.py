"""Writes report.html of a result folder; see mobile_cv_nas/commands/report.py."""

import sys

from mobile_cv_nas.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
