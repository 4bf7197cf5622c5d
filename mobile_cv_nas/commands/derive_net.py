"""Derives networks for another target from a finished search, without searching again; and trains the best, if asked to.

python tools/derive_net.py output/digits --target 300k
python tools/derive_net.py output/digits --target "15k params" --count 3 --train TRAIN.EPOCHS 60

Archs near the target are drawn from the alphas of the search, inherit the supernet's weights, and are ranked on the validation images.
Where the alphas are far from the target, they alone first learn on for a few epochs. The images and the training are those of the search,
as its config.yaml says, but for the KEY VALUE pairs (DATA.*, TRAIN.*, TEST.*, RUNTIME.*, CHECKPOINT.*, and those of SEARCH that concern
drawing and ranking). The folder RUN/derived_TARGET, or that of --output, gets arch_1.yaml (the best), arch_2.yaml, ... and networks.yaml;
with --train it becomes a result folder as a search leaves it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from yacs.config import CfgNode

from ..cli import Parser, guarded
from ..config import ConfigError, dump_config, load_config
from ..data.build import build_data
from ..engine.run_folder import RunFolder
from ..errors import InputError, listed
from ..files import atomic_write
from ..report.tables import networks_table, search_table
from ..search.again import Derivation, again, derive_more, prepare_derived, train_derived
from ..search.goal import parse_target, target_name
from ..search.run import SearchRun
from ..search.saved import load_search
from ..tasks.build import task_class
from .options import recipe_of, search_options

_SECTIONS = ("DATA.", "TRAIN.", "TEST.", "RUNTIME.", "CHECKPOINT.")
_KEYS = tuple(f"SEARCH.{name}" for name in ("TOLERANCE", "DRAWS", "CANDIDATES", "RECALIBRATION_IMAGES", "ALPHA_LR", "COST_WEIGHT"))


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, derives, prints a table; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="the result folder of a search, or of one of its targets")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys that differ from those of the search: TRAIN.EPOCHS 60 ...")
    parser.add_argument("--target", required=True, help='what the networks shall cost: 80M, "4M params"')
    parser.add_argument("--limits", nargs="+", metavar="LIMIT", help='at most so much of other costs: "params: 2M" (those of the search)')
    parser.add_argument("--count", type=int, default=5, help="networks to name (5)")
    parser.add_argument("--epochs", type=int, default=10, help="at most, for the alphas to learn on where the target is far; 0: none (10)")
    parser.add_argument("--train", action="store_true", help="train and test the best one")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    parser.add_argument("--overwrite", action="store_true", help="replace a training that the folder holds")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (RUN/derived_TARGET)")
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    saved, cfg = load_search(args.run), _config(args)
    number, objective = parse_target(args.target, saved.options.objective)
    suffix = "" if objective in (saved.options.objective, "latency") else f"_{objective}"
    output = (
        Path(args.output).expanduser() if args.output else Path(args.run).expanduser() / f"derived_{target_name(number, objective)}{suffix}"
    )
    recipe = recipe_of(cfg)
    data = build_data(recipe.data, task_class(recipe.head.name).labels)
    options = replace(search_options(cfg), table=saved.options.table)  # its file may be elsewhere now
    options = options if args.limits is None else replace(options, limits=tuple(args.limits))
    search = again(saved, f"{number!r} {objective}", data, recipe, options, cfg.TRAIN.INIT == "inherit", source=args.run)
    with RunFolder(output) as folder:
        prepare_derived(folder, args.resume, args.overwrite)
        start = time.monotonic()
        found = derive_more(search, saved, args.count, args.epochs)
        found.save(folder)
        print(networks_table(found.rows(), objective, found.goal.target, found.epochs, str(folder)))
        if args.train:
            _train(search, found, folder, time.monotonic() - start, cfg)


def _train(search: SearchRun, found: Derivation, folder: Path, seconds: float, cfg: CfgNode) -> None:
    one = cfg.clone()
    one.SEARCH.TARGET, one.SEARCH.TARGETS, one.SEARCH.OBJECTIVE, one.OUTPUT_DIR = found.goal.target, [], found.goal.objective, str(folder)
    atomic_write(folder / "config.yaml", dump_config(one))
    result = train_derived(search, found, folder, seconds)
    print()
    print(search_table(result.to_dict(), str(folder), result.seconds, "derivation"))


def _config(args: argparse.Namespace) -> CfgNode:
    """The config of the run, with the pairs of the command line, which may not change what the supernet is."""
    path = Path(args.run).expanduser() / "config.yaml"
    if not path.is_file():
        raise InputError(f"{path}: missing: the search was started from Python; call nas.derive_networks(run, target, train, val)")
    names = [key.partition("=")[0] for key in args.opts[::2]]
    fixed = [name for name in names if not name.startswith(_SECTIONS) and name not in _KEYS]
    if fixed:
        raise ConfigError(f"{listed(fixed)}: cannot be changed after the search; of SEARCH only {', '.join(_KEYS)}")
    return load_config(path, args.opts, "search")
