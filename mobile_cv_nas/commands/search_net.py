"""Searches an architecture, derives it, trains it and tests it; all of it is left in OUTPUT_DIR.

python tools/search_net.py --config-file configs/search/digits.yaml [--dry-run] [--resume] [KEY VALUE ...]

On several GPUs: torchrun --nproc-per-node 8 tools/search_net.py ...
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from yacs.config import CfgNode

from ..config import ConfigError, dump_config
from ..data.build import build_data
from ..engine.run_folder import check_free
from ..engine.runtime import restarts
from ..engine.stop import StopRequest
from ..report.space import find_space
from ..report.tables import search_table
from ..search.run import SearchResult, SearchRun
from ..search.start import WORDS, search_start
from ..tasks.build import task_class
from .deployment import check_exports, print_exports
from .options import recipe_of, search_options


def run(cfg: CfgNode, args: Namespace) -> None:
    """What the tool does."""
    check_exports(cfg)
    found = search_of(cfg)
    main = found.runtime.main
    if not (args.dry_run or args.resume or restarts()):
        check_free(Path(cfg.OUTPUT_DIR), args.resume, args.overwrite)
    if args.dry_run or not (args.resume or restarts()):
        start = search_start(found, cfg.OUTPUT_DIR)
        if main:
            print(start, WORDS, sep="\n\n", end="\n\n", flush=True)
    if args.dry_run:
        return
    result = found.run(cfg.OUTPUT_DIR, args.resume, config=dump_config(cfg), overwrite=args.overwrite)
    if main:
        print(search_table(result.to_dict(), str(result.folder), result.seconds))
        if result.to_dict()["finished"]:
            print_exports(cfg, Path(result.folder) / "child")


def search_from(cfg: CfgNode, resume: bool = False, stop: StopRequest | None = None, overwrite: bool = False) -> tuple[SearchResult, bool]:
    """Runs the search that a configuration describes; its result, and whether this process is the first."""
    found = search_of(cfg)
    return found.run(cfg.OUTPUT_DIR, resume, stop, config=dump_config(cfg), overwrite=overwrite), found.runtime.main


def search_of(cfg: CfgNode) -> SearchRun:
    """The search that a configuration describes, not begun."""
    if not cfg.SEARCH.SPACE:
        raise ConfigError(
            "SEARCH.SPACE: empty; name a search space file, such as configs/spaces/digits.yaml, or a shipped one, such as digits"
        )
    recipe = recipe_of(cfg)
    space, data = find_space(cfg.SEARCH.SPACE), build_data(recipe.data, task_class(recipe.head.name).labels)
    return SearchRun(space, data, search_options(cfg), recipe, cfg.TRAIN.INIT == "inherit", source=cfg.SEARCH.SPACE)
