"""A model predicts: classes, boxes and masks of one image, what is printed and drawn, and what is refused."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_runs import dense_arch, dense_cfg, few_scenes, train_dense
from helpers import data_of_cfg, image_folder, quick_cfg, run_tool, tiny_arch, train
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.commands.predict import find_images
from mobile_cv_nas.data.images import open_image
from mobile_cv_nas.data.options import DataOptions
from mobile_cv_nas.data.transforms import BoxTransform, MaskTransform, Preprocess
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.report.predictions import _colour, draw_boxes, draw_masks
from mobile_cv_nas.tasks.classification import Classification
from mobile_cv_nas.weights.file import load_weights, save_weights


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of a detector and a segmenter, and a photograph that is no square."""
    folder = tmp_path_factory.mktemp("made")
    scenes = few_scenes(folder / "scenes", 16, 2, 2)
    for task, head, options in (("detect", "ssdlite", []), ("segment", "lraspp", ["DATA.INTERPOLATION", "bicubic"])):
        train_dense(dense_cfg(head, scenes, folder / task, "TRAIN.EPOCHS", "1", *options), folder / task)
    with Image.open(scenes / "test" / "000001.png") as scene:
        scene.resize((150, 100)).save(folder / "scene.png")
    return folder


def test_a_classifier_of_a_folder_predicts_what_its_test_counted(tmp_path):
    """In the classes' names, by the transform that it was validated with: the very figure of the run."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 10), ("test", 20)):
        for name, level in (("dark", 90), ("light", 150)):
            image_folder(tmp_path / "images" / part, {name: 0})
            for i in range(count):
                pixels = np.clip(rng.normal(level, 60, (14, 17, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{i}.png")
    options = ["DATA.DATASET", "imagefolder", "DATA.ROOT", str(tmp_path / "images"), "DATA.WORKERS", "0", "DATA.MEAN", "[0.2, 0.3, 0.4]"]
    cfg = quick_cfg(tmp_path / "run", *options, "TRAIN.BATCH_SIZE", "16", "DATA.CROP_RATIO", "0.7")
    (tmp_path / "run").mkdir()
    result = train(cfg, tiny_arch(), tmp_path / "run")
    model = nas.load(tmp_path / "run")
    assert model.classes == ("dark", "light")
    paths = sorted((tmp_path / "images" / "test").rglob("*.png"))
    found = model.predict(paths)
    right = sum(one.labels[0] == path.parent.name for one, path in zip(found, paths, strict=True))
    assert right / len(paths) == pytest.approx(result["top1"])
    assert found[0].scores[0] == pytest.approx(1 - found[0].scores[1], abs=1e-5)
    assert json.loads(json.dumps(found[0].to_dict())).keys() == {"labels", "scores", "indices"}
    model.save(tmp_path / "copy.safetensors")
    again = nas.load(tmp_path / "copy.safetensors").predict(str(paths[0]))
    assert again.labels == found[0].labels
    assert again.scores == pytest.approx(found[0].scores, abs=1e-5)
    done = run_tool("predict", str(tmp_path / "images" / "test"), "--model", str(tmp_path / "run"), "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(line["labels"][0] in line["image"] for line in lines) == right
    tested = run_tool("test_net", *options[:6], "MODEL.WEIGHTS", str(tmp_path / "run"), "RUNTIME.DEVICE", "cpu")
    assert f"{result['top1']:.4f}" in tested.stdout, tested.stderr


def test_detect_prints_a_table_and_draws(made, tmp_path):
    output = tmp_path / "found.png"
    done = run_tool("predict", str(made / "scene.png"), "--model", str(made / "detect"), "--score", "0.05", "--output", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    header, _, *rows, last = done.stdout.splitlines()
    assert header.split() == ["class", "score", "left", "top", "right", "bottom"]
    assert last == f"written to {output}"
    found = nas.load(made / "detect").predict(made / "scene.png", score=0.05)
    assert [row.split()[0] for row in rows] == found.labels
    assert found.scores == sorted(found.scores, reverse=True)
    assert [found.labels[i] == str(index) for i, index in enumerate(found.indices)]
    with Image.open(output) as drawn:
        assert drawn.size == (600, 400)  # four times as large, so that names can be read


def test_segment_prints_shares_and_draws(made, tmp_path):
    done = run_tool("predict", str(made / "scene.png"), "--model", str(made / "segment"), "--output", str(tmp_path / "masks.png"))
    assert (done.returncode, done.stderr) == (0, "")
    header, _, *rows, _ = done.stdout.splitlines()
    assert header.split() == ["class", "pixels"]
    assert sum(float(row.split()[1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.1)
    assert (tmp_path / "masks.png").is_file()
    assert nas.load(made / "segment").predict(made / "scene.png").mask.shape == (100, 150)


BAD = {
    "no model": ([], "--model"),
    "score no number": (["--model", "{detect}", "--score", "high"], "invalid float value"),
    "score nan": (["--model", "{detect}", "--score", "nan"], "score nan: give the least score"),
    "weights that are none": (["--model", "{image}"], "scene.png"),
    "no such weights": (["--model", "none.safetensors"], "none.safetensors: no such file"),
    "no such name": (["--model", "FBNetV2_F44"], "did you mean"),
    "an empty folder": (["--model", "{scenes}"], "holds no model.safetensors"),
    "not a PNG": (["--model", "{detect}", "--output", "out.jpg"], "out.jpg: the drawing is a PNG"),
    "the image itself": (["--model", "{detect}", "--output", "{image}"], "which the drawing would replace"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(made, tmp_path, name):
    options, reason = BAD[name]
    paths = {"detect": made / "detect", "image": made / "scene.png", "scenes": made / "scenes"}
    before = (made / "scene.png").read_bytes()
    done = run_tool("predict", str(made / "scene.png"), *[option.format(**paths) for option in options], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert (made / "scene.png").read_bytes() == before


@pytest.mark.parametrize(
    "head", [7, {}, {"name": "ssdlite", "input_size": "64", "options": {}}, {"name": "x", "input_size": 64, "options": {}}]
)
def test_a_head_that_is_none_is_said(made, tmp_path, head):
    state, content = load_weights(made / "detect" / "model.safetensors")
    save_weights(tmp_path / "x.safetensors", state, nas.ArchDef.parse(content["arch"]), content["classes"], head=head)
    with pytest.raises(InputError, match=r"save it again|no such head"):
        nas.load(tmp_path / "x.safetensors")


def test_images_reach_the_networks_as_in_training(made):
    """An image of the validation has the very prediction that it has there."""
    segmenter, source = nas.load(made / "segment"), data_of_cfg(dense_cfg("lraspp", made / "scenes", made)).val.source
    torch.manual_seed(0)
    segmenter.network = nas.build_segmenter("lraspp", dense_arch(), 11).eval()  # at random it sees all kinds of things
    options = DataOptions(interpolation="bicubic")
    image, _ = MaskTransform(options, 64, 128, train=False)(open_image(source.images[0]), source.labels[0])
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(segmenter.network(image[None])["out"], (128, 128), mode="bilinear", align_corners=False)
    assert len(logits[0].argmax(0).unique()) > 2
    detector, source = nas.load(made / "detect"), data_of_cfg(dense_cfg("ssdlite", made / "scenes", made)).val.source
    image, _ = BoxTransform(options, train=False)(open_image(source.images[0]), source.labels[0])
    with torch.inference_mode():
        (prediction,) = detector.network([image])
    found = detector.predict(source.images[0], score=0)
    assert found.scores == prediction["scores"].sort(descending=True).values.tolist()
    boxes = {tuple(box) for box in prediction["boxes"].tolist()}
    assert {tuple(box) for box in found.boxes} == boxes


def test_transparent_parts_are_what_they_were_in_training(tmp_path):
    model = nas.Model(nas.build_model(tiny_arch(), 3), tiny_arch(), Classification(tuple("abc")), Preprocess(8, 8))
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    for name in ("white", "black"):
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
        model.transform = replace(model.transform, background=name)
        assert model.predict(clear).scores == model.predict(tmp_path / f"{name}.png").scores
        model.save(tmp_path / "m.safetensors")
        assert nas.load(tmp_path / "m.safetensors").transform == model.transform
    assert model.predict(tmp_path / "white.png").scores != model.predict(tmp_path / "black.png").scores


def test_images_of_any_form(made):
    segmenter, detector = nas.load(made / "segment"), nas.load(made / "detect")
    for mode, size in (("L", (33, 70)), ("RGBA", (1, 1)), ("P", (500, 3)), ("CMYK", (700, 64)), ("I;16", (20, 20))):
        Image.new(mode, size).save(made / "any.tif")
        assert segmenter.predict(made / "any.tif").mask.shape == size[::-1]
        if size == (500, 3):
            with pytest.raises(InputError, match="500x3 pixels is too narrow for a detector"):
                detector.predict(made / "any.tif")
        else:
            detector.predict(made / "any.tif")


def test_boxes_are_where_they_belong():
    picture = Image.new("RGB", (128, 96), "white")
    drawn = np.array(draw_boxes(picture, ["cat"], [0.9], [0], [(20, 40, 60, 80)]))
    assert drawn.shape == (384, 512, 3)
    rows, columns = np.nonzero((drawn != 255).any(2))
    assert (columns.min(), columns.max(), rows.max()) == (80, 240, 320)
    assert 130 <= rows.min() < 160  # the name is above the box
    assert (drawn[170:310, 90:230] == 255).all()  # nothing is inside
    everywhere = [(-5, -5, 3, 3), (120, 90, 300, 300), (0, 0, 128, 96)]
    assert draw_boxes(picture, ["name" * 9] * 3, [0.5] * 3, [0, 1, 2], everywhere).size == (512, 384)
    assert draw_boxes(Image.new("RGB", (1000, 600)), [], [], [], []).size == (1000, 600)


def test_masks_are_tinted_and_named():
    picture, mask = Image.new("RGB", (100, 100), "white"), torch.zeros(100, 100, dtype=torch.int64)
    mask[:50] = 1
    drawn = draw_masks(picture, mask, ["background", "cat"])
    pixels = np.array(drawn)
    assert drawn.width > 500  # names beside it
    assert (pixels[400, 100] == 255).all()
    assert (pixels[100, 100] != 255).any()


def test_folders_are_read_as_training_reads_them(tmp_path):
    """Without the copies that tools leave there; links lead out of a folder, and not round."""
    photos, own = tmp_path / "photos", {"a/000.png", "b/000.png", "b/more/000.png"}
    left = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden", "b/@eaDir")
    for name in ("a", "b", *left):
        image_folder(photos, {name: 1})
    image_folder(tmp_path, {"else": 1})
    os.symlink(tmp_path / "else", photos / "b/more")
    os.symlink(photos, photos / "b/round")
    os.symlink(tmp_path / "nowhere.png", photos / "a/gone.png")

    def found(*names):
        return [path.relative_to(tmp_path).as_posix().removeprefix("photos/") for path in find_images([str(tmp_path / n) for n in names])]

    assert found("photos") == sorted(own)
    assert found("photos/*/*.png") == sorted(own - {"b/more/000.png"})
    assert found("photos/__MACOSX/*.png", "photos/@eaDir") == ["__MACOSX/000.png", "@eaDir/000.png"]  # as it is named
    image_folder(tmp_path, {"tools/@eaDir": 1})
    with pytest.raises(InputError, match="tools: a folder without images"):
        found("tools")


def test_labels_differ_in_colour():
    assert len({_colour(label) for label in range(41)}) == 41
    colours = [lab(_colour(label)) for label in range(22)]
    apart = {(a, b): np.linalg.norm(colours[a] - colours[b]) for a in range(22) for b in range(a)}
    assert min(apart.values()) > 12  # a difference of 2 to 3 in CIELAB can just be seen
    assert min(apart[a, b] for a in range(11) for b in range(a)) > 25


def lab(colour):
    """An sRGB colour in CIELAB (IEC 61966-2-1, CIE 15)."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in matrix @ linear / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_a_network_that_was_trained_in_between_predicts_the_same():
    model = nas.load("Digits")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8))
    before = model.predict(image).scores
    state = {name: value.clone() for name, value in model.network.state_dict().items()}
    model.network.train()
    model.network.blocks[0].eval()  # as with frozen norms
    modes = [module.training for module in model.network.modules()]
    assert model.predict(image).scores == before
    assert [module.training for module in model.network.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.network.state_dict().items())


def test_tensors_of_any_precision_and_of_one_size():
    model, image = nas.load("Digits"), torch.rand(3, 16, 16)
    expected = model.predict(image).scores
    for dtype in (torch.float64, torch.float16):
        assert model.predict(image.to(dtype)).scores == pytest.approx(expected, abs=1e-3)
    model.network.double()
    assert model.predict(image).scores == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match=r"images of \(3, 8, 8\) and \(3, 16, 16\): float tensors of one size go together"):
        model.predict([image, image[:, :8, :8]])
    with pytest.raises(InputError, match="score 'a': give the least score"):
        model.predict(image, score="a")
