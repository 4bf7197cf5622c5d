import copy
import random

import pytest
import torch
from helpers import ROOT, quick_cfg, runtime_of, tiny_arch
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.commands.test_net import images_per_second
from mobile_cv_nas.networks.recalibrate import recalibrate_batchnorm
from mobile_cv_nas.report.network import summarize
from mobile_cv_nas.report.test import Examination
from mobile_cv_nas.tasks.classification import Classification
from mobile_cv_nas.tasks.task import evaluating

evaluate = Classification(tuple("abcdefghij")).evaluate


class Constant(nn.Module):
    """Returns the images as logits."""

    def forward(self, x):
        return x


def test_scores_count_what_is_right():
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3], [1, 2, 3, 4, 5, 6, 7], [0, 0, 9, 0, 0, 0, 1], [7, 6, 5, 4, 3, 2, 1]])
    labels = torch.tensor([0, 2, 6, 6])  # right; third from below, so among the best five; second; last
    score = evaluate(Constant(), [(logits[:3], labels[:3]), (logits[3:], labels[3:])])
    assert (score["top1"], score["top5"]) == (0.25, 0.75)
    slow = [-(row.exp() / row.exp().sum())[label].log().item() for row, label in zip(logits, labels, strict=True)]
    assert score["loss"] == pytest.approx(sum(slow) / 4, rel=1e-5)


@pytest.mark.parametrize(("classes", "names"), [("abcde", {"loss", "top1"}), ("abcdef", {"loss", "top1", "top5"})])
def test_top5_of_five_classes_is_none(classes, names):
    count = len(classes)
    assert set(Classification(tuple(classes)).evaluate(Constant(), [(torch.eye(count), torch.arange(count))])) == names


def test_the_runtime_changes_no_score():
    images, labels = torch.randn(20, 7), torch.randint(7, (20,))
    runtime = runtime_of(quick_cfg("x"))
    assert evaluate(Constant(), [(images, labels)], runtime) == evaluate(Constant(), [(images, labels)])


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(training):
    model = nas.build_model(tiny_arch(), 10).train(training)
    next(model.children()).train(not training)  # as with frozen norms
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    batch = [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))]
    evaluate(model, batch)
    assert images_per_second(model, (4, 3, 8, 8), runtime_of(quick_cfg("x")), seconds=0.01) > 0
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_images_there_is_no_score():
    with pytest.raises(ValueError, match="no images"):
        evaluate(Constant(), [])


def test_recalibrated_statistics_are_those_of_the_data():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)).eval()
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.running_mean.fill_(50.0)
            norm.running_var.fill_(0.01)
    batches = [torch.randn(16, 3, 8, 8) * 2 + 1 for _ in range(3)]
    recalibrate_batchnorm(model, batches)
    with torch.no_grad():  # the first norm, straight from the definition
        maps = [model[0](images) for images in batches]
        mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
        variance = torch.stack([m.var((0, 2, 3), unbiased=True) for m in maps]).mean(0)
    assert torch.allclose(model[1].running_mean, mean, atol=1e-5)
    assert torch.allclose(model[1].running_var, variance, rtol=1e-5)
    assert model[4].running_mean.abs().max() < 5  # the second was renewed too
    assert not model.training
    assert [model[1].momentum, model[4].momentum] == [0.1, 0.1]


def test_a_summary_adds_up_to_what_fvcore_counts():
    space = nas.SearchSpace.load(ROOT / "configs" / "spaces" / "digits.yaml")
    for seed in range(5):
        arch = space.sample(random.Random(seed))
        summary = summarize(arch, num_classes=10)
        model = nas.build_model(arch, 10)
        assert summary.total == nas.count(model, arch.input_size)
        assert sum(row.cost.macs for row in summary.rows) == summary.total.macs
        for row, (name, block) in zip(summary.rows, model.blocks.named_children(), strict=False):
            assert row.key == name
            assert row.cost.params == sum(p.numel() for p in block.parameters())
        x = torch.zeros(1, 3, arch.input_size, arch.input_size)
        for row, block in zip(summary.rows, model.eval().blocks, strict=False):
            x = block(x)
            assert row.output == tuple(x.shape[1:])


def test_a_summary_fits_a_terminal():
    text = str(summarize(nas.get_arch("FBNetV2_F4")))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == ["total", "238,351,984", "7,022,880"]


def test_a_formula_that_is_wrong_is_found(monkeypatch):
    layer_type = type(tiny_arch().layers[0])
    monkeypatch.setattr(layer_type, "cost", lambda *args: nas.Cost(1, 1))
    with pytest.raises(RuntimeError, match="fvcore counts"):
        summarize(tiny_arch(), 10)


def test_class_255_of_many_is_a_class():
    """255 is what masks have where nothing counts; of images it is the 256th class."""
    classes = tuple(f"c{i}" for i in range(300))
    labels = torch.arange(300)
    guess = torch.where(labels == 7, 255, labels)
    kept = Examination()
    Classification(classes).evaluate(Constant(), [(nn.functional.one_hot(guess, 300).float(), labels)], kept=kept)
    assert kept.per_class == {name: float(name != "c7") for name in classes}
    assert int(kept.confusion.sum()) == 300
    assert kept.confusion[7, 255] == kept.confusion[255, 255] == 1


def test_after_an_evaluation_every_module_is_in_the_mode_it_was_in():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).train()
    model[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, False, True]
