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
    (folder(tmp_path / "notes", {"train/a": 5, "train/b": 5}) / "papers").mkdir()
    assert read(tmp_path / "notes").classes == ("a", "b")
    assert warnings(caplog, "not read, beside the splits: papers")


def test_a_level_too_high_is_named(tmp_path):
    folder(tmp_path / "up", {f"pets/{part}/{c}": 3 for part in ("train", "val") for c in "ab"})
    with pytest.raises(DataError, match=r"a level too high: pets holds train, a split; set DATA\.ROOT to .*pets"):
        read(tmp_path / "up")
    folder(tmp_path / "up", {f"cars/{part}/{c}": 3 for part in ("Training", "val") for c in "ab"})
    with pytest.raises(DataError, match="a level too high: cars holds Training"):
        read(tmp_path / "up")


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
    assert warnings(caplog, "1 classes have one image or none (b 1)")


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_followed_everywhere(tmp_path, orientation):
    from PIL import ImageOps

    values = RNG.integers(0, 255, (6, 10, 3), dtype=np.uint8)
    turned_file(tmp_path / "a.png", orientation, values)
    with Image.open(tmp_path / "a.png") as opened:
        truth = np.asarray(ImageOps.exif_transpose(opened))
    found = open_image(tmp_path / "a.png")
    assert np.array_equal(np.asarray(found), truth)
    assert np.array_equal(np.asarray(open_image(found)), truth)  # and not a second time
    with Image.open(tmp_path / "a.png") as opened:
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
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(1, count + 1)]
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


def test_classes_that_no_image_shows_are_said(tmp_path, caplog):
    read(coco(tmp_path), "boxes", dataset="coco")
    assert len(warnings(caplog, "no image shows dog; check the annotations")) == 2


def voc(root, values, names="cat\ndog\n"):
    """Two images in each split, whose masks hold the values."""
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    (root / "labels.txt").write_text(names)
    for split in ("train", "val"):
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
