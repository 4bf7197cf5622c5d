"""The network that ships with the library: without a connection, and as accurate as its card says."""

from __future__ import annotations

import importlib.util
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


def test_the_file_is_small():
    assert (ROOT / "model_zoo" / "weights" / "Digits.safetensors").stat().st_size < 1_000_000


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
