"""Training of detectors and segmenters: interruptions, faults, and weights to start from."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from dense_runs import dense_arch, dense_cfg, dense_trainer, edit_annotations, train_dense
from helpers import StopAfter, digests, quick_cfg, read_metrics, run_training
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.data import DataError
from mobile_cv_nas.engine.checkpoint import CheckpointError, load_latest
from mobile_cv_nas.engine.loop import NotFinite
from mobile_cv_nas.tasks.detection import Detection
from mobile_cv_nas.tasks.segmentation import Segmentation
from mobile_cv_nas.weights.file import WeightsError, load_weights, save_weights

STEPS = 3  # an epoch of dense_cfg


# -- faults -------------------------------------------------------------------------------------------

RESUMED = {
    "faster_rcnn": ["HEAD.INPUT_SIZE", "128", "DATA.AUGMENT", "crop", "TRAIN.EMA_DECAY", "0.9"],  # which draws the boxes to train on
    "ssdlite": ["DATA.AUGMENT", "affine", "TRAIN.CLIP_GRAD", "5"],
    "lraspp": ["DATA.AUGMENT", "affine", "TRAIN.LABEL_SMOOTHING", "0.1", "RUNTIME.ACCUMULATE", "2"],
    "deeplabv3": ["DATA.AUGMENT", "crop", "TRAIN.EMA_DECAY", "0.9"],
}


@pytest.mark.slow
@pytest.mark.parametrize("head", RESUMED)
def test_interrupted_and_resumed_is_the_same_to_the_bit(scenes, tmp_path, head):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_dense(dense_cfg(head, scenes, whole, *RESUMED[head]), whole)
    cfg = dense_cfg(head, scenes, parts, *RESUMED[head])
    assert train_dense(cfg, parts, stop=StopAfter(2)) == {"finished": False, "folder": str(parts)}
    assert not (parts / "result.json").exists()
    torch.rand(7)  # what the process drew before does not matter
    assert not train_dense(cfg, parts, resume=True, stop=StopAfter(3))["finished"]
    assert load_latest(parts / "checkpoints")["place"][0] == 1
    assert train_dense(cfg, parts, resume=True)["finished"]
    assert digests(parts) == digests(whole)
    plain = tmp_path / "plain"
    train_dense(dense_cfg(head, scenes, plain), plain)  # the options do something
    assert digests(plain)[0] != digests(whole)[0]


def test_the_boxes_to_train_on_are_drawn_by_the_step(scenes):
    task = dense_trainer("faster_rcnn", scenes, "HEAD.INPUT_SIZE", "128")
    (batch, *_) = task.loader.epoch()
    losses = []
    for key in ((0, 0, 0), (0, 1, 0), (0, 0, 0)):
        before = torch.rand(1), torch.get_rng_state()
        losses.append(task.loss(batch, key).total.item())
        assert torch.equal(torch.get_rng_state(), before[1])
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.slow
def test_reading_processes_change_nothing(scenes, tmp_path):
    for name, workers in (("none", "0"), ("one", "1")):
        cfg = dense_cfg("ssdlite", scenes, tmp_path / name, "DATA.WORKERS", workers, "DATA.AUGMENT", "crop", "TRAIN.EPOCHS", "1")
        train_dense(cfg, tmp_path / name)
    assert digests(tmp_path / "none") == digests(tmp_path / "one")


def test_a_run_does_not_go_on_as_another_head(scenes, tmp_path):
    train_dense(dense_cfg("lraspp", scenes, tmp_path), tmp_path, stop=StopAfter(2))
    for opts, reason in ((("HEAD.LOW_STRIDE", "4"), "LOW_STRIDE was 8 and is 4"), (("HEAD.INPUT_SIZE", "96"), "INPUT_SIZE was 64")):
        with pytest.raises(CheckpointError, match=reason):
            train_dense(dense_cfg("lraspp", scenes, tmp_path, *opts), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="kind was"):
        train_dense(dense_cfg("ssdlite", scenes, tmp_path), tmp_path, resume=True)


@pytest.fixture
def poison(monkeypatch):
    """`poison(n)`: in the next run the loss of the n-th training step is not finite."""

    def poison_at(when):
        calls = []
        for kind in (Detection, Segmentation):

            def loss(self, *args, real=kind.loss):
                calls.append(1)
                found = real(self, *args)
                if len(calls) != when:
                    return found
                return replace(found, total=found.total * math.nan, terms={name: value * math.nan for name, value in found.terms.items()})

            monkeypatch.setattr(kind, "loss", loss)

    yield poison_at
    monkeypatch.undo()


@pytest.mark.parametrize(("head", "term"), [("faster_rcnn", "sum of the detector's losses"), ("lraspp", "cross-entropy")])
def test_nan_stops_with_the_state_before_it_or_is_skipped(scenes, tmp_path, poison, monkeypatch, head, term):
    cfg = {name: dense_cfg(head, scenes, tmp_path / name) for name in ("clean", "run")}
    train_dense(cfg["clean"], tmp_path / "clean")
    poison(5)
    with pytest.raises(NotFinite, match=rf"epoch 2, step 2 of 3 of the training, learning rate \S+: {term} is not finite"):
        train_dense(cfg["run"], tmp_path / "run")
    monkeypatch.undo()  # the cause is gone: the run goes on as if it had never been
    train_dense(cfg["run"], tmp_path / "run", resume=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "clean")
    poison(2)
    skipping = dense_cfg(head, scenes, tmp_path / "skip", "TRAIN.ON_NAN", "skip")
    result = train_dense(skipping, tmp_path / "skip")
    assert [record["dropped_steps"] for record in read_metrics(tmp_path / "skip")] == [1, 1]
    weights, _ = load_weights(result["weights"])
    assert all(value.isfinite().all() for value in weights.values())
    counts = {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")}
    assert counts == {2 * STEPS - 1}


@pytest.mark.parametrize("head", ["ssdlite", "lraspp"])
def test_images_that_cannot_be_read_are_counted(own, tmp_path, head, caplog):
    for split in ("train", "test"):
        (own / split / "000002.png").write_bytes(b"no image")
    Image.new("RGB", (64, 128)).save(own / "val" / "000001.png")  # of another size than its annotations say
    cfg = dense_cfg(head, own, tmp_path / "run", "DATA.MAX_SKIPPED_SHARE", "0.2")
    with caplog.at_level(logging.WARNING):
        result = train_dense(cfg, tmp_path / "run")
    assert result["skipped_images"] == 3
    assert [record["skipped_images"] for record in read_metrics(tmp_path / "run")] == [2, 2]
    assert "000002.png" in caplog.text
    assert "64x128" in caplog.text
    with pytest.raises(DataError, match=r"of 24 images cannot be read, more than DATA\.MAX_SKIPPED_SHARE 0\.01"):
        train_dense(dense_cfg(head, own, tmp_path / "other"), tmp_path / "other")


# -- weights to start from ----------------------------------------------------------------------------


def body(weights, prefix=""):
    """The tensors of the blocks, less the norms' statistics."""
    names = [n for n in weights if n.startswith(f"{prefix}blocks.") and "running" not in n and "num_batches" not in n]
    return {name.removeprefix(prefix): weights[name] for name in names}


FROZEN = ["TRAIN.INIT", "inherit", "TRAIN.LR", "1e-9", "TRAIN.WEIGHT_DECAY", "0", "TRAIN.EPOCHS", "1"]


@pytest.mark.parametrize("head", ["faster_rcnn", "lraspp"])
def test_a_classifier_starts_a_head_and_a_head_itself(scenes, tmp_path, head):
    classifier = nas.build_model(dense_arch(), 7)
    save_weights(tmp_path / "classifier.safetensors", classifier.state_dict(), dense_arch())
    strides = ["HEAD.OUTPUT_STRIDE", "32"] if head == "lraspp" else ["HEAD.STRIDES", "[16, 32]"]  # all blocks are used
    options = [*FROZEN, *strides, "MODEL.WEIGHTS"]
    run_training(dense_cfg(head, scenes, tmp_path / "first", *options, str(tmp_path / "classifier.safetensors")), heads=[head])
    first = load_weights(tmp_path / "first" / "model.safetensors")[0]
    old, new = body(classifier.state_dict()), body(first, "backbone.body.")
    assert old.keys() == new.keys()
    for name in old:  # at a rate of nothing, the weights stay
        assert torch.allclose(old[name], new[name], atol=1e-6), name
    run_training(dense_cfg(head, scenes, tmp_path / "second", *options, str(tmp_path / "first" / "model.safetensors")), heads=[head])
    second = load_weights(tmp_path / "second" / "model.safetensors")[0]
    assert first.keys() == second.keys()
    for name in [n for n in first if "running" not in n and "num_batches" not in n]:
        assert torch.allclose(first[name], second[name], atol=1e-6), name


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for head in ("ssdlite", "lraspp"):
        train_dense(dense_cfg(head, scenes, folder / head, "TRAIN.EPOCHS", "1"), folder / head)
    return folder


def test_weights_of_another_head_or_of_other_classes_are_refused(own, trained, tmp_path):
    detector, segmenter = (str(trained / head / "model.safetensors") for head in ("ssdlite", "lraspp"))
    for head, weights in (("lraspp", detector), ("ssdlite", segmenter)):
        cfg = dense_cfg(head, own, tmp_path / "run", *FROZEN, "MODEL.WEIGHTS", weights)
        with pytest.raises(WeightsError, match=f"model.safetensors: the weights of .*, and HEAD.NAME is {head}"):
            run_training(cfg, heads=[head])
    cfg = quick_cfg(tmp_path / "run", "MODEL.WEIGHTS", detector, "TRAIN.INIT", "inherit")
    with pytest.raises(WeightsError, match=r"the weights of ssdlite, and HEAD\.NAME is empty: not of a classifier"):
        run_training(cfg)

    def fewer(document):
        document["categories"] = [category for category in document["categories"] if category["id"] != 10]
        document["annotations"] = [record for record in document["annotations"] if record["category_id"] != 10]

    for split in ("train", "val", "test"):
        edit_annotations(own, split, fewer)
    for head, weights in (("ssdlite", detector), ("lraspp", segmenter)):
        cfg = dense_cfg(head, own, tmp_path / "run", *FROZEN, "MODEL.WEIGHTS", weights)
        with pytest.raises(WeightsError, match="the weights of another arch or other classes"):
            run_training(cfg, heads=[head])
    assert not [path for path in (tmp_path / "run").glob("*") if path.name not in (".lock", "checkpoints")]


def test_a_backbone_of_other_weights_is_refused(scenes, tmp_path):
    save_weights(tmp_path / "w.safetensors", {"some": torch.zeros(1)}, dense_arch())
    cfg = dense_cfg("ssdlite", scenes, tmp_path / "run", *FROZEN, "MODEL.WEIGHTS", str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match=r"w\.safetensors: has no classifier\.weight"):
        run_training(cfg, heads=["ssdlite"])
    with pytest.raises(WeightsError, match="neither a classifier's nor those of a head"):
        dense_trainer("ssdlite", scenes, weights={"some": torch.zeros(1)})
