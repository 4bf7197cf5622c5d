import itertools
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import ROOT, StopAfter, digests, image_folder, quick_cfg, read_metrics, run_tool, run_training, runtime_of, tiny_arch, train
from helpers import data_of_cfg as build_data
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import train_options
from mobile_cv_nas.config import load_config
from mobile_cv_nas.engine.step import Stepper
from mobile_cv_nas.tasks.classification import Classification
from mobile_cv_nas.training.optim import build_average, build_optimizer, learning_rate
from mobile_cv_nas.weights.file import load_weights

STEPS = 1257 // 128  # an epoch of quick_cfg


# -- results ------------------------------------------------------------------------------------------


def test_training_learns_and_leaves_a_complete_folder(tmp_path):
    cfg = quick_cfg(tmp_path, "TRAIN.EPOCHS", "12", "TRAIN.BATCH_SIZE", "64", "TRAIN.EVAL_EVERY", "5")
    result = train(cfg, tiny_arch(), tmp_path)
    assert result["finished"]
    assert result["top1"] > 0.9
    assert result["top1"] <= result["top5"] <= 1
    cost = nas.count(nas.build_model(tiny_arch(), 10), 8)
    assert (result["macs"], result["params"]) == (cost.macs, cost.params)
    assert nas.ArchDef.load(tmp_path / "arch.yaml") == tiny_arch()
    saved = json.loads((tmp_path / "result.json").read_text())
    assert {key: value for key, value in result.items() if key != "weights"}.items() <= saved.items()
    records = read_metrics(tmp_path)
    assert [record["epoch"] for record in records] == list(range(1, 13))
    assert [record["epoch"] for record in records if "val_top1" in record] == [5, 10, 12]
    assert records[-1]["loss"] < 0.5 < records[0]["loss"]
    assert load_weights(result["weights"])[1]["classes"] == list("0123456789")
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.value for e in board.Scalars("loss")] == pytest.approx([record["loss"] for record in records])
    # the file is the network that was tested
    tested = run_tool("test_net", "MODEL.WEIGHTS", result["weights"], "RUNTIME.DEVICE", "cpu")
    assert f"{result['top1']:.4f}" in tested.stdout
    assert f"{cost.macs:,}" in tested.stdout
    assert max(map(len, tested.stdout.splitlines())) <= 80


def test_same_seed_same_result_and_another_seed_another(tmp_path):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        (tmp_path / name).mkdir()
        train(quick_cfg(tmp_path / name, "SEED", seed, "DATA.AUGMENT", "affine"), tiny_arch(), tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")[0] != digests(tmp_path / "c")[0]


OPTIONS = {
    "rmsprop": ["TRAIN.OPTIMIZER", "rmsprop", "TRAIN.LR", "0.01"],
    "nesterov, warm-up, smoothing, clip": [
        "TRAIN.NESTEROV", "true", "TRAIN.WARMUP_EPOCHS", "0.5", "TRAIN.LABEL_SMOOTHING", "0.1", "TRAIN.CLIP_GRAD", "1",
    ],
    "average": ["TRAIN.EMA_DECAY", "0.99"],
    "mixup": ["DATA.MIXUP", "0.2"],
    "accumulate": ["RUNTIME.ACCUMULATE", "4"],
    "bf16": ["RUNTIME.PRECISION", "bf16"],
    "channels last": ["RUNTIME.CHANNELS_LAST", "true"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_changes_the_result_and_resumes(tmp_path, name):
    folders = [tmp_path / part for part in ("plain", "whole", "parts")]
    for folder in folders:
        folder.mkdir()
    train(quick_cfg(folders[0]), tiny_arch(), folders[0])
    cfg = quick_cfg(folders[1], *OPTIONS[name])
    assert train(cfg, tiny_arch(), folders[1])["finished"]
    if name != "channels last":  # which is the same arithmetic, and may give the same bits
        assert digests(folders[0])[0] != digests(folders[1])[0]
    stopped = train(cfg, tiny_arch(), folders[2], stop=StopAfter(6))
    assert stopped == {"finished": False, "folder": str(folders[2])}
    assert not (folders[2] / "result.json").exists()
    assert train(cfg, tiny_arch(), folders[2], resume=True)["finished"]
    assert digests(folders[1]) == digests(folders[2])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_is_the_same_network(tmp_path):
    results = []
    arch = nas.ArchDef.parse({"input_size": 8, "stages": [[["conv_k3", 8, 2, 1]]]})
    for flag in ("false", "true"):
        folder = tmp_path / flag
        folder.mkdir()
        cfg = quick_cfg(folder, "TRAIN.EPOCHS", "1", "TRAIN.LR", "0.01", "RUNTIME.COMPILE", flag)
        data = build_data(cfg)
        small = type(data)(data.train.head(256), data.val.head(64), data.test.head(64), data.classes)
        train(cfg, arch, folder, data=small)
        results.append(load_weights(folder / "model.safetensors")[0])
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-4) for name in results[0])


# -- parts --------------------------------------------------------------------------------------------


def test_learning_rate_rises_then_follows_a_cosine():
    cfg = quick_cfg("x", "TRAIN.EPOCHS", "10", "TRAIN.LR", "0.4", "TRAIN.WARMUP_EPOCHS", "2")
    rates = [learning_rate(train_options(cfg), step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.4 * (step + 1) / 10 for step in range(10)])
    assert rates[10] == 0.4
    assert rates[30] == pytest.approx(0.2)
    assert 0 < rates[49] < 0.001
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_the_average_is_the_exponential_one():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = build_average(model, 0.9)
    slow = None
    for n in range(30):
        with torch.no_grad():
            for value in (*model.parameters(), model[1].running_mean):
                value.copy_(torch.randn(value.shape))
            model[1].num_batches_tracked += 1
        average.update_parameters(model)
        current = [model[0].weight.detach().clone(), model[1].running_mean.clone()]
        decay = min(0.9, (1 + n) / (10 + n))
        slow = current if slow is None else [s * decay + c * (1 - decay) for s, c in zip(slow, current, strict=True)]
    assert torch.allclose(average.module[0].weight, slow[0], atol=1e-6)
    assert torch.allclose(average.module[1].running_mean, slow[1], atol=1e-6)
    assert average.module[1].num_batches_tracked == 30


def test_accumulation_and_clipping_are_exact():
    """A step over two halves has the gradient of the whole, and its norm is cut to the limit. Without norms: they see halves."""
    images, labels = torch.randn(8, 3, 8, 8), torch.randint(5, (8,))
    networks = []
    for parts in (1, 2):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
        before = network[1].weight.detach().clone()
        cfg = quick_cfg("x", "TRAIN.MOMENTUM", "0", "TRAIN.WEIGHT_DECAY", "0", "TRAIN.CLIP_GRAD", "0.01")
        options, runtime, task = train_options(cfg), runtime_of(cfg), Classification(tuple("abcde"))
        optimizer = build_optimizer(network, replace(options, lr=1.0))
        stepper = Stepper(dict(network.named_parameters()), optimizer, network, runtime, options.clip_grad)
        batches = list(zip(images.chunk(parts), labels.chunk(parts), strict=True))
        outcome = stepper.step(
            batches,
            parts,
            lambda batch, n, task=task, network=network, runtime=runtime: task.loss(network, batch, (0, 0, n), runtime),
            lambda: [True, False],
        )
        assert outcome.flags == [1.0, 0.0]
        assert outcome.sums["images"] == 8
        networks.append(network)
        moved = math.hypot((network[1].weight - before).norm().item(), network[1].bias.grad.norm().item())
        assert moved == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(networks[0][1].weight, networks[1][1].weight, atol=1e-6)


# -- starting from weights, files of images ------------------------------------------------------------


def test_inherited_weights_are_the_start(tmp_path):
    image_folder(tmp_path / "images", {"a": 20, "b": 20})
    first = train(quick_cfg(tmp_path), tiny_arch(), tmp_path)
    options = ["DATA.DATASET", "imagefolder", "DATA.ROOT", str(tmp_path / "images"), "DATA.AUGMENT", "crop"]
    options += ["MODEL.WEIGHTS", first["weights"], "TRAIN.INIT", "inherit", "TRAIN.LR", "1e-9", "TRAIN.BATCH_SIZE", "8"]
    cfg = quick_cfg(tmp_path / "second", *options, "DATA.WORKERS", "0", "TRAIN.WEIGHT_DECAY", "0")
    assert "weights" in run_training(cfg)
    old, new = (load_weights(folder / "model.safetensors")[0] for folder in (tmp_path, tmp_path / "second"))
    for name in old:  # at a rate of nothing, the weights stay
        if name.startswith("classifier"):
            assert len(new[name]) == 2
        elif "running" not in name and "num_batches" not in name:
            assert torch.allclose(old[name], new[name], atol=1e-6), name


def test_the_imagenet_recipe_runs_on_a_small_folder(tmp_path):
    names = [f"{part}/c{i}" for part in ("train", "val") for i in range(3)]
    image_folder(tmp_path / "images", dict.fromkeys(names, 4), size=40)
    (tmp_path / "images" / "train" / "c0" / "bad.png").write_bytes(b"")
    options = {
        "MODEL.ARCH": "FBNetV2_F1", "OUTPUT_DIR": str(tmp_path / "out"), "DATA.ROOT": str(tmp_path / "images"),
        "DATA.DATASET": "imagefolder", "DATA.WORKERS": "1", "DATA.MAX_SKIPPED_SHARE": "0.1", "TRAIN.BATCH_SIZE": "4",
        "TRAIN.EPOCHS": "1", "TRAIN.WARMUP_EPOCHS": "0.5", "TEST.BATCH_SIZE": "4", "RUNTIME.DEVICE": "cpu",
    }  # fmt: skip
    pairs = [text for pair in options.items() for text in pair]
    table = run_training(load_config(ROOT / "configs" / "train" / "fbnetv2_imagenet.yaml", pairs))
    assert "skipped images    1" in table
    (record,) = read_metrics(tmp_path / "out")
    assert (record["step"], record["skipped_images"]) == (3, 1)
