"""The network that ships with the library: without a connection, and as accurate as its card says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from helpers import data_of_cfg as build_data
from helpers import loader_of_cfg as build_loader

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "zoo" / "Digits.yaml"


def test_accuracy_on_the_held_out_digits(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(tmp_path / "nothing"))
    network = nas.fbnet_builder("Digits", pretrained=True).eval()
    cfg, card = load_config(CONFIG), nas.get_card("Digits")
    loader = build_loader(cfg, build_data(cfg).test, card.input_size, 64, train=False)
    with torch.inference_mode():
        right = torch.cat([network(images).argmax(dim=1) == labels for images, labels in loader.epoch()])
    assert len(right) == 360
    assert right.sum().item() / 3.6 == pytest.approx(card.published.top1, abs=0.3)  # one digit, for other machines' rounding
    assert card.published.top1 > 95
    assert not (tmp_path / "nothing").exists()


def test_the_config_takes_the_shipped_weights():
    network = nas.load("pretrained", load_config(CONFIG).MODEL.ARCH).network
    shipped = nas.fbnet_builder("Digits", pretrained=True).state_dict()
    assert all(torch.equal(shipped[key], value) for key, value in network.state_dict().items())
    assert nas.get_card("Digits").name in nas.list_models(pretrained=True)


@pytest.mark.parametrize("name", ["Digits", "CIFAR10_1.5M", "CIFAR10_6M"])
def test_the_file_is_small(name):
    assert (ROOT / "model_zoo" / "weights" / f"{name}.safetensors").stat().st_size < 1_000_000


@pytest.mark.parametrize(("name", "target"), [("CIFAR10_1.5M", 1.5e6), ("CIFAR10_6M", 6e6)])
def test_the_network_for_photographs_is_that_of_its_log(name, target, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(tmp_path / "nothing"))
    model, card = nas.load(name), nas.get_card(name)
    log = (ROOT / "model_zoo" / "weights" / f"{name}.log").read_text()
    told = dict(re.findall(r"^(test top-1|test top-5|MACs|parameters) +([\d.,]+)$", log, re.MULTILINE))
    cost = model.count()
    assert (told["MACs"], told["parameters"]) == (f"{cost.macs:,}", f"{cost.params:,}")
    assert (float(told["test top-1"]), float(told["test top-5"])) == pytest.approx((card.published.top1 / 100, card.published.top5 / 100))
    saved = nas.load(ROOT / "model_zoo" / "weights" / f"{name}.safetensors")  # the file says all of itself
    assert (saved.arch, saved.classes) == (model.arch, model.classes)
    assert saved.transform.to_dict() == model.transform.to_dict()
    assert abs(cost.macs / target - 1) <= 0.05
    cfg = load_config(ROOT / "configs" / "zoo" / f"{name}.yaml", ["DATA.ROOT", str(tmp_path)])
    assert (list(card.mean), list(card.std)) == (cfg.DATA.MEAN, cfg.DATA.STD)


def test_labels_of_a_card_are_of_its_own_weights(tmp_path):
    assert nas.load("CIFAR10_1.5M").classes[8] == "ship"
    torch.save(nas.fbnet_builder("CIFAR10_1.5M").state_dict(), tmp_path / "mine.pth")
    assert nas.load(tmp_path / "mine.pth", "CIFAR10_1.5M").classes == tuple("0123456789")  # who knows of what


def test_predict_reads_a_digit_from_a_file(tmp_path, capsys):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    spec = importlib.util.spec_from_file_location("predict", ROOT / "tools" / "predict.py")
    predict = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(predict)
    found = []
    for index in range(20):
        Image.fromarray((digits.images[index] * 255 / 16).astype("uint8")).save(tmp_path / "digit.png")
        assert predict.main([str(tmp_path / "digit.png"), "--model", "Digits"]) == 0
        lines = capsys.readouterr().out.splitlines()
        lines = lines[2:]  # after the header
        assert len(lines) == 5
        found.append(int(lines[0].split()[0]))
    assert sum(a == b for a, b in zip(found, digits.target.tolist())) >= 19
