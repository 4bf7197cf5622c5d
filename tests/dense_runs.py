"""What the tests of detectors and segmenters share: a tiny network, few scenes, and a config of two short epochs on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import train, trainer_of
from yacs.config import CfgNode

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data.digit_scenes import write_digit_scenes
from mobile_cv_nas.tasks.options import DETECTORS
from mobile_cv_nas.training.trainer import Trainer

HEADS = {
    "faster_rcnn": ["HEAD.STRIDES", "[8, 16]", "HEAD.CHANNELS", "8"],
    "retinanet": ["HEAD.STRIDES", "[8, 16]", "HEAD.CHANNELS", "8"],
    "ssdlite": ["HEAD.STRIDES", "[8, 16]", "HEAD.CHANNELS", "16"],
    "lraspp": ["HEAD.CHANNELS", "16"],
    "deeplabv3": ["HEAD.CHANNELS", "16"],
}


def dense_arch(width: int = 4) -> nas.ArchDef:
    """A network with maps at strides 2 to 32 and next to no parameters."""
    stages = [
        [["conv_k3", width, 2, 1]],
        [["ir_k3", width, 2, 1, {"expansion": 2}]],
        [["ir_k3_hs", 2 * width, 2, 1, {"expansion": 2}]],
        [["ir_k3_se_hs", 2 * width, 2, 1, {"expansion": 2}]],
        [["ir_k3", 4 * width, 2, 1, {"expansion": 2}]],
    ]
    return nas.ArchDef.parse({"name": "dense", "input_size": 64, "stages": stages})


def few_scenes(folder: Path, train: int = 24, val: int = 6, test: int = 6) -> Path:
    """digit_scenes of a few images."""
    return write_digit_scenes(folder, {"train": train, "val": val, "test": test})


def dense_cfg(head: str, root: Path, output: Path, *opts: str) -> CfgNode:
    """A config of two epochs of three steps each, on the CPU."""
    common = {
        "HEAD.NAME": head, "HEAD.INPUT_SIZE": "64", "DATA.DATASET": "digit_scenes", "DATA.ROOT": str(root), "DATA.WORKERS": "0",
        "OUTPUT_DIR": str(output), "RUNTIME.DEVICE": "cpu", "TRAIN.EPOCHS": "2", "TRAIN.BATCH_SIZE": "8", "TRAIN.LR": "0.02",
        "TEST.BATCH_SIZE": "4",
    }  # fmt: skip
    common |= dict(zip(HEADS[head][::2], HEADS[head][1::2], strict=True)) | dict(zip(opts[::2], opts[1::2], strict=True))
    return load_config(None, [text for pair in common.items() for text in pair])


def train_dense(cfg: CfgNode, folder: Path, **options) -> dict:
    """Trains `dense_arch` into a folder, which is made."""
    folder.mkdir(exist_ok=True)
    return train(cfg, dense_arch(), folder, **options)


def is_detector(head: str) -> bool:
    return head in DETECTORS


def dense_trainer(head: str, root: Path, *opts: str, **options: Any) -> Trainer:
    """What `train_dense` trains, not yet trained."""
    return trainer_of(dense_cfg(head, root, root, *opts), dense_arch(), **options)


def edit_annotations(root: Path, split: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes an annotation file."""
    path = root / "annotations" / f"instances_{split}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
