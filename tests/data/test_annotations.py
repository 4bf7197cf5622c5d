import copy
import json
import logging
import pickle
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from mobile_cv_nas.data import DataError, coco_shapes
from mobile_cv_nas.data.coco import read_coco
from mobile_cv_nas.data.voc import VOC_CLASSES, read_voc

SQUARE = [[2.0, 1.0, 8.0, 1.0, 8.0, 7.0, 2.0, 7.0]]
LEFT = {"size": [10, 12], "counts": [0, 50, 70]}  # the first five columns


def document():
    """Two images, a third without objects; the categories' ids have gaps and are out of order."""
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 12, "height": 10}]
        + [{"id": number, "file_name": f"sub/{number}.png", "width": 20, "height": 16} for number in (3, 5)],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [2, 1, 6, 6], "segmentation": SQUARE, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 5, 10], "segmentation": LEFT, "iscrowd": 1},
            {
                "id": 9,
                "image_id": 3,
                "category_id": 4,
                "bbox": [-0.5, 3, 20.9, 13.5],
                "segmentation": [[1, 1, 9, 1, 9, 9], [10, 2, 15, 2, 15, 8]],
            },
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 4, "name": "dog"}],
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    for name in ("a.png", "sub/3.png", "sub/5.png"):
        (tmp_path / "images" / name).touch()  # no image is opened
    return tmp_path


def read(folder, content, task="detect"):
    path = folder / "instances.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_coco(path, folder / "images", task)


def test_boxes(folder):
    found = read(folder, document())
    assert found.categories == ("dog", "cat")  # by id
    assert found.paths == [str(folder / "images" / name) for name in ("a.png", "sub/3.png", "sub/5.png")]
    first, second, third = found.targets
    assert (first.image_id, first.size, second.size) == (7, (12, 10), (20, 16))
    assert first.boxes.tolist() == [[2, 1, 8, 7], [0, 0, 5, 10]]
    assert first.labels.tolist() == [2, 1]
    assert first.crowd.tolist() == [False, True]
    assert second.boxes.tolist() == [[0, 3, np.float32(20), 16]]  # half a pixel outside is clipped
    assert (len(third), third.boxes.shape) == (0, (0, 4))
    assert (first.boxes.dtype, first.labels.dtype, first.crowd.dtype) == (np.float32, np.int64, np.bool_)
    alone = first.without_crowd()
    assert (alone.boxes.tolist(), alone.labels.tolist(), alone.crowd.tolist()) == ([[2, 1, 8, 7]], [2], [False])
    copied = pickle.loads(pickle.dumps(found))
    assert np.array_equal(copied.targets[1].boxes, second.boxes)


def test_masks_are_those_of_pycocotools(folder):
    content = document()
    compressed = mask_api.encode(np.asfortranarray(np.random.default_rng(0).random((16, 20)) > 0.5, np.uint8))
    content["annotations"].append(
        {"id": 11, "image_id": 5, "category_id": 90, "segmentation": {"size": [16, 20], "counts": compressed["counts"].decode()}}
    )
    found = pickle.loads(pickle.dumps(read(folder, content, "segment")))
    truth = COCO(str(folder / "instances.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools' own arrays, by NumPy 2
        square, left, pieces, noise = (truth.annToMask(record).astype(bool) for record in content["annotations"])
    first, second, third = (target.mask(shape) for target, shape in zip(found.targets, [(10, 12), (16, 20), (16, 20)]))
    assert first.dtype == np.uint8
    assert np.array_equal(first, np.where(square, 2, np.where(left, 255, 0)))  # a crowd is under everything
    assert np.array_equal(second, np.where(pieces, 1, 0))
    assert np.array_equal(third, np.where(noise, 2, 0))
    assert min(square.sum(), left.sum(), pieces.sum(), noise.sum()) > 20
    with pytest.raises(DataError, match="image 3: the image file has 16x20 pixels, the annotations say 20x16"):
        found.targets[1].mask((20, 16))


def test_the_smaller_of_two_objects_is_seen(folder):
    content = document()
    big, small = [[0, 0, 12, 0, 12, 10, 0, 10]], [[3, 3, 6, 3, 6, 6, 3, 6]]
    rows = [(1, 90, small), (2, 4, big), (3, 4, small)]
    content["annotations"] = [{"id": n, "image_id": 7, "category_id": c, "segmentation": s} for n, c, s in rows]
    mask = read(folder, content, "segment").targets[0].mask((10, 12))
    assert mask[4, 4] == 1  # the later of the two small ones
    assert np.unique(mask).tolist() == [1]
    content["annotations"].pop()
    mask = read(folder, content, "segment").targets[0].mask((10, 12))
    assert (mask == 2).sum() == 9
    assert (mask == 1).sum() == 111


def test_our_reading_of_compressed_runs_is_that_of_pycocotools():
    rng = np.random.default_rng(1)
    for share in (0.0, 0.02, 0.5, 0.999, 1.0):
        mask = np.asfortranarray(rng.random((57, 643)) < share, np.uint8)
        runs = coco_shapes.decompress(mask_api.encode(mask)["counts"].decode())
        values = np.repeat(np.arange(len(runs)) % 2, runs)
        assert np.array_equal(values.reshape(643, 57).T, mask)


def change(*keys, to):
    """A document with one value replaced; `keys` lead to it."""
    content = place = document()
    for key in keys[:-1]:
        place = place[key]
    if to is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return content


def two_of_one_file():
    """A document in which a second image has the first one's file."""
    return change("images", 1, "file_name", to=document()["images"][0]["file_name"])


OUTSIDE = ("../a", "x/../../a", "/a", "C:\\a", "..\\a", "a\0")
BAD = [
    (b"{", "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b'{"a": "\xff"}', "not valid JSON"),
    (b"[]", "a list, where a mapping is needed"),
    (b"{}", "no 'categories'; it needs 'images', 'annotations' and 'categories'"),
    (change("images", to={}), "'images' is {}, where a list is needed"),
    (change("images", to=[]), "'images' is empty"),
    (change("annotations", to=[]), "'annotations' is empty"),
    (change("annotations", 1, to="x"), r"annotations\[1\] is 'x', where a mapping is needed"),
    (change("images", 0, "id", to="7"), r"images\[0\]: 'id' is '7', where a whole number is needed"),
    (change("images", 0, "width", to=None), "image 7: 'width' is None"),
    (change("images", 0, "height", to=0), "image 7: 12x0 pixels"),
    (change("images", 0, "height", to=10**12), "image 7: 12x1000000000000 pixels"),
    (change("images", 0, "height", to=10**30), "image 7: 'height' is 1000000"),
    (change("images", 0, "id", to=3), "two images have the id 3"),
    (change("images", 0, "file_name", to=5), "image 7: 'file_name' is 5, where a text is needed"),
    *((change("images", 0, "file_name", to=name), "image 7: .* leads out of the folder") for name in OUTSIDE),
    (change("images", 0, "file_name", to="b.png"), r"images: 1 of 3 images of instances.json are missing \(b.png\)"),
    (two_of_one_file(), "image 3: has the file 'a.png', as image 7 has; give all its annotations one image_id"),
    (change("categories", 0, "name", to="dog"), "two categories are named 'dog'"),
    (change("categories", 0, "name", to=" "), "' ' cannot name a category"),
    (change("categories", 0, "id", to=4), "two categories have the id 4"),
    (change("annotations", 0, "id", to=9), "two annotations have the id 9"),
    (change("annotations", 0, "id", to=True), r"annotations\[0\]: 'id' is True"),
    (change("annotations", 0, "image_id", to=8), r"1 annotations are of images that 'images' lacks \(ids 1\)"),
    (change("annotations", 0, "category_id", to=1), "annotation 1: category 1 is not in 'categories'"),
    (change("annotations", 0, "iscrowd", to="no"), "annotation 1: 'iscrowd' is 'no'"),
]  # fmt: skip
BAD_BOXES = [
    ([2, 1, 6], "where .x, y, width, height. in pixels is needed"),
    ([2, 1, 6, "6"], "is needed"),
    ([2, 1, 6, float("nan")], "is needed"),
    ([2, 1, 6, 10**400], "is needed"),
    ([2, 1, -6, 6], "negative size"),
    ([2, 1, 11.5, 6], r"annotation 1 of image 7 \(a.png, 12x10\): bbox \[2, 1, 11.5, 6\] is outside the image; correct or remove it"),
    ([-1.5, 1, 6, 6], "outside the image"),
    ([2, -1.5, 6, 6], "outside the image"),
    ([2, 6, 6, 6], "outside the image"),
]
BAD_SHAPES = [
    (None, "'segmentation' is None"),
    ([], r"'segmentation' is \[\]"),
    ([[1, 1, 2, 2]], "is no polygon"),
    ([[1, 1, 2, 2, 3, 3, 4]], "is no polygon"),
    ([[1, 1, 2, 2, 3, "3"]], "is no polygon"),
    ([[1, 1, 2, 2, 3, [3]]], "is no polygon"),
    ([[1, 1, 2, 2, 3, float("nan")]], r"annotation 1 of image 7 .*outside the image"),
    ([[1, 1, 2, 2, 3, 11.5]], "outside the image"),
    ([[1, 1, 2, 2, 1e300, 3]], "outside the image"),
    ({"size": [12, 10], "counts": [120]}, r"where the image's \[10, 12\] \(height, width\)"),
    ({"size": [10, 12], "counts": [100]}, "do not add up to the image's 120 pixels"),
    ({"size": [10, 12], "counts": [-10, 130]}, "do not add up"),
    ({"size": [10, 12], "counts": [1.5, 118.5]}, "do not add up"),
    ({"size": [10, 12], "counts": "zzé"}, "do not add up"),
    ({"size": [10, 12], "counts": ""}, "do not add up"),
    ({"size": [10, 12], "counts": "ooooooooooooo"}, "do not add up"),
]


def refused(folder, content, match, task="detect"):
    with pytest.raises(DataError, match=match) as error:
        read(folder, content, task)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + 2 * len(str(folder))


@pytest.mark.parametrize(("content", "match"), BAD, ids=[match[:40] for _, match in BAD])
def test_what_is_amiss_is_said(folder, content, match):
    refused(folder, content, match)
    refused(folder, content, match, "segment")


@pytest.mark.parametrize(("box", "match"), BAD_BOXES, ids=str)
def test_bad_boxes(folder, box, match):
    refused(folder, change("annotations", 0, "bbox", to=box), match)
    read(folder, change("annotations", 0, "bbox", to=box), "segment")  # which does not use them


@pytest.mark.parametrize(("shape", "match"), BAD_SHAPES, ids=str)
def test_bad_shapes(folder, shape, match):
    refused(folder, change("annotations", 0, "segmentation", to=shape), match, "segment")
    read(folder, change("annotations", 0, "segmentation", to=shape))


def test_files_that_cannot_be_read(folder, monkeypatch):
    with pytest.raises(DataError, match=r"none.json: no such file"):
        read_coco(folder / "none.json", folder, "detect")
    with pytest.raises(ValueError, match="neither 'detect' nor 'segment'"):
        read(folder, document(), "boxes")
    content = document()
    content["images"] += [{"id": 100 + i, "file_name": f"{i}.png", "width": 2, "height": 2} for i in range(5)]
    refused(folder, content, r"5 of 8 images of instances.json are missing \(0.png, 1.png, 2.png, ...\)")
    monkeypatch.setattr("mobile_cv_nas.data.coco.MAX_JSON_BYTES", 100)
    refused(folder, document(), "larger than the limit of 100 bytes")


def test_boxes_without_area_are_left_out(folder, caplog):
    content = change("annotations", 0, "bbox", to=[3, 4, 0, 2])
    with caplog.at_level(logging.WARNING):
        assert read(folder, content).targets[0].labels.tolist() == [1]
    assert "1 boxes of no area are left out" in caplog.text
    for record in content["annotations"]:
        record["bbox"] = [1, 1, 1e-12, 1]
    refused(folder, content, "no box has any area")


def test_without_pycocotools(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(DataError, match=r'run: pip install "mobile_cv_nas\[coco\]"'):
        read(folder, document(), "segment")
    assert len(read(folder, document())) == 3  # boxes need none


def places(value, path=()):
    """The keys that lead to every value of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
ANYTHING = st.recursive(
    SCALARS, lambda x: st.lists(x, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "id", "x"]), x), max_leaves=8
)


@given(place=st.sampled_from(sorted(places(document()), key=str)), value=ANYTHING, task=st.sampled_from(["detect", "segment"]))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_read_or_refused(folder, place, value, task):
    content = copy.deepcopy(document())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        found = read(folder, content, task)
    except DataError:
        return
    for target in found.targets:
        if task == "detect":
            width, height = target.size
            assert np.isfinite(target.boxes).all()
            assert (target.boxes >= 0).all()
            assert (target.boxes <= [width, height, width, height]).all()
            assert set(target.labels) <= set(range(1, len(found.categories) + 1))
        elif target.size[0] * target.size[1] < 10**6:
            assert target.mask(target.size[::-1]).shape == target.size[::-1]


# -- Pascal VOC ---------------------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path):
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("one\ntwo\n\n")
    for name, ending in (("one", "jpg"), ("two", "png")):
        Image.new("RGB", (6, 4)).save(tmp_path / "JPEGImages" / f"{name}.{ending}")
        save_mask(tmp_path, name, np.arange(24, dtype=np.uint8).reshape(4, 6) % 21)
    return tmp_path


def save_mask(root, name, values, mode="P"):
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(root / "SegmentationClass" / f"{name}.png")


def test_voc(voc):
    values = np.full((4, 6), 255, np.uint8)
    values[1, 2] = 20
    save_mask(voc, "two", values)
    found = pickle.loads(pickle.dumps(read_voc(voc, "train")))
    assert found.categories == VOC_CLASSES
    assert len(set(VOC_CLASSES)) == 20
    assert found.paths == [str(voc / "JPEGImages/one.jpg"), str(voc / "JPEGImages/two.png")]
    assert np.array_equal(found.targets[0].mask((4, 6)), np.arange(24).reshape(4, 6) % 21)
    assert np.array_equal(found.targets[1].mask((4, 6)), values)
    save_mask(voc, "two", values, "L")
    assert np.array_equal(found.targets[1].mask((4, 6)), values)
    (voc / "classes.txt").write_text("road\nsky\n")
    assert read_voc(voc, "train").categories == ("road", "sky")


def test_bad_masks(voc):
    target = read_voc(voc, "train").targets[0]
    path = voc / "SegmentationClass/one.png"

    def refused(match):
        with pytest.raises(DataError, match=match) as error:
            target.mask((4, 6))
        assert str(path) in str(error.value)

    save_mask(voc, "one", np.full((4, 6), 21, np.uint8))
    refused("value 21 in a mask of 20 classes")
    save_mask(voc, "one", np.zeros((6, 4), np.uint8))
    refused("a mask of 4x6 pixels, its image 6x4")
    save_mask(voc, "one", np.zeros((4, 6, 3), np.uint8), "RGB")
    refused("a mask of mode RGB")
    save_mask(voc, "one", np.zeros((4, 6), np.uint16), "I;16")
    refused("a mask of mode I;16")
    save_mask(voc, "one", np.zeros((4, 6), np.uint8), "L")
    path.write_bytes(path.read_bytes()[:44])
    refused("no mask that can be read")
    path.unlink()
    refused("cannot be read: No such file")


def test_what_a_voc_folder_may_lack_is_said(voc, monkeypatch):
    def refused(match, split="train"):
        with pytest.raises(DataError, match=match) as error:
            read_voc(voc, split)
        assert "\n" not in str(error.value)

    refused(r"ImageSets/Segmentation/val.txt: no such file; it lists the images", "val")
    for names, match in (
        ("", "empty"),
        ("one\none", "'one' is listed twice"),
        ("../one", "leads out"),
        ("x", "1 of 1 images of train.txt are missing"),
    ):
        (voc / "ImageSets/Segmentation/train.txt").write_text(names)
        refused(match)
    (voc / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff")
    refused("UTF-8")
    (voc / "ImageSets/Segmentation/train.txt").write_text("one\ntwo")
    for names, match in (("", "0 classes"), ("background\nx", "names the background"), ("x\nx", "two categories are named 'x'")):
        (voc / "labels.txt").write_text(names)
        refused(match)
    (voc / "labels.txt").unlink()
    (voc / "SegmentationClass/two.png").unlink()
    refused(r"SegmentationClass: 1 of 2 masks of train.txt are missing \(two\)")
    monkeypatch.setattr("mobile_cv_nas.data.voc.MAX_MASK_BYTES", 3)
    refused("larger than the limit of 3 bytes")
