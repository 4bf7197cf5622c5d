"""The ImageNet recipes, each for two steps of every phase on a small folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import image_folder, read_metrics

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.search import search_and_train
from mobile_cv_nas.train import run_training

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = ["DATA.WORKERS", "0", "DATA.CLASS_FRACTION", "0.5", "RUNTIME.DEVICE", "cpu"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four classes, of which the recipes take a part."""
    image_folder(tmp_path / "images/train", dict.fromkeys("abcd", 8), size=40)
    image_folder(tmp_path / "images/val", dict.fromkeys("abcd", 2), size=40)
    return tmp_path / "images"


@pytest.mark.parametrize("letter", ["f", "l", "p"])
def test_search(letter: str, images: Path, tmp_path: Path) -> None:
    options = [*SMALL, "DATA.ROOT", str(images), "OUTPUT_DIR", str(tmp_path / "out"), "SEARCH.EPOCHS", "1", "SEARCH.WARMUP_FRACTION", "0.0"]
    # Two classes of eight images: two steps of four for the weights, two for the alphas.
    options += [
        "SEARCH.ALPHA_FRACTION",
        "0.5",
        "SEARCH.BATCH_SIZE",
        "4",
        "SEARCH.TOLERANCE",
        "1.0",
        "SEARCH.CANDIDATES",
        "1",
        "SEARCH.DRAWS",
        "8",
    ]
    options += ["SEARCH.RECALIBRATION_IMAGES", "4", "TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "8", "TRAIN.WARMUP_EPOCHS", "0.0"]
    options += ["SEARCH.SHARING", "full", "SEARCH.RESOLUTION", "sampled"]  # the paper's modes take minutes on a CPU
    cfg = load_config(CONFIGS / f"search/fbnetv2_{letter}_imagenet.yaml", options)
    result = search_and_train(cfg)
    assert result["finished"]
    records = read_metrics(tmp_path / "out")
    assert [r["epoch"] for r in records if r["phase"] == "search"] == [0]
    assert all(r["weight_loss"] > 0 and r["alpha_loss"] > 0 for r in records if r["phase"] == "search")
    space = nas.SearchSpace.load(CONFIGS / f"spaces/fbnetv2_{letter}.yaml")
    assert space.contains(nas.ArchDef.load(tmp_path / "out/arch.yaml"))


def test_the_searches_differ_in_space_objective_and_target_alone() -> None:
    f, lg, p = (load_config(CONFIGS / f"search/fbnetv2_{letter}_imagenet.yaml") for letter in "flp")
    assert (f.SEARCH.OBJECTIVE, lg.SEARCH.OBJECTIVE, p.SEARCH.OBJECTIVE) == ("macs", "macs", "params")
    for other in (lg, p):
        same = other.clone()
        same.OUTPUT_DIR, same.SEARCH.SPACE = f.OUTPUT_DIR, f.SEARCH.SPACE
        same.SEARCH.OBJECTIVE, same.SEARCH.TARGET = f.SEARCH.OBJECTIVE, f.SEARCH.TARGET
        assert same == f
    assert (f.SEARCH.SHARING, f.SEARCH.RESOLUTION, f.SEARCH.EPOCHS, f.DATA.CLASS_FRACTION) == ("none", "all", 90, 0.1)


@pytest.mark.parametrize("name", ["fbnetv2_imagenet", "fbnetv2_imagenet_sgd"])
def test_training(name: str, images: Path, tmp_path: Path) -> None:
    options = [*SMALL, "DATA.DATASET", "imagefolder", "DATA.ROOT", str(images), "OUTPUT_DIR", str(tmp_path / "out")]
    options += ["MODEL.ARCH", "FBNetV2_F1", "TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "8", "TRAIN.WARMUP_EPOCHS", "0.5"]
    run_training(load_config(CONFIGS / f"train/{name}.yaml", options), False)
    assert (tmp_path / "out/metrics.jsonl").exists()
    assert [r["epoch"] for r in read_metrics(tmp_path / "out") if "epoch" in r]
