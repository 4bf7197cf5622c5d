"""Writes a trained model as a file for another runtime, and checks it: ONNX, ExecuTorch, Core ML; in float or int8.

python tools/export_net.py output/digits digits.onnx
python tools/export_net.py FBNetV2_F4 net.pte --batch 1
python tools/export_net.py output/digits small.onnx --int8 data --test
python tools/export_net.py output/photos small.pte --int8 photos/calibration --keep-float blocks.s0b0 classifier

A model is a result folder, its .safetensors file, or a name of the zoo. --int8 calibrates on a folder of images, or with "data" on the
training images of the data set; --test scores both on its test images. The data set is that of the run, or of --config-file and KEY VALUE.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ..cli import Parser, guarded
from ..config import load_config, own_config
from ..deploy.export import export
from ..errors import InputError
from ..tasks.load import load
from .deployment import Batches, images_of
from .options import data_for


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, writes the file, prints its report; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="a result folder, a .safetensors file, or a name of the zoo")
    parser.add_argument("out", metavar="OUT", help="the file: .onnx, .pte or .mlpackage")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the data set, set after the file: DATA.ROOT photos ...")
    parser.add_argument("--arch", default="", help="network of weights that bring no arch of their own")
    parser.add_argument("--batch", type=int, help="images a call; without, any number of .onnx, 1 to 8 of .pte, 1 of .mlpackage")
    parser.add_argument("--with-transform", action="store_true", help="the file takes uint8 (N, H, W, C) and normalises it itself")
    parser.add_argument("--int8", metavar="FOLDER", help='calibrate int8 on these images; "data": on training images of the data set')
    parser.add_argument("--images", type=int, default=100, help="how many to calibrate on (100)")
    parser.add_argument("--keep-float", nargs="+", default=[], metavar="LAYER", help="layers or blocks to keep in float")
    parser.add_argument("--test", action="store_true", help="score the network and the file on the test images of the data set")
    parser.add_argument("--no-check", action="store_true", help="write the file without running it")
    parser.add_argument("--config-file", metavar="FILE", help="YAML file of keys; by default that of the run")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    model = load(args.source, args.arch)
    images: Any = args.int8
    test = None
    if args.test or args.int8 == "data":
        cfg = load_config(args.config_file or own_config(args.source), args.opts, "test")
        options, data = data_for(cfg, model, args.source)
        if args.test:
            split = getattr(data, cfg.TEST.SPLIT)
            if split is None:
                raise InputError(f"TEST.SPLIT: {cfg.TEST.SPLIT}, but the data set has no such images; use val, or add the folder")
            test = Batches(options, split, model)
        if args.int8 == "data":
            images = images_of(options, data.train, model, args.images)
    elif args.opts or args.config_file:
        raise InputError("KEY VALUE and --config-file describe the data set, which only --test and --int8 data read; leave them out")
    result = export(
        model,
        args.out,
        int8=images,
        batch=args.batch,
        check=not args.no_check,
        images=args.images,
        keep_float=args.keep_float,
        test=test,
        with_transform=args.with_transform,
    )
    print(json.dumps(result.to_dict()) if args.json else result)
