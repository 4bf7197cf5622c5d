"""Tables for segmenters, detectors, few classes and grey images: from samples to a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dense_runs import few_scenes
from latency import made_up
from searches import search_and_train
from spaces import TINY, decide, parsed, samples

import mobile_cv_nas as nas
from mobile_cv_nas.commands.latency import main as latency
from mobile_cv_nas.config import load_config
from mobile_cv_nas.deploy.latency.sample import read_manifest, sample_file
from mobile_cv_nas.deploy.latency.table import LatencyError
from mobile_cv_nas.nn.heads import HeadDef

ONE_SIZE = {
    "name": "dense",
    "input_size": 64,
    "stages": [
        [["conv_k3_hs", 8, 2, 1]],
        [[["ir_k3", "ir_k5_se_hs"], [8, 16, 4], 2, 1, {"expansion": [1, 3, 1]}]],
        [[["ir_k3", "ir_k5"], [8, 16, 8], 2, 1, {"expansion": [1, 2, 1]}]],
        [[["ir_k3", "ir_k5"], [8, 24, 8], 2, 1, {"expansion": [1, 2, 1]}]],
    ],
}
SPACES = {"lraspp": {**ONE_SIZE, "input_size": [48, 64, 16]}, "ssdlite": ONE_SIZE}
OPTIONS = {"lraspp": {"channels": 16, "low_stride": 8}, "ssdlite": {"channels": 16, "strides": (8, 16)}}
CLASSES = {"lraspp": 11, "ssdlite": 10}  # of the digits, a segmenter's with the background
DEAR = {"depthwise5": {"written": 4e-4}, "hswish": {"written": 2e-4}, "resize": {"written": 1e-5}}
CHEAP = {"conv3": {"padded": 1e-6}, "pointwise": {"padded": 5e-6}, "depthwise3": {"written": 2e-5}, "linear": {"weights": 1e-6}}
DEVICE = made_up({**CHEAP, **DEAR}, constant=0.05)


def _sample(head: str, folder: Path, count: int = 60, *more: str) -> int:
    """Of `SPACES`, with the options of `OPTIONS`."""
    (folder / "space.yaml").write_text(json.dumps(SPACES[head]))
    options = [f"{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in OPTIONS[head].items()]
    flags = [word for option in options for word in ("--option", option)]
    words = [str(folder / "space.yaml"), str(count), str(folder / "nets"), "--head", head, "--check", "10"]
    words += ["--num-classes", str(CLASSES[head])]
    return latency(["sample", *words, *flags, *more])


def _table(head: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nas.LatencyTable:
    """By the tool, from times of a device that does not exist; the networks themselves are not written."""
    monkeypatch.setattr("mobile_cv_nas.deploy.latency.sample.export", lambda network, path, **options: path.touch())
    assert _sample(head, folder) == 0
    manifest = read_manifest(folder / "nets")
    rows = [f"{one.name}.onnx,{DEVICE.latency(one.arch, head=manifest.head):.9f}" for one in manifest.samples]
    (folder / "device.csv").write_text("\n".join(["name,ms", *rows]))
    args = [str(folder / "nets"), "--csv", str(folder / "device.csv")]
    assert latency(["fit", *args, "--output", str(folder / "device.json"), "--device", "made up"]) == 0
    assert latency(["check", str(folder / "device.json"), *args]) == 0
    return nas.LatencyTable.load(folder / "device.json")


def _config(head: str, folder: Path, target: str) -> Any:
    options = {
        "OUTPUT_DIR": folder / "run", "RUNTIME.DEVICE": "cpu", "HEAD.NAME": head, "HEAD.INPUT_SIZE": 64, "HEAD.CHANNELS": 16,
        "DATA.DATASET": "digit_scenes", "DATA.ROOT": folder / "scenes", "DATA.WORKERS": 0, "SEARCH.SPACE": folder / "space.yaml",
        "SEARCH.EPOCHS": 2, "SEARCH.BATCH_SIZE": 8, "SEARCH.WARMUP_FRACTION": 0.5, "SEARCH.TARGET": target, "SEARCH.TOLERANCE": 0.3,
        "SEARCH.TABLE": folder / "device.json", "SEARCH.CANDIDATES": 2, "SEARCH.DRAWS": 50, "SEARCH.RECALIBRATION_IMAGES": 16,
        "TRAIN.EPOCHS": 1, "TRAIN.BATCH_SIZE": 8, "TRAIN.INIT": "inherit", "TRAIN.LR": 0.01,
    }  # fmt: skip
    options |= {"HEAD.STRIDES": "[8, 16]"} if head == "ssdlite" else {"HEAD.LOW_STRIDE": 8, "HEAD.OUTPUT_STRIDE": 16}
    return load_config(None, [str(text) for pair in options.items() for text in pair])


@pytest.mark.parametrize("head", ["lraspp", "ssdlite"])
def test_a_table_for_a_head_agrees_with_its_expectation(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, one = _table(head, tmp_path, monkeypatch), HeadDef(head, CLASSES[head], OPTIONS[head])
    assert read_manifest(tmp_path / "nets").head == one
    assert _sample(head, tmp_path) == 0  # what is there is known again
    space = parsed(SPACES[head])
    supernet = nas.build_supernet(space, head=one)
    for arch in samples(space, 20, seed=7):
        exact = table.latency(arch, head=one)
        assert exact == pytest.approx(DEVICE.latency(arch, head=one), rel=0.05)
        supernet.select(arch)
        assert table.expected(supernet).item() == exact
        decide(supernet, arch)
        assert table.expected(supernet).item() == exact
    option = "low_stride=8" if head == "lraspp" else "strides=8,16"
    with pytest.raises(LatencyError, match=f"sample --num-classes 300 --head {head} --option channels=16 --option {option}$"):
        table.latency(arch, head=HeadDef(head, 300, OPTIONS[head]))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["lraspp", "ssdlite"])
def test_a_search_for_milliseconds_under_a_head(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(head, tmp_path, monkeypatch)
    few_scenes(tmp_path / "scenes", 40, 8, 8)
    one, space = HeadDef(head, CLASSES[head], OPTIONS[head]), parsed(SPACES[head])
    target = table.latency(space.sample(3), head=one)
    result = search_and_train(_config(head, tmp_path, f"{target:.6f} ms"))
    arch = nas.ArchDef.load(tmp_path / "run/arch.yaml")
    assert result["latency"] == table.latency(arch, head=one) == pytest.approx(target, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "outputs"), [("lraspp", ["logits"]), ("ssdlite", ["boxes", "scores"])])
def test_networks_of_a_head_are_written_and_run(head: str, outputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("onnxruntime")
    from mobile_cv_nas.deploy.latency.measure import measure
    from mobile_cv_nas.deploy.latency.sample import draw_samples

    monkeypatch.setattr("mobile_cv_nas.commands.latency.draw_samples", lambda *args: draw_samples(*args)[:1])
    for precision in ("fp32", "int8"):
        assert _sample(head, tmp_path, 60, "--precision", precision, "--in-channels", "1") == 0
        session = runtime.InferenceSession(str(sample_file(tmp_path / "nets", "net000", ".onnx", precision)))
        assert [one.name for one in session.get_outputs()] == outputs
        assert session.get_inputs()[0].shape == [1, 1, 64, 64]
        assert session.get_outputs()[-1].shape[1 if head == "lraspp" else 2] == 11  # the detector's with the background
        assert measure(tmp_path / "nets", "onnxruntime", precision, passes=1, calls=1).least()["net000"] > 0


def test_bad_heads_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for head, more, words in (
        (
            "ssdlite",
            ["--option", "strides=16,32"],
            "--head ssdlite: --option strides: 32: the space has maps at strides 2, 4, 8, 16",
        ),
        ("ssdlite", ["--option", "low_stride=8"], "'low_stride' is no option of --head ssdlite; one of channels, strides"),
        ("lraspp", ["--option", "channels=8,16"], "--option channels=8,16: give a number above 0"),
        ("lraspp", ["--option", "channels="], "--option channels=: give a number above 0"),
        ("lraspp", ["--in-channels", "0"], "--in-channels 0, --check 10: give 1 or more"),
    ):
        assert _sample(head, tmp_path, 60, *more) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "nets").exists()


def test_fewer_classes_than_were_measured_are_known_and_more_are_not() -> None:
    table = nas.LatencyTable.load("digits_onnxruntime_fp32")
    low, high = table.ranges["linear"]["c_out"]
    space = nas.SearchSpace.load("digits")
    for classes in range(1, low):
        supernet, arch = nas.build_supernet(space, num_classes=classes), space.sample(classes)
        exact = table.latency(arch, classes)
        assert table.latency(space.sample(classes), low) >= exact
        supernet.select(arch)
        assert table.expected(supernet).item() == exact
    with pytest.raises(LatencyError, match=rf"c_out {high + 1} of linear.*; measure .* sample --num-classes {high + 1}$"):
        table.latency(space.sample(0), high + 1)
    narrow = made_up({}, ranges={**DEVICE.ranges, "linear": {"c_in": (16, 64), "c_out": (8, 16), "side": (1, 1)}})
    with pytest.raises(LatencyError, match=r"c_out 4 of linear is outside of 8 to 16"):  # of a squeeze-and-excite
        narrow.latency(nas.ArchDef.parse({"input_size": 8, "stages": [[["ir_k3_se", 16, 1, 1, {"hidden": 16, "squeeze": 4}]]]}), 10)
    with pytest.raises(LatencyError, match=r"c_in 8 of linear is outside of 16 to 64"):
        narrow.latency(nas.ArchDef.parse({"input_size": 8, "stages": [[["conv_k3", 8]]]}), 10)


def test_a_table_for_grey_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "mobile_cv_nas.deploy.latency.sample.export",
        lambda network, path, **options: (path.touch(), seen.append((network.blocks.s0b0.conv.in_channels, options["int8"][0].shape[0]))),
    )
    (tmp_path / "space.yaml").write_text(json.dumps(TINY))
    words = [str(tmp_path / "space.yaml"), "30", str(tmp_path / "nets"), "--num-classes", "10", "--check", "5", "--in-channels", "1"]
    assert latency(["sample", *words, "--precision", "int8"]) == 0
    assert read_manifest(tmp_path / "nets").in_channels == 1
    assert set(seen) == {(1, 1)}
    colour = made_up({}, ranges={**DEVICE.ranges, "conv3": {**DEVICE.ranges["conv3"], "c_in": (3, 99)}})
    arch = samples(parsed(TINY), 1)[0]
    assert colour.latency(arch, 10) > 0
    with pytest.raises(LatencyError, match=r"s0b0: .*c_in 1 of conv3 is outside of 3 to 99; .*sample --in-channels 1$"):
        colour.latency(arch, 10, in_channels=1)
