"""tools/export_net.py, and the files that a training leaves with EXPORT set."""

import json

import pytest
from helpers import ROOT, quick_cfg, run_tool, tiny_arch, train
from networks import model_of
from test_onnx import photograph

import mobile_cv_nas as nas
from mobile_cv_nas.config import ConfigError, dump_config, load_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short training on the digits."""
    folder = tmp_path_factory.mktemp("run")
    cfg = quick_cfg(folder)
    train(cfg, tiny_arch(), folder)
    (folder / "config.yaml").write_text(dump_config(cfg))
    return folder


def test_float(run, tmp_path):
    path = tmp_path / "net.onnx"
    done = run_tool("export_net", str(run), str(path), "--batch", "4", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["batch"], report["bytes"]) == (4, path.stat().st_size)
    assert [one["batch"] for one in report["check"]] == [4]


def test_int8_on_the_data_of_the_run(run, tmp_path):
    """Scores are those of the test tool, and the loaded file's are the report's."""
    path = tmp_path / "net.onnx"
    done = run_tool("export_net", str(run), str(path), "--int8", "data", "--images", "32", "--test", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["int8"]["images"], report["int8"]["judged"]) == (32, 16)
    assert report["scores"]["network"]["top1"] == pytest.approx(json.loads((run / "result.json").read_text())["top1"], abs=1e-9)
    tested = run_tool("test_net", "MODEL.WEIGHTS", str(path), "RUNTIME.DEVICE", "cpu")
    assert tested.returncode == 0, tested.stderr
    assert f"{report['scores']['file']['top1']:.4f}" in tested.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["DATA.ROOT", "x"], "leave them out"),
        (["--int8", "none"], "no such folder"),
        (["--keep-float", "blocks"], "keep_float"),
    ],
)
def test_bad_input(run, tmp_path, args, message):
    done = run_tool("export_net", str(run), str(tmp_path / "net.onnx"), *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_predict_takes_a_file(tmp_path):
    model = model_of("classifier")
    nas.export(model, tmp_path / "net.onnx", check=False)
    for i in range(2):
        photograph(i).save(tmp_path / f"{i}.png")
    done = run_tool("predict", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--model", str(tmp_path / "net.onnx"), "--json")
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line)["labels"] for line in done.stdout.splitlines()]
    assert labels == [one.labels for one in model.predict([tmp_path / "0.png", tmp_path / "1.png"])]


def test_a_training_exports_at_its_end(tmp_path):
    tiny_arch().save(tmp_path / "tiny.yaml")
    out = tmp_path / "out"
    done = run_tool(
        "train_net", "MODEL.ARCH", str(tmp_path / "tiny.yaml"), "OUTPUT_DIR", str(out), "RUNTIME.DEVICE", "cpu", "TRAIN.EPOCHS", "1",
        "EXPORT.FORMATS", "[onnx]", "EXPORT.INT8", "True", "EXPORT.IMAGES", "20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (report,) = json.loads((out / "export.json").read_text())
    assert (report["file"], report["int8"]["images"]) == ("model.onnx", 20)
    assert report["scores"].keys() == {"network", "file"}
    assert "model.onnx" in done.stdout
    assert nas.load(out / "model.onnx").classes == nas.load(out).classes


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["EXPORT.FORMATS", "[onx]"], "did you mean onnx|one of onnx"),
        (["EXPORT.FORMATS", "[3]"], "is not text"),
        (["EXPORT.FORMATS", "onnx"], "list of names"),
        (["EXPORT.INT8", "True"], "EXPORT.FORMATS"),
        (["EXPORT.FORMATS", "[onnx]", "EXPORT.IMAGES", "5"], "EXPORT.INT8"),
        (["EXPORT.FORMATS", "[onnx]", "HEAD.NAME", "faster_rcnn", "DATA.DATASET", "digit_scenes"], "two stages"),
    ],
)
def test_keys_that_cannot_be(opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, opts, "train")


@pytest.mark.slow
def test_a_search_exports_its_child(tmp_path):
    out = tmp_path / "out"
    done = run_tool(
        "search_net", "--config-file", str(ROOT / "configs" / "search" / "digits.yaml"), "OUTPUT_DIR", str(out), "RUNTIME.DEVICE", "cpu",
        "SEARCH.EPOCHS", "2", "TRAIN.EPOCHS", "1", "TRAIN.WARMUP_EPOCHS", "0", "SEARCH.TOLERANCE", "0.9", "EXPORT.FORMATS", "[onnx]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert nas.load(out / "child" / "model.onnx").arch == nas.load(out).arch
