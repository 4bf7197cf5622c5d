"""Accuracy, norm statistics, speed, and the table of a network's blocks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..arch import ArchDef
from ..commands.options import data_from as build_data
from ..commands.options import loader_from as build_loader
from ..engine.runtime import Runtime, start_runtime
from ..networks.build import build_model
from ..networks.counting import count
from ..nn.shapes import Cost
from ..weights.file import WeightsError, find_arch, load_network


@dataclass(frozen=True)
class Score:
    """Shares of correct images (top-5 among at most as many classes as there are), mean cross-entropy, images."""

    top1: float
    top5: float
    loss: float
    images: int


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], runtime: Runtime | None = None) -> Score:
    """Tests a model that returns logits on batches of (images, labels); it ends in the mode it was in.

    With a `runtime`, batches are moved to its device, its precision applies, and the sums are taken over all
    processes. Raises ValueError if there is no image at all.
    """
    was_training = model.training
    model.eval()
    sums = [0.0] * 4  # top-1, top-5, loss, images
    for images, labels in batches:
        if runtime is not None:
            images, labels = runtime.move(images), runtime.move(labels)
        with runtime.autocast() if runtime is not None else contextlib.nullcontext():
            logits = model(images)
        logits = logits.float()  # (N, classes)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        batch = [best[:, 0].sum(), best.sum(), loss, torch.tensor(len(labels), device=labels.device)]
        sums = [a + b for a, b in zip(sums, torch.stack([v.double() for v in batch]).tolist(), strict=True)]
    model.train(was_training)
    top1, top5, total, images_seen = runtime.sum(sums) if runtime is not None else sums
    if not images_seen:
        raise ValueError("no images to evaluate on")
    return Score(top1 / images_seen, top5 / images_seen, total / images_seen, int(images_seen))


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Renews all norm statistics in place: reset, then the average over the batches of images (N, C, H, W).

    The model ends in the mode it was in. Without any batch the statistics are those of a new network.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta, was_training = [norm.momentum for norm in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a cumulative average
    model.train()
    try:
        for images in batches:
            model(images)
    finally:
        model.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def images_per_second(model: nn.Module, shape: tuple[int, int, int, int], runtime: Runtime, seconds: float = 2.0) -> float:
    """Speed in eval mode on random images of the given (N, C, H, W), after a warm-up, over about `seconds`."""
    was_training = model.training
    model.eval()
    images = runtime.move(torch.rand(shape))

    def passes(limit: float) -> tuple[int, float]:
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < limit or not done:
            with runtime.autocast():
                model(images)
            if runtime.device.type == "cuda":
                torch.cuda.synchronize(runtime.device)
            done += 1
        return done, elapsed

    passes(seconds / 4)
    done, elapsed = passes(seconds)
    model.train(was_training)
    return done * shape[0] / elapsed


# -- the table of blocks ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of a summary: the block, its output (channels, height, width) and its exact cost."""

    key: str
    name: str
    output: tuple[int, int, int]
    cost: Cost


@dataclass(frozen=True)
class Summary:
    """A network block by block; `total` is what fvcore counts in it."""

    arch: ArchDef
    rows: tuple[Row, ...]
    total: Cost

    def __str__(self) -> str:
        from tabulate import tabulate

        lines: list[list[Any]] = [
            [row.key, row.name, "x".join(map(str, row.output)), f"{row.cost.macs:,}", f"{row.cost.params:,}"] for row in self.rows
        ]
        lines.append(["total", "", "", f"{self.total.macs:,}", f"{self.total.params:,}"])
        table = tabulate(
            lines,
            headers=["block", "type", "output", "MACs", "parameters"],
            colalign=("left", "left", "left", "right", "right"),
            disable_numparse=True,
        )
        return f"{self.arch.name or 'network'}, input {self.arch.input_size}x{self.arch.input_size}\n{table}"


def summarize(arch: ArchDef, num_classes: int = 1000, in_channels: int = 3) -> Summary:
    """One row a block, then the head (pool and classifier).

    Output shapes are measured on a zero image, costs come from each block's own formula, and their sum must be what
    fvcore counts: RuntimeError if it is not, for then one of the two is wrong.
    """
    model = build_model(arch, num_classes, in_channels).eval()
    total = count(model, arch.input_size, in_channels)
    rows: list[Row] = []
    x = torch.zeros(1, in_channels, arch.input_size, arch.input_size)
    with torch.no_grad():
        for layer, block in zip(arch.layers, model.blocks, strict=True):
            c_in, size = x.shape[1], x.shape[2]
            x = block(x)
            cost = layer.cost(layer.names[0], c_in, layer.channels[0], layer.hidden[0], size)
            rows.append(Row(layer.key, layer.names[0], (x.shape[1], x.shape[2], x.shape[3]), cost))
        logits = model.classifier(model.pool(x).flatten(1))
    pooled = Cost(x[0].numel(), 0)
    linear = Cost(model.classifier.weight.numel(), sum(p.numel() for p in model.classifier.parameters()))
    rows.append(Row("head", "pool, linear", (logits.shape[1], 1, 1), pooled + linear))
    summed = sum((row.cost for row in rows), Cost(0, 0))
    if (summed.macs, summed.params) != (total.macs, total.params):
        raise RuntimeError(f"{arch.name}: the blocks sum to {summed}, but fvcore counts {total}; please report this")
    return Summary(arch, tuple(rows), total)


# -- what the tools print -----------------------------------------------------------------------------


def run_test(cfg: CfgNode) -> str | None:
    """Tests the network of `cfg.MODEL` on `cfg.TEST.SPLIT`: a table, or None on all processes but the first.

    Raises WeightsError, ArchError or DataError for bad input, also when network and data differ in their classes.
    """
    from tabulate import tabulate

    if cfg.HEAD.NAME:
        from .dense import run_head_test

        return run_head_test(cfg)
    network, names = load_network(cfg)
    data = build_data(cfg)
    if network.classifier.out_features != data.num_classes or (names and names != list(data.classes)):
        raise WeightsError(
            f"{cfg.MODEL.WEIGHTS}: a network of {network.classifier.out_features} classes "
            f"({', '.join(names[:3]) or 'unnamed'}, ...), but the data has {data.num_classes} "
            f"({', '.join(data.classes[:3])}, ...); check DATA.DATASET and DATA.ROOT"
        )
    runtime, arch = start_runtime(cfg), network.arch
    cost = count(network, arch.input_size)
    placed = runtime.place(network)
    model = runtime.compile(placed)
    split = getattr(data, cfg.TEST.SPLIT)
    loader = build_loader(cfg, split, arch.input_size, cfg.TEST.BATCH_SIZE, False, runtime.shard)
    score = evaluate(model, loader.epoch(), runtime)
    speed = images_per_second(model, (cfg.TEST.BATCH_SIZE, 3, arch.input_size, arch.input_size), runtime)
    skipped = runtime.sum([len(loader.skipped)])[0]
    rows = [
        ("network", arch.name or cfg.MODEL.ARCH or "unnamed"),
        (f"{cfg.TEST.SPLIT} images", f"{score.images:,}" + (f", {skipped:.0f} skipped" if skipped else "")),
        ("top-1", f"{score.top1:.4f}"),
        ("top-5", f"{score.top5:.4f}"),
        ("cross-entropy", f"{score.loss:.4f}"),
        ("MACs", f"{cost.macs:,}"),
        ("parameters", f"{cost.params:,}"),
        ("images/s", f"{speed:,.0f} ({runtime.device.type}, batches of {cfg.TEST.BATCH_SIZE})"),
    ]
    return tabulate(rows, disable_numparse=True) if runtime.main else None


def run_summary(cfg: CfgNode) -> str:
    """The table of the network of `cfg.MODEL`, weights not needed.

    It has the classes of its weights, if given; of a zoo name, those it was published with; else those of the data.
    """
    if cfg.MODEL.WEIGHTS.endswith(".safetensors"):
        network, _ = load_network(cfg)
        return str(summarize(network.arch, network.classifier.out_features))
    arch = find_arch(cfg.MODEL.ARCH)
    if arch.name == cfg.MODEL.ARCH:
        from ..model_zoo import get_card

        return str(summarize(arch, get_card(arch.name).classes))
    return str(summarize(arch, build_data(cfg).num_classes))
