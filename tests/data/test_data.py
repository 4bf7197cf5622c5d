import gc
import logging
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from helpers import data_of_cfg as build_data
from helpers import image_folder, quick_cfg, tiny_arch, trainer_of
from helpers import loader_of_cfg as build_loader
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data import DataError, Split
from mobile_cv_nas.data.data_set import Source
from mobile_cv_nas.data.images import BadImage, middle, open_image
from mobile_cv_nas.data.targets import Boxes
from mobile_cv_nas.data.transforms import affine_batch


def folder_cfg(root, *opts):
    return load_config(None, ["DATA.DATASET", "imagefolder", "DATA.ROOT", str(root), "DATA.WORKERS", "0", *opts])


def train_loader(cfg, batch=4, size=8, shard=(0, 1)):
    return build_loader(cfg, build_data(cfg).train, size, batch, True, shard)


def batches(loader, epoch=0, **where):
    return list(loader.epoch(epoch, **where))


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


# -- splits -------------------------------------------------------------------------------------------


def test_digits_are_split_once_and_for_all():
    data = build_data(quick_cfg("x"))
    parts = [set(split.indices) for split in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [1257, 180, 360]
    assert len(set().union(*parts)) == 1797
    assert data.classes == tuple("0123456789")
    for split in (data.train, data.val, data.test):  # every class has its share
        counts = np.bincount([split.source.labels[i] for i in split.indices], minlength=10) / len(split)
        assert counts.min() > 0.09
        assert counts.max() < 0.11
    assert build_data(quick_cfg("x", "SEED", "5")).test.indices == data.test.indices


@pytest.mark.parametrize("size", [8, 16, 33])
def test_digits_come_in_any_size(size):
    images, labels = batches(train_loader(quick_cfg("x"), 32, size))[0]
    assert images.shape == (32, 3, size, size)
    assert labels.shape == (32,)
    red, green = images[:, 0] * 0.229 + 0.485, images[:, 1] * 0.224 + 0.456
    assert torch.allclose(red, green, atol=1e-6)  # grey
    assert 0 <= red.min() < 0.01 < 0.9 < red.max() <= 1 + 1e-6


def test_halves_are_disjoint_and_follow_the_seed():
    train = build_data(quick_cfg("x")).train
    first, second = train.halves(0.2, seed=1)
    assert set(first.indices) | set(second.indices) == set(train.indices)
    assert not set(first.indices) & set(second.indices)
    assert len(second) == round(0.2 * len(train))
    assert train.halves(0.2, seed=1)[1].indices == second.indices
    assert train.halves(0.2, seed=2)[1].indices != second.indices
    with pytest.raises(DataError, match="too few"):
        train.head(1).halves(0.2, seed=0)


def test_classes_of_one_image_take_nothing_from_the_next():
    """A long tail: none of its classes can give an image, and no other class pays for them."""
    labels = [*range(400), *[400] * 40, *[401] * 200]
    part = Split.whole(Source([""] * 640, labels)).halves(0.1, 0)[1]
    assert 4 <= part.counts(402)[400] <= 5
    assert 19 <= part.counts(402)[401] <= 21
    assert sum(part.counts(402)[:400]) == 0
    rare = Split.whole(Source([""] * 300, [i // 3 for i in range(300)])).halves(0.1, 0)[1]  # three of each: the total is right
    assert (len(rare), max(rare.counts(100))) == (30, 1)


def test_folder_with_three_splits(tmp_path):
    image_folder(tmp_path, {"train/a": 5, "train/b": 6, "val/a": 2, "val/b": 2, "test/b": 3})
    data = build_data(folder_cfg(tmp_path))
    assert [len(split) for split in (data.train, data.val, data.test)] == [11, 4, 3]
    assert data.classes == ("a", "b")
    assert [data.test.source.labels[i] for i in data.test.indices] == [1, 1, 1]


def test_folder_without_splits_is_split_by_seed(tmp_path):
    image_folder(tmp_path, {"a": 40, "b": 40, ".hidden": 1})
    options = ["DATA.VAL_FRACTION", "0.2", "DATA.TEST_FRACTION", "0.1"]
    data = build_data(folder_cfg(tmp_path, *options))
    assert [len(split) for split in (data.train, data.val, data.test)] == [56, 16, 8]
    assert set(data.train.indices) | set(data.val.indices) | set(data.test.indices) == set(range(80))
    other = build_data(folder_cfg(tmp_path, *options, "DATA.SPLIT_SEED", "1"))
    assert other.test.indices != data.test.indices
    seeded = build_data(folder_cfg(tmp_path, *options, "SEED", "1"))
    assert seeded.test.indices == data.test.indices


def test_class_fraction_is_chosen_by_seed(tmp_path):
    names = [f"c{i}" for i in range(10)]
    image_folder(tmp_path, {f"{part}/{name}": 2 for part in ("train", "val") for name in names})
    chosen = {build_data(folder_cfg(tmp_path, "DATA.CLASS_FRACTION", "0.3", "DATA.SPLIT_SEED", s)).classes for s in "0123"}
    assert all(len(classes) == 3 and set(classes) < set(names) for classes in chosen)
    assert len(chosen) > 1
    data = build_data(folder_cfg(tmp_path, "DATA.CLASS_FRACTION", "0.3"))
    assert set(data.train.source.labels) == {0, 1, 2}
    assert len(data.val) == 6


def test_what_a_folder_may_lack_is_said(tmp_path):
    def refused(root, match, *opts):
        with pytest.raises(DataError, match=match) as error:
            build_data(folder_cfg(root, *opts))
        assert "\n" not in str(error.value)

    refused("", "DATA.ROOT: empty")
    refused(tmp_path / "none", "none: no such folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file, not a folder")
    (tmp_path / "bare").mkdir()
    refused(tmp_path / "bare", "no class folders")
    refused(image_folder(tmp_path / "one", {"a": 3}), "one class folder")
    (image_folder(tmp_path / "empty", {"a": 3}) / "b").mkdir()
    refused(tmp_path / "empty", "empty/b: no images")
    refused(image_folder(tmp_path / "half", {"val/a": 3, "val/b": 3}), "no train folder")
    unknown = image_folder(tmp_path / "unknown", {f"{n}": 1 for n in ("train/a", "train/b", "val/a", "val/c")})
    refused(unknown, "val/c: a class that .* does not have")
    refused(image_folder(tmp_path / "few", {"a": 1, "b": 1}), "too few")
    for name in ("cifar10", "imagenet"):
        refused(tmp_path / "bare", "CIFAR-10|ImageNet", "DATA.DATASET", name)


def test_imagenet_as_torchvision_keeps_it(tmp_path):
    wnids = ["n01", "n02", "n03"]
    image_folder(tmp_path, {f"{part}/{name}": 2 for part in ("train", "val") for name in wnids})
    torch.save(({name: (f"class {name}",) for name in wnids}, wnids), tmp_path / "meta.bin")
    data = build_data(folder_cfg(tmp_path, "DATA.DATASET", "imagenet"))
    assert (len(data.train), len(data.val), data.test, data.classes) == (6, 6, None, tuple(wnids))
    part = build_data(folder_cfg(tmp_path, "DATA.DATASET", "imagenet", "DATA.CLASS_FRACTION", "0.6"))
    assert (len(part.train), set(part.train.source.labels)) == (4, {0, 1})


def test_imagenet_in_plain_folders_and_its_validation_images_alone(tmp_path):
    wnids = ("n01440764", "n01443537", "n01484850")
    image_folder(tmp_path / "both", {f"{part}/{name}": count for part, count in (("train", 2), ("validation", 1)) for name in wnids})
    data = build_data(folder_cfg(tmp_path / "both", "DATA.DATASET", "imagenet"))
    assert (len(data.train), len(data.val), data.test, data.classes) == (6, 3, None, wnids)
    image_folder(tmp_path / "alone", {f"val/{name}": 2 for name in wnids})
    data = build_data(folder_cfg(tmp_path / "alone", "DATA.DATASET", "imagenet"))
    assert (len(data.train), data.classes, list(data.val.source.labels)) == (0, wnids, [0, 0, 1, 1, 2, 2])
    part = build_data(folder_cfg(tmp_path / "alone", "DATA.DATASET", "imagenet", "DATA.CLASS_FRACTION", "0.6"))
    assert (len(part.val), set(part.val.source.labels)) == (4, {0, 1})
    image_folder(tmp_path / "more", {f"{name}": 2 for name in ("train/a", "train/b", "val/a", "val/c")})
    with pytest.raises(DataError, match=r"val/c: a class that .* does not have"):
        build_data(folder_cfg(tmp_path / "more", "DATA.DATASET", "imagenet"))
    with pytest.raises(DataError, match="the data set has no training images: it does for tests; add a train folder"):
        trainer_of(quick_cfg(tmp_path / "run"), tiny_arch(), data=data)


# -- order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["none", "affine"])
def test_an_epoch_can_be_taken_up_in_its_middle(augment):
    cfg = quick_cfg("x", "DATA.AUGMENT", augment)
    whole = batches(train_loader(cfg, 64), 3)
    assert len(whole) == 1257 // 64 == len(train_loader(cfg, 64))
    assert same(batches(train_loader(cfg, 64), 3, start=11), whole[11:])
    assert same(batches(train_loader(cfg, 64), 3, start=2, stop=5), whole[2:5])
    assert not same(batches(train_loader(cfg, 64), 4), whole)
    assert not same(batches(train_loader(quick_cfg("x", "SEED", "1", "DATA.AUGMENT", augment), 64), 3), whole)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_augmented_files_do_not_depend_on_when_they_are_read(tmp_path, workers):
    image_folder(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 1, "val/b": 1})
    options = ["DATA.AUGMENT", "randaugment", "DATA.ERASE", "0.5"]
    alone = folder_cfg(tmp_path, *options)
    whole = batches(train_loader(alone), 1)
    state = torch.get_rng_state()
    loader = train_loader(folder_cfg(tmp_path, *options, "DATA.WORKERS", workers))
    assert same(batches(loader, 1, start=2), whole[2:])
    assert same(batches(loader, 1), whole)  # the same readers, a new epoch
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator
    assert not same(batches(loader, 2), whole)


def test_readers_end_with_their_loader_and_with_the_run(tmp_path):
    image_folder(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 1, "val/b": 1})
    cfg, before = folder_cfg(tmp_path, "DATA.WORKERS", "1"), set(multiprocessing.active_children())
    for dropped in (False, True):
        loader = train_loader(cfg)
        epoch = loader.epoch()
        next(epoch)
        (reader,) = set(multiprocessing.active_children()) - before
        if not dropped:
            epoch.close()
            loader.close()
            assert reader.exitcode == 0
            assert len(batches(loader)) == 4  # by new ones
            loader.close()
            continue
        cycle = [loader, epoch]  # garbage that only the collector frees, as a run's objects are
        cycle.append(cycle)
        del loader, epoch, cycle
        gc.collect()
        assert reader.exitcode == 0  # in order: not killed, nor left
    nas.train(tiny_arch(), tmp_path, output=tmp_path / "run", epochs=1, batch_size=4)
    assert set(multiprocessing.active_children()) == before


def test_readers_of_a_search_end_with_it(tmp_path):
    image_folder(tmp_path, {f"{part}/{name}": 16 for part in ("train", "val", "test") for name in "ab"})
    rows = [[["conv_k3", 8, 2]], [["ir_k3", [8, 16, 8], 2]]]
    space, before = nas.SearchSpace.parse({"input_size": 8, "stages": rows}), set(multiprocessing.active_children())
    options = {"target": space.largest(2).cost(2).macs, "tolerance": 0.9, "epochs": 1, "batch_size": 4}
    gc.disable()  # the searcher is garbage in a cycle then, and its readers would stay
    try:
        assert nas.search(space, tmp_path, output=tmp_path / "run", child=False, **options).finished
        assert set(multiprocessing.active_children()) == before
    finally:
        gc.enable()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_a_forked_process_leaves_the_readers_to_their_own(tmp_path, caplog):
    """It may collect a copy of a loader as garbage, and would end the readers of the process that it came from."""
    image_folder(tmp_path, {"train/a": 30, "train/b": 30, "val/a": 1, "val/b": 1})
    whole, loader = batches(train_loader(folder_cfg(tmp_path))), train_loader(folder_cfg(tmp_path, "DATA.WORKERS", "1"))
    epoch = loader.epoch()
    seen = [next(epoch)]
    forked = multiprocessing.get_context("fork").Process(target=loader.close)
    forked.start()
    forked.join()
    assert forked.exitcode == 0
    assert same([*seen, *epoch], whole)
    assert not caplog.records  # none had to be replaced


def test_reading_leaves_accelerators_alone(tmp_path, monkeypatch):
    image_folder(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1})

    def seeded(seed):
        raise AssertionError("an accelerator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    with pytest.raises(AssertionError):
        torch.manual_seed(0)
    assert batches(train_loader(folder_cfg(tmp_path, "DATA.AUGMENT", "crop")))


def test_a_split_prints_in_a_line():
    split = Split.whole(Source(list("ab" * 999), [0] * 1998)).head(500)
    assert "500 of 1,998 images" in repr(split)
    assert len(repr(split)) < 140


def test_ranks_share_an_epoch_without_overlap():
    cfg = quick_cfg("x")
    whole = batches(train_loader(cfg, 64), 1)
    ranks = [batches(train_loader(cfg, 32, shard=(rank, 2)), 1) for rank in (0, 1)]
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*ranks, strict=True)]
    assert same(joined, whole)
    test = build_data(cfg).test
    tested = [batches(build_loader(cfg, test, 8, 100, False, (rank, 3))) for rank in range(3)]
    assert sum(len(labels) for part in tested for _, labels in part) == len(test)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(DataError, match="1257 training images are fewer than the 2000"):
        train_loader(quick_cfg("x"), 2000)


def test_affine_moves_each_image_within_its_range():
    images = torch.zeros(64, 1, 21, 21)
    images[:, :, 10, 10] = 1.0
    moved = affine_batch(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    mass = moved.sum((1, 2, 3))
    axis = torch.arange(21.0)
    centre = (moved.sum((1, 2)) @ axis / mass - 10, moved.sum((1, 3)) @ axis / mass - 10)
    for shift in centre:
        assert shift.abs().max() < 0.1 * 21 * 1.3  # a tenth of the side, and the turn and the scale on top
        assert shift.std() > 0.5
    assert torch.equal(moved, affine_batch(images, torch.Generator().manual_seed(0)))


# -- faults -------------------------------------------------------------------------------------------


def pixels(size=(9, 7)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def odd_images(folder):
    """Files that are unusual but whole."""
    rgb = Image.fromarray(pixels())
    grey16 = Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257)
    palette = rgb.convert("P")
    palette.info["transparency"] = bytes(range(256))
    floats = Image.fromarray(pixels()[..., 0].astype(np.float32) / 255)
    made = {
        "cmyk.jpg": rgb.convert("CMYK"), "grey16.png": grey16, "palette.png": palette, "rgba.png": rgb.convert("RGBA"),
        "la.png": rgb.convert("LA"), "bit.png": rgb.convert("1"), "pixel.png": rgb.crop((0, 0, 1, 1)),
        "long.png": Image.new("RGB", (4000, 1)), "float.tiff": floats,
        "ycbcr.jpg": rgb.convert("YCbCr"), "grey32.tiff": Image.fromarray(pixels()[..., 0].astype(np.int32)),
    }  # fmt: skip
    for name, image in made.items():
        image.save(folder / name)
    return sorted(made)


def bad_images(folder):
    """Files that cannot be used."""
    image_folder(folder, {"seed": 1}, size=64)
    whole = (folder / "seed" / "000.png").read_bytes()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    made = {
        "truncated.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.jpg": b"this is no image",
        "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",  # Pillow would run gs on it
        "flipped.png": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        "bomb.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    os.symlink(folder / "gone", folder / "vanished.png")
    (folder / "folder.png").mkdir()
    return [*made, "vanished.png", "folder.png"]


def test_unusual_images_are_read(tmp_path):
    for name in odd_images(tmp_path):
        image = open_image(str(tmp_path / name))
        assert image.mode == "RGB", name
        assert max(middle(image).size) <= 8 * min(image.size), name
    truth = pixels().astype(int)
    for name in ("rgba.png", "grey16.png", "grey32.tiff", "float.tiff"):  # and not cut at 255 or to black
        expected = truth if name == "rgba.png" else truth[..., :1].repeat(3, 2)
        assert np.abs(np.asarray(open_image(str(tmp_path / name)), dtype=int) - expected).max() <= 1, name


def test_bad_images_are_told_from_good_ones(tmp_path):
    for name in bad_images(tmp_path):
        with pytest.raises(BadImage):
            open_image(str(tmp_path / name))


@pytest.mark.parametrize("augment", ["none", "affine", "crop", "randaugment"])
def test_every_transform_takes_every_image(tmp_path, augment):
    image_folder(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    count = len(odd_images(tmp_path / "train" / "a")) + 4
    loader = train_loader(folder_cfg(tmp_path, "DATA.AUGMENT", augment), batch=count, size=8)
    ((images, labels),) = batches(loader)
    assert images.shape == (count, 3, 8, 8)
    assert type(images) is torch.Tensor
    assert images.isfinite().all()
    assert labels.sum() == 2
    assert not loader.skipped


@pytest.mark.parametrize("workers", ["0", "2"])
def test_bad_images_are_skipped_once_named_and_counted(tmp_path, caplog, workers):
    counts = {"train/a": 20, "train/b": 20, "val/a": 6, "val/b": 6}
    image_folder(tmp_path, counts)
    names = [name for name in bad_images(tmp_path / "train" / "a") if name != "folder.png"]
    (tmp_path / "val" / "b" / "bad.png").write_bytes(b"")
    cfg = folder_cfg(tmp_path, "DATA.MAX_SKIPPED_SHARE", "0.5", "DATA.WORKERS", workers)
    data = build_data(cfg)
    loader = build_loader(cfg, data.train, 8, 5, True)
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            assert [len(images) for images, _ in loader.epoch(epoch)] == [5] * (len(data.train) // 5)
    assert len(loader.skipped) == len(names)
    for name in names:
        assert caplog.text.count(f"{name}: skipped") == 1
    restored = build_loader(cfg, data.train, 8, 5, True)
    restored.load_state_dict(loader.state_dict())
    assert restored.skipped == loader.skipped
    test = build_loader(cfg, data.val, 8, 4, False)
    assert sum(len(labels) for _, labels in test.epoch()) == 12  # left out, not replaced
    assert len(test.skipped) == 1


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage):
        open_image(str(tmp_path / "pipe.png"))


def test_too_many_bad_images_stop(tmp_path):
    image_folder(tmp_path, {"train/a": 20, "train/b": 20, "val/a": 1, "val/b": 1})
    whole = (tmp_path / "train" / "a" / "000.png").read_bytes()
    (tmp_path / "train" / "a" / "bad.png").write_bytes(whole[:50])  # what it opens as is right
    with pytest.raises(DataError, match=r"bad.png: cannot be read .* with it 1 of 41 images.*MAX_SKIPPED_SHARE 0.01"):
        batches(train_loader(folder_cfg(tmp_path), batch=40))
    for path in (tmp_path / "train").glob("*/*.png"):
        path.unlink()
        path.write_bytes(b"")
    with pytest.raises(DataError, match="in a row"):
        batches(train_loader(folder_cfg(tmp_path, "DATA.MAX_SKIPPED_SHARE", "1")))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_files_that_are_no_images_are_told_before_the_run(tmp_path, split):
    """Those of the test would be read at its very end."""
    image_folder(tmp_path, {f"{part}/{name}": 5 for part in ("train", "val", "test") for name in "ab"})
    (tmp_path / split / "a" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=rf"bad.png .*cannot be read; 1 of the 11 images of {split} .* DATA.MAX_SKIPPED_SHARE 0.01"):
        build_data(folder_cfg(tmp_path))
    assert len(getattr(build_data(folder_cfg(tmp_path, "DATA.MAX_SKIPPED_SHARE", "0.1")), split)) == 11


def test_a_file_that_vanishes_during_the_run(tmp_path):
    image_folder(tmp_path, {"train/a": 10, "train/b": 10, "val/a": 1, "val/b": 1})
    loader = train_loader(folder_cfg(tmp_path, "DATA.MAX_SKIPPED_SHARE", "0.1"))
    assert len(batches(loader)) == 5
    (tmp_path / "train" / "a" / "003.png").unlink()
    assert [len(images) for images, _ in loader.epoch(1)] == [4] * 5
    assert len(loader.skipped) == 1


def test_readers_that_die_are_replaced(tmp_path, caplog):
    image_folder(tmp_path, {"train/a": 60, "train/b": 60, "val/a": 1, "val/b": 1})
    whole = batches(train_loader(folder_cfg(tmp_path, "DATA.AUGMENT", "crop")))
    loader = train_loader(folder_cfg(tmp_path, "DATA.AUGMENT", "crop", "DATA.WORKERS", "2"))
    seen = []
    for batch in loader.epoch(0):
        if len(seen) == 3:
            for worker in loader._held.loader._iterator._workers:
                os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.2)
        seen.append(batch)
    assert same(seen, whole)
    assert "a process that reads images died" in caplog.text


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "/tmp/pymp/listener")])
def test_a_reader_that_dies_while_it_hands_a_batch_over_is_replaced(tmp_path, monkeypatch, error):
    """The main process fetches a tensor from it by a socket, which can break anywhere."""
    image_folder(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 1, "val/b": 1})
    whole = batches(train_loader(folder_cfg(tmp_path)))
    loader = train_loader(folder_cfg(tmp_path, "DATA.WORKERS", "1"))
    start, faults = loader._start, [error]

    def breaking(keys):
        for batch in start(keys):
            yield batch
            if faults:
                raise faults.pop()

    monkeypatch.setattr(loader, "_start", breaking)
    assert same(batches(loader), whole)
    assert not faults
    faults.append(type(error)("Caught it in DataLoader worker process 0."))  # raised there, by what reads
    with pytest.raises(type(error), match="Caught it"):
        batches(loader)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_readers_leave_a_signal_to_the_main_process(tmp_path, caplog, number):
    image_folder(tmp_path, {"train/a": 60, "train/b": 60, "val/a": 1, "val/b": 1})
    loader = train_loader(folder_cfg(tmp_path, "DATA.WORKERS", "2"))
    for seen, _ in enumerate(loader.epoch(0)):
        if seen == 3:
            for worker in loader._held.loader._iterator._workers:
                os.kill(worker.pid, number)
    assert all(worker.is_alive() for worker in loader._held.loader._iterator._workers)
    assert not caplog.records


def test_python_can_exit_while_a_loader_is_in_use(tmp_path):
    image_folder(tmp_path, {"a": 20, "b": 20})
    code = (
        "from mobile_cv_nas.data.build import build_data, build_loader\n"
        "from mobile_cv_nas.data.options import DataOptions\n"
        f"options = DataOptions(root={str(tmp_path)!r})\n"
        "batches = build_loader(options, build_data(options).train, 8, 4, True).epoch()\n"
        "print(len(next(batches)[1]), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_a_very_long_image_keeps_its_boxes(tmp_path):
    """Of one with a class the middle is taken, before it is resized; places in it must not move."""
    Image.fromarray(np.zeros((10, 90, 3), np.uint8)).save(tmp_path / "long.png")
    assert middle(open_image(tmp_path / "long.png")).size == (80, 10)
    boxes = Boxes(1, (90, 10), np.array([[0, 0, 90, 10]], np.float32), np.array([1]), np.array([False]))
    source = Source([str(tmp_path / "long.png")], [boxes], "boxes")
    cfg = load_config(None, ["DATA.DATASET", "digit_scenes", "HEAD.NAME", "ssdlite", "DATA.WORKERS", "0"])
    loader = build_loader(cfg, Split(source, (0,)), 64, 1, True)
    ((images, targets),) = loader.epoch()
    assert images[0].shape == (3, 10, 90)
    assert targets[0]["boxes"].tolist() == [[0, 0, 90, 10]]
    assert not loader.skipped
