"""Writes weights of the zoo as safetensors, under this library's names, with the metadata of their card.

python tools/convert_weights.py model.pth --model FBNetV2_F4 --output FBNetV2_F4.safetensors"""

import sys

from mobile_cv_nas.commands.convert_weights import main

if __name__ == "__main__":
    sys.exit(main())
