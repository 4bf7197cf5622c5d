import json
import os
import threading
import warnings

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mobile_cv_nas.data import DataError
from mobile_cv_nas.data import digit_scenes as scenes
from mobile_cv_nas.data.coco import read_coco
from mobile_cv_nas.data.digit_scenes import digit_scenes, write_digit_scenes

FEW = {"train": 24, "val": 6, "test": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("scenes") / "digits", FEW)


def read(folder, split, task):
    return read_coco(folder / "annotations" / f"instances_{split}.json", folder / split, task)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("split", FEW)
def test_pycocotools_agrees(folder, split):
    coco = COCO(str(folder / "annotations" / f"instances_{split}.json"))
    assert [category["name"] for category in coco.loadCats(range(1, 11))] == list("0123456789")
    assert len(coco.imgs) == FEW[split]
    boxes, masks = read(folder, split, "detect"), read(folder, split, "segment")
    for i, image in enumerate(coco.loadImgs(sorted(coco.imgs))):
        with Image.open(folder / split / image["file_name"]) as opened:
            assert (opened.size, opened.mode) == ((128, 128), "RGB")
        assert boxes.paths[i] == str(folder / split / image["file_name"])
        records = coco.imgToAnns[image["id"]]
        assert 2 <= len(records) <= 5
        truth = np.zeros((128, 128), np.uint8)
        for record in records:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools' own arrays, by NumPy 2
                mask = coco.annToMask(record).astype(bool)
            rows, columns = np.nonzero(mask)
            x, y, width, height = record["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert record["area"] == mask.sum() > 60
            assert not truth[mask].any()  # what is covered belongs to the later digit alone
            truth[mask] = record["category_id"]
        assert np.array_equal(masks.targets[i].mask((128, 128)), truth)
        assert len(boxes.targets[i]) == len(records)
        assert not boxes.targets[i].crowd.any()


def test_digits_can_be_seen():
    """Of each digit most is visible, and its pixels differ from those around it by more than the noise."""
    scans = scenes._scans()["val"]
    for number in range(30):
        canvas, digits = scenes._scene(scans, np.random.default_rng(number))
        background = ~np.any([digit.visible for digit in digits], axis=0)
        for digit in digits:
            assert digit.visible.sum() >= 0.7 * digit.strokes.sum()
            x0, y0, x1, y1 = digit.box
            around = np.zeros_like(background)
            around[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4] = True
            inside, outside = canvas[digit.visible].mean(0), canvas[around & background].mean(0)
            assert np.abs(inside - outside).max() > 20


def test_no_scan_is_in_two_splits():
    splits = scenes._scans()
    assert {name: len(scans.images) for name, scans in splits.items()} == {"train": 1257, "val": 180, "test": 360}
    seen = [image.tobytes() for scans in splits.values() for image in scans.images]
    assert len(set(seen)) == len(seen)


def test_enlarged_scans_are_the_scans():
    """The middle of each eighth of an enlarged scan is the scan's pixel."""
    scan = scenes._scans()["train"].images[0]
    weights = scenes._bicubic(40)  # 5 pixels each: the third is the middle
    assert np.allclose((weights @ scan @ weights.T)[2::5, 2::5], scan)
    assert np.allclose(weights[8:-8].sum(1), 1)


def test_writing_again_gives_the_same(folder, tmp_path):
    again = write_digit_scenes(tmp_path / "again", FEW)
    assert contents(again) == contents(folder)
    fewer = contents(write_digit_scenes(tmp_path / "fewer", {"train": 3, "val": 1, "test": 1}))
    assert fewer["train/000003.png"] == contents(folder)["train/000003.png"]
    records = [json.loads(files["annotations/instances_train.json"])["annotations"] for files in (fewer, contents(folder))]
    assert records[0] == records[1][: len(records[0])]
    assert contents(folder)["train/000001.png"] != contents(folder)["val/000001.png"]
    assert sorted(os.listdir(tmp_path)) == ["again", "fewer"]


def test_at_first_use(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "COUNTS", {"train": 2, "val": 1, "test": 1})
    monkeypatch.setattr(write_digit_scenes, "__defaults__", (scenes.COUNTS,))
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(tmp_path / "home"))
    assert digit_scenes() == tmp_path / "home/digit_scenes_v1"
    (tmp_path / "empty").mkdir()
    assert digit_scenes(str(tmp_path / "empty")) == tmp_path / "empty"
    assert contents(tmp_path / "empty") == contents(tmp_path / "home/digit_scenes_v1")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    digit_scenes()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "home/digit_scenes_v1/train/000002.png").unlink()
    with pytest.raises(DataError, match="1 of 2 images"):
        read(digit_scenes(), "train", "detect")


def test_of_two_writers_one_wins(tmp_path):
    done = []
    threads = [threading.Thread(target=lambda: done.append(write_digit_scenes(tmp_path / "x", FEW))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [tmp_path / "x"] * 3
    assert os.listdir(tmp_path) == ["x"]
    assert len(read(tmp_path / "x", "test", "detect")) == 12


def test_what_stands_in_the_way_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").touch()
    for name in ("file", "other"):
        with pytest.raises(DataError, match=f"{name}: is there and holds no whole digit_scenes"):
            digit_scenes(str(tmp_path / name))
    with pytest.raises(DataError, match=r"cannot be written there: .*; free some space, or set DATA.ROOT"):
        digit_scenes(str(tmp_path / "file/x"))
    monkeypatch.setattr(scenes, "_annotation", lambda digit: 1 / 0)  # stopped in the middle
    with pytest.raises(ZeroDivisionError):
        write_digit_scenes(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]
