"""What comes from outside is understood, with what was assumed said, or refused in one line."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mobile_cv_nas.data import DataError, DataOptions, build_data, build_loader
from mobile_cv_nas.data.coco import read_coco
from mobile_cv_nas.data.images import BadImage, open_image
from mobile_cv_nas.data.remarks import remark_enlarged
from mobile_cv_nas.data.transforms import Preprocess, preprocess

RNG = np.random.default_rng(0)


def save(path, size=(12, 12), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path, **options)


def folder(root, counts, size=(12, 12)):
    """Random PNG files, no two alike: `counts` maps a folder to its number of images."""
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f"{i:03d}.png", size)
    return root


def read(root, labels="classes", **options):
    return build_data(DataOptions(**{"dataset": "imagefolder", "root": str(root), "workers": 0} | options), labels)


def warnings(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


# -- splits -------------------------------------------------------------------------------------------

NAMES = [
    ("Training", None, "Testing"),
    ("Train", "Val", "Test"),
    ("train", "valid", "test"),
    ("TRAIN", "validation", "eval"),
    ("tr", "dev", None),
    ("train2017", "val2017", "test2017"),
    ("seg_train", None, "seg_test"),
    ("training_set", "validation_set", "test_set"),
    ("train_data", None, "test_data"),
    ("Train Set", None, "Test-Set"),
    ("trainset", "valImages", "01 test imgs (2)"),
]


@pytest.mark.parametrize("names", NAMES, ids=str)
def test_the_usual_names_are_splits_in_any_case(tmp_path, names):
    counts = dict(zip(names, (10, 3, 2), strict=True))
    folder(tmp_path, {f"{name}/{c}": n for name, n in counts.items() if name for c in "ab"})
    data = read(tmp_path)
    assert data.classes == ("a", "b")
    assert len(data.train) + (0 if names[1] else len(data.val)) == 20
    assert len(data.val) == (6 if names[1] else 2)  # a share of the training images where there are none
    assert (data.test is None) == (names[2] is None)
    assert data.test is None or {os.path.relpath(p, tmp_path).split(os.sep)[0] for p in data.test.source.images} == {names[2]}


def test_two_names_of_one_split_and_classes_beside_splits_are_refused(tmp_path):
    folder(tmp_path / "two", {f"{name}/{c}": 3 for name in ("train", "val", "valid") for c in "ab"})
    with pytest.raises(DataError, match="val and valid both name the val split; merge or rename one"):
        read(tmp_path / "two")
    folder(tmp_path / "beside", {"train/a": 3, "train/b": 3, "cats": 2})
    with pytest.raises(DataError, match=r"split folders \(train\) beside folders of images \(cats\)"):
        read(tmp_path / "beside")


def test_a_class_may_be_called_train(tmp_path, caplog):
    assert read(folder(tmp_path, {"bus": 10, "car": 10, "train": 10})).classes == ("bus", "car", "train")
    folder(tmp_path / "notes", {"train/a": 5, "train/b": 5, "papers/@eaDir": 1})  # which holds thumbnails
    assert read(tmp_path / "notes").classes == ("a", "b")
    assert warnings(caplog, "not read, beside the splits: papers")


NO_SPLITS = [
    ("test_tube", "train_track", "trains"),
    ("dev_board", "evaluation kit"),
    ("traintrack", "TestTube", "validated"),
    ("test1", "test2", "test3"),
    ("train1", "train2", "bus1"),
    ("data", "set", "val_d"),
]


@pytest.mark.parametrize("inside", ["", "/near"])
@pytest.mark.parametrize("names", NO_SPLITS, ids=str)
def test_names_that_only_begin_like_splits_are_classes(tmp_path, names, inside):
    if names[0] == "train1" and inside:
        names = ("train1", "bus1")  # two of them with folders inside are refused
    assert read(folder(tmp_path, {f"{name}{inside}": 5 for name in names})).classes == tuple(sorted(names))


def test_a_plain_name_comes_before_a_like_one(tmp_path, caplog):
    folder(tmp_path, {f"{name}/{c}": 3 for name in ("train", "val") for c in "ab"})
    (tmp_path / "train_data").mkdir()
    assert len(read(tmp_path).train) == 6
    assert warnings(caplog, "not read, beside the splits: train_data")
    folder(tmp_path, {"train2/a": 1})
    with pytest.raises(DataError, match=r"split folders \(train, val\) beside folders of images \(train2\)"):
        read(tmp_path)
    folder(tmp_path / "years", {f"{name}/{c}": 3 for name in ("train2017", "train2018") for c in "ab"})
    with pytest.raises(DataError, match="train2017 and train2018 both name the train split; merge or rename one"):
        read(tmp_path / "years")


def test_a_split_inside_a_folder_of_its_name_is_found(tmp_path):
    folder(tmp_path, {f"{name}/{name}/{c}": 3 for name in ("seg_train", "seg_test") for c in "ab"})
    data = read(tmp_path)
    assert (data.classes, len(data.test)) == (("a", "b"), 6)


def test_folders_that_may_be_folds_are_said(tmp_path, caplog):
    data = read(folder(tmp_path / "folds", {f"fold{i}/{c}": 4 for i in (1, 2) for c in ("cat", "dog")}))
    assert data.classes == ("fold1", "fold2")  # cat and dog, each by day and by night, would look the same
    (line,) = warnings(caplog, "if they are splits or folds, name them train, val and test, or set DATA.ROOT to one of them")
    assert "fold1, fold2 are taken for the classes, though all hold the same folders (cat, dog)" in line
    caplog.clear()
    read(folder(tmp_path / "other", {"cat/day": 4, "cat/night": 4, "dog/day": 4, "dog/dusk": 4}))
    read(folder(tmp_path / "mixed", {"cat/day": 4, "cat/night": 4, "dog/day": 4, "dog/night": 4, "dog": 1}))
    assert not caplog.records


def test_a_level_too_high_is_named(tmp_path):
    folder(tmp_path / "up", {f"pets/{part}/{c}": 3 for part in ("train", "val") for c in "ab"})
    with pytest.raises(DataError, match=r"a level too high: pets holds train, a split; set DATA\.ROOT to .*pets"):
        read(tmp_path / "up")
    folder(tmp_path / "up", {f"cars/{part}/{c}": 3 for part in ("Training", "val") for c in "ab"})
    with pytest.raises(DataError, match="a level too high: cars holds Training"):
        read(tmp_path / "up")
    folder(tmp_path / "sets", {f"pets/{part}/{c}": 3 for part in ("train2017", "val2017") for c in "ab"})
    with pytest.raises(DataError, match="a level too high: pets holds train2017"):
        read(tmp_path / "sets")
    assert read(folder(tmp_path / "toys", {"toys/train set": 5, "toys/puzzles": 5, "cups": 5})).classes == ("cups", "toys")


def test_without_test_images_there_is_no_test(tmp_path):
    folder(tmp_path, {f"{part}/{c}": 3 for part in ("train", "val") for c in "ab"})
    data = read(tmp_path)
    assert (len(data.val), data.test) == (6, None)
    torch.save(({c: (c,) for c in "ab"}, ["a", "b"]), tmp_path / "meta.bin")
    assert read(tmp_path, dataset="imagenet").test is None


# -- which files --------------------------------------------------------------------------------------


def test_folders_of_tools_and_links_are_not_read(tmp_path, caplog):
    root = folder(tmp_path / "set", {f"{part}/{c}": 5 for part in ("train", "val", "test") for c in "ab"})
    folder(root, {f"train/a/{name}": 3 for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden")})
    folder(root, {"train/@eaDir/a": 2, "__MACOSX/train/a": 2})
    (root / "train/a/._000.png").write_bytes(b"resource fork")
    os.symlink(root, root / "train/a/loop")
    os.symlink(root / "test", root / "train/b/more")
    os.symlink(root / "train/a", root / "train/b/same")
    data = read(root)
    assert [len(split) for split in (data.train, data.val, data.test)] == [10, 10, 10]
    assert data.classes == ("a", "b")
    assert all(path.startswith(str(root / "train")) for path in data.train.source.images)
    assert warnings(caplog, "3 links lead to folders that are read anyway")


def test_a_link_out_of_the_data_set_is_followed_once(tmp_path):
    folder(tmp_path / "else", {"many": 4})
    root = folder(tmp_path / "set", {"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2})
    os.symlink(tmp_path / "else/many", root / "train/a/more")
    os.symlink(tmp_path / "else/many", root / "train/a/again")
    os.symlink(tmp_path / "else", tmp_path / "else/many/round")
    assert len(read(root).train) == 14
    shutil.rmtree(root / "train/b")
    os.symlink(root / "train/a", root / "train/b")
    with pytest.raises(DataError, match=r"train/b: is the same folder as .*train/a"):
        read(root)


def test_all_that_pillow_reads_is_read_and_the_rest_is_counted(tmp_path, caplog):
    root = folder(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    for name in ("x.jfif", "x.jpe", "x.JPG", "x.gif", "x.tif", "x.TIFF", "x.webp", "x.avif"):
        kind = {"jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF"}.get(name.split(".")[1])
        save(root / "train/a" / name, **({"format": kind} if kind else {}))
    for name in ("y.heic", "z.heic", "y.svg"):
        (root / "train/b" / name).write_bytes(b"?")
    (root / "train/b/notes.txt").write_text("mine")
    (root / "train/b/Thumbs.db").write_bytes(b"?")
    data = read(root)
    assert len(data.train) == 12
    assert all(open_image(path).mode == "RGB" for path in data.train.source.images)
    (line,) = warnings(caplog, "left out")
    assert "3 files are left out (2 .heic, 1 .svg); convert images to JPEG or PNG" in line


def test_a_named_pipe_is_told_without_waiting_for_it(tmp_path):
    root = folder(tmp_path, {f"{part}/{c}": 2 for part in ("train", "val") for c in "ab"})
    os.mkfifo(root / "train/a/pipe.png")
    with pytest.raises(DataError, match=r"pipe.png .*: cannot be read; 1 of the 5 images of train are such files"):
        read(root)


def test_copies_between_splits_are_counted(tmp_path, caplog):
    root = folder(tmp_path, {f"{part}/{c}": 4 for part in ("train", "val", "test") for c in "ab"})
    for i in range(3):
        shutil.copy(root / f"test/a/00{i}.png", root / f"train/a/copy{i}.png")
    read(root)
    (line,) = warnings(caplog, "images of")
    assert line.startswith("3 images of test are in train too, such as ")
    caplog.clear()
    folder(tmp_path / "clean", {f"{part}/{c}": 4 for part in ("train", "val") for c in "ab"})
    read(tmp_path / "clean")
    assert not caplog.records


def test_classes_that_are_rare_are_said(tmp_path, caplog):
    read(folder(tmp_path / "uneven", {"train/a": 40, "train/b": 4, "val/a": 1, "val/b": 1}))
    assert warnings(caplog, "differ much in their images (b 4, a 40); consider TRAIN.CLASS_WEIGHTS balanced")
    read(folder(tmp_path / "one", {"train/a": 4, "train/b": 1, "val/a": 1, "val/b": 1}))
    assert warnings(caplog, "classes with one image or none (b 1)")
    caplog.clear()
    read(folder(tmp_path / "both", {"train/a": 40, "train/b": 1, "train/c": 4, **{f"val/{c}": 1 for c in "abc"}}))
    assert warnings(caplog, "classes with one image or none (b 1)")
    assert warnings(caplog, "differ much in their images (c 4, a 40)")
    caplog.clear()
    read(folder(tmp_path / "even", {"train/a": 4, "train/b": 1, "train/c": 39, "train/d": 5, **{f"val/{c}": 1 for c in "abcd"}}))
    assert not warnings(caplog, "differ much")


def test_too_few_images_name_key_split_and_remedy(tmp_path):
    data = read(folder(tmp_path / "few", {"train/a": 7, "train/b": 6, "val/a": 1, "val/b": 1}))
    with pytest.raises(DataError) as error:
        build_loader(DataOptions(), data.train, 8, 64, True)
    for part in ("13 training images are fewer than the 64 of one step", "TRAIN.BATCH_SIZE", "13 or less", "train split"):
        assert part in str(error.value)
    with pytest.raises(DataError, match=r"too few to split off a share of 0\.1 \(DATA\.TEST_FRACTION\)"):
        read(folder(tmp_path / "one", {"a": 1, "b": 1}))


def test_small_images_that_are_enlarged_are_said_once(tmp_path, caplog):
    data = read(folder(tmp_path, {"train/a": 7, "train/b": 6, "val/a": 1, "val/b": 1}, size=(32, 40)))
    for _ in range(2):
        build_loader(DataOptions(workers=0), data.train, 224, 4, True)
    assert len(warnings(caplog, "images of 32 pixels are enlarged to 224")) == 1
    caplog.clear()
    remark_enlarged(data.train, 32)
    assert not caplog.records


# -- the one reader -----------------------------------------------------------------------------------


def icon(mode="RGBA"):
    """A blue square that fills the upper half; the rest is transparent black."""
    values = np.zeros((8, 8, 4), np.uint8)
    values[:4] = (0, 0, 255, 255)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGBA"), ("a.png", "LA"), ("a.webp", "RGBA"), ("a.gif", "P")])
def test_transparent_parts_are_white_unless_said_otherwise(tmp_path, name, mode):
    image = icon(mode) if mode != "P" else icon("RGBA")
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    for background, value in (("white", 255), ("black", 0)):
        values = np.asarray(open_image(tmp_path / name, background))
        assert (values[4:] == value).all()
        assert not (values[:4] == value).all()
    assert np.asarray(open_image(image))[7, 0].tolist() == [255, 255, 255]  # a PIL image too
    assert np.asarray(open_image(np.asarray(image.convert("RGBA"))))[7, 0].tolist() == [255, 255, 255]


def test_half_transparent_pixels_are_mixed():
    values = np.full((2, 2, 4), 128, np.uint8)  # alpha 128 of 255 over white: 128 * 128/255 + 255 * 127/255
    assert np.abs(np.asarray(open_image(values)).astype(int) - 191).max() <= 1


def test_transparency_by_colour_and_palette(tmp_path):
    picture = Image.fromarray(np.full((4, 4, 3), 7, np.uint8))
    picture.save(tmp_path / "key.png", transparency=(7, 7, 7))
    assert (np.asarray(open_image(tmp_path / "key.png")) == 255).all()
    palette = Image.fromarray(np.full((4, 4), 3, np.uint8)).convert("P")
    palette.save(tmp_path / "palette.png", transparency=3)
    assert (np.asarray(open_image(tmp_path / "palette.png")) == 255).all()


def turned_file(path, orientation, values):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(path, exif=exif)


TURNED = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
TURNED |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}


@pytest.mark.parametrize("kind", ["png", "tif"])  # Pillow itself turns a TIFF
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_followed_everywhere(tmp_path, orientation, kind):
    values, path = RNG.integers(0, 255, (6, 10, 3), dtype=np.uint8), tmp_path / f"a.{kind}"
    turned_file(path, orientation, values)
    truth = TURNED[orientation](values)
    found = open_image(path)
    assert np.array_equal(np.asarray(found), truth)
    assert np.array_equal(np.asarray(open_image(found)), truth)  # and not a second time
    assert found.info.get("turned") == (orientation if orientation > 1 else None)
    for loaded in (False, True):
        with Image.open(path) as opened:
            if loaded:
                opened.load()
            assert np.array_equal(np.asarray(open_image(opened)), truth)


def test_damaged_metadata_spoils_no_image(tmp_path):
    save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(tmp_path / "a.jpg").size == (12, 12)


RAMP = np.arange(0, 256, dtype=np.float64).reshape(16, 16)
DEEP = {
    "16-bit png": lambda path: Image.fromarray((RAMP * 257).astype(np.uint16)).save(path / "a.png"),
    "16-bit tiff": lambda path: Image.fromarray((RAMP * 257).astype(np.uint16)).save(path / "a.tiff"),
    "32-bit tiff": lambda path: Image.fromarray((RAMP * 257).astype(np.int32)).save(path / "a.tiff"),
    "float tiff": lambda path: Image.fromarray((RAMP / 255).astype(np.float32)).save(path / "a.tiff"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_images_are_scaled(tmp_path, name):
    DEEP[name](tmp_path)
    (path,) = tmp_path.iterdir()
    values = np.asarray(open_image(path)).astype(int)
    assert np.abs(values - RAMP[..., None]).max() <= 1


def test_the_scale_of_deep_images_is_not_that_of_their_brightest_pixel(tmp_path):
    """Resampling leads a little above 1, and a dark picture of 16 bits is dark."""
    for peak in (0.9, 1.0, 1.01, 1.5):
        values = np.asarray(open_image(np.linspace(0, peak, 16, dtype=np.float32).reshape(4, 4)))[..., 0]
        assert np.abs(values.astype(float).ravel() - np.linspace(0, peak, 16).clip(max=1) * 255).max() <= 0.51
    (tmp_path / "float.pfm").write_bytes(b"Pf 4 4 -1.0\n" + np.full((4, 4), 240, "<f4").tobytes())
    with Image.open(tmp_path / "float.pfm") as opened:
        assert np.asarray(open_image(opened)).max() == 240
    for value in (100, 255, 256, 1000):
        (tmp_path / "dark.pgm").write_bytes(b"P5 4 4 65535\n" + np.full((4, 4), value, ">u2").tobytes())
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / "dark.png")
        for name in ("dark.pgm", "dark.png"):
            assert np.asarray(open_image(tmp_path / name)).max() == round(value / 257)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP / 255).astype(np.float32),
        RAMP.astype(np.float64),
        (RAMP * 257).astype(np.uint16),
        RAMP.astype(np.uint8)[..., None],
        torch.from_numpy(RAMP / 255)[None].expand(3, 16, 16),
        torch.from_numpy(RAMP).to(torch.uint8)[None],
    ],
    ids=lambda values: f"{type(values).__name__} {values.dtype} {tuple(values.shape)}",
)
def test_arrays_and_tensors_are_read_alike(values):
    assert np.abs(np.asarray(open_image(values)).astype(int) - RAMP[..., None]).max() <= 1


@pytest.mark.parametrize("values", [np.zeros((2, 2, 5), np.uint8), np.zeros((0, 4)), np.zeros(3), "nowhere.png", None, 3])
def test_what_is_no_image(values):
    with pytest.raises(BadImage):
        open_image(values)


@pytest.mark.parametrize("size", [(40, 60), (300, 10), (32, 32)])
def test_preprocess_is_what_validation_does(tmp_path, size):
    folder(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1}, size=size)
    options = DataOptions(root=str(tmp_path), workers=0, interpolation="bicubic", crop_ratio=0.8)
    split = build_data(options).val
    ((images, _),) = build_loader(options, split, 24, 2, False).epoch()
    step = Preprocess.from_dict(json.loads(json.dumps(preprocess(options, 24).to_dict())))
    assert step == preprocess(options, 24)
    for image, path in zip(images, split.source.images, strict=True):
        assert torch.equal(image, step(open_image(path)))
    assert preprocess(options, 24).resize == 30


def test_grey_networks_take_colour_images(tmp_path):
    folder(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
    options = DataOptions(root=str(tmp_path), workers=0, mean=(0.5,), std=(0.25,), augment="randaugment")
    data = build_data(options)
    ((images, _),) = build_loader(options, data.train, 8, 2, True).epoch()
    assert images.shape == (2, 1, 8, 8)
    with pytest.raises(DataError, match=r"DATA\.MEAN: for 5 channels, and .*png: has 3 channels \(RGB\), where 5 are needed"):
        build_loader(DataOptions(mean=(0.5,) * 5, std=(0.5,) * 5), data.train, 8, 2, True)


# -- annotations --------------------------------------------------------------------------------------


def coco(root, size=(20, 10), annotations=(), count=1):
    """COCO's file of `count` images and one box in each, and what else is given."""
    images = [{"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]} for i in range(1, count + 1)]
    shape = {"category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}
    boxes = [{"id": i, "image_id": i, **shape} for i in range(1, count + 1)]
    content = {"images": images, "annotations": [*boxes, *annotations], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    for split in ("train", "val"):
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        for i in range(1, count + 1):
            save(root / split / f"{i}.png", size)
    return root


BAD_RECORDS = [
    {"id": 100, "image_id": 1, "category_id": 1, "bbox": [1, 1, 500, 5]},
    {"id": 101, "image_id": 1, "category_id": 9, "bbox": [1, 1, 5, 5]},
    {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
    {"id": 102, "image_id": 77, "category_id": 1, "bbox": [1, 1, 5, 5]},
    {"id": "x", "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
]


@pytest.mark.parametrize("record", BAD_RECORDS, ids=str)
def test_a_bad_record_stops_or_is_skipped_and_counted(tmp_path, caplog, record):
    root = coco(tmp_path, annotations=[record], count=60)
    with pytest.raises(DataError):
        read(root, "boxes", dataset="coco")
    data = read(root, "boxes", dataset="coco", on_bad="skip")
    assert [len(target) for target in data.train.source.labels] == [1] * 60
    lines = warnings(caplog, "1 of 121 records are left out, the first because: ")
    assert len(lines) == 2  # train and val
    with pytest.raises(DataError, match=r"1 of 121 records cannot be used, more than DATA\.MAX_SKIPPED_SHARE 0\.001 \("):
        read(root, "boxes", dataset="coco", on_bad="skip", max_skipped_share=0.001)


def test_missing_images_can_be_skipped(tmp_path, caplog):
    root = coco(tmp_path, count=60)
    (root / "train/7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 60 images of instances_train\.json are missing"):
        read(root, "boxes", dataset="coco")
    data = read(root, "boxes", dataset="coco", on_bad="skip")
    assert (len(data.train), len(data.val), data.test) == (59, 60, None)
    assert all(os.path.isfile(path) for path in data.train.source.images)
    assert [target.image_id for target in data.train.source.labels] == [i for i in range(1, 61) if i != 7]
    assert warnings(caplog, "no such file in")


def test_sizes_are_checked_after_exif_turned_the_image(tmp_path, caplog):
    values = RNG.integers(0, 255, (20, 10, 3), dtype=np.uint8)  # stored upright, to be seen lying
    for wide, size in (("seen", (20, 10)), ("stored", (10, 20))):
        root = coco(tmp_path / wide, size)
        for split in ("train", "val"):
            turned_file(root / split / "1.png", 6, values)
        options = DataOptions(dataset="coco", root=str(root), workers=0, max_skipped_share=1)
        data = build_data(options, "boxes")
        found = list(build_loader(options, data.val, 32, 1, False).epoch())
        assert len(found) == (1 if wide == "seen" else 0)
    assert found == []
    assert warnings(caplog, "is 20x10, its annotations say 10x20 (EXIF has it turned; annotate it as it is seen")


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_images_of_another_size_than_their_annotations_are_told_before_the_run(tmp_path, kind):
    root = coco(tmp_path, count=3)
    Image.new("RGB", (31, 17)).save(root / "val/2.png")
    with pytest.raises(
        DataError, match=r"val.2\.png \(is 31x17 as it is seen, its annotations say .*1 of the 3 images of val are such files"
    ):
        read(root, kind, dataset="coco")
    assert len(read(root, kind, dataset="coco", max_skipped_share=0.5).val) == 3


def test_classes_that_no_image_shows_are_said(tmp_path, caplog):
    read(coco(tmp_path), "boxes", dataset="coco")
    assert len(warnings(caplog, "no image shows dog; check the annotations")) == 2


def voc(root, values, names="cat\ndog\n", splits=("train", "val")):
    """Two images in each split, whose masks hold the values."""
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    (root / "labels.txt").write_text(names)
    for split in splits:
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{split}1\n{split}2\n")
        for i in (1, 2):
            save(root / f"JPEGImages/{split}{i}.png", (8, 8))
            mask = np.resize(np.array(values, np.uint8), (8, 8))
            Image.fromarray(mask).save(root / f"SegmentationClass/{split}{i}.png")
    return root


def test_masks_of_0_and_255_are_refused(tmp_path):
    with pytest.raises(DataError, match="train: its masks hold the value 0 and 255, which means ignored; write the class as 1"):
        read(voc(tmp_path, [0, 255], "cat\n"), "masks", dataset="voc")


def test_masks_of_one_class_are_refused_and_missing_classes_said(tmp_path, caplog):
    with pytest.raises(DataError, match="train: its masks hold the value 0 of 3 classes; check them"):
        read(voc(tmp_path / "none", [0]), "masks", dataset="voc")
    data = read(voc(tmp_path / "one", [0, 1, 255]), "masks", dataset="voc")
    assert data.classes == ("background", "cat", "dog")
    assert data.test is None
    assert len(warnings(caplog, "no image shows dog")) == 2
    caplog.clear()
    read(voc(tmp_path / "all", [0, 1, 2]), "masks", dataset="voc")
    assert not caplog.records


BAD_MASKS = {
    "value": (np.full((8, 8), 3, np.uint8), "value 3 in a mask of 2 classes"),
    "size": (np.zeros((8, 9), np.uint8), "a mask of 9x8 pixels, its image 8x8; make them equal"),
    "mode": (np.zeros((8, 8, 3), np.uint8), "a mask of mode RGB; save class numbers as a palette or grey PNG of 8 bits"),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", [*BAD_MASKS, "none"])
def test_bad_masks_are_told_before_the_run(tmp_path, name, split):
    """Those of the test would be read at its very end."""
    root = voc(tmp_path, [0, 1, 2], splits=("train", "val", "test"))
    number = 1 if name == "value" else 2  # the first is read for its values, which are all there
    path = root / f"SegmentationClass/{split}{number}.png"
    values, said = BAD_MASKS.get(name, (None, "no mask that can be read"))
    if values is None:
        path.write_bytes(b"nothing")
    else:
        Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=rf"{path.name} \(.*{path.name}: {said}.*: cannot be read; 1 of the 2 images of {split} are such"):
        read(root, "masks", dataset="voc")
    assert len(getattr(read(root, "masks", dataset="voc", max_skipped_share=0.5), split)) == 2


def test_headers_of_masks_count_with_those_of_images(tmp_path):
    root = voc(tmp_path, [0, 1, 2])
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(root / "SegmentationClass/val1.png")
    (root / "JPEGImages/val2.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2 of the 2 images of val are such files, more than DATA\.MAX_SKIPPED_SHARE 0\.5"):
        read(root, "masks", dataset="voc", max_skipped_share=0.5)


def test_masks_are_of_their_images_as_exif_turns_them(tmp_path):
    root = voc(tmp_path, [0, 1, 2])
    for size in ((10, 6), (6, 10)):
        (root / "JPEGImages/val1.png").unlink(missing_ok=True)
        turned_file(root / "JPEGImages/val1.jpg", 6, np.zeros((*size, 3), np.uint8))
        Image.fromarray(np.resize(np.array([0, 1, 2], np.uint8), (6, 10))).save(root / "SegmentationClass/val1.png")
        if size == (10, 6):  # seen as 10x6 pixels, lying
            read(root, "masks", dataset="voc")
            continue
        with pytest.raises(DataError, match="a mask of 10x6 pixels, its image 6x10"):
            read(root, "masks", dataset="voc")


def test_coco_records_are_read_as_before_where_none_is_bad(tmp_path):
    root = coco(tmp_path, count=3)
    strict, lenient = (
        read_coco(root / "annotations/instances_train.json", root / "train", "detect", on_bad) for on_bad in ("stop", "skip")
    )
    assert strict.paths == lenient.paths
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(strict.targets, lenient.targets, strict=True))


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.WARNING)


def test_an_unreadable_folder_of_a_class_is_told(tmp_path, monkeypatch):
    folder(tmp_path, {"a/in": 2, "a": 2, "b": 2})
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("in"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"a/in: cannot be read \(Permission denied\); correct its permissions"):
        build_data(DataOptions(root=str(tmp_path), workers=0))
