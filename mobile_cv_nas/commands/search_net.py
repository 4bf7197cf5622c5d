"""Searches an architecture, derives it, trains it and tests it; all of it is left in OUTPUT_DIR.

python tools/search_net.py --config-file configs/search/digits.yaml [--dry-run] [--resume] [KEY VALUE ...]

On several GPUs: torchrun --nproc-per-node 8 tools/search_net.py ...
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from yacs.config import CfgNode

from .. import cli
from ..arch import SearchSpace
from ..config import ConfigError, dump_config
from ..data.build import build_data
from ..engine.run_folder import check_free
from ..engine.runtime import restarts
from ..engine.stop import StopRequest
from ..report.run import CHILD
from ..report.tables import search_table
from ..search.before import WORDS, search_start
from ..search.goal import Goal
from ..search.result import SearchResult
from ..search.run import SearchRun
from ..tasks.build import task_class
from .deployment import check_exports, print_exports
from .options import recipe_of, search_options

_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and searches; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    return cli.main(run, argv, __doc__ or "", purpose="search")


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
        if main and found.remark:
            _LOG.warning("%s", found.remark)
        return
    result = found.run(cfg.OUTPUT_DIR, args.resume, configs=_configs(cfg, found.goals), overwrite=args.overwrite)
    if main:
        print(search_table(result.to_dict(), str(result.folder), result.seconds))
        for one in result.targets or ((result,) if result.finished else ()):
            print_exports(cfg, one.folder / CHILD)


def search_from(cfg: CfgNode, resume: bool = False, stop: StopRequest | None = None, overwrite: bool = False) -> tuple[SearchResult, bool]:
    """Runs the search that a configuration describes; its result, and whether this process is the first."""
    found = search_of(cfg)
    return found.run(cfg.OUTPUT_DIR, resume, stop, configs=_configs(cfg, found.goals), overwrite=overwrite), found.runtime.main


def search_of(cfg: CfgNode) -> SearchRun:
    """The search that a configuration describes, not begun."""
    if not cfg.SEARCH.SPACE:
        raise ConfigError(
            "SEARCH.SPACE: empty; name a search space file, such as configs/spaces/digits.yaml, or a shipped one, such as digits"
        )
    recipe = recipe_of(cfg)
    space, data = SearchSpace.load(cfg.SEARCH.SPACE), build_data(recipe.data, task_class(recipe.head.name).labels)
    return SearchRun(space, data, search_options(cfg), recipe, cfg.TRAIN.INIT == "inherit", source=cfg.SEARCH.SPACE)


def _configs(cfg: CfgNode, goals: Mapping[str, Goal]) -> dict[str, str]:
    """The configuration as a file, and for each of several targets that of a search for it alone."""
    texts = {"": dump_config(cfg)}
    for name in goals if cfg.SEARCH.TARGETS else []:
        one = cfg.clone()
        one.SEARCH.TARGET, one.SEARCH.TARGETS = goals[name].target, []
        texts[name] = dump_config(one)
    return texts
