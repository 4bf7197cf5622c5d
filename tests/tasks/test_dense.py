"""Training of detectors and segmenters: what a run leaves, and how it is judged."""

import json
import re

import numpy as np
import pytest
import torch
from dense_runs import HEADS, dense_arch, dense_cfg, edit_annotations, is_detector, task_of, train_dense
from helpers import quick_cfg, read_metrics
from mobile_cv_nas.tasks.evaluate import run_test
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import data_from as build_data
from mobile_cv_nas.commands.options import data_options
from mobile_cv_nas.commands.options import loader_from as build_loader
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data.transforms import MaskTransform
from mobile_cv_nas.engine.runtime import start_runtime
from mobile_cv_nas.engine.step import Stepper
from mobile_cv_nas.networks.counting import count_detector
from mobile_cv_nas.tasks.dense import Detection, Segmentation, evaluate_masks, load_head
from mobile_cv_nas.tasks.metrics import Confusion, average_precision
from mobile_cv_nas.training.trainer import run_training
from mobile_cv_nas.weights.file import WeightsError

STEPS = 3  # an epoch of dense_cfg
DETECTED, SEGMENTED = ("ap", "ap50", "ap75"), ("loss", "pixel_accuracy", "miou")


# -- results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_training_leaves_a_complete_folder(scenes, tmp_path, head):
    dense_arch().save(tmp_path / "arch.yaml")
    options = ["MODEL.ARCH", str(tmp_path / "arch.yaml"), "TRAIN.EPOCHS", "3", "TRAIN.EVAL_EVERY", "2", "TRAIN.CLIP_GRAD", "10"]
    cfg = dense_cfg(head, scenes, tmp_path / "run", *options)
    table = run_training(cfg, heads=[head])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    scores, main = (DETECTED, "ap50") if is_detector(head) else (SEGMENTED, "miou")
    assert set(result) == {"finished", *scores, f"val_{main}", "macs", "params", "skipped_images"}
    assert all(0 <= result[name] <= 1 for name in scores if name != "loss")
    names = {"ap": "box AP", "ap50": "box AP50", "ap75": "box AP75", "miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
    for name in scores:
        assert name == "loss" or f"test {names[name]}  " in table
    assert f"validation {names[main]}  " in table
    assert f"{result['macs']:,}" in table
    assert max(map(len, table.splitlines()[1:-2])) <= 80
    records = read_metrics(tmp_path / "run")
    common = {"step", "epoch", "loss", "lr", "dropped_steps", "skipped_images"}
    common |= set() if is_detector(head) else {"pixel_accuracy"}
    validation = {f"val_{name}" for name in scores}
    assert [set(record) for record in records] == [common, common | validation, common | validation]
    assert [record["step"] for record in records] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert records[-1]["loss"] < records[0]["loss"]
    assert load_config(tmp_path / "run" / "config.yaml") == cfg
    # the file is the network that was tested
    network, content = load_head(tmp_path / "run" / "model.safetensors")
    assert content["classes"] == [*([] if is_detector(head) else ["background"]), *"0123456789"]
    task = task_of(head, scenes, *options)
    assert {name: result[name] for name in scores} == task.evaluate(network, task.loaders[2])
    # and what tools/test_net.py tests
    tested = run_test(dense_cfg(head, scenes, tmp_path, "MODEL.WEIGHTS", str(tmp_path / "run" / "model.safetensors")))
    for name in scores:
        assert re.search(rf"test {names.get(name, name)} +{result[name]:.4f}\n", tested)
    assert f"{result['macs']:,}" in tested
    other = dense_cfg(
        "lraspp" if head != "lraspp" else "ssdlite", scenes, tmp_path, "MODEL.WEIGHTS", str(tmp_path / "run" / "model.safetensors")
    )
    with pytest.raises(WeightsError, match=f"a {head} of 1[01] classes .*, but HEAD.NAME is (ssdlite|lraspp).*; make them the same"):
        run_test(other)


@pytest.mark.parametrize("head", HEADS)
def test_costs_are_those_of_the_network(scenes, head):
    task = task_of(head, scenes)
    assert task.cost == (count_detector if is_detector(head) else nas.count)(task.network, 64)
    assert task.cost.params == sum(parameter.numel() for parameter in task.network.parameters())


def test_a_detector_learns_an_image_by_heart(scenes):
    """So that boxes, labels and scores mean to the loss what they mean to the average precision."""
    cfg = dense_cfg(
        "ssdlite", scenes, scenes, "TRAIN.LR", "0.1", "TRAIN.BATCH_SIZE", "2", "TRAIN.WEIGHT_DECAY", "0", "TRAIN.CLIP_GRAD", "5"
    )
    data = build_data(cfg)
    data = type(data)(data.train.head(2), data.train.head(2), data.train.head(2), data.classes)
    runtime = start_runtime(cfg)
    task = Detection(cfg, dense_arch(16), data, None, runtime)
    stepper = Stepper(cfg, task.network, task.objective, runtime)
    (batch,) = task.loaders[0].epoch()
    for step in range(120):
        stepper.step([batch], 0.1 if step < 90 else 0.01, (0, step), list)
    task.network.train()
    with torch.no_grad():  # statistics of the images themselves
        for _ in range(40):
            task.network(*batch)
    assert task.evaluate(stepper.result, task.loaders[1])["ap50"] > 0.9


def test_a_segmenter_learns_an_image_by_heart(scenes):
    cfg = dense_cfg("lraspp", scenes, scenes, "TRAIN.BATCH_SIZE", "2", "HEAD.LOW_STRIDE", "4", "TRAIN.WEIGHT_DECAY", "0")
    data = build_data(cfg)
    data = type(data)(data.train.head(2), data.train.head(2), data.train.head(2), data.classes)
    runtime = start_runtime(cfg)
    task = Segmentation(cfg, dense_arch(16), data, None, runtime)
    stepper = Stepper(cfg, task.network, task.objective, runtime)
    (batch,) = task.loaders[0].epoch()
    for step in range(100):
        stepper.step([batch], 0.2 if step < 80 else 0.02, (0, step), list)
    task.network.train()
    with torch.no_grad():
        for _ in range(40):
            task.network(batch[0])
    assert task.evaluate(stepper.result, task.loaders[1])["miou"] > 0.7


# -- evaluation ---------------------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """A detector that knows the scenes of a source by heart, some of them wrongly, and says more the brighter the image is."""

    def __init__(self, source):
        super().__init__()
        self.known = {}
        for number, (path, target) in enumerate(zip(source.images, source.labels, strict=True)):
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
            boxes, labels = torch.from_numpy(target.boxes) + number % 4, torch.from_numpy(target.labels)
            labels = labels % 10 + 1 if number % 3 == 2 else labels
            self.known[pixels.sum().item()] = {
                "boxes": boxes,
                "labels": labels,
                "scores": torch.linspace(0.9, 0.3, len(labels)) * pixels.mean(),
            }

    def forward(self, images):
        assert not self.training
        return [self.known[image.sum().item()] for image in images]


def test_average_precision_by_hand(scenes):
    task = task_of("ssdlite", scenes)
    source = task.data.test.source
    oracle = Oracle(source).train()
    expected = average_precision(source.labels, list(oracle.known.values()), task.data.classes)
    assert 0.1 < expected["ap75"] < expected["ap50"] < 0.9
    assert task.evaluate(oracle, task.loaders[2]) == pytest.approx(expected, abs=1e-9)
    assert oracle.training  # as it was


def test_mean_iou_of_a_segmenter_by_hand(scenes):
    task = task_of("lraspp", scenes, "HEAD.LOW_STRIDE", "4", label_size=128)  # logits are resized to masks that are larger than the images
    source = task.data.test.source
    transform = MaskTransform(data_options(task.cfg), 64, 128, train=False)
    confusion, loss, network = Confusion(11), 0.0, task.network.eval()
    for path, target in zip(source.images, source.labels, strict=True):
        with Image.open(path) as image, torch.no_grad():
            pixels, mask = transform(image.convert("RGB"), target)
            logits = torch.nn.functional.interpolate(network(pixels[None])["out"], (128, 128), mode="bilinear", align_corners=False)
        confusion.update(logits.argmax(1), mask[None])
        loss += torch.nn.functional.cross_entropy(logits, mask[None], ignore_index=255).item() / len(source.images)
    expected = {"loss": loss, "pixel_accuracy": confusion.pixel_accuracy(), "miou": confusion.miou()}
    assert task.evaluate(network, task.loaders[2]) == pytest.approx(expected, abs=1e-5)
    assert not network.training


class TwoProcesses:
    """A runtime of two processes, of which the other's part is known."""

    def __init__(self, runtime, other=None):
        self.runtime, self.other, self.mine = runtime, other, None

    def __getattr__(self, name):
        return getattr(self.runtime, name)

    def gather(self, value):
        self.mine = value
        return [value, self.other] if self.other is not None else [value]

    def sum(self, values):
        self.mine = list(values)
        return [a + b for a, b in zip(values, self.other, strict=True)] if self.other is not None else list(values)


@pytest.mark.parametrize("head", ["ssdlite", "lraspp"])
def test_two_processes_judge_as_one(scenes, head):
    task = task_of(head, scenes)
    split = task.data.train.head(7)  # one has more than the other
    network = Oracle(split.source) if is_detector(head) else task.network
    one = task.evaluate(network, build_loader(task.cfg, split, 64, 4, False))
    runtime, other, parts = task.runtime, None, []
    for rank in (1, 0):
        task.runtime = TwoProcesses(runtime, other)
        loader = build_loader(task.cfg, split, 64, 4, False, shard=(rank, 2))
        parts.append(task.evaluate(network, loader))
        other = task.runtime.mine
    alone, both = parts
    assert both == pytest.approx(one, abs=1e-6)
    assert alone != pytest.approx(one, abs=1e-3)


def test_nothing_that_counts_is_no_error():
    runtime = start_runtime(quick_cfg("x"))
    network = nas.build_segmenter("lraspp", dense_arch(), 3)
    images, masks = torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), 255)
    scores = evaluate_masks(network, [(images, masks)], 3, runtime)
    assert scores == {"loss": 0.0, "pixel_accuracy": 0.0, "miou": 0.0}
    assert evaluate_masks(network, [], 3, runtime) == scores


@pytest.mark.parametrize("head", ["faster_rcnn", "retinanet", "ssdlite"])
def test_images_without_objects_train_and_test(own, head):
    def clear(document):
        document["annotations"] = document["annotations"][:1]

    for split in ("train", "test"):
        edit_annotations(own, split, clear)
    result = train_dense(dense_cfg(head, own, own / "run", "TRAIN.EPOCHS", "1", "DATA.AUGMENT", "crop"), own / "run")
    assert result["finished"]
