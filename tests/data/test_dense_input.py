"""Detectors and segmenters: keys, tools and data that do not fit, and the transforms of images with boxes or masks."""

import shutil

import numpy as np
import pytest
import torch
from dense_runs import HEADS, dense_arch, dense_cfg, dense_trainer, edit_annotations
from helpers import data_of_cfg as build_data
from helpers import run_tool, run_training
from PIL import Image

from mobile_cv_nas.commands.options import data_options
from mobile_cv_nas.config import ConfigError, load_config
from mobile_cv_nas.data import DataError
from mobile_cv_nas.data.transforms import BoxTransform, MaskTransform
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.tasks.build import task_class
from mobile_cv_nas.tasks.classification import Classification

# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "head", "reason"),
    [
        ("train_detector", "lraspp", "see tools/train_segmenter.py"),
        ("train_segmenter", "ssdlite", "see tools/train_detector.py"),
        ("train_net", "ssdlite", "this tool trains classifiers, with none; see tools/train_detector.py"),
        ("train_detector", "", "this tool trains faster_rcnn, retinanet, ssdlite; see tools/train_net.py"),
    ],
)
def test_a_head_for_another_tool(tmp_path, tool, head, reason):
    options = ["HEAD.NAME", head, "DATA.DATASET", "digit_scenes"] if head else []
    done = run_tool(tool, *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: HEAD.NAME: {head!r}, but ")
    assert done.stderr.endswith(f"{reason}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_tools_train(scenes, tmp_path):
    dense_arch().save(tmp_path / "arch.yaml")
    for tool, head in (("train_detector", "ssdlite"), ("train_segmenter", "lraspp")):
        options = ["MODEL.ARCH", "arch.yaml", "HEAD.NAME", head, *HEADS[head], "DATA.DATASET", "digit_scenes", "DATA.ROOT", str(scenes)]
        options += ["HEAD.INPUT_SIZE", "64", "TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "8", "OUTPUT_DIR", head, "RUNTIME.DEVICE", "cpu"]
        done = run_tool(tool, *options, "DATA.WORKERS", "0", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "epoch 1/1: loss" in done.stdout
        assert f"{head}/model.safetensors" in done.stdout


def config(head, **values):
    keys = {"DATA.DATASET": "digit_scenes", "HEAD.NAME": head} | {name.replace("__", "."): str(value) for name, value in values.items()}
    return load_config(None, [text for pair in keys.items() for text in pair])


REFUSED = [
    ("", {}, "HEAD.NAME: empty; DATA.DATASET digit_scenes needs one of faster_rcnn"),
    ("ssdlite", {"DATA__DATASET": "digits"}, "DATA.DATASET: digits has classes only; HEAD.NAME ssdlite needs one of coco"),
    ("ssdlite", {"DATA__DATASET": "voc"}, "DATA.DATASET: voc is read for segmentation"),
    ("lraspp", {"HEAD__STRIDES": [8]}, "HEAD.STRIDES: [8] does nothing with "),
    ("ssdlite", {"HEAD__LOW_STRIDE": 4}, "HEAD.LOW_STRIDE: 4 does nothing with "),
    ("deeplabv3", {"HEAD__LOW_STRIDE": 4}, "HEAD.LOW_STRIDE: 4 does nothing with "),
    ("faster_rcnn", {"HEAD__OUTPUT_STRIDE": 8}, "HEAD.OUTPUT_STRIDE: 8 does nothing with "),
    ("ssdlite", {"HEAD__ANCHOR_SCALE": 2}, "HEAD.ANCHOR_SCALE: 2.0 does nothing with "),
    ("lraspp", {"HEAD__ANCHOR_SCALE": 2}, "HEAD.ANCHOR_SCALE: 2.0 does nothing with "),
    ("retinanet", {"HEAD__MIN_RATIO": 0.2}, "HEAD.MIN_RATIO: 0.2 does nothing with "),
    ("", {"DATA__DATASET": "digits", "HEAD__CHANNELS": 8}, "HEAD.CHANNELS: 8 does nothing with "),
    ("", {"DATA__DATASET": "digits", "HEAD__FROZEN_STAGES": 1}, "HEAD.FROZEN_STAGES: 1 does nothing with "),
    ("", {"DATA__DATASET": "digits", "HEAD__FROZEN_NORM": "true"}, "HEAD.FROZEN_NORM: True does nothing with "),
    ("", {"DATA__DATASET": "digits", "HEAD__OUTPUT_STRIDE": 8}, "HEAD.OUTPUT_STRIDE: 8 does nothing with "),
    ("lraspp", {"DATA__MIXUP": 0.2}, "DATA.MIXUP: 0.2 does nothing with "),
    ("lraspp", {"DATA__ERASE": 0.2}, "DATA.ERASE: 0.2 does nothing with "),
    ("lraspp", {"DATA__CLASS_FRACTION": 0.2}, "DATA.CLASS_FRACTION: 0.2 does nothing with "),
    ("ssdlite", {"TRAIN__LABEL_SMOOTHING": 0.1}, "TRAIN.LABEL_SMOOTHING: 0.1 does nothing with "),
    ("lraspp", {"DATA__AUGMENT": "randaugment"}, "DATA.AUGMENT: randaugment would move an image without its boxes or mask"),
    ("ssd", {}, "HEAD.NAME: 'ssd' does not exist"),
    ("ssdlite", {"HEAD__INPUT_SIZE": 16}, "HEAD.INPUT_SIZE: 16 is not 32 or more"),
    ("ssdlite", {"HEAD__MIN_RATIO": 0.95}, "HEAD.MIN_RATIO: 0.95 is not"),
]


@pytest.mark.parametrize(("head", "values", "reason"), REFUSED, ids=[f"{head or 'none'} {next(iter(v), '')}" for head, v, _ in REFUSED])
def test_keys_that_a_head_does_not_take(head, values, reason):
    with pytest.raises(ConfigError) as error:
        config(head, **values)
    assert reason in str(error.value)


def test_keys_that_a_head_takes():
    config("lraspp", HEAD__LOW_STRIDE=4, HEAD__OUTPUT_STRIDE=8, TRAIN__LABEL_SMOOTHING=0.1, DATA__DATASET="voc")
    config("ssdlite", HEAD__MIN_RATIO=0.1, HEAD__STRIDES=[8, 16], HEAD__FROZEN_STAGES=1, HEAD__FROZEN_NORM="true", HEAD__CHANNELS=64)
    config("retinanet", HEAD__ANCHOR_SCALE=2.5, DATA__AUGMENT="crop", DATA__DATASET="coco")
    assert task_class("") is Classification


def test_strides_that_the_backbone_lacks(scenes):
    with pytest.raises(InputError, match=r"strides \(64\): the backbone has maps at"):
        dense_trainer("ssdlite", scenes, "HEAD.STRIDES", "[64]")
    with pytest.raises(InputError, match="output_stride 64: the backbone has maps at"):
        dense_trainer("lraspp", scenes, "HEAD.OUTPUT_STRIDE", "64")
    with pytest.raises(DataError, match=r"24 training images are fewer than"):
        dense_trainer("ssdlite", scenes, "TRAIN.BATCH_SIZE", "32")


def remove_image(root):
    (root / "train" / "000003.png").unlink()


def box_outside(root):
    edit_annotations(root, "train", lambda document: document["annotations"][0].update(bbox=[100, 100, 80, 10]))


def other_name(root):
    edit_annotations(root, "val", lambda document: document["categories"][3].update(name="drei"))


def other_order(root):
    edit_annotations(root, "val", lambda document: [c.update(name=str(9 - i)) for i, c in enumerate(document["categories"])])


def missing_category(root):
    def change(document):
        document["categories"] = document["categories"][:5]
        document["annotations"] = [record for record in document["annotations"] if record["category_id"] <= 5]

    edit_annotations(root, "val", change)


def no_validation(root):
    (root / "annotations" / "instances_val.json").unlink()


def two_files(root):
    shutil.copy(root / "annotations" / "instances_val.json", root / "annotations" / "instances_val2017.json")


def no_folder(root):
    (root / "val").rename(root / "valid")


SPOILED = {
    remove_image: r"train: 1 of 24 images of instances_train\.json are missing \(000003\.png\)",
    box_outside: r"annotation 1 of image 1 \(000001\.png, 128x128\): bbox \[100, 100, 80, 10\] is outside the image",
    other_name: "val has other categories than train: 'drei' is not in train; make them the same",
    other_order: "val has other categories than train: in another order",
    missing_category: "val has other categories than train: '5' is missing",
    no_validation: r"has no annotations/instances_val\*\.json; add it",
    two_files: r"2 files for val \(instances_val\.json, instances_val2017\.json\); leave one",
    no_folder: r"val: no such folder; it must hold the images of",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_data_that_is_amiss_is_said_before_training(own, tmp_path, spoil):
    spoil(own)
    dense_arch().save(tmp_path / "arch.yaml")
    cfg = dense_cfg("ssdlite", own, tmp_path / "run", "DATA.DATASET", "coco", "MODEL.ARCH", str(tmp_path / "arch.yaml"))
    with pytest.raises(DataError, match=SPOILED[spoil]):
        run_training(cfg, heads=["ssdlite"])
    assert not (tmp_path / "run").exists()


def test_no_root_is_said(tmp_path):
    for root in ("", str(tmp_path / "none"), __file__, "~no-such-user/coco"):
        with pytest.raises(DataError, match=r"DATA\.ROOT: .* is no folder"):
            build_data(config("ssdlite", DATA__DATASET="coco", DATA__ROOT=root))


# -- transforms ---------------------------------------------------------------------------------------


def drawn(scenes, index):
    """An image of a scene in which every digit has the value 10 times its label, and its boxes and mask."""
    cfg = {kind: dense_cfg(head, scenes, scenes) for kind, head in (("boxes", "ssdlite"), ("masks", "lraspp"))}
    source = {kind: build_data(c).train.source for kind, c in cfg.items()}
    mask = source["masks"].labels[index].mask((128, 128))
    return Image.fromarray(np.repeat(mask[..., None] * 10, 3, 2)), source["boxes"].labels[index], source["masks"].labels[index]


@pytest.mark.parametrize("augment", ["none", "affine", "crop"])
def test_boxes_and_masks_move_with_the_image(scenes, augment):
    cfg = dense_cfg("ssdlite", scenes, scenes, "DATA.AUGMENT", augment, "DATA.MEAN", "[0, 0, 0]", "DATA.STD", "[1, 1, 1]")
    data = data_options(cfg)
    outside = 0
    for index in range(8):
        picture, boxes, mask = drawn(scenes, index)
        torch.manual_seed(index)
        image, target = BoxTransform(data, train=True)(picture, boxes)
        assert image.dtype == torch.float32
        assert image.max() <= 1
        assert len(target["boxes"]) == len(target["labels"])
        for box, label in zip(target["boxes"], target["labels"].tolist(), strict=True):
            x0, y0, x1, y1 = (int(v) for v in (box[0], box[1], box[2].ceil(), box[3].ceil()))
            inside = (image[0, y0:y1, x0:x1] * 25.5).round()
            assert (inside == label).any(), (index, label)
        torch.manual_seed(index)
        image, labels = MaskTransform(data, 128, 128, train=True)(picture, mask)
        seen = (image[0] * 25.5 - labels).abs() < 0.02
        counted = labels != 255
        assert (seen | ~counted).float().mean() > 0.85  # but for the edges, which are interpolated
        assert (image[0][~counted] == 0).all()  # what comes in from outside
        outside += int((~counted).sum())
    assert (outside > 1000) == (augment == "affine")
