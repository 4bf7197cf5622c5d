"""Boxes and masks of one image: what is found, what is drawn, and what is refused."""

import numpy as np
import pytest
import torch
from dense_runs import dense_arch, dense_cfg, few_scenes, train_dense
from helpers import run_tool
from mobile_cv_nas.tasks.predict_dense import Found, _colour, detect, draw_boxes, draw_masks, open_image, segment, shares
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.commands.options import data_from as build_data
from mobile_cv_nas.commands.options import data_options
from mobile_cv_nas.data.images import open_image as decode
from mobile_cv_nas.data.transforms import BoxTransform, MaskTransform
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.tasks.dense import load_head
from mobile_cv_nas.weights.file import load_weights, save_weights


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A detector, a segmenter and a classifier, and a photograph that is no square."""
    folder = tmp_path_factory.mktemp("made")
    scenes = few_scenes(folder / "scenes", 16, 2, 2)
    for task, head in (("detect", "ssdlite"), ("segment", "lraspp")):
        train_dense(dense_cfg(head, scenes, folder / task, "TRAIN.EPOCHS", "1", "DATA.INTERPOLATION", "bicubic"), folder / task)
        (folder / task / "model.safetensors").rename(folder / f"{task}.safetensors")
    state, content = load_weights(folder / "detect.safetensors")
    save_weights(folder / "plain.safetensors", state, train_arch(content))
    with Image.open(scenes / "test" / "000001.png") as scene:
        scene.resize((150, 100)).save(folder / "scene.png")
    return folder


def train_arch(content):
    return nas.ArchDef.parse(content["arch"])


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# -- the command --------------------------------------------------------------------------------------


def test_detect_prints_a_table_and_draws(made, tmp_path):
    done = run_tool(
        "predict",
        str(made / "scene.png"),
        "--task",
        "detect",
        "--weights",
        str(made / "detect.safetensors"),
        "--score",
        "0.05",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    header, line, *rows, last = done.stdout.splitlines()
    assert header.split() == ["class", "score", "left", "top", "right", "bottom"]
    assert set(line) == {"-", " "}
    assert last == "written to scene_detect.png"
    network, content = load_head(made / "detect.safetensors")
    found = [one for one in detect(network, content, open_image(made / "scene.png")) if one.score >= 0.05]
    assert [row.split() for row in rows] == [[one.name, f"{one.score:.3f}", *(f"{v:.1f}" for v in one.box)] for one in found]
    assert len(rows) > 1
    scores = [float(row.split()[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert files(tmp_path) == ["scene_detect.png"]
    with Image.open(tmp_path / "scene_detect.png") as drawn:
        assert drawn.size == (600, 400)  # four times as large, so that names can be read
        assert drawn.mode == "RGB"


def test_segment_prints_shares_and_draws(made, tmp_path):
    output = tmp_path / "masks.png"
    options = ["--task", "segment", "--weights", str(made / "segment.safetensors"), "--output", str(output)]
    done = run_tool("predict", str(made / "scene.png"), *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    header, _, *rows, last = done.stdout.splitlines()
    assert header.split() == ["class", "pixels"]
    assert last == f"written to {output}"
    assert sum(float(row.split()[1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.1)
    assert {row.split()[0] for row in rows} <= {"background", *"0123456789"}
    assert files(tmp_path) == ["masks.png"]


def test_nothing_found_is_said(made, tmp_path):
    options = ["--task", "detect", "--weights", str(made / "detect.safetensors"), "--score", "1"]
    done = run_tool("predict", str(made / "scene.png"), *options, cwd=tmp_path)
    assert done.stdout == "no object of score 1 or more\nwritten to scene_detect.png\n"
    with Image.open(tmp_path / "scene_detect.png") as drawn, Image.open(made / "scene.png") as scene:
        assert np.array_equal(np.array(drawn), np.array(scene.resize(drawn.size, Image.Resampling.BICUBIC)))


BAD = {
    "no weights": (["--task", "detect"], "--weights: missing; --task detect needs it"),
    "no model": ([], "--model: missing; --task classify needs it"),
    "a model for detect": (["--task", "detect", "--weights", "{detect}", "--model", "FBNetV2_F1"], "--model: not for --task detect"),
    "a score for segment": (["--task", "segment", "--weights", "{segment}", "--score", "0.4"], "--score: not for --task segment"),
    "an output for classify": (["--model", "Digits", "--output", "x.png"], "--output: not for --task classify"),
    "no such task": (["--task", "draw"], "invalid choice: 'draw'"),
    "score no number": (["--task", "detect", "--weights", "{detect}", "--score", "high"], "invalid float value"),
    "score out of range": (["--task", "detect", "--weights", "{detect}", "--score", "50"], "score 50: give the least score"),
    "score nan": (["--task", "detect", "--weights", "{detect}", "--score", "nan"], "score nan: give the least score"),
    "a segmenter's weights": (["--task", "detect", "--weights", "{segment}"], "of a segmenter (lraspp), not of a detector; use --task"),
    "a detector's weights": (["--task", "segment", "--weights", "{detect}"], "of a detector (ssdlite), not of a segmenter; use --task"),
    "a classifier's weights": (["--task", "segment", "--weights", "{plain}"], "the weights of a classifier"),
    "weights that are none": (["--task", "detect", "--weights", "{image}"], "scene.png: not a whole safetensors file"),
    "no such weights": (["--task", "detect", "--weights", "none.safetensors"], "none.safetensors: no such file"),
    "not a PNG": (["--task", "detect", "--weights", "{detect}", "--output", "out.jpg"], "out.jpg: the drawing is a PNG"),
    "the image itself": (["--task", "detect", "--weights", "{detect}", "--output", "{image}"], "is the image itself"),
    "no such folder": (["--task", "detect", "--weights", "{detect}", "--output", "none/out.png"], "its folder does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(made, tmp_path, name):
    options, reason = BAD[name]
    paths = {task: made / f"{task}.safetensors" for task in ("detect", "segment", "plain")} | {"image": made / "scene.png"}
    before = (made / "scene.png").read_bytes()
    done = run_tool("predict", str(made / "scene.png"), *[option.format(**paths) for option in options], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert files(tmp_path) == []
    assert (made / "scene.png").read_bytes() == before


@pytest.mark.parametrize("content", [None, b"no image", b""])
def test_what_is_no_image_is_refused(made, tmp_path, content):
    if content is not None:
        (tmp_path / "image.png").write_bytes(content)
    done = run_tool("predict", "image.png", "--task", "detect", "--weights", str(made / "detect.safetensors"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "image.png: " in done.stderr
    assert files(tmp_path) == ([] if content is None else ["image.png"])


def test_neither_image_nor_weights_are_replaced_through_a_link(made, tmp_path):
    for link, target in (("a_detect.png", made / "scene.png"), ("b_detect.png", made / "detect.safetensors")):
        (tmp_path / link).symlink_to(target)
    for name, what in (("a.png", "image"), ("b.png", "file of the weights")):
        (tmp_path / name).symlink_to(made / "scene.png")
        done = run_tool("predict", name, "--task", "detect", "--weights", str(made / "detect.safetensors"), cwd=tmp_path)
        assert done.returncode == 2
        assert f"is the {what} itself" in done.stderr


@pytest.mark.parametrize(
    "head", [7, {}, {"name": "ssdlite", "input_size": "64", "options": {}}, {"name": "ssd", "input_size": 64, "options": {}}]
)
def test_a_head_that_is_none_is_said(made, tmp_path, head):
    state, content = load_weights(made / "detect.safetensors")
    save_weights(tmp_path / "x.safetensors", state, train_arch(content), content["classes"], head=head)
    done = run_tool("predict", str(made / "scene.png"), "--task", "detect", "--weights", "x.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert "save it again" in done.stderr or "no such head" in done.stderr


# -- networks -----------------------------------------------------------------------------------------


def test_images_reach_the_networks_as_in_training(made):
    """An image of the validation has the very prediction that it has there."""
    cfg = dense_cfg("lraspp", made / "scenes", made, "DATA.INTERPOLATION", "bicubic")
    source = build_data(cfg).val.source
    _, content = load_head(made / "segment.safetensors")
    torch.manual_seed(0)
    network = nas.build_segmenter("lraspp", dense_arch(), 11).eval()  # at random it sees all kinds of things
    image, _ = MaskTransform(data_options(cfg), 64, 128, train=False)(decode(source.images[0]), source.labels[0])
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(network(image[None])["out"], (128, 128), mode="bilinear", align_corners=False)
    mask = segment(network, content, open_image(source.images[0]))
    assert torch.equal(mask, logits[0].argmax(0))
    assert len(mask.unique()) > 2

    cfg = dense_cfg("ssdlite", made / "scenes", made)
    source = build_data(cfg).val.source
    network, content = load_head(made / "detect.safetensors")
    image, _ = BoxTransform(data_options(cfg), train=False)(decode(source.images[0]), source.labels[0])
    with torch.inference_mode():
        (prediction,) = network([image])
    found = detect(network, content, open_image(source.images[0]))
    assert [one.score for one in found] == prediction["scores"].sort(descending=True).values.tolist()
    assert {(one.label, one.box) for one in found} == {
        (n, tuple(b)) for n, b in zip(prediction["labels"].tolist(), prediction["boxes"].tolist(), strict=True)
    }
    assert all(one.name == str(one.label - 1) for one in found)


def test_images_of_any_form(made):
    segmenter, detector = load_head(made / "segment.safetensors"), load_head(made / "detect.safetensors")
    for mode, size in (("L", (33, 70)), ("RGBA", (1, 1)), ("P", (500, 3)), ("CMYK", (700, 64)), ("I;16", (20, 20))):
        Image.new(mode, size).save(made / "any.tif")
        picture = open_image(made / "any.tif")
        assert (picture.mode, picture.size) == ("RGB", size)
        mask = segment(*segmenter, picture)
        assert mask.shape == size[::-1]
        assert draw_masks(picture, mask, segmenter[1]["classes"]).height >= size[1]
        if size == (500, 3):
            with pytest.raises(InputError, match="500x3 pixels is too narrow for a detector"):
                detect(*detector, picture)
        else:
            draw_boxes(picture, detect(*detector, picture))


def test_a_photograph_is_turned_as_its_camera_says(made, tmp_path):
    with Image.open(made / "scene.png") as scene:
        exif = scene.getexif()
        exif[0x0112] = 6  # to be turned by a quarter
        scene.save(tmp_path / "turned.png", exif=exif)
    assert open_image(tmp_path / "turned.png").size == (100, 150)


# -- drawings -----------------------------------------------------------------------------------------


def test_boxes_are_where_they_belong():
    picture = Image.new("RGB", (128, 96), "white")
    drawn = np.array(draw_boxes(picture, [Found(1, "cat", 0.9, (20, 40, 60, 80))]))
    assert drawn.shape == (384, 512, 3)
    rows, columns = np.nonzero((drawn != 255).any(2))
    assert (columns.min(), columns.max(), rows.max()) == (80, 240, 320)
    assert 130 <= rows.min() < 160  # the name is above the box
    assert (drawn[170:310, 90:230] == 255).all()  # nothing is inside
    everywhere = [Found(n, "name" * 9, 0.5, box) for n, box in enumerate([(-5, -5, 3, 3), (120, 90, 300, 300), (0, 0, 128, 96)], 1)]
    assert draw_boxes(picture, everywhere).size == (512, 384)
    assert draw_boxes(Image.new("RGB", (1000, 600)), []).size == (1000, 600)


def test_masks_are_tinted_and_named():
    picture = Image.new("RGB", (100, 100), "white")
    mask = torch.zeros(100, 100, dtype=torch.int64)
    mask[10:20, 30:50], mask[90:, :] = 2, 255 - 5
    classes = ("background", *(f"class {n}" for n in range(1, 254)))
    drawn = draw_masks(picture, mask, classes)
    assert drawn.height == 500
    assert drawn.width > 500  # the names are beside the image
    pixels = np.array(drawn)[:, :500]
    assert ((pixels != 255).any(2) == mask.numpy().repeat(5, 0).repeat(5, 1).astype(bool)).all()
    assert (pixels[50:100, 150:250] == pixels[50, 150]).all()
    assert shares(mask) == [(0, 0.88), (250, 0.1), (2, 0.02)]
    assert draw_masks(picture, torch.zeros_like(mask), classes).size == (500, 500)
    assert draw_masks(picture, torch.zeros_like(mask), ("road", "sky")).width > 500


def test_neighbouring_labels_differ_in_colour():
    assert len({_colour(label) for label in range(1, 41)}) == 40
