"""What the tests of the search share: a tiny space, its config, and what two equal runs have in common."""

from pathlib import Path
from typing import Any

import torch
from helpers import data_of_cfg, lasting
from yacs.config import CfgNode

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import recipe_of, search_options
from mobile_cv_nas.commands.search_net import search_from
from mobile_cv_nas.config import get_cfg, load_config
from mobile_cv_nas.engine.loop import Loop
from mobile_cv_nas.engine.run_folder import open_run
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.search.run import SearchRun
from mobile_cv_nas.search.searcher import Searcher

TINY = """
name: tiny
input_size: 8
stages:
  - [[conv_k3_hs, 4, 1, 1]]
  - [[[ir_k3, ir_k5_se_hs], [4, 8, 4], 2, 1, {expansion: [1, 3, 1]}],
     [[ir_k3_hs, ir_k3_se, skip], [4, 8, 4], 1, 1, {expansion: [1, 2, 1]}]]
"""


def tiny_options(folder: Path, *opts: Any) -> list[str]:
    """KEY VALUE pairs of a search over `TINY` for four epochs, into `folder`/run; the later of two values counts."""
    (folder / "tiny.yaml").write_text(TINY)
    options = {
        "SEARCH.SPACE": folder / "tiny.yaml",
        "OUTPUT_DIR": folder / "run",
        "SEARCH.EPOCHS": 4,
        "SEARCH.TARGET": 12000,
        "SEARCH.TOLERANCE": 0.2,
        "SEARCH.CANDIDATES": 3,
        "SEARCH.DRAWS": 100,
        "TRAIN.EPOCHS": 1,
        "RUNTIME.DEVICE": "cpu",
    } | dict(zip(opts[::2], opts[1::2], strict=True))
    if "SEARCH.TARGETS" in options:
        del options["SEARCH.TARGET"]
    return [str(item) for pair in options.items() for item in pair]


def tiny_cfg(folder: Path, *opts: Any) -> CfgNode:
    """The config of `tiny_options`."""
    return load_config(None, tiny_options(folder, *opts))


SHORT = ["SEARCH.EPOCHS", 2, "SEARCH.TOLERANCE", 0.05, "SEARCH.WARMUP_FRACTION", 0.5, "SEARCH.DRAWS", 500, "SEARCH.CANDIDATES", 3]
SHORT += ["SEARCH.EVOLUTION.POPULATION", 4, "SEARCH.EVOLUTION.GENERATIONS", 2, "SEARCH.RANDOM.ARCHS", 4, "SEARCH.PREDICTOR.SAMPLES", 4]


def short(folder: Path, name: str, *opts: Any) -> CfgNode:
    """A search of `TINY` by a strategy for two epochs; `opts` are keys that go with `dmasking` or have their place in a file."""
    (folder / "tiny.yaml").write_text(TINY)
    cfg = get_cfg()
    pairs = ["SEARCH.SPACE", str(folder / "tiny.yaml"), "OUTPUT_DIR", str(folder / "run"), "SEARCH.TARGET", 17000.0, "TRAIN.EPOCHS", 1]
    pairs += ["RUNTIME.DEVICE", "cpu", "SEARCH.STRATEGY", name, *SHORT]
    cfg.merge_from_list([*pairs, *(str(value) if isinstance(value, Path) else value for value in opts)])
    return cfg


def search_of(cfg: CfgNode) -> SearchRun:
    """The search that a config describes, not begun."""
    recipe = recipe_of(cfg)
    space, inherit = nas.SearchSpace.load(cfg.SEARCH.SPACE), cfg.TRAIN.INIT == "inherit"
    return SearchRun(space, data_of_cfg(cfg), search_options(cfg), recipe, inherit)


def build_searcher(cfg: CfgNode) -> Searcher:
    """What a search's loop works on."""
    run = search_of(cfg)
    return Searcher(run.task, run.data, run.goals, run.options, run.recipe, run.runtime, run.space)


def loop_of(searcher: Searcher, folder: Path) -> Loop:
    """The loop of a search, into a folder that is there."""
    open_run(folder, resume=False)
    return Loop(searcher, folder, searcher.runtime, {})


def search_and_train(cfg: CfgNode, resume: bool = False, stop: StopRequest | None = None, overwrite: bool = False) -> dict[str, Any]:
    """What tools/search_net.py does; the plain result."""
    result, _ = search_from(cfg, resume, stop, overwrite)
    return (
        {**result.to_dict(), "seconds": result.seconds, "weights": str(result.folder / "child" / "model.safetensors")}
        if result.finished
        else result.to_dict()
    )


def outcome(folder: Path) -> tuple[list[bytes], dict[str, torch.Tensor]]:
    """The files and weights that two equal runs must have in common."""
    searched = (folder / "search.pt").exists()  # strategies without a supernet leave none
    state = torch.load(folder / "search.pt", weights_only=True) if searched else {"supernet": {}}
    names = ("arch.yaml", "metrics.jsonl", "result.json", "child/model.safetensors", "child/metrics.jsonl")
    return [lasting(folder / name) for name in names], state["supernet"]


def same(a: tuple, b: tuple) -> bool:
    """Whether two outcomes agree to the bit."""
    return a[0] == b[0] and a[1].keys() == b[1].keys() and all(torch.equal(a[1][name], b[1][name]) for name in a[1])
