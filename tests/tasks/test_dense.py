"""Training of detectors and segmenters: what a run leaves, and how it is judged."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_runs import HEADS, dense_arch, dense_cfg, dense_trainer, edit_annotations, is_detector, train_dense
from helpers import data_of_cfg as build_data
from helpers import loader_of_cfg as build_loader
from helpers import quick_cfg, read_metrics, run_training, runtime_of, trainer_of
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.commands.test_net import test_from as run_test
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data.transforms import MaskTransform
from mobile_cv_nas.networks.counting import count_detector
from mobile_cv_nas.tasks.metrics import Confusion, average_precision
from mobile_cv_nas.tasks.segmentation import Segmentation
from mobile_cv_nas.weights.file import WeightsError

STEPS = 3  # an epoch of dense_cfg
DETECTED, SEGMENTED = ("ap", "ap50", "ap75"), ("loss", "pixel_accuracy", "miou")


# -- results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_training_leaves_a_complete_folder(scenes, tmp_path, monkeypatch, head):
    monkeypatch.chdir(tmp_path)  # tables are as wide as the names of folders
    dense_arch().save(tmp_path / "arch.yaml")
    options = ["MODEL.ARCH", str(tmp_path / "arch.yaml"), "TRAIN.EPOCHS", "3", "TRAIN.EVAL_EVERY", "2", "TRAIN.CLIP_GRAD", "10"]
    cfg = dense_cfg(head, scenes, Path("run"), *options)
    table = run_training(cfg, heads=[head])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    scores, main = (DETECTED, "ap50") if is_detector(head) else (SEGMENTED, "miou")
    about_run = {"finished", "skipped_images", "seconds", "seed", "versions", "config_digest"}
    assert set(result) == {*about_run, *scores, f"val_{main}", "macs", "params"}
    assert all(0 <= result[name] <= 1 for name in scores if name != "loss")
    names = {"ap": "box AP", "ap50": "box AP50", "ap75": "box AP75", "miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
    for name in scores:
        assert name == "loss" or f"test {names[name]}  " in table
    assert f"validation {names[main]}  " in table
    assert f"{result['macs']:,}" in table
    lines = [line for line in table.splitlines() if set(line) != {"-", " "} and not line.startswith("weights")]
    assert max(map(len, lines)) <= 80
    records = read_metrics(tmp_path / "run")
    common = {"step", "epoch", "loss", "lr", "dropped_steps", "skipped_images"}
    common |= set() if is_detector(head) else {"pixel_accuracy"}
    validation = {f"val_{name}" for name in scores}
    assert [set(record) for record in records] == [common, common | validation, common | validation]
    assert [record["step"] for record in records] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert records[-1]["loss"] < records[0]["loss"]
    assert load_config(tmp_path / "run" / "config.yaml") == cfg
    # the file is the network that was tested
    model = nas.load(tmp_path / "run")
    assert list(model.classes) == [*([] if is_detector(head) else ["background"]), *"0123456789"]
    trainer = dense_trainer(head, scenes, *options)
    assert {name: result[name] for name in scores} == model.task.evaluate(model.network, trainer.test.epoch())
    # and what tools/test_net.py tests
    tested = run_test(dense_cfg(head, scenes, tmp_path, "MODEL.WEIGHTS", str(tmp_path / "run" / "model.safetensors")))
    for name in scores:
        assert re.search(rf"{names.get(name, {'loss': 'cross-entropy'}.get(name, name))} +{result[name]:.4f}\n", tested)
    assert f"{result['macs']:,}" in tested
    other = dense_cfg(
        "lraspp" if head != "lraspp" else "ssdlite", scenes, tmp_path, "MODEL.WEIGHTS", str(tmp_path / "run" / "model.safetensors")
    )
    with pytest.raises(WeightsError, match=f"the weights of {head}, and HEAD.NAME is (ssdlite|lraspp)"):
        run_test(other)


@pytest.mark.parametrize("head", HEADS)
def test_costs_are_those_of_the_network(scenes, head):
    trainer = dense_trainer(head, scenes)
    assert trainer.cost == (count_detector if is_detector(head) else nas.count)(trainer.network, 64)
    assert trainer.cost.params == sum(parameter.numel() for parameter in trainer.network.parameters())


def learn_by_heart(trainer, rates):
    """Many steps on one batch, then the statistics of its images themselves; the scores on the validation images."""
    (batch,) = trainer.loader.epoch()
    for step, rate in enumerate(rates):
        for group in trainer.stepper.optimizer.param_groups:
            group["lr"] = rate
        outcome = trainer.stepper.step([batch], 1, lambda one, n, step=step: trainer.loss(one, (0, step, n)), list)
        assert outcome.term is None
    trainer.network.train()
    with torch.no_grad():
        for _ in range(40):
            trainer.network(*(batch if trainer.task.kind == "detection" else batch[:1]))
    return trainer.task.evaluate(trainer.result, trainer.val.epoch())


def of_two_images(cfg):
    data = build_data(cfg)
    return trainer_of(cfg, dense_arch(16), data=type(data)(data.train.head(2), data.train.head(2), data.train.head(2), data.classes))


def test_a_detector_learns_an_image_by_heart(scenes):
    """So that boxes, labels and scores mean to the loss what they mean to the average precision."""
    options = ["TRAIN.LR", "0.1", "TRAIN.BATCH_SIZE", "2", "TRAIN.WEIGHT_DECAY", "0", "TRAIN.CLIP_GRAD", "5"]
    trainer = of_two_images(dense_cfg("ssdlite", scenes, scenes, *options))
    assert learn_by_heart(trainer, [0.1] * 90 + [0.01] * 30)["ap50"] > 0.9


def test_a_segmenter_learns_an_image_by_heart(scenes):
    options = ["TRAIN.BATCH_SIZE", "2", "HEAD.LOW_STRIDE", "4", "TRAIN.WEIGHT_DECAY", "0"]
    trainer = of_two_images(dense_cfg("lraspp", scenes, scenes, *options))
    assert learn_by_heart(trainer, [0.2] * 80 + [0.02] * 20)["miou"] > 0.7


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
    trainer = dense_trainer("ssdlite", scenes)
    source = trainer.data.test.source
    oracle = Oracle(source).train()
    expected = average_precision(source.labels, list(oracle.known.values()), trainer.data.classes)
    assert 0.1 < expected["ap75"] < expected["ap50"] < 0.9
    assert trainer.task.evaluate(oracle, trainer.test.epoch()) == pytest.approx(expected, abs=1e-9)
    assert oracle.training  # as it was


def test_mean_iou_of_a_segmenter_by_hand(scenes):
    trainer = dense_trainer(
        "lraspp", scenes, "HEAD.LOW_STRIDE", "4", label_size=128
    )  # logits are resized to masks that are larger than the images
    source = trainer.data.test.source
    transform = MaskTransform(trainer.recipe.data, 64, 128, train=False)
    confusion, loss, network = Confusion(11), 0.0, trainer.network.eval()
    for path, target in zip(source.images, source.labels, strict=True):
        with Image.open(path) as image, torch.no_grad():
            pixels, mask = transform(image.convert("RGB"), target)
            logits = torch.nn.functional.interpolate(network(pixels[None])["out"], (128, 128), mode="bilinear", align_corners=False)
        confusion.update(logits.argmax(1), mask[None])
        loss += torch.nn.functional.cross_entropy(logits, mask[None], ignore_index=255).item() / len(source.images)
    expected = {"loss": loss, "pixel_accuracy": confusion.pixel_accuracy(), "miou": confusion.miou()}
    assert trainer.task.evaluate(network, trainer.test.epoch()) == pytest.approx(expected, abs=1e-5)
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
    trainer = dense_trainer(head, scenes)
    split = trainer.data.train.head(7)  # one has more than the other
    network = Oracle(split.source) if is_detector(head) else trainer.network
    cfg = dense_cfg(head, scenes, scenes)
    one = trainer.task.evaluate(network, build_loader(cfg, split, 64, 4, False).epoch())
    other, parts = None, []
    for rank in (1, 0):
        runtime = TwoProcesses(trainer.runtime, other)
        parts.append(trainer.task.evaluate(network, build_loader(cfg, split, 64, 4, False, shard=(rank, 2)).epoch(), runtime))
        other = runtime.mine
    alone, both = parts
    assert both == pytest.approx(one, abs=1e-6)
    assert alone != pytest.approx(one, abs=1e-3)


def test_nothing_that_counts_is_no_error():
    runtime = runtime_of(quick_cfg("x"))
    network = nas.build_segmenter("lraspp", dense_arch(), 3)
    images, masks = torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), 255)
    evaluate = Segmentation(tuple("abc")).evaluate
    scores = evaluate(network, [(images, masks)], runtime)
    assert scores == {"loss": 0.0, "pixel_accuracy": 0.0, "miou": 0.0}
    assert evaluate(network, [], runtime) == scores


@pytest.mark.parametrize("head", ["faster_rcnn", "retinanet", "ssdlite"])
def test_images_without_objects_train_and_test(own, head):
    def clear(document):
        document["annotations"] = document["annotations"][:1]

    for split in ("train", "test"):
        edit_annotations(own, split, clear)
    result = train_dense(dense_cfg(head, own, own / "run", "TRAIN.EPOCHS", "1", "DATA.AUGMENT", "crop"), own / "run")
    assert result["finished"]
