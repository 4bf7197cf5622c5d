"""Names what is on an image: the five most probable classes of a network of the zoo.

python tools/predict.py cat.jpg --model FBNetV2_F4
python tools/predict.py digit.png --model Digits --weights my.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mobile_cv_nas.model_zoo.predict import classify

from mobile_cv_nas.cli import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints the classes, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help="image file")
    parser.add_argument("--model", required=True, metavar="NAME", help="network of the zoo")
    parser.add_argument("--weights", metavar="FILE", help="weights to load in place of the published ones")
    args = parser.parse_args(argv)
    return guarded(lambda: _print(args))


def _print(args: argparse.Namespace) -> None:
    for name, probability in classify(args.image, args.model, args.weights):
        print(f"{probability:7.2%}  {name}")


if __name__ == "__main__":
    sys.exit(main())
