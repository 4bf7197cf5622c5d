"""The loss of a training: weights of classes, smoothing, shares of classes, and a loss of one's own."""

import json

import pytest
import torch
import torch.nn.functional as F
from helpers import StopAfter, quick_cfg, tiny_arch, train
from torch.utils.data import TensorDataset

import mobile_cv_nas as nas
from mobile_cv_nas.data import DataOptions
from mobile_cv_nas.data.data_set import Data, Source, Split
from mobile_cv_nas.engine.checkpoint import CheckpointError, load_latest
from mobile_cv_nas.engine.loop import NotFinite
from mobile_cv_nas.engine.runtime import RuntimeOptions
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.tasks.build import make_task
from mobile_cv_nas.tasks.options import HeadOptions
from mobile_cv_nas.tasks.task import LossOptions
from mobile_cv_nas.training.losses import class_weights
from mobile_cv_nas.training.options import Recipe
from mobile_cv_nas.training.trainer import EXPORTS


def split(labels):
    return Split.whole(Source([""] * len(labels), labels))


def criterion(smoothing, weights):
    return make_task(("common", "rare"), HeadOptions(), (0.5,), (0.5,), LossOptions(smoothing, 0.0, weights))._criterion


LABELS = [0] * 60 + [1] * 4
LOGITS = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))


def test_weights_are_inverse_to_the_images_and_1_on_average():
    data = Data(split(LABELS), split(LABELS), None, ("common", "rare", "none"))
    weights = class_weights(data, "balanced")
    assert weights == pytest.approx((64 / 120, 64 / 8, 0))
    assert sum(weights[label] for label in LABELS) == pytest.approx(64)
    assert class_weights(data, "none") == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_image_has_the_weight_of_its_class(smoothing):
    labels, weights = torch.tensor(LABELS), (64 / 120, 64 / 8)
    loss = criterion(smoothing, weights)
    target = F.one_hot(labels, 2) * (1 - smoothing) + smoothing / 2
    each = -(target * LOGITS.log_softmax(1)).sum(1)
    expected = sum(weights[label] * float(value) for label, value in zip(LABELS, each)) / 64
    assert float(loss(LOGITS, labels)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(LOGITS, F.one_hot(labels, 2).float())) == pytest.approx(expected, rel=1e-5)  # as MixUp gives them
    parts = [float(loss(LOGITS[i::8], labels[i::8])) for i in range(8)]
    assert sum(parts) / 8 == pytest.approx(expected, rel=1e-5)  # a step in parts is the same step


def test_smoothing_keeps_the_rare_class_rare():
    """Where both weigh alike, the best guess for an image of the common class is the common class."""
    best = torch.zeros(2, 2, requires_grad=True)
    labels = torch.tensor([0] * 99 + [1])
    loss, optimizer = criterion(0.1, (100 / 198, 100 / 2)), torch.optim.SGD([best], 0.5)
    for _ in range(300):
        optimizer.zero_grad()
        loss(best[labels], labels).backward()
        optimizer.step()
    assert torch.allclose(best.detach().softmax(1), torch.tensor([[0.95, 0.05], [0.05, 0.95]]), atol=0.01)


def images(count=64):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 2)


def run(folder, epochs=2, **more):
    recipe = Recipe(data=DataOptions(workers=0), runtime=RuntimeOptions(device="cpu"))
    return nas.train(tiny_arch(), images(), images(32), output=folder, recipe=recipe, epochs=epochs, batch_size=32, lr=0.05, **more)


def test_a_resumed_run_needs_its_own_loss(tmp_path):
    def own(logits, labels):
        return 3 * F.cross_entropy(logits, labels)

    run(tmp_path / "own", 1, loss=own)
    with pytest.raises(CheckpointError, match="a loss of one's own was True and is False"):
        run(tmp_path / "own", 2, resume=True)
    assert run(tmp_path / "own", 2, resume=True, loss=own).finished
    run(tmp_path / "plain", 1)
    with pytest.raises(CheckpointError, match="a loss of one's own was False and is True"):
        run(tmp_path / "plain", 2, resume=True, loss=own)


def test_a_checkpoint_that_does_not_say_goes_on_with_either(tmp_path, monkeypatch):
    """Those of before did not."""

    def old(folder):
        state = load_latest(folder)
        del state["mark"]["a loss of one's own"]
        return state

    run(tmp_path, 1)
    monkeypatch.setattr("mobile_cv_nas.engine.loop.load_latest", old)
    assert run(tmp_path, 2, resume=True, loss=F.cross_entropy).finished


@pytest.mark.parametrize(
    ("head", "given", "name"),
    [
        ("ssdlite", {"loss": lambda *_: 0}, "loss"),
        ("ssdlite", {"label_smoothing": 0.1}, "label_smoothing"),
        ("ssdlite", {"mixup": 0.2}, "mixup"),
        ("lraspp", {"mixup": 0.2}, "mixup"),
    ],
)
def test_what_a_loss_does_not_take_is_refused(tmp_path, head, given, name):
    mask = torch.arange(64).view(8, 8) % 2
    target = {"boxes": [[0, 0, 4, 4.0]], "labels": [1]} if head == "ssdlite" else mask
    data = [(torch.rand(3, 8, 8), target)] * 4
    recipe = Recipe(data=DataOptions(workers=0, mixup=given.pop("mixup", 0.0)), head=HeadOptions(head))
    with pytest.raises(InputError, match=f"{name}: not of {'detection' if head == 'ssdlite' else 'segmentation'}, whose loss has none"):
        nas.train(tiny_arch(), data, data, output=tmp_path, recipe=recipe, classes=["a", "b"], **given)


def test_an_epoch_without_one_good_step_is_no_epoch(tmp_path):
    with pytest.raises(NotFinite, match=r"epoch 1: all 2 steps of the training were dropped, since none was finite; .* a lower TRAIN\.LR"):
        run(tmp_path, 1, on_nan="skip", loss=lambda logits, _: logits.sum() * float("nan"))
    assert not (tmp_path / "result.json").exists()


def test_exports_of_the_shorter_run_go_with_its_weights(tmp_path):
    train(quick_cfg(tmp_path, "TRAIN.EPOCHS", "1"), tiny_arch(), tmp_path)
    for name in EXPORTS:
        (tmp_path / name).write_text("old")
    longer = quick_cfg(tmp_path, "TRAIN.EPOCHS", "2")
    assert not train(longer, tiny_arch(), tmp_path, resume=True, stop=StopAfter(3))["finished"]
    assert all((tmp_path / name).exists() for name in EXPORTS)  # they are of the weights that are there
    train(longer, tiny_arch(), tmp_path, resume=True)
    assert not any((tmp_path / name).exists() for name in EXPORTS)
    (tmp_path / EXPORTS[1]).write_text("new")
    train(longer, tiny_arch(), tmp_path, resume=True)
    assert (tmp_path / EXPORTS[1]).exists()  # nothing was left to train
    assert json.loads((tmp_path / "result.json").read_text())["finished"]
