"""Tests a trained model on a data set: scores, MACs, parameters and images/s.

python tools/test_net.py output/digits [--config-file CONFIG] [KEY VALUE ...]
python tools/test_net.py --config-file CONFIG MODEL.WEIGHTS output/model.safetensors [KEY VALUE ...]
python tools/test_net.py --config-file CONFIG MODEL.ARCH FBNetV2_F4 MODEL.WEIGHTS pretrained DATA.ROOT imagenet

A result folder, or a file in one, brings the configuration that it was made with. Mean, std, resize and classes are those of the model; of
a key that says otherwise a warning tells, and it counts.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode

from .. import cli
from ..config import ConfigError
from ..data.build import build_loader
from ..engine.runtime import Runtime, count_skipped, start_runtime
from ..errors import listed
from ..networks.passes import keeping_modes
from ..report.tables import name_of, table
from ..report.test import Examination, class_rows, worst_images, write_test
from ..tasks.load import load
from ..weights.file import WeightsError
from .options import data_for, recipe_of


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and tests; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    return cli.main(run, argv, __doc__ or "", resumable=False, purpose="test")


def run(cfg: CfgNode, args: Namespace) -> None:
    """What the tool does."""
    found = test_from(cfg)
    if found is not None:
        print(found)


def test_from(cfg: CfgNode) -> str | None:
    """The test that a configuration describes: a table, or None on all processes but the first."""
    if not cfg.MODEL.WEIGHTS:
        raise WeightsError('MODEL.WEIGHTS: empty; name a .safetensors file or a result folder, or "pretrained" for a network of the zoo')
    model = load(cfg.MODEL.WEIGHTS, cfg.MODEL.ARCH)
    recipe = recipe_of(cfg)
    if recipe.head.name and recipe.head.name != model.task.head.name:
        what = model.task.head.name or "a classifier"
        raise WeightsError(f"{cfg.MODEL.WEIGHTS}: the weights of {what}, and HEAD.NAME is {recipe.head.name}; leave HEAD.NAME out")
    options, data = data_for(cfg, model, cfg.MODEL.WEIGHTS)
    split = getattr(data, cfg.TEST.SPLIT)
    if split is None:
        raise ConfigError(f"TEST.SPLIT: {cfg.TEST.SPLIT}, but the data set has no such images; use val, or add the folder")
    runtime, size = start_runtime(recipe.runtime), model.task.input_size(model.arch)
    cost = model.count()
    network = runtime.compile(runtime.place(model.fold().network))
    loader = build_loader(options, split, size, cfg.TEST.BATCH_SIZE, False, runtime.shard, label_size=model.task.label_size)
    kept = Examination()
    scores = model.task.evaluate(network, loader.epoch(), runtime, kept)
    worst = worst_images(kept, loader, runtime)
    skipped = count_skipped(runtime, [loader])
    name = model.arch.name or cfg.MODEL.ARCH or "unnamed"
    rows = [
        ("network", f"{model.task.head.name} on {name}" if model.task.head.name else name),
        (f"{cfg.TEST.SPLIT} images", f"{len(split) - skipped:,}" + (f", {skipped} skipped" if skipped else "")),
        *((name_of(key) if key != "loss" else "cross-entropy", f"{value:.4f}") for key, value in scores.items()),
        ("MACs", f"{cost.macs:,}"),
        ("parameters", f"{cost.params:,}"),
    ]
    if model.task.labels == "classes":
        speed = images_per_second(network, (cfg.TEST.BATCH_SIZE, model.task.in_channels, size, size), runtime)
        rows.append(("images/s", f"{speed:,.0f} ({runtime.device.type}, batches of {cfg.TEST.BATCH_SIZE})"))
    if not runtime.main:
        return None
    rows += class_rows(kept)
    if cfg.TEST.OUTPUT:
        names = write_test(Path(cfg.TEST.OUTPUT), scores, kept, worst, loader, model.classes)
        rows.append(("written", f"{cfg.TEST.OUTPUT}: {listed(names, 4)}"))
    return table(rows)


@torch.no_grad()
def images_per_second(model: nn.Module, shape: Sequence[int], runtime: Runtime, seconds: float = 2.0) -> float:
    """Speed in eval mode on random images of the given (N, C, H, W), after a warm-up, over about `seconds`."""
    images = runtime.move(torch.rand(tuple(shape)))

    def passes(limit: float) -> tuple[int, float]:
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < limit or not done:
            with runtime.autocast():
                model(images)
            if runtime.device.type == "cuda":
                torch.cuda.synchronize(runtime.device)
            done += 1
        return done, elapsed

    with keeping_modes(model):
        model.eval()
        passes(seconds / 4)
        done, elapsed = passes(seconds)
    return done * shape[0] / elapsed
