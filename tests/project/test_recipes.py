"""The recipes for large data sets, each for two steps of every phase on a small folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dense_runs import dense_arch
from helpers import image_folder, read_metrics, run_training
from PIL import Image
from searches import search_and_train

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.config.keys import DETECTORS, SEGMENTERS
from mobile_cv_nas.data.voc import VOC_CLASSES
from mobile_cv_nas.files import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ["DATA.WORKERS", "0", "DATA.CLASS_FRACTION", "0.5", "RUNTIME.DEVICE", "cpu"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four classes, of which the recipes take a part."""
    image_folder(tmp_path / "images/train", dict.fromkeys("abcd", 8), size=40)
    image_folder(tmp_path / "images/val", dict.fromkeys("abcd", 2), size=40)
    return tmp_path / "images"


def one_epoch(images: Path, tmp_path: Path) -> list[str]:
    """KEY VALUE pairs of a search and a training of one epoch on two of the four classes."""
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
    return [*options, "SEARCH.SHARING", "full", "SEARCH.RESOLUTION", "sampled"]  # the paper's modes take minutes on a CPU


@pytest.mark.slow
@pytest.mark.parametrize("letter", ["f", "l", "p"])
def test_search(letter: str, images: Path, tmp_path: Path) -> None:
    options = one_epoch(images, tmp_path)
    cfg = load_config(CONFIGS / f"search/fbnetv2_{letter}_imagenet.yaml", options)
    result = search_and_train(cfg)
    assert result["finished"]
    records = read_metrics(tmp_path / "out")
    assert [r["epoch"] for r in records if r["phase"] == "search"] == [0]
    assert all(r["weight_loss"] > 0 and r["alpha_loss"] > 0 for r in records if r["phase"] == "search")
    space = nas.SearchSpace.load(CONFIGS / f"spaces/fbnetv2_{letter}.yaml")
    assert space.contains(nas.ArchDef.load(tmp_path / "out/arch.yaml"))


FAMILIES = {
    "p": ("params", 288, {"2.64M": 2.64e6, "2.99M": 2.99e6, "4M": 4.0e6}),
    "f": ("macs", None, {"56M": 56e6, "85M": 85e6, "122M": 122e6, "238M": 238e6}),
}


@pytest.mark.slow
@pytest.mark.parametrize("letter", FAMILIES)
def test_family(letter: str, images: Path, tmp_path: Path) -> None:
    objective, size, targets = FAMILIES[letter]
    options = one_epoch(images, tmp_path)
    options[options.index("SEARCH.TOLERANCE") + 1] = "0.05"
    options[options.index("SEARCH.DRAWS") + 1] = "300"
    cfg = load_config(CONFIGS / f"search/fbnetv2_{letter}_family.yaml", options, "search")
    assert search_and_train(cfg)["finished"]
    front = read_yaml(tmp_path / "out/front.yaml")
    assert [(row["folder"], row["target"], row["objective"]) for row in front] == [(*pair, objective) for pair in targets.items()]
    for row in front:
        model = nas.load(tmp_path / "out" / row["folder"])
        assert size in (None, model.arch.input_size)
        assert len(model.classes) == 2
        assert (row["macs"], row["params"]) == (model.count().macs, model.count().params)
        published = nas.count(nas.build_model(model.arch, num_classes=1000), model.arch.input_size)
        assert abs(getattr(published, objective) / row["target"] - 1) <= 0.05
        assert json.loads((tmp_path / "out" / row["folder"] / "result.json").read_text())["counted"] == getattr(published, objective)


def test_families_differ_from_the_single_searches_in_their_targets_alone() -> None:
    for letter, (objective, _, targets) in FAMILIES.items():
        family, single = (load_config(CONFIGS / f"search/fbnetv2_{letter}_{kind}.yaml", (), "search") for kind in ("family", "imagenet"))
        assert (objective, list(targets.values()), 1000) == (family.SEARCH.OBJECTIVE, family.SEARCH.TARGETS, family.SEARCH.TARGET_CLASSES)
        family.SEARCH.TARGET, family.SEARCH.TARGETS, family.SEARCH.TARGET_CLASSES = single.SEARCH.TARGET, [], 0
        family.SEARCH.SPACE, family.OUTPUT_DIR = single.SEARCH.SPACE, single.OUTPUT_DIR
        assert family == single
    free, fixed = (nas.SearchSpace.load(CONFIGS / f"spaces/fbnetv2_{name}.yaml").to_dict() for name in ("p", "p288"))
    assert fixed["input_size"] == 288
    assert free["stages"] == fixed["stages"]


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
    run_training(load_config(CONFIGS / f"train/{name}.yaml", options))
    assert (tmp_path / "out/metrics.jsonl").exists()
    assert [r["epoch"] for r in read_metrics(tmp_path / "out") if "epoch" in r]


# -- detection and segmentation -----------------------------------------------------------------------

SIZES = [(60, 40), (40, 60), (50, 50), (64, 30)]  # width, height


def photographs(folder: Path, names: list[str]) -> list[tuple[str, tuple[int, int]]]:
    """JPEG files of noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = [(name, SIZES[number % len(SIZES)]) for number, name in enumerate(names)]
    for name, (width, height) in sizes:
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / name)
    return sizes


def coco_folder(root: Path) -> Path:
    """COCO 2017 as it is laid out, with ids that leave gaps, a crowd, a box of no area and images without objects."""
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": number, "name": f"thing {number}"} for number in (1, 2, 90)]
    for split, count in (("train", 8), ("val", 3)):
        sizes = photographs(root / f"{split}2017", [f"{number:012d}.jpg" for number in range(10, 10 + count)])
        images = [{"id": i + 10, "file_name": name, "width": w, "height": h} for i, (name, (w, h)) in enumerate(sizes)]
        boxes = [(10, 1, [2, 3, 20, 20.5], 0), (10, 90, [0, 0, 40, 30], 1), (11, 90, [5, 5, 30, 12], 0), (12, 2, [9, 9, 0, 4], 0)]
        annotations = [
            {"id": n, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd, "area": 1, "segmentation": []}
            for n, (image, category, box, crowd) in enumerate(boxes, 1)
        ]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))
    return root


def voc_folder(root: Path) -> Path:
    """VOC 2012 as it is laid out: palette masks with a border of 255."""
    names = {"train": [f"2007_{n:06d}" for n in range(6)], "val": [f"2008_{n:06d}" for n in range(3)]}
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "SegmentationClass").mkdir()
    for split, listed in names.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(listed) + "\n")
    everything = [name for listed in names.values() for name in listed]
    for number, (name, (width, height)) in enumerate(photographs(root / "JPEGImages", [f"{name}.jpg" for name in everything])):
        mask = np.zeros((height, width), np.uint8)
        mask[5:25, 5:25], mask[7:23, 7:23] = 255, 1 + number
        image = Image.fromarray(mask)
        image.putpalette(bytes(768))
        image.save((root / "SegmentationClass" / name).with_suffix(".png"))
    return root


DENSE = {"detection/coco": (coco_folder, DETECTORS, ["thing 1", "thing 2", "thing 90"], "val_ap50")}
DENSE["segmentation/voc"] = (voc_folder, SEGMENTERS, ["background", *VOC_CLASSES], "val_miou")


@pytest.mark.parametrize("name", DENSE)
def test_detection_and_segmentation(name: str, tmp_path: Path) -> None:
    make, heads, classes, score = DENSE[name]
    dense_arch().save(tmp_path / "arch.yaml")
    options = ["DATA.ROOT", str(make(tmp_path / "data")), "OUTPUT_DIR", str(tmp_path / "out"), "DATA.WORKERS", "0", "RUNTIME.DEVICE", "cpu"]
    options += ["MODEL.ARCH", str(tmp_path / "arch.yaml"), "MODEL.WEIGHTS", "", "TRAIN.INIT", "scratch", "HEAD.INPUT_SIZE", "64"]
    options += ["TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "3", "TRAIN.WARMUP_EPOCHS", "0.5"]
    table = run_training(load_config(CONFIGS / f"{name}.yaml", options), heads=heads)
    assert table is not None
    assert "skipped images" in table
    (record,) = read_metrics(tmp_path / "out")
    assert record["step"] == 2
    assert record["skipped_images"] == 0
    assert 0 <= record[score] <= 1
    assert list(nas.load(tmp_path / "out").classes) == classes


@pytest.mark.parametrize("name", DENSE)
def test_detection_and_segmentation_start_from_published_weights(name: str) -> None:
    cfg = load_config(CONFIGS / f"{name}.yaml")
    assert (cfg.MODEL.WEIGHTS, cfg.TRAIN.INIT) == ("pretrained", "inherit")
    card = nas.get_card(cfg.MODEL.ARCH)
    assert card.weights
    assert (tuple(cfg.DATA.MEAN), tuple(cfg.DATA.STD)) == (card.mean, card.std)
