"""Says what is on an image: its class, objects with their boxes, or the class of each pixel.

python tools/predict.py cat.jpg --model FBNetV2_F4
python tools/predict.py digit.png --model Digits --weights my.safetensors
python tools/predict.py scene.png --task detect --weights output/detect/model.safetensors --score 0.3
python tools/predict.py scene.png --task segment --weights output/segment/model.safetensors --output masks.png

The five most probable classes are printed. Boxes and masks are also drawn into a PNG.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mobile_cv_nas.cli import Parser, guarded
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.model_zoo.predict import classify
from mobile_cv_nas.tasks.predict_dense import TASKS, predict


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints what was found, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help="image file")
    parser.add_argument("--task", choices=("classify", *TASKS), default="classify")
    parser.add_argument("--model", metavar="NAME", help="classify: network of the zoo")
    parser.add_argument("--weights", metavar="FILE", help="classify: to load in place of the published ones; else of a trained model")
    parser.add_argument("--output", metavar="FILE", help="PNG to draw into (IMAGE_detect.png or IMAGE_segment.png, in this folder)")
    parser.add_argument("--score", type=float, help="detect: least score of an object to show (0.5)")
    args = parser.parse_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    dense = args.task in TASKS
    needed = "weights" if dense else "model"
    if getattr(args, needed) is None:
        raise InputError(f"--{needed}: missing; --task {args.task} needs it")
    for name, takes in (("model", not dense), ("output", dense), ("score", args.task == "detect")):
        if getattr(args, name) is not None and not takes:
            raise InputError(f"--{name}: not for --task {args.task}; leave it out")
    if dense:
        print(predict(args.task, args.image, args.weights, args.output or "", 0.5 if args.score is None else args.score))
        return
    for name, probability in classify(args.image, args.model, args.weights):
        print(f"{probability:7.2%}  {name}")


if __name__ == "__main__":
    sys.exit(main())
