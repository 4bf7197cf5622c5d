"""Says what is on images: their classes, objects with their boxes, or the class of each pixel.

python tools/predict.py cat.jpg --model FBNetV2_F4
python tools/predict.py photos/ "more/*.png" --model output/digits --json
python tools/predict.py scene.png --model output/detect --score 0.3 --output found.png

A model is a result folder, its .safetensors file, or a name of the zoo; the file knows its task. Drawings go to --output: a PNG
for one image, a folder for several.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..cli import Parser, guarded
from ..data.folders import SKIPPED, image_files
from ..errors import InputError
from ..tasks.load import load
from ..tasks.model import read_picture
from ..tasks.prediction import Prediction


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, prints what was found, returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders of them, or patterns")
    parser.add_argument("--model", required=True, metavar="SOURCE", help="a result folder, a file, or a name of the zoo")
    parser.add_argument("--arch", default="", help="network of weights that bring no arch, such as .pth files of others")
    parser.add_argument("--top", type=int, default=5, help="classes to name (5)")
    parser.add_argument("--score", type=float, default=0.5, help="least score of an object to show (0.5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object an image, a line each")
    parser.add_argument("--output", metavar="PATH", help="draw into this PNG, or of several images into this folder")
    args = parser.parse_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    paths = list(find_images(args.images))
    targets = drawings(paths, args.output, args.model) if args.output else [None] * len(paths)
    read_picture(paths[0])  # an error of the first image comes before the time that a model takes
    model = load(args.model, args.arch)
    model = model.fold() if len(paths) > 1 else model  # folding takes the time of a few images
    for path, target in zip(progress(paths), targets, strict=True):
        found: Prediction = model.predict(path, args.top, args.score)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            found.draw(target)
        if args.json:
            print(json.dumps({"image": str(path), **found.to_dict()}), flush=True)
            continue
        print(f"{path}:\n{found}" if len(paths) > 1 else found)
        if target is not None:
            print(f"written to {target}")


def find_images(names: Sequence[str]) -> Iterable[Path]:
    """The files that names, folders and patterns stand for, in order. Raises InputError for one that stands for nothing."""
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = image_files(path)
            if not found:
                raise InputError(f"{name}: a folder without images")
        elif path.exists() or not glob.has_magic(name):
            found = [path]
        else:
            left = set(SKIPPED) - {part.casefold() for part in path.parts}  # hidden ones must be named anyway
            matching = map(Path, glob.glob(os.path.expanduser(name), recursive=True))
            found = sorted(one for one in matching if one.is_file() and not left & {part.casefold() for part in one.parts})
            if not found:
                raise InputError(f"{name}: no file matches the pattern")
        yield from found


def drawings(paths: Sequence[Path], output: str, model: str) -> list[Path]:
    """A file to draw into for each image; none may replace an image or the model. Raises InputError."""
    target = Path(output)
    if len(paths) == 1 and target.suffix:
        targets = [target]
    elif target.suffix.lower() == ".png":
        raise InputError(f"{output}: one drawing for {len(paths)} images; name a folder")
    else:
        targets, taken = [], set()
        for path in paths:
            one, number = target / f"{path.stem}.png", 1
            while one in taken:
                number += 1
                one = target / f"{path.stem}_{number}.png"
            taken.add(one)
            targets.append(one)
    for one in targets:
        if one.suffix.lower() != ".png":
            raise InputError(f"{one}: the drawing is a PNG; give a name that ends in .png")
        for path in (*paths, Path(model)):
            if one.exists() and path.exists() and one.samefile(path):
                raise InputError(f"{one}: is {path} itself, which the drawing would replace; name another file")
    return targets


def progress(paths: Sequence[Path]) -> Iterable[Path]:
    """The paths under a bar where there are many and someone looks."""
    if len(paths) < 10 or not sys.stderr.isatty():
        return paths
    from tqdm import tqdm

    return tqdm(paths, desc="images", dynamic_ncols=True)
