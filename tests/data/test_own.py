"""Data sets of one's own: torch Datasets of (image, label)."""

import logging
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from mobile_cv_nas.data import DataError, DataOptions, build_loader, data_of
from mobile_cv_nas.data.data_set import Data, Source, Split

PLAIN = DataOptions(workers=0, mean=(0.0,) * 3, std=(1.0,) * 3)


class Pairs(Dataset):
    """Counts how often it is read."""

    def __init__(self, images, labels_, **attributes):
        self.images, self.labels_, self.reads = images, labels_, 0
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads += 1
        return self.images[index], self.labels_[index]


def pixels(count=20, size=(10, 12), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def labels(count=20):
    return [i % 4 for i in range(count)]


def batch(data, split="train", size=16, count=4, options=PLAIN, train=False, **more):
    return next(build_loader(options, getattr(data, split), size, count, train, **more).epoch())


FORMS = {
    "PIL": lambda values: [Image.fromarray(v) for v in values],
    "uint8 array": list,
    "uint8 tensor": lambda values: [torch.from_numpy(v).permute(2, 0, 1) for v in values],
}


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_form_are_prepared_alike(form):
    data = data_of(Pairs(FORMS[form](pixels()), labels()), options=PLAIN)
    reference = data_of(Pairs(FORMS["PIL"](pixels()), labels()), options=PLAIN)
    (images, found), (expected, truth) = batch(data), batch(reference)
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.float32
    assert torch.equal(images, expected)
    assert torch.equal(found, truth)
    assert found.dtype == torch.int64


def test_float_tensors_are_taken_as_they_are_and_at_most_resized():
    values = torch.randn(20, 3, 16, 16)
    data = data_of(TensorDataset(values, torch.tensor(labels())), options=DataOptions(workers=0, augment="crop"))
    images, _ = batch(data, train=True, options=DataOptions(workers=0, augment="crop"))
    assert all(any(torch.equal(image, value) for value in values) for image in images)
    assert batch(data, size=8)[0].shape == (4, 3, 8, 8)
    assert data.train.source.normalised


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_number_of_channels(channels):
    options = DataOptions(workers=0, mean=(0.0,) * channels, std=(1.0,) * channels)
    data = data_of(TensorDataset(torch.randn(20, channels, 9, 9), torch.tensor(labels())), options=options)
    assert batch(data, options=options)[0].shape == (4, channels, 16, 16)
    loader = build_loader(PLAIN, data.train, 16, 4, False)
    if channels != 3:
        with pytest.raises(DataError, match=r"a float tensor of shape .* where \(3, H, W\)"):
            list(loader.epoch())


def test_labels_are_read_without_the_images_where_they_are_listed(caplog):
    caplog.set_level(logging.INFO)
    for attributes in ({"targets": labels()}, {"labels": torch.tensor(labels())}, {"targets": np.array(labels())}):
        dataset = Pairs(FORMS["PIL"](pixels()), labels(), **attributes)
        data = data_of(dataset)
        assert data.train.source.labels == labels()
        assert dataset.reads < 10  # a few, to see that the list says what the items say
        assert "reading the labels" not in caplog.text
        half = data_of(Subset(dataset, range(0, 20, 2)))
        assert half.train.source.labels == labels()[::2]
    dataset = Pairs(FORMS["PIL"](pixels()), labels(), targets=[0] * 20)  # a list that says something else
    assert data_of(dataset).train.source.labels == labels()
    assert "train: reading the labels of 20 items" in caplog.text
    joined = ConcatDataset([Pairs(pixels(), labels()), Pairs(pixels(seed=1), labels())])
    assert data_of(joined).train.source.labels == labels() * 2


def test_classes_come_from_the_argument_the_dataset_or_the_numbers():
    plain, named = Pairs(pixels(), labels()), Pairs(pixels(), labels(), classes=["a", "b", "c", "d"])
    assert data_of(plain).classes == ("0", "1", "2", "3")
    assert data_of(named).classes == ("a", "b", "c", "d")
    assert data_of(Subset(named, range(9))).classes == ("a", "b", "c", "d")
    assert data_of(named, classes=list("wxyz")).classes == ("w", "x", "y", "z")


def test_validation_images_are_split_off_of_every_class_and_test_images_are_not(caplog):
    caplog.set_level(logging.INFO)
    data = data_of(Pairs(pixels(40), labels(40)), options=DataOptions(val_fraction=0.2))
    assert (len(data.train), len(data.val), data.test) == (32, 8, None)
    assert data.val.counts(4) == [2, 2, 2, 2]
    assert not set(data.train.indices) & set(data.val.indices)
    assert "no validation images were given: 8 of the 40 training images are split off" in caplog.text
    given = data_of(Pairs(pixels(40), labels(40)), Pairs(pixels(8), labels(8)), Pairs(pixels(4), labels(4)))
    assert [len(split) for split in (given.train, given.val, given.test)] == [40, 8, 4]


def test_a_folder_serves_too(tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        for i, value in enumerate(pixels(3, seed=len(name) + ord(name[-1]))):
            Image.fromarray(value).save(tmp_path / name / f"{i}.png")
    for folder in (tmp_path, str(tmp_path)):
        assert [len(split) for split in (data_of(folder).train, data_of(folder).val)] == [6, 6]
    with pytest.raises(DataError, match="is a folder, whose val, test and classes are its folders"):
        data_of(tmp_path, val=tmp_path)


# -- masks and boxes ----------------------------------------------------------------------------------


def masks(count=20, size=(10, 12)):
    return np.random.default_rng(3).integers(0, 3, (count, *size), dtype=np.int64)


@pytest.mark.parametrize("form", ["tensor", "array", "PIL"])
def test_masks_of_every_form(form):
    made = {"tensor": torch.from_numpy(masks()), "array": masks(), "PIL": [Image.fromarray(m.astype(np.uint8)) for m in masks()]}
    data = data_of(Pairs(FORMS["PIL"](pixels()), made[form]), classes=["background", "cat", "dog"], options=PLAIN)
    assert data.train.source.kind == "masks"
    images, found = batch(data, size=12, label_size=12, count=20)
    assert images.shape == (18, 3, 12, 12)
    assert found.shape == (18, 12, 12)
    rows = torch.arange(12) * 10 // 12  # nearest
    first = data.train.indices[0]
    assert (found[0] == torch.from_numpy(masks()[first])[rows]).float().mean() > 0.9
    assert data_of(Pairs(FORMS["PIL"](pixels()), made[form])).classes == ("0", "1", "2")


def test_masks_move_with_the_image():
    values = np.zeros((8, 12, 12), np.int64)
    values[:, 3:9, 3:9] = 1
    options = DataOptions(workers=0, mean=(0.0,) * 3, std=(1.0,) * 3, augment="affine")
    data = data_of(
        Pairs([Image.fromarray((v * 255).astype(np.uint8)) for v in values], values),
        options=options,
        val=Pairs(pixels(2, (12, 12)), values[:2]),
    )
    images, found = batch(data, size=48, count=8, options=options, train=True)
    counted = found != 255
    assert (((images[:, 0] > 0.5) == (found == 1)) | ~counted).float().mean() > 0.97
    assert not torch.equal(found[0], found[1])


def test_boxes_are_those_of_torchvision():
    boxes = [{"boxes": torch.tensor([[1.0, 2, 5, 6], [0, 0, 12, 10]]), "labels": torch.tensor([1, 2])} for _ in range(20)]
    data = data_of(Pairs(FORMS["PIL"](pixels()), boxes), classes=["cat", "dog"], options=PLAIN)
    assert (data.train.source.kind, data.classes) == ("boxes", ("cat", "dog"))
    images, targets = batch(data, train=True)
    assert images[0].shape == (3, 10, 12)
    assert targets[0]["boxes"].tolist() == [[1, 2, 5, 6], [0, 0, 12, 10]]
    assert targets[0]["labels"].tolist() == [1, 2]
    assert data_of(Pairs(FORMS["PIL"](pixels()), boxes)).classes == ("1", "2")


def test_masks_of_0_and_255_are_refused():
    values = (masks() > 0) * 255
    with pytest.raises(DataError, match="its masks hold the value 0 and 255, which means ignored; write the class as 1"):
        data_of(Pairs(FORMS["PIL"](pixels()), values), classes=["background", "cat"])


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_classes_that_no_item_shows_are_said(kind, caplog):
    made = masks() % 2 if kind == "masks" else [{"boxes": [[0, 0, 9, 5.0]], "labels": [1]}] * 20
    names = ["background", "cat", "dog"][kind == "boxes" :]
    pairs = Pairs(FORMS["PIL"](pixels()), made)
    data_of(pairs, pairs, classes=names)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"{split}: no image shows dog; check the annotations" for split in ("train", "val")]
    caplog.clear()
    data_of(pairs, pairs, classes=names[:-1])
    assert not caplog.records


def test_only_some_items_are_read_for_their_classes(caplog, monkeypatch):
    """Evenly spread; and all for a second value, as masks of one alone are refused."""
    monkeypatch.setattr("mobile_cv_nas.data.remarks.MAX_ITEMS", 5)
    values = np.zeros((20, 10, 12), np.int64)
    values[4, 0] = 1
    pairs = Pairs(FORMS["PIL"](pixels()), values)
    data_of(pairs, pairs, classes=["background", "cat", "dog"])
    assert pairs.reads < 20
    assert "train: none of 5 images, evenly spread, shows dog; check the annotations" in caplog.text
    values[4], values[5, 0], pairs.reads = 0, 1, 0
    data_of(pairs, pairs, classes=["background", "cat"])
    assert pairs.reads < 30
    values[5] = 0
    with pytest.raises(DataError, match="its masks hold the value 0 of 2 classes"):
        data_of(pairs, pairs, classes=["background", "cat"])


def test_no_class_is_missed_in_items_that_cannot_be_read(caplog):
    data_of(boxed([[0, 0, 99, 5.0]], [1]), classes=["a"])
    assert not caplog.records


def test_copies_between_datasets_of_files_are_counted(tmp_path, caplog):
    from torchvision.datasets import ImageFolder

    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i, value in enumerate(pixels(4, seed=ord(name) + len(split))):
                Image.fromarray(value).save(tmp_path / split / name / f"{i}.png")
    train, val = ImageFolder(tmp_path / "train"), ImageFolder(tmp_path / "val")
    data_of(train, val)
    assert not caplog.records
    for i in range(3):
        shutil.copy(tmp_path / f"val/b/{i}.png", tmp_path / f"train/a/copy{i}.png")
    train = ImageFolder(tmp_path / "train")
    data_of(train, Subset(Subset(val, range(1, 8)), range(4, 7)))  # b: 1, 2, 3
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("2 images of val are in train too, such as ")
    assert "train/a/copy1.png" in line
    assert line.endswith("val/b/1.png; remove them from one")
    named = Pairs([path for path, _ in val.samples], val.targets)
    for other in (Pairs(FORMS["PIL"](pixels(8)), val.targets, imgs=val.imgs), named):
        caplog.clear()
        data_of(train, other)
        assert "3 images of val are in train too" in caplog.text


def test_parts_of_a_file_are_no_copies_of_it(tmp_path, caplog):
    """As frames of a film, which a Dataset lists with their numbers."""
    (tmp_path / "film.mp4").write_bytes(b"film")
    samples = [(str(tmp_path / "film.mp4"), i) for i in range(20)]
    data_of(Pairs(FORMS["PIL"](pixels()), labels(), samples=samples))
    assert not caplog.records


# -- errors -------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        yield from ()


class Broken(Pairs):
    def __getitem__(self, index):
        raise RuntimeError("a disk is gone")


def boxed(boxes, numbers):
    return Pairs(FORMS["PIL"](pixels()), [{"boxes": boxes, "labels": numbers}] * 20)


REFUSED = [
    (lambda: data_of(Stream()), "train: 'Stream' is no map-style Dataset"),
    (lambda: data_of(3), "train: 'int' is no map-style Dataset"),
    (lambda: data_of(Pairs([], [])), "train: has no items"),
    (lambda: data_of(Broken([1], [2])), "train: item 0: RuntimeError: a disk is gone"),
    (lambda: data_of(TensorDataset(torch.rand(3, 3, 4, 4))), "train: item 0: .* is no pair of image and label"),
    (lambda: data_of(Pairs(pixels(), ["cat"] * 20)), "train: item 0: a label of 'cat'; it needs a whole number"),
    (lambda: data_of(Pairs(pixels(), [0] * 20)), "train: 1 classes; it needs 2 at least"),
    (lambda: data_of(Pairs(pixels(), [0, -1] * 10)), "train: item 1: label -1"),
    (lambda: data_of(Pairs(pixels(), labels()), classes=["a", "b"]), "train: item 2: label 2, and there are 2 classes, numbered from 0"),
    (
        lambda: data_of(Pairs(pixels(), labels()), Pairs(pixels(), [9] * 20), classes=list("abcd")),
        "val: item 0: label 9, and there are 4 classes",
    ),
    (lambda: data_of(Pairs(pixels(), labels()), Pairs(pixels(), masks())), "val: its labels are masks, those of train are classes"),
    (lambda: batch(data_of(Pairs(pixels(), masks(20, (3, 3))), classes=list("abc"))), "a mask of 3x3 pixels, its image 12x10"),
    (lambda: batch(data_of(boxed([[0, 0, 99, 5.0]], [1]), classes=["a"])), "a box outside its image of 12x10"),
    (lambda: batch(data_of(boxed([[0, 0, 9, 5.0]], [0]), classes=["a"])), "label 0; the first class is 1"),
    (lambda: batch(data_of(boxed([[0, 0, 9, 5.0]], [1, 2]), classes=["a"])), "1 boxes and 2 labels"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED, ids=[reason[:40] for _, reason in REFUSED])
def test_what_cannot_be_used_is_told_in_one_line(make, reason):
    with pytest.raises(DataError, match=reason) as error:
        make()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# -- another order of the classes ---------------------------------------------------------------------


def test_classes_in_the_order_of_a_model():
    data = data_of(Pairs(pixels(), labels()), classes=list("abcd"))
    other = data.relabelled("dcba")
    assert other.classes == tuple("dcba")
    assert other.train.source.labels == [3 - label for label in labels()]
    drawn = data_of(Pairs(FORMS["PIL"](pixels()), masks()), classes=["background", "cat", "dog"], options=PLAIN)
    moved = drawn.relabelled(["background", "dog", "cat"])
    before, after = batch(drawn, size=12)[1], batch(moved, size=12)[1]
    assert torch.equal(torch.tensor([0, 2, 1])[before], after)
    boxes = data_of(boxed([[0, 0, 9, 5.0], [1, 1, 3, 3]], [1, 2]), classes=["cat", "dog"], options=PLAIN)
    assert batch(boxes.relabelled(["dog", "cat"]), train=True)[1][0]["labels"].tolist() == [2, 1]
    with pytest.raises(DataError, match="4 classes cannot be put in the order of 2 others"):
        data.relabelled("ab")


def test_classes_of_a_further_dataset_are_matched_by_name():
    """A folder that lacks a class numbers the others anew."""
    images = FORMS["PIL"](pixels())
    train = Pairs(images, [i % 3 for i in range(20)], classes=["ant", "bee", "cat"])
    val = Pairs(images[:4], [0, 1, 0, 1], targets=[0, 1, 0, 1], classes=["ant", "cat"])
    data = data_of(train, val, Pairs(images[:2], [2, 0], targets=(2, 0), classes=["cat", "bee", "ant"]), options=PLAIN)
    assert [data.classes[label] for label in data.val.source.labels] == ["ant", "cat", "ant", "cat"]
    assert batch(data, "val")[1].tolist() == [0, 2, 0, 2]
    assert batch(data.relabelled(["cat", "bee", "ant"]), "val")[1].tolist() == [2, 0, 2, 0]
    assert batch(data, "test", count=2)[1].tolist() == [0, 2]
    assert data_of(train, val, classes=["x", "y", "z"]).val.source.labels == [0, 1, 0, 1]  # the numbers are what is said
    with pytest.raises(DataError, match="val: its classes are ant, dog, those of train ant, bee, cat"):
        data_of(train, Pairs(images[:4], [0, 1, 0, 1], classes=["ant", "dog"]))
    boxes = [{"boxes": [[0, 0, 9, 5.0]], "labels": [1]}] * 20
    with pytest.raises(DataError, match=r"val: its classes are b, a, those of train a, b.* or give `classes`"):
        data_of(Pairs(images, boxes, classes=["a", "b"]), Pairs(images, boxes, classes=["b", "a"]))
    assert data_of(Pairs(images, labels()), Pairs(images, labels(), classes=list("abcd"))).classes == ("0", "1", "2", "3")
    nested = Subset(Subset(train, range(12)), range(10))
    assert data_of(nested, val).classes == ("ant", "bee", "cat")


def test_labels_that_a_dataset_has_renumbered_itself_stay(caplog):
    """As of a folder whose `target_transform` makes up for the class that it lacks."""
    images = FORMS["PIL"](pixels())
    train = Pairs(images, [i % 3 for i in range(20)], classes=["ant", "bee", "cat"])
    val = Pairs(images[:4], [1, 2, 1, 2], targets=[0, 1, 0, 1], classes=["bee", "cat"])
    data = data_of(train, val, options=PLAIN)
    assert data.val.source.labels == batch(data, "val")[1].tolist() == [1, 2, 1, 2]
    assert "val: its classes are bee, cat, those of train ant, bee, cat; its labels are taken for numbers of the latter" in caplog.text
    low = Pairs(images[:4], [1, 1, 1, 1], targets=[0, 0, 0, 0], classes=["bee", "cat"])  # of which none is beyond its own names
    assert data_of(train, low, options=PLAIN).val.source.labels == [1, 1, 1, 1]


def test_names_of_classes_are_given_once():
    names = ["crane", ("dog", "hound"), ("crane",)]  # ImageNet has two cranes
    dataset = Pairs(FORMS["PIL"](pixels()), [i % 3 for i in range(20)], classes=names)
    assert data_of(dataset, dataset).classes == ("crane", "dog, hound", "crane (2)")
    with pytest.raises(DataError, match="classes: two categories are named 'crane'"):
        data_of(dataset, classes=["crane", "dog", "crane"])
    with pytest.raises(DataError, match="two classes are named 'a'; classes are matched by name"):
        Data(*[Split.whole(Source(["x"] * 3, [0, 1, 2]))] * 3, classes=("a", "b", "a")).relabelled(["a", "a", "b"])


class Merged(Pairs):
    """Its items say another class than its list does, for one class of ten."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, 5 if label == 3 and index > self.after else label


@pytest.mark.parametrize("after", [-1, 13])
def test_labels_are_those_of_the_items(after, caplog):
    listed = [i % 10 for i in range(100)]
    dataset = Merged(FORMS["PIL"](pixels(100)), listed, targets=listed, after=after)
    data = data_of(dataset, dataset, options=PLAIN)
    if after < 0:  # seen at the first item of the class
        assert data.train.source.labels == [5 if label == 3 else label for label in listed]
    else:
        with pytest.raises(DataError, match=r"item [2-9]3 of the Merged: cannot be read .*label 5, which was 3 before the run"):
            list(build_loader(PLAIN, data.val, 16, 100, False).epoch())


def test_an_item_that_cannot_be_read_is_no_reason_to_doubt_its_label():
    class Damaged(Pairs):
        def __getitem__(self, index):
            if index == 1:
                raise OSError("truncated")
            return super().__getitem__(index)

    dataset = Damaged(FORMS["PIL"](pixels()), labels(), targets=labels())
    assert data_of(dataset, Pairs(FORMS["PIL"](pixels()), labels())).train.source.labels == labels()


def test_boxes_have_a_class():
    boxes = [{"boxes": [[0, 0, 9, 5.0], [1, 1, 3, 3]], "labels": [1, 2 + (i == 7)]} for i in range(20)]
    data = data_of(Pairs(FORMS["PIL"](pixels()), boxes, classes=["a", "b"]), options=PLAIN)
    with pytest.raises(DataError, match="item 7 of the Pairs: label 3, and there are 2 classes, numbered from 1"):
        data.train.source.item(7)
    assert data.train.source.item(6)[1].labels.tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["masks", "boxes", "classes"])
def test_labels_of_pixels_are_those_of_the_pixels_that_are_given(kind):
    """What EXIF still says of the file that an image was cut from turns no image away from its mask."""
    image = Image.fromarray((masks(1, (8, 8))[0] * 100).astype(np.uint8)).convert("RGB")
    image.info["exif"] = exif_of(3)
    target = {"masks": masks(1, (8, 8))[0], "boxes": {"boxes": [[0, 0, 4, 4.0]], "labels": [1]}, "classes": 0}[kind]
    other = 1 if kind == "classes" else target
    options, pairs = replace(PLAIN, crop_ratio=1.0), Pairs([image] * 4, [target, other] * 2)
    data = data_of(pairs, pairs, classes=list("abc"), options=options)
    images, labels_ = batch(data, "val", 8, options=options, label_size=8)
    upright = torch.from_numpy(np.asarray(image)[..., 0] / 255).float()
    assert torch.allclose(images[0][0], upright.rot90(2) if kind == "classes" else upright)
    if kind == "masks":
        assert torch.equal((images[0][0] * 2.55).round().long(), labels_[0])


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


# -- randomness ---------------------------------------------------------------------------------------


class Drawn(Pairs):
    """Draws from NumPy and from Python, as albumentations and older code do."""

    def __getitem__(self, index):
        drawn = np.random.rand() if self.by == "numpy" else random.random()  # noqa: NPY002
        return torch.full((3, 4, 4), drawn + 100 * index), index % 2


@pytest.mark.parametrize("by", ["numpy", "random"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_dataset_draws_depends_on_seed_epoch_and_image(workers, by):
    data = data_of(Drawn(range(8), labels(8), by=by), Drawn(range(8), labels(8), by=by), options=PLAIN)
    options = replace(PLAIN, workers=workers)

    def drawn(seed, epoch, shard=(0, 1)):
        values = [float(v) for x, _ in build_loader(options, data.train, 4, 2, True, shard, seed).epoch(epoch) for v in x[:, 0, 0, 0]]
        return {int(value // 100): value % 100 for value in values}

    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = drawn(0, 0)
    assert len(set(first.values())) == 8
    assert drawn(0, 0) == first
    for other in (drawn(7, 0), drawn(0, 5)):
        assert not set(other.values()) & set(first.values())
    assert drawn(0, 0, (0, 2)) | drawn(0, 0, (1, 2)) == first  # whichever process reads it
    if not workers:
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002


class Jittered(Pairs):
    """Draws from torch's generator itself, as one's own augmentation does."""

    def __getitem__(self, index):
        return torch.full((3, 8, 8), float(index)) + torch.rand(()) / 2, index % 4


@pytest.mark.parametrize("own", [False, True], ids=["ours", "the Dataset's"])
def test_each_epoch_augments_anew_and_can_be_repeated(own):
    options = DataOptions(workers=0, augment="crop", mean=(0.0,) * 3, std=(1.0,) * 3)
    dataset = Jittered(range(20), labels()) if own else Pairs(FORMS["PIL"](pixels(20, (40, 40))), labels())
    data = data_of(dataset, Pairs(FORMS["PIL"](pixels(4)), labels(4)) if not own else Jittered(range(4), labels(4)), options=options)
    state = torch.get_rng_state()

    def epoch(number):
        ((images, _),) = build_loader(options, data.train, 8, 20, True, seed=3).epoch(number)
        return images

    first_checked = [images for images, _ in build_loader(options, data.val, 8, 2, False).epoch(0)]
    then_checked = [images for images, _ in build_loader(options, data.val, 8, 2, False).epoch(1)]
    assert all(torch.equal(a, b) for a, b in zip(first_checked, then_checked, strict=True))
    first, again, second = epoch(0), epoch(0), epoch(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not any(torch.equal(a, b) for a in first for b in second)  # in whatever order
