"""A whole search, from a config to a result folder: search, derive, draw; then train and test the child."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..arch import ArchDef, SearchSpace
from ..commands.options import data_from as build_data
from ..commands.options import loader_from as build_loader
from ..config.keys import ConfigError
from ..data import Data, Loader
from ..engine.checkpoint import RunFolder, StopRequest, check_fingerprint, load_latest, save_checkpoint
from ..engine.runtime import CHECKPOINTS, MetricsLog, Runtime, fingerprint, open_run, start_runtime, write_result
from ..files import atomic_open, atomic_write
from ..networks.supernet import Supernet
from ..nn.heads import Head, as_head
from ..nn.shapes import Cost, subsample
from ..tasks.evaluate import recalibrate_batchnorm
from ..tasks.task import name_of
from ..training.trainer import train
from .derive import Derived, Goal, derive_arch
from .loop import Searcher
from .monitor import Monitor
from .tasks import ClassSearch, search_task

# Keys that may change before a search goes on: they matter after it, or let it past a step that failed.
_NOT_OF_SEARCH = ("TRAIN.", "TEST.", "MODEL.", "SEARCH.ON_NAN")
_UNITS = {"macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with."""

    arch: ArchDef
    cost: Cost  # exact, of the arch
    goal: Goal
    derived: Derived
    supernet: Supernet


def search_and_train(cfg: CfgNode, resume: bool = False, stop: StopRequest | None = None) -> dict[str, Any]:
    """The whole of it, into `cfg.OUTPUT_DIR`: search, derive, train the child in the folder `child`, test it.

    `stop` ends the run after a step; if None is given, SIGTERM and SIGINT do.

    Returns:
        {"finished": False, "folder": ...} if it was stopped, state saved; else what `train` returns, and
        of the search: target, how the arch was derived, candidates, and seconds of both parts in this process.

    Raises:
        ConfigError, ArchError, DataError, FileError, CheckpointError, DeriveError: bad input, one line each.
        NotFinite: a loss, gradient or alpha is NaN or infinite.
    """
    if not cfg.SEARCH.SPACE:
        raise ConfigError("SEARCH.SPACE: empty; name a search space file, such as configs/spaces/digits.yaml")
    space, data = SearchSpace.load(cfg.SEARCH.SPACE), build_data(cfg)
    task = search_task(cfg, space, data.num_classes)
    check_target(cfg, space, task.head)
    runtime = start_runtime(cfg)
    with contextlib.ExitStack() as stack:
        folder, goes_on = _open_folder(cfg, runtime, resume, stack)
        stop = stop or stack.enter_context(StopRequest(cfg.CHECKPOINT.MINUTES))
        start = time.monotonic()
        found = search(cfg, space, data, runtime, folder, stop, goes_on)
        if found is None:
            return {"finished": False, "folder": str(folder)}
        middle = time.monotonic()
        child = folder / "child"
        weights = inherited(cfg, found, data, task) if cfg.TRAIN.INIT == "inherit" else None
        of_child, label_size = cfg.clone(), None
        if cfg.HEAD.NAME:  # a child of a smaller input size is judged by the pixels of the largest
            of_child.HEAD.INPUT_SIZE, label_size = found.arch.input_size, cfg.HEAD.INPUT_SIZE
        goes_on = (child / CHECKPOINTS).is_dir()
        trained = train(of_child, found.arch, child, data, weights, goes_on, runtime, stop, label_size)
        if not trained["finished"]:
            return {"finished": False, "folder": str(folder)}
        result = {
            **trained,
            "folder": str(folder),
            "objective": cfg.SEARCH.OBJECTIVE,
            "target": cfg.SEARCH.TARGET,
            "derived": found.derived.how,
            "candidates_within": found.derived.within,
            "candidates_compared": found.derived.compared,
        }
        if runtime.main:
            write_result(folder, {key: value for key, value in result.items() if key not in ("weights", "folder")})
        return {**result, "search_seconds": middle - start, "train_seconds": time.monotonic() - middle}


def run_search(cfg: CfgNode, resume: bool = False) -> str | None:
    """`search_and_train`, told as a table; None on all processes but the first. Raises as that does."""
    result = search_and_train(cfg, resume)
    if not start_runtime(cfg).main:
        return None
    if not result["finished"]:
        return f"stopped, and saved in {result['folder']}; the same command with --resume goes on"
    return summary_table(result)


def summary_table(result: dict[str, Any]) -> str:
    """The result of `search_and_train` as a table."""
    from tabulate import tabulate

    cost, key = result[result["objective"]], "miou" if "miou" in result else "top1"
    how = "argmax of the alphas"
    if result["derived"] == "sampled":
        how = f"best of {result['candidates_compared']} compared, {result['candidates_within']} near the target"
    rows = [
        *((f"{of} {name_of(key)}", f"{result[prefix + key]:.4f}") for of, prefix in (("test", ""), ("validation", "val_"))),
        ("MACs", f"{result['macs']:,}"),
        ("parameters", f"{result['params']:,}"),
        (f"target, {_UNITS[result['objective']]}", f"{result['target']:,.0f} ({cost / result['target'] - 1:+.1%})"),
        ("derived", how),
        ("search", f"{result['search_seconds']:.0f} s"),
        ("training and test", f"{result['train_seconds']:.0f} s"),
        ("result folder", result["folder"]),
    ]
    return tabulate(rows, disable_numparse=True)


def _open_folder(cfg: CfgNode, runtime: Runtime, resume: bool, stack: contextlib.ExitStack) -> tuple[Path, bool]:
    """Locks and prepares OUTPUT_DIR on the first process; all learn whether the run goes on from a checkpoint."""
    folder = Path(cfg.OUTPUT_DIR).expanduser()
    goes_on = False
    if runtime.main:
        folder = stack.enter_context(RunFolder(cfg.OUTPUT_DIR))
        goes_on = open_run(folder, resume)
        if not goes_on:
            shutil.rmtree(folder / "child", ignore_errors=True)
            for name in ("arch.yaml", "search.pt", "arch.png", "alphas.png", "curves.png"):
                (folder / name).unlink(missing_ok=True)
        atomic_write(folder / "config.yaml", cfg.dump())
    return folder, runtime.gather(goes_on)[0]


def search(
    cfg: CfgNode,
    space: SearchSpace,
    data: Data,
    runtime: Runtime,
    folder: Path,
    stop: StopRequest,
    resume: bool = False,
) -> SearchResult | None:
    """Searches `space` as `cfg.SEARCH` says and derives an arch; returns None if stopped on request, state saved.

    Writes to `folder`: checkpoints, metrics.jsonl, TensorBoard scalars, then arch.yaml, search.pt and figures.

    Raises:
        ConfigError: the target is out of reach (`check_target`).
        NotFinite: a loss, gradient or alpha is NaN or infinite.
        CheckpointError: there is nothing to resume from, or it is of another run.
        DeriveError: no arch near the target was found.
    """
    searcher = Searcher(cfg, space, data, runtime)
    goal = check_target(cfg, space, searcher.task.head)
    mark = fingerprint(cfg, kind="search", space=json.dumps(space.to_dict()), processes=runtime.world)
    mark = {key: value for key, value in mark.items() if not key.startswith(_NOT_OF_SEARCH)}
    position, found = 0, None
    if resume:
        state = load_latest(folder / CHECKPOINTS)
        check_fingerprint(state["fingerprint"], mark, folder)
        searcher.load_state_dict(state["searcher"])
        position, found = state["log"], state["derived"]
    log = MetricsLog(folder, runtime.main, position, searcher.steps_done)

    def save(derived: dict[str, Any] | None = None) -> None:
        if runtime.main:
            state = {"fingerprint": mark, "searcher": searcher.state_dict(), "log": log.position, "derived": derived}
            save_checkpoint(folder / CHECKPOINTS, state, searcher.steps_done, cfg.CHECKPOINT.KEEP)
        stop.saved()

    monitor = Monitor(searcher, log)
    try:
        if not searcher.run(stop, save, monitor):
            return None
        if found is None:
            derived = _derive(cfg, searcher, data, goal)
            save({**vars(derived), "arch": derived.arch.to_dict()})
        else:
            derived = Derived(**{**found, "arch": ArchDef.parse(found["arch"])})
    finally:
        monitor.close()
        log.close()
    cost = space.cost(derived.arch, searcher.task.head)
    if runtime.main:
        _write_result(cfg, folder, searcher, derived)
    return SearchResult(derived.arch, cost, goal, derived, searcher.supernet)


def check_target(cfg: CfgNode, space: SearchSpace, num_classes: int | Head) -> Goal:
    """The goal of `cfg.SEARCH`. Raises ConfigError, which gives the range, if no arch of the space can meet it."""
    s = cfg.SEARCH
    if not space.choices:
        raise ConfigError(f"SEARCH.SPACE: {s.SPACE} has one network, nothing to choose; train it with tools/train_net.py")
    goal = Goal(s.OBJECTIVE, s.TARGET, s.TOLERANCE, num_classes)
    low = goal.cost(space, space.smallest(num_classes, by=s.OBJECTIVE))
    high = goal.cost(space, space.largest(num_classes, by=s.OBJECTIVE))
    if not low <= s.TARGET <= high:
        raise ConfigError(
            f"SEARCH.TARGET: {s.TARGET:,.0f} {s.OBJECTIVE} is out of the reach of {s.SPACE or 'the space'}: its "
            f"networks have {low:,} to {high:,} with {as_head(num_classes).num_classes} classes; choose a target in between"
        )
    return goal


def inherited(cfg: CfgNode, result: SearchResult, data: Data, task: ClassSearch) -> dict[str, Tensor]:
    """The supernet's weights for the derived arch, norm statistics renewed: a state dict of the child."""
    child = task.child(result.arch).to(_device(result.supernet))
    task.inherit(child, result.supernet)
    images = _calibration(cfg, data, result.supernet)
    recalibrate_batchnorm(child, (subsample(batch, result.arch.input_size) for batch in images))
    return {name: value.cpu() for name, value in child.state_dict().items()}


def _derive(cfg: CfgNode, searcher: Searcher, data: Data, goal: Goal) -> Derived:
    s, supernet = cfg.SEARCH, searcher.supernet
    loader = build_loader(cfg, data.val, searcher.space.max_input_size, cfg.TEST.BATCH_SIZE, False)
    val = _Moved(loader, _device(supernet))
    images = _calibration(cfg, data, supernet)
    return derive_arch(supernet, goal, images, val, s.DRAWS, s.CANDIDATES, cfg.SEED, searcher.task)


def _calibration(cfg: CfgNode, data: Data, supernet: Supernet) -> list[Tensor]:
    """SEARCH.RECALIBRATION_IMAGES random training images in batches, at the largest input size."""
    count = min(cfg.SEARCH.RECALIBRATION_IMAGES, len(data.train))
    size = min(64, count)
    loader = build_loader(cfg, data.train, supernet.space.max_input_size, size, True, seed=cfg.SEED)
    return [images for images, _ in _Moved(loader, _device(supernet), count // size)]


def _device(supernet: Supernet) -> torch.device:
    return supernet.weight_parameters()[0].device


@dataclass(frozen=True)
class _Moved:
    """The first batches of a loader, on a device; can be iterated again."""

    loader: Loader
    device: torch.device
    stop: int | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in self.loader.epoch(0, stop=self.stop):
            yield images.to(self.device), targets.to(self.device)


def _write_result(cfg: CfgNode, folder: Path, searcher: Searcher, derived: Derived) -> None:
    from ..report.search import draw_alphas, draw_arch, draw_curves

    derived.arch.save(folder / "arch.yaml")
    state = {name: value.cpu() for name, value in searcher.supernet.state_dict().items()}
    alphas = {name: alpha.detach().cpu() for name, alpha in searcher.supernet.alphas().items()}
    content = {
        "space": searcher.space.to_dict(),
        "num_classes": searcher.num_classes,
        "alphas": alphas,
        "supernet": state,
    }
    with atomic_open(folder / "search.pt") as file:
        torch.save(content, file)
    records = read_records(folder)
    unit = _UNITS[cfg.SEARCH.OBJECTIVE]
    draw_arch(derived.arch, folder / "arch.png")
    draw_alphas(searcher.space.choices, records, folder / "alphas.png")
    draw_curves(records, folder / "curves.png", cfg.SEARCH.TARGET, cfg.SEARCH.TOLERANCE, unit, searcher.warmup)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a search, as metrics.jsonl in its folder has them."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["phase"] == "search"]
