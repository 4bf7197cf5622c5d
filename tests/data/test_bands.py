"""in_channels: grey images, and images of any number of channels from .npy files and TIFF pages, from the file to the prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_runs import dense_cfg, few_scenes, train_dense
from helpers import quick_cfg, run_tool, run_training, tiny_arch
from PIL import Image
from searches import search_and_train, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.data.bands import Bands
from mobile_cv_nas.data.build import build_data, build_loader
from mobile_cv_nas.data.data_set import DataError
from mobile_cv_nas.data.images import BadImage, open_image
from mobile_cv_nas.data.options import DataOptions
from mobile_cv_nas.data.transforms import Preprocess
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.model_zoo.weights import adapt_stem

RNG = np.random.default_rng(0)
STEM = "blocks.s0b0.conv.weight"


def values(channels: int = 5, dtype: str = "uint16", height: int = 6, width: int = 9) -> np.ndarray:
    if dtype == "float32":
        return RNG.random((height, width, channels), dtype=np.float32)
    return RNG.integers(0, np.iinfo(dtype).max, (height, width, channels)).astype(dtype)


def bands_folder(root: Path, channels: int = 5) -> Path:
    """Two classes of .npy files that a network tells apart: their brightest channel is the first or the last."""
    for split, count in (("train", 16), ("val", 6), ("test", 6)):
        for label, name in enumerate(("first", "last")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                array = values(channels, "uint8", 12, 10) // 4
                array[..., -label] += 180
                np.save(root / split / name / f"{i}.npy", array)
    return root


def colour_folder(root: Path) -> Path:
    for name in ("a", "b"):
        for split, count in (("train", 16), ("val", 4), ("test", 4)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(values(3, "uint8", 10, 10)).save(root / split / name / f"{i}.png")
    return root


# -- reading ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "full"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_npy_files_in_either_order(dtype, full, tmp_path):
    array = values(dtype=dtype)
    np.save(tmp_path / "last.npy", array)
    np.save(tmp_path / "first.NPY", array.transpose(2, 0, 1))
    (tmp_path / "first.NPY.npy").rename(tmp_path / "first.NPY")
    for name in ("last.npy", "first.NPY"):
        found = open_image(tmp_path / name, channels=5)
        assert (found.size, found.channels) == ((9, 6), 5)
        np.testing.assert_allclose(found.values, array.astype(np.float64) / full, atol=1e-7)
    assert isinstance(open_image(tmp_path / "last.npy"), Bands), "five channels are no picture, whoever asks"


def test_npy_files_of_grey_and_colour_are_pictures(tmp_path):
    array = values(3, "uint8")
    np.save(tmp_path / "colour.npy", array)
    np.save(tmp_path / "grey.npy", array[..., 0])
    assert np.array_equal(np.asarray(open_image(tmp_path / "colour.npy", channels=3)), array)
    assert np.array_equal(np.asarray(open_image(tmp_path / "grey.npy", channels=1).convert("L")), array[..., 0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pages_of_a_tiff_are_channels(dtype, tmp_path):
    array = values(5, dtype)
    pages = [Image.fromarray(array[..., i]) for i in range(5)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    found = open_image(tmp_path / "pages.tif", channels=5)
    np.testing.assert_allclose(found.values, array / {"uint8": 255, "uint16": 65535, "float32": 1}[dtype], atol=1e-7)


def test_four_channels_of_a_pixel_are_taken_as_they_are(tmp_path):
    array = values(4, "uint8")
    Image.fromarray(array, "RGBA").save(tmp_path / "rgba.png")
    assert np.array_equal(open_image(tmp_path / "rgba.png", channels=4).values, (array / 255).astype(np.float32))
    image = Image.fromarray(array, "RGBA")
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "turned.tif", exif=exif)
    turned = open_image(tmp_path / "turned.tif", channels=4)
    assert turned.size == (6, 9)
    assert np.array_equal(turned.values, np.rot90(array / 255, -1).astype(np.float32))


def test_arrays_and_tensors_of_bands():
    array = values(6, "uint8")
    for source in (array, torch.from_numpy(array).permute(2, 0, 1)):
        assert np.array_equal(open_image(source, channels=6).values, (array / 255).astype(np.float32))


def bad(path: Path, source: object) -> Path:
    if isinstance(source, bytes):
        path.write_bytes(source)
    else:
        np.save(path, source, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"shape \(4, 4, 3\), where \(H, W, 5\) is needed"),
        (np.zeros((4, 4, 5), np.int16), "type int16, of which no range is known"),
        (np.zeros((0, 4, 5), np.uint8), "shape"),
        (np.array([{}], dtype=object), "Python objects"),
        (b"no array", "ValueError"),
        (b"", "Error"),
    ],
)
def test_bad_arrays(source, reason, tmp_path):
    with pytest.raises(BadImage, match=reason):
        open_image(bad(tmp_path / "bad.npy", source), channels=5)


def test_files_without_such_channels(tmp_path):
    Image.fromarray(values(3, "uint8")).save(tmp_path / "image.png")
    with pytest.raises(BadImage, match=r"has 3 channels \(RGB\), where 5 are needed: in a .npy file"):
        open_image(tmp_path / "image.png", channels=5)


def test_preprocessed_as_an_image_of_one_channel_after_the_other():
    array = values(5, "float32", 20, 30)
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    found = Preprocess(8, 10, True, "bilinear", mean, std)(Bands(array))
    whole = torch.from_numpy(array).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(whole, (10, 15), mode="bilinear", antialias=True, align_corners=False)[0, :, 1:9, 4:12]
    wanted = (small - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert type(found) is torch.Tensor


# -- options ------------------------------------------------------------------------------------------------------------------------


def test_mean_and_std_of_the_channels():
    assert DataOptions(in_channels=4, mean=(0.5,), std=(0.2,)).mean == (0.5,) * 4
    assert DataOptions(in_channels=4, mean=(0.5,), std=(0.2,)).std == (0.2,) * 4
    grey = DataOptions(in_channels=1)
    assert grey.mean == pytest.approx([np.mean([0.485, 0.456, 0.406])], abs=1e-4)
    assert grey.std == pytest.approx([np.mean([0.229, 0.224, 0.225])], abs=1e-4)
    assert DataOptions(mean=(0.5,), std=(0.2,)).mean == (0.5,)
    for wrong in ({"in_channels": 4}, {"in_channels": 1, "mean": (0.1, 0.2, 0.3)}, {"in_channels": 3, "mean": (0.1, 0.2)}):
        with pytest.raises(InputError, match=r"DATA\.MEAN: . values, and DATA\.IN_CHANNELS is .; give one for each"):
            DataOptions(**wrong)


def test_augmented_bands(tmp_path):
    options = DataOptions(root=str(bands_folder(tmp_path)), in_channels=5, mean=(0.5,), std=(0.2,), workers=0)
    data = build_data(options)
    for augment in ("none", "affine", "crop"):
        chosen = DataOptions(**{**vars(options), "augment": augment, "erase": 0.5})
        images, _ = next(iter(build_loader(chosen, data.train, 8, 4, True).epoch()))
        assert images.shape == (4, 5, 8, 8)
        assert images.isfinite().all()
    with pytest.raises(DataError, match="randaugment is for grey and colour"):
        build_loader(DataOptions(**{**vars(options), "augment": "randaugment"}), data.train, 8, 4, True)
    with pytest.raises(DataError, match=r"DATA\.IN_CHANNELS: for 4 channels, and .*npy: an array of shape"):
        build_loader(DataOptions(in_channels=4, mean=(0.5,), std=(0.2,)), data.train, 8, 4, True)


def test_grey_is_pillows_grey(tmp_path):
    options = DataOptions(root=str(colour_folder(tmp_path)), in_channels=1, mean=(0,), std=(1,), workers=0, crop_ratio=0.8)
    data = build_data(options)
    images, _ = next(iter(build_loader(options, data.val, 8, 8, False).epoch()))
    first = np.asarray(Image.open(data.val.source.images[0]).convert("L"))[1:9, 1:9]
    assert np.array_equal((images[0, 0] * 255).round().numpy().astype(np.uint8), first)


# -- from the folder to the prediction ------------------------------------------------------------------------------------------------


def options_of(root: Path, channels: int) -> list[str]:
    statistics = ["DATA.MEAN", "[0.5]", "DATA.STD", "[0.25]"]
    return ["DATA.DATASET", "imagefolder", "DATA.ROOT", str(root), "DATA.WORKERS", "0", "DATA.IN_CHANNELS", str(channels), *statistics]


def test_trained_tested_and_asked(tmp_path):
    root = bands_folder(tmp_path / "data")
    tiny_arch().save(tmp_path / "tiny.yaml")
    more = ["MODEL.ARCH", str(tmp_path / "tiny.yaml"), "TRAIN.BATCH_SIZE", "8", "TRAIN.EPOCHS", "6", "TRAIN.LR", "0.1"]
    printed = run_training(quick_cfg(tmp_path / "run", *options_of(root, 5), *more))
    assert "1.0000" in printed
    model = nas.load(tmp_path / "run")
    assert (model.network.in_channels, model.transform.mean) == (5, (0.5,) * 5)
    for name in ("first", "last"):
        found = model.predict(root / "test" / name / "0.npy")
        assert found.labels[0] == name
        assert found.picture.size == (10, 12)
        assert model.predict(np.load(root / "test" / name / "0.npy")).scores == found.scores
        found.draw(tmp_path / "drawn.png")
    with pytest.raises(InputError, match="where 5 are needed"):
        model.predict(Image.new("RGB", (8, 8)))
    done = run_tool("test_net", str(tmp_path / "run"), "TEST.OUTPUT", str(tmp_path / "test"))
    assert (done.returncode, "1.0000" in done.stdout) == (0, True), done.stderr
    done = run_tool("predict", str(root / "test" / "first"), "--model", str(tmp_path / "run"))
    assert (done.returncode, done.stdout.count("first") >= 6) == (0, True), done.stderr
    done = run_tool("test_net", str(tmp_path / "run"), "DATA.IN_CHANNELS", "3")
    assert done.returncode == 2
    assert "takes images of 5 channels, and DATA.IN_CHANNELS is 3" in done.stderr


def test_fine_tuned_on_grey_from_colour(tmp_path, caplog):
    root = colour_folder(tmp_path / "data")
    tiny_arch().save(tmp_path / "tiny.yaml")
    more = ["TRAIN.BATCH_SIZE", "8", "TRAIN.EPOCHS", "1"]
    colour = ["DATA.DATASET", "imagefolder", "DATA.ROOT", str(root), "DATA.WORKERS", "0"]
    run_training(quick_cfg(tmp_path / "colour", *colour, "MODEL.ARCH", str(tmp_path / "tiny.yaml"), *more))
    before = nas.load(tmp_path / "colour")
    inherit = ["TRAIN.INIT", "inherit", "MODEL.WEIGHTS", str(tmp_path / "colour"), "TRAIN.LR", "1e-12", "TRAIN.WEIGHT_DECAY", "0"]
    run_training(quick_cfg(tmp_path / "grey", *colour, "DATA.IN_CHANNELS", "1", *inherit, *more))
    assert "its first convolution is adapted to 1" in caplog.text
    after = nas.load(tmp_path / "grey")
    assert (after.network.in_channels, len(after.transform.mean)) == (1, 1)
    torch.testing.assert_close(after.network.state_dict()[STEM], adapt_stem(before.network.state_dict()[STEM], 1))


def test_searched(tmp_path):
    root = bands_folder(tmp_path / "data")
    sizes = ["SEARCH.BATCH_SIZE", 4, "TRAIN.BATCH_SIZE", 8, "SEARCH.TARGET", 20000, "SEARCH.TOLERANCE", 0.5]
    cfg = tiny_cfg(tmp_path, *options_of(root, 5), "SEARCH.EPOCHS", 2, *sizes)
    result = search_and_train(cfg)
    assert result["finished"]
    model = nas.load(tmp_path / "run")
    assert model.network.in_channels == 5
    assert nas.count(model.network, 8, 5).macs == model.arch.cost(2, in_channels=5).macs
    assert model.predict(root / "test" / "first" / "0.npy").labels


@pytest.mark.parametrize("head", ["ssdlite", "lraspp"])
def test_heads_of_other_channels(head):
    build = nas.build_detector if head == "ssdlite" else nas.build_segmenter
    statistics = {"image_mean": [0.5] * 2, "image_std": [0.2] * 2, "input_size": 64} if head == "ssdlite" else {}
    network = build(head, "FBNetV2_F1", num_classes=3, in_channels=2, **statistics).eval()
    x = torch.rand(1, 2, 64, 64)
    found = network(list(x)) if head == "ssdlite" else network(x)["out"]
    assert found[0]["boxes"].shape[1] == 4 if head == "ssdlite" else found.shape == (1, 3, 64, 64)
    if head == "ssdlite":
        with pytest.raises(InputError, match="in_channels 2: give image_mean and image_std"):
            build(head, "FBNetV2_F1", num_classes=3, in_channels=2)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ssdlite", "lraspp"])
def test_detectors_and_segmenters_of_grey_images(head, tmp_path):
    root = few_scenes(tmp_path / "scenes")
    result = train_dense(dense_cfg(head, root, tmp_path / "run", "DATA.IN_CHANNELS", "1"), tmp_path / "run")
    model = nas.load(result["weights"])
    assert next(m for m in model.network.modules() if isinstance(m, torch.nn.Conv2d)).in_channels == 1
    assert model.task.in_channels == len(model.transform.mean) == 1
    image = next((root / "test").glob("*.png"))
    found = model.predict(image, score=0.0)
    assert found.picture.size == open_image(image).size
    done = run_tool("test_net", result["weights"], "HEAD.NAME", head, "DATA.DATASET", "digit_scenes", "DATA.ROOT", str(root))
    assert done.returncode == 0, done.stderr
