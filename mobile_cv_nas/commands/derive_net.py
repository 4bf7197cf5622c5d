"""Derives networks for another target from a finished search, without searching again; and trains the best, if asked to.

python tools/derive_net.py output/digits --target 300k
python tools/derive_net.py output/digits --target "15k params" --count 3 --train TRAIN.EPOCHS 60

Archs near the target are drawn from the alphas of the search, inherit the supernet's weights, and are ranked on the validation images (of a
search without test images on those of the alphas). Where the alphas are far from the target, they alone first learn on for a few epochs.
The images and the training are those of the search, as its config.yaml says, but for the KEY VALUE pairs (DATA.*, TRAIN.*, TEST.*,
RUNTIME.*, CHECKPOINT.*, EXPORT.*, and SEARCH.TOLERANCE, DRAWS, CANDIDATES, RECALIBRATION_IMAGES, ALPHA_LR and COST_WEIGHT). The folder
RUN/derived_TARGET, or that of --output, gets arch_1.yaml (the best), arch_2.yaml, ... and networks.yaml; with --train it becomes a result
folder as a search leaves it, with the files of EXPORT.FORMATS. Milliseconds ("8 ms") need a latency table: that of the search, or --table.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from yacs.config import CfgNode

from ..cli import Parser, guarded
from ..config import ConfigError, dump_config, load_config
from ..config.files import pairs
from ..data.build import build_data
from ..engine.run_folder import RunFolder
from ..errors import InputError, listed
from ..report.run import CHILD
from ..report.tables import networks_table, search_table
from ..search.again import again, derive_more, train_derived
from ..search.folder import prepare_derived
from ..search.goal import parse_target, target_name
from ..search.objective import parse_limits
from ..search.options import SearchOptions
from ..search.saved import load_search
from ..tasks.build import task_class
from .deployment import check_exports, print_exports
from .options import recipe_of, search_options

_SECTIONS = ("DATA.", "TRAIN.", "TEST.", "RUNTIME.", "CHECKPOINT.", "EXPORT.")
_KEYS = tuple(f"SEARCH.{name}" for name in ("TOLERANCE", "DRAWS", "CANDIDATES", "RECALIBRATION_IMAGES", "ALPHA_LR", "COST_WEIGHT"))


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, derives, prints a table; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="the result folder of a search, or of one of its targets")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys that differ from those of the search: TRAIN.EPOCHS 60 ...")
    parser.add_argument("--target", required=True, help='what the networks shall cost: 80M, "4M params", "8 ms"')
    parser.add_argument("--table", metavar="TABLE", help="of latency, for milliseconds: a file, or a shipped one (that of the search)")
    parser.add_argument("--limits", nargs="+", metavar="LIMIT", help='at most so much of other costs: "params: 2M" (those of the search)')
    parser.add_argument("--count", type=int, default=5, help="networks to name (5)")
    parser.add_argument("--epochs", type=int, default=10, help="at most, for the alphas to learn on where the target is far; 0: none (10)")
    parser.add_argument("--train", action="store_true", help="train and test the best one")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    parser.add_argument("--overwrite", action="store_true", help="replace a training, or files of your own, that the folder holds")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (RUN/derived_TARGET)")
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    saved, cfg = load_search(args.run), _config(args)
    if args.train:
        check_exports(cfg)
    number, objective = parse_target(args.target, saved.options.objective)
    suffix = "" if objective in (saved.options.objective, "latency") else f"_{objective}"
    output = (
        Path(args.output).expanduser() if args.output else Path(args.run).expanduser() / f"derived_{target_name(number, objective)}{suffix}"
    )
    recipe = recipe_of(cfg)
    data = build_data(recipe.data, task_class(recipe.head.name).labels)
    options = replace(search_options(cfg), table=args.table or saved.options.table)  # the file of the search's may be elsewhere now
    options = options if args.limits is None else replace(options, limits=tuple(args.limits))
    search = again(saved, f"{number!r} {objective}", data, recipe, options, cfg.TRAIN.INIT == "inherit", source=args.run)
    with RunFolder(output) as folder:
        prepare_derived(folder, args.resume, args.overwrite, args.count, args.train)
        start = time.monotonic()
        found = derive_more(search, saved, args.count, args.epochs)
        found.save(folder)
        print(networks_table(found.rows(), objective, found.goal.target, found.epochs, str(folder)))
        if args.train:
            config = dump_config(derived_config(cfg, search.options, folder))
            result = train_derived(search, found, folder, time.monotonic() - start, config=config, command=_command(args))
            print()
            print(search_table(result.to_dict(), str(folder), result.seconds, "derivation"))
            if result.finished:
                print_exports(cfg, folder / CHILD)


def derived_config(cfg: CfgNode, options: SearchOptions, folder: Path) -> CfgNode:
    """The configuration of a search for what was derived alone: target and limits of `options`, the table where one of them needs it."""
    one, limits = cfg.clone(), parse_limits(options.limits)
    one.SEARCH.TARGET, one.SEARCH.TARGETS, one.SEARCH.OBJECTIVE, one.OUTPUT_DIR = options.target, [], options.objective, str(folder)
    one.SEARCH.LIMITS = [f"{name}: {most:.12g}" for name, most in limits.items()]
    if "latency" not in (options.objective, *limits):
        one.SEARCH.TABLE = ""
    return one


def _command(args: argparse.Namespace) -> str:
    """What derives the same again."""
    words = ["python", "tools/derive_net.py", args.run, *args.opts, "--target", args.target]
    words += [] if args.limits is None else ["--limits", *args.limits]
    words += ["--table", args.table] if args.table else []
    words += ["--count", str(args.count), "--epochs", str(args.epochs), "--train", "--output", "another_folder"]
    return shlex.join(words)


def _config(args: argparse.Namespace) -> CfgNode:
    """The config of the run, with the pairs of the command line, which may not change what the supernet is."""
    path = Path(args.run).expanduser() / "config.yaml"
    if not path.is_file():
        raise InputError(f"{path}: missing: the search was started from Python; call nas.derive_networks(run, target, train, val)")
    names = [key for key, _ in pairs(args.opts)]
    fixed = [name for name in names if not name.startswith(_SECTIONS) and name not in _KEYS]
    if fixed:
        raise ConfigError(f"{listed(fixed)}: cannot be changed after the search; of SEARCH only {', '.join(_KEYS)}")
    cfg = load_config(path, args.opts, "search")
    if args.table:  # after the checks: the search itself may have been for MACs
        named = args.table.endswith(".json") or "/" in args.table
        cfg.SEARCH.TABLE = str(Path(args.table).expanduser().absolute()) if named else args.table
    return cfg
