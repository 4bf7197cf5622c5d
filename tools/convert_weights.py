"""Writes weights of the zoo as safetensors, under this library's names, with the metadata of their card.

See mobile_cv_nas/commands/convert_weights.py.
"""

import sys

from mobile_cv_nas.commands.convert_weights import main

if __name__ == "__main__":
    sys.exit(main())
