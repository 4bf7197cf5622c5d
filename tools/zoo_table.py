"""Prints the tables of the zoo and writes model_zoo/README.md; see mobile_cv_nas/commands/zoo_table.py."""

import sys
from pathlib import Path

from mobile_cv_nas.commands.zoo_table import main

README = Path(__file__).resolve().parents[1] / "model_zoo" / "README.md"

if __name__ == "__main__":
    sys.exit(main(output=README))
