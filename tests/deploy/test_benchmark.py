"""The benchmark: every runtime in turn, and a table, figures and a picture of the times."""

import json

import pytest
import torch
from helpers import quick_cfg, run_tool, tiny_arch, train
from networks import model_of, network_of
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas.commands.benchmark_net import _tested
from mobile_cv_nas.deploy.benchmark import Contender, machine, measure, prepare, relative


def test_round_robin():
    order = []
    contenders = [Contender(name, "eager", 1, lambda name=name: order.append(name), 0) for name in "abc"]
    before = torch.get_num_threads()
    timings = measure(contenders, 2, 1)
    assert order == list("abc") * 5  # three rounds that warm up
    assert all(len(one.cpu) == 2 for one in contenders)
    assert torch.get_num_threads() == before
    for one in timings:
        assert one.cpu[0] <= one.cpu[1] <= one.cpu[2]


def test_minimum_median_and_90th_percentile():
    one = Contender("net", "eager", 1, lambda: None, 0)
    one.cpu, one.wall = [float(i) for i in range(100, 0, -1)], [1.0] * 100
    assert one.timing().cpu == (1.0, 51.0, 91.0)
    half = Contender("net", "folded", 1, lambda: None, 0)
    half.cpu, half.wall = [25.5], [1.0]
    assert relative([one.timing(), half.timing()]) == {("net", "eager", 1): 1.0, ("net", "folded", 1): 0.5}


@pytest.mark.filterwarnings("ignore")
def test_what_is_measured_is_the_network(tmp_path):
    """In every runtime, in float and in int8, and the network stays in training mode."""
    network = network_of("classifier").train()
    runtimes = ("eager", "folded", "onnxruntime", "onnxruntime-int8")
    contenders = prepare("net", network, runtimes, 4, 1, tmp_path)
    with torch.inference_mode():
        outputs = [one.call()[0] for one in contenders]
    for runtime, output in zip(runtimes, outputs, strict=True):
        assert output.shape == (4, 10)
        torch.testing.assert_close(output, outputs[0], atol=0.05 if "int8" in runtime else 1e-5, rtol=0)
    assert network.training


def test_the_tool(tmp_path):
    cfg = quick_cfg(tmp_path / "run")
    (tmp_path / "run").mkdir()
    result = train(cfg, tiny_arch(), tmp_path / "run")
    nas.export(model_of("classifier"), tmp_path / "net.onnx", check=False)
    done = run_tool(
        "benchmark_net", str(tmp_path / "run"), str(tmp_path / "net.onnx"), "--runtimes", "eager,folded", "--batch", "1,2", "--rounds", "3",
        "--json", str(tmp_path / "times.json"), "--picture", str(tmp_path / "times.png"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "times.json").read_text())
    assert [(row["runtime"], row["batch"]) for row in found["rows"]] == [(r, b) for b in (1, 2) for r in ("eager", "folded")] + [
        ("file", 1),
        ("file", 2),
    ]
    assert found["rows"][0]["accuracy"] == result["top1"]
    assert found["rows"][0]["macs"] == nas.load(tmp_path / "run").count().macs
    assert found["machine"]["threads"] == 1
    with Image.open(tmp_path / "times.png") as image:
        assert image.width > 400
    assert "of eager" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--batch", "x"], "numbers of images"), (["--runtimes", "eger"], "did you mean eager|one of"), (["--rounds", "0"], "1 or more")],
)
def test_bad_input(args, message):
    done = run_tool("benchmark_net", "FBNetV2_F1", *args)
    assert done.returncode == 2
    assert any(part in done.stderr for part in message.split("|"))


def test_the_machine_has_no_name():
    import platform

    assert platform.node() not in machine(1).values()


def test_a_score_is_of_the_weights_that_a_run_left(tmp_path):
    """Not of whatever file lies in its folder."""
    (tmp_path / "result.json").write_text('{"top1": 0.9}')
    model = model_of("classifier")
    for name, score in (("model.safetensors", 0.9), ("model.onnx", 0.9), ("other.safetensors", None), ("", 0.9)):
        assert _tested(str(tmp_path / name), model) == score
