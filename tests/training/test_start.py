"""What a model brings to a test and to a fine-tuning: mean, std, resize and classes by name; a key that says otherwise counts."""

import logging
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from helpers import quick_cfg, run_tool, run_training, tiny_arch
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.commands.test_net import test_from as score_of
from mobile_cv_nas.config import dump_config, given_keys, load_config
from mobile_cv_nas.configs import config_path
from mobile_cv_nas.data.data_set import Data, Source, Split
from mobile_cv_nas.tasks.load import imagenet_words
from mobile_cv_nas.training.start import in_order, starting_state
from mobile_cv_nas.weights.file import WeightsError

OWN = ["DATA.MEAN", "[0.2, 0.3, 0.4]", "DATA.STD", "[0.1, 0.2, 0.3]", "DATA.CROP_RATIO", "0.7", "DATA.INTERPOLATION", "bicubic"]
TUNED = ["TRAIN.INIT", "inherit", "TRAIN.EPOCHS", "1", "TRAIN.LR", "1e-9", "TRAIN.BATCH_SIZE", "16", "TRAIN.WEIGHT_DECAY", "0"]


def folder_of(root, names, seed=0):
    rng = np.random.default_rng(seed)
    for part, count in (("train", 40), ("val", 10), ("test", 20)):
        for name, level in names.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 60, (14, 17, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def data(root):
    return ["DATA.DATASET", "imagefolder", "DATA.ROOT", str(root), "DATA.WORKERS", "0"]


@pytest.fixture(autouse=True)
def _no_speed(monkeypatch):
    """The speed of the network, which takes seconds to measure, is not what these tests are of."""
    monkeypatch.setattr("mobile_cv_nas.commands.test_net.images_per_second", lambda *_: 1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of images, its training under a recipe that is nobody's default, and the score on the test images."""
    folder = tmp_path_factory.mktemp("start")
    folder_of(folder / "images", {"dark": 90, "light": 150})
    run_training(quick_cfg(folder / "run", *data(folder / "images"), *OWN, "MODEL.ARCH", str(arch_file(folder)), "TRAIN.BATCH_SIZE", "16"))
    top1 = float(run_tool("test_net", str(folder / "run")).stdout.split("top-1")[1].split()[0])
    return folder, top1


def arch_file(folder):
    tiny_arch().save(folder / "arch.yaml")
    return folder / "arch.yaml"


def test_a_test_needs_the_folder_only(made, tmp_path):
    folder, top1 = made
    for source in ("run", "run/model.safetensors"):
        done = run_tool("test_net", source, "RUNTIME.DEVICE", "cpu", cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{top1:.4f}" in done.stdout
    shutil.copy(folder / "run" / "model.safetensors", tmp_path / "w.safetensors")  # without its configuration: the data must be named
    done = run_tool("test_net", str(tmp_path / "w.safetensors"), *data(folder / "images"))
    assert f"{top1:.4f}" in done.stdout
    missing = run_tool("test_net", str(tmp_path / "nothing"))
    assert (missing.returncode, "no such file or folder" in missing.stderr) == (2, True)


def test_a_key_counts_and_is_told_of(made, caplog):
    folder, top1 = made
    with caplog.at_level(logging.WARNING):
        done = run_tool("test_net", str(folder / "run"), "DATA.MEAN", "[0.9, 0.9, 0.9]")
    assert "DATA.MEAN: (0.9, 0.9, 0.9), as set" in caplog.text
    assert "(0.2, 0.3, 0.4)" in caplog.text
    assert "DATA.STD" not in caplog.text
    assert f"{top1:.4f}" not in done.stdout.split("MACs")[0]


def test_fine_tuning_prepares_images_as_the_model_did(made, tmp_path, caplog):
    """At a rate of nothing the score stays, and the new folder says what was used."""
    folder, _ = made
    cfg = quick_cfg(tmp_path, *data(folder / "images"), "MODEL.WEIGHTS", str(folder / "run"), *TUNED)
    with caplog.at_level(logging.WARNING):
        run_training(cfg)
    assert not caplog.records
    used = load_config(tmp_path / "config.yaml")
    assert (used.DATA.MEAN, used.DATA.STD, used.DATA.INTERPOLATION) == ([0.2, 0.3, 0.4], [0.1, 0.2, 0.3], "bicubic")
    first, second = nas.load(folder / "run"), nas.load(tmp_path)
    assert second.transform == first.transform
    assert torch.allclose(first.network.classifier.weight, second.network.classifier.weight, atol=1e-6)


def test_fine_tuning_in_python(made, tmp_path):
    folder, _ = made
    model = nas.load(folder / "run")
    result = nas.train(model, folder / "images", output=tmp_path, epochs=1, lr=1e-9, batch_size=16, weight_decay=0.0)
    assert result.model().transform == model.transform
    assert torch.allclose(result.model().network.classifier.weight, model.network.classifier.weight, atol=1e-6)


def test_classes_of_another_order_are_matched_by_name(made, tmp_path, caplog):
    folder, top1 = made
    path = tmp_path / "swapped.safetensors"
    swapped = nas.load(folder / "run")
    swapped.task = type(swapped.task)(("light", "dark"), swapped.task.head, swapped.task.mean, swapped.task.std)
    with torch.no_grad():
        for value in (swapped.network.classifier.weight, swapped.network.classifier.bias):
            value.copy_(value.flip(0))
    swapped.save(path)
    with caplog.at_level(logging.WARNING):
        done = run_tool("test_net", str(path), *data(folder / "images"))
    assert f"{top1:.4f}" in done.stdout
    assert "another order" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        run_training(quick_cfg(tmp_path / "run", *data(folder / "images"), "MODEL.WEIGHTS", str(path), *TUNED))
    assert "another order" in caplog.text
    tuned = nas.load(tmp_path / "run")
    assert tuned.classes == ("light", "dark")
    assert torch.allclose(tuned.network.classifier.weight, swapped.network.classifier.weight, atol=1e-6)


def test_other_classes_of_the_same_number_get_a_new_classifier(made, tmp_path, caplog):
    folder, _ = made
    folder_of(tmp_path / "images", {"cat": 90, "dog": 150})
    with caplog.at_level(logging.WARNING):
        run_training(quick_cfg(tmp_path / "run", *data(tmp_path / "images"), "MODEL.WEIGHTS", str(folder / "run"), *TUNED))
    assert "its classes are dark, light, not cat, dog; the classifier starts at random" in caplog.text
    old, new = nas.load(folder / "run"), nas.load(tmp_path / "run")
    assert new.classes == ("cat", "dog")
    assert not torch.allclose(new.network.classifier.weight, old.network.classifier.weight, atol=1e-3)
    name = next(iter(old.network.state_dict()))
    assert torch.allclose(new.network.state_dict()[name], old.network.state_dict()[name], atol=1e-6)
    with pytest.raises(WeightsError, match="2 classes \\(dark, light\\), but the data has 2 \\(cat, dog\\)"):
        score_of(load_config(None, [*data(tmp_path / "images"), "MODEL.WEIGHTS", str(folder / "run")], "test"))


def test_given_keys(tmp_path):
    """Those of a file and of the command line; of a complete file, such as a run leaves, those that differ from the default."""
    (tmp_path / "a.yaml").write_text("DATA: {MEAN: [0.485, 0.456, 0.406]}\n")
    assert given_keys(load_config(tmp_path / "a.yaml", ["SEED", "0"])) == {"DATA.MEAN", "SEED"}
    (tmp_path / "all.yaml").write_text(dump_config(load_config(None, ["TRAIN.EPOCHS", "3"])))
    assert given_keys(load_config(tmp_path / "all.yaml", ["SEED", "0"])) == {"TRAIN.EPOCHS", "SEED"}
    assert given_keys(load_config()) == frozenset()


def test_a_config_file_may_stand_alone(tmp_path):
    (tmp_path / "own.yaml").write_text("TRAIN: {EPOCHS: 0}\n")
    done = run_tool("train_net", "own.yaml", "SEED", "1", cwd=tmp_path)
    assert (done.returncode, "own.yaml: TRAIN.EPOCHS: 0 is not" in done.stderr) == (2, True), done.stderr
    assert "no such key" in run_tool("train_net", "own.yml.bak", "1", cwd=tmp_path).stderr


def imagenet_in_miniature(folders):
    """A data set of one image each of some classes, and a model of the zoo, untrained, with ImageNet's words."""
    images = Split.whole(Source([f"{name}.jpg" for name in folders], list(range(len(folders)))))
    model = Namespace(classes=imagenet_words(), network=torch.nn.Identity(), task=Namespace(labels="classes", in_channels=3))
    return Data(images, images, None, tuple(folders)), model


def test_the_folders_of_imagenet_are_its_words_in_the_same_order(caplog):
    """The words of the zoo's networks are those of the folders n01440764, ..., which sort as the outputs do."""
    folders = [f"n{1440764 + i:08d}" for i in range(1000)]
    data, model = imagenet_in_miniature(folders)
    with caplog.at_level(logging.WARNING):
        found = in_order(data, model, "FBNetV2_F1")
    assert "the 1000 folders of the data (n01440764, n01440765, " in caplog.text
    assert (found.classes, found.classes[0]) == (imagenet_words(), "tench")
    assert found.train.source.labels == list(range(1000))  # each image has the output that it had
    assert starting_state(data, model, "FBNetV2_F1", 3)[0].classes == imagenet_words()
    for other in (folders[:999], [*folders[:999], "tench"], folders[::-1]):  # not all of them, not only they, not in their order
        with pytest.raises(WeightsError, match="check DATA"):
            in_order(imagenet_in_miniature(other)[0], model, "FBNetV2_F1")


def test_the_configs_of_the_zoo_test_on_labelled_images():
    """ImageNet's test images have no labels; CIFAR-10's and the digits' have."""
    found = {path.stem: load_config(path, purpose="test") for path in config_path("zoo/base.yaml").parent.glob("*.yaml")}
    assert {cfg.TEST.SPLIT for cfg in found.values() if cfg.DATA.DATASET == "imagenet"} == {"val"}
    assert {name for name, cfg in found.items() if cfg.TEST.SPLIT == "test"} == {"Digits", "CIFAR10_1.5M", "CIFAR10_6M"}
