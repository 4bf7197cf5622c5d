"""make search's tool on a folder of small JPEGs as people have them: it ends right, or with one line that says what to do."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from helpers import run_tool
from PIL import Image

COLOURS = {"cat": (200, 40, 40), "dog": (40, 40, 200)}
OPTIONS = {
    "DATA.DATASET": "imagefolder", "DATA.WORKERS": 0, "DATA.AUGMENT": "crop", "RUNTIME.DEVICE": "cpu", "SEARCH.TARGET": "14k",
    "SEARCH.TOLERANCE": 0.3, "SEARCH.EPOCHS": 2, "SEARCH.BATCH_SIZE": 8, "SEARCH.CANDIDATES": 2, "SEARCH.DRAWS": 50,
    "SEARCH.RECALIBRATION_IMAGES": 16, "TRAIN.EPOCHS": 6, "TRAIN.BATCH_SIZE": 8, "TRAIN.LR": 0.1,
}  # fmt: skip
SPACE = """
input_size: 8
stages:
  - [[conv_k3_hs, 4, 1, 1]]
  - [[[ir_k3, ir_k5], [4, 8, 4], 2, 1, {expansion: [1, 3, 1]}], [[ir_k3_hs, skip], [4, 8, 4], 1, 1, {expansion: [1, 2, 1]}]]
"""
RNG = np.random.default_rng(0)


def picture(name, size=16):
    noise = RNG.integers(-30, 30, (size, size, 3))
    return Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8))


def make(root, names=("Training", "Validation", "Testing"), counts=(140, 30, 30)):
    """400 JPEGs in two classes, under the names of splits that some tool uses."""
    for split, count in zip(names, counts, strict=True):
        for name in COLOURS:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(name).save(folder / f"{i:03d}.jpg")
    return root


def search(tmp_path, root, *more):
    (tmp_path / "space.yaml").write_text(SPACE)
    options = {**OPTIONS, "DATA.ROOT": root, "SEARCH.SPACE": tmp_path / "space.yaml", "OUTPUT_DIR": tmp_path / "run"}
    words = [str(word) for pair in options.items() for word in pair]
    return run_tool("search_net", *words, *map(str, more))


def upside_down(path, name):
    exif = Image.Exif()
    exif[0x0112] = 3
    picture(name).save(path, exif=exif)


@pytest.mark.slow
def test_what_people_have_in_their_folders_is_read_right(tmp_path):
    root = make(tmp_path / "images")
    train = root / "Training"
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        shutil.copytree(root / "Testing/cat", train / "dog" / name)
    os.symlink(root, train / "cat/loop")
    for ending, kind in ((".jfif", "JPEG"), (".jpe", "JPEG"), (".gif", "GIF"), (".tif", "TIFF")):
        picture("cat").save(train / f"cat/extra{ending}", format=kind)
    (train / "cat/new.heic").write_bytes(b"?")
    clear = picture("dog").convert("RGBA")
    clear.putalpha(255)
    clear.save(train / "dog/clear.png")
    upside_down(train / "dog/turned.jpg", "dog")
    Image.fromarray((np.full((16, 16), 40000)).astype(np.uint16)).save(train / "dog/deep.png")
    done = search(tmp_path, root)
    assert done.returncode == 0, done.stderr
    rows = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in done.stdout.splitlines() if re.search(r"\S\s{2,}\S", line))
    assert rows["images"] == "287 training, 60 validation, 60 test"
    assert rows["classes"] == "2: cat, dog"
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["top1"] > 0.9
    assert "top5" not in done.stdout  # of two classes it says nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (
            lambda root: shutil.copytree(root / "Validation", root / "valid"),
            (),
            r"Validation and valid both name the val split; merge or rename",
        ),
        (lambda root: shutil.copytree(root / "Testing/cat", root / "birds"), (), r"split folders .* beside folders of images \(birds\)"),
        (lambda root: None, ("DATA.ROOT", "UP"), r"a level too high: images holds Training, a split; set DATA\.ROOT to"),
        (
            lambda root: None,
            ("SEARCH.BATCH_SIZE", 500),
            r"SEARCH\.BATCH_SIZE: 500: of the 280 training images 224 are for the weights and 56 are for the alphas; set it to 56 or less",
        ),
        (
            lambda root: None,
            ("TRAIN.BATCH_SIZE", 500),
            r"TRAIN\.BATCH_SIZE: 280 training images are fewer than the 500 of one step; lower it",
        ),
        (lambda root: None, ("SEARCH.TARGET", "60M"), r"SEARCH\.TARGET: 60,000,000 macs is out of the reach of .* choose"),
        (lambda root: shutil.rmtree(root / "Training/dog"), (), r"one class folder \(cat\); it needs"),
    ],
    ids=["two names", "classes beside splits", "a level too high", "batch", "child's batch", "target", "one class"],
)
def test_what_cannot_be_is_one_line(tmp_path, spoil, options, said):
    root = make(tmp_path / "up/images")
    spoil(root)
    done = search(tmp_path, root, *[root.parent if word == "UP" else word for word in options])
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(said, errors[0]), errors[0]
    assert not (tmp_path / "run").exists()
