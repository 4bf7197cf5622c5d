"""Prints what a search space holds: choices, exact size, range of costs, extreme children, and the FBNetV2s it contains.

python tools/space_info.py fbnetv2_l
python tools/space_info.py my_space.yaml --num-classes 10"""

import sys

from mobile_cv_nas.commands.space_info import main

if __name__ == "__main__":
    sys.exit(main())
