"""From networks to a table: sampling, measuring, fitting, checking, and what the tool says."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dense_runs import dense_arch
from helpers import run_tool
from latency import made_up
from scipy.stats import kendalltau
from spaces import TINY, parsed, samples

import mobile_cv_nas as nas
from mobile_cv_nas.commands.latency import main as latency
from mobile_cv_nas.deploy.latency import fit
from mobile_cv_nas.deploy.latency.check import agreement, check_table
from mobile_cv_nas.deploy.latency.features import FEATURES
from mobile_cv_nas.deploy.latency.fit import fit_table, match, operators_of
from mobile_cv_nas.deploy.latency.measure import Measurement, measure, profile, read_measurement
from mobile_cv_nas.deploy.latency.sample import Manifest, Sample, digest, draw_samples, extremes, read_manifest, write_samples
from mobile_cv_nas.deploy.latency.table import LatencyTable
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.nn.operators import Operator

DEVICE = made_up(
    {
        "conv3": {"padded": 2e-6},
        "pointwise": {"padded": 1e-6, "weights": 3e-6},
        "depthwise3": {"written": 1e-5},
        "depthwise5": {"written": 9e-5},
        "depthwise7": {"written": 5e-5},
        "linear": {"weights": 2e-6},
        "scale": {"read": 4e-5},
        "hswish": {"written": 5e-5},
    },
    constant=0.05,
)
BLOCKS = TINY | {"input_size": 24}


def _manifest(count: int = 70, check: int = 15) -> Manifest:
    space = parsed(BLOCKS)
    return Manifest("tiny", digest(space), HeadDef("classifier", 10), 3, tuple(draw_samples(space, count, check)))


def _measured(manifest: Manifest, device: LatencyTable, noise: float = 0.0, **more: object) -> Measurement:
    rng = random.Random(0)
    times = {one.name: [device.latency(one.arch, 10) * (1 + abs(rng.gauss(0, noise))) for _ in range(2)] for one in manifest.samples}
    return Measurement("made up", "none", "none", "1", 1, "fp32", 1, "2026-01-01", "min", times, **more)


def test_agreement_is_what_others_compute() -> None:
    rng = np.random.default_rng(0)
    measured = rng.uniform(2, 9, 20)
    predicted = measured * rng.uniform(0.8, 1.2, 20)
    found = agreement(predicted, measured)
    assert found.tau == pytest.approx(kendalltau(predicted, measured).statistic)
    assert found.r2 == pytest.approx(1 - np.mean((predicted - measured) ** 2) / np.var(measured))
    assert found.error == pytest.approx(np.mean(np.abs(predicted - measured) / measured))


def test_samples_hold_the_extremes_of_every_block() -> None:
    space = parsed(TINY)
    ends = extremes(space)
    for name in ("ir_k3", "ir_k5_se_hs", "ir_k3_sehsig", "ir_k7_se_hs", "conv_k3_hs"):
        mine = [arch for arch in ends if any(layer.names[0] == name for layer in arch.layers)]
        assert {arch.input_size for arch in mine} == {16, 24}
    drawn = draw_samples(space, 40, 10)
    assert [one.part for one in drawn] == ["ends"] * len(ends) + ["fit"] * (30 - len(ends)) + ["check"] * 10
    assert len({one.arch for one in drawn}) == 40
    assert all(space.contains(one.arch) for one in drawn)
    assert drawn == draw_samples(space, 40, 10)
    with pytest.raises(InputError, match=r"sample more"):
        draw_samples(space, 12, 10)


def test_whole_networks_give_the_device_back() -> None:
    manifest = _manifest()
    measurement = _measured(manifest, DEVICE)
    table = fit_table(manifest, measurement)
    check = check_table(table, manifest, measurement)
    assert (table.method, table.space, table.digest) == ("nets", "tiny", manifest.digest)
    assert check.table.error < 0.01
    assert check.table.r2 > 0.995
    assert check.beats_macs
    assert check.repeat is not None
    assert check.repeat.error == 0
    for arch in samples(parsed(BLOCKS), 20, seed=7):
        assert table.latency(arch, 10) == pytest.approx(DEVICE.latency(arch, 10), rel=0.05)


def _profile(manifest: Manifest, device: LatencyTable) -> dict[str, list]:
    """As onnxruntime would report: activations inside of convolutions, additions too."""
    types = {"pool": "GlobalAveragePool", "scale": "Mul"}
    found = {}
    for one in manifest.samples[:12]:
        operators = operators_of(one, manifest)
        nodes = []
        for i, op in enumerate(operators):
            if op.kind in ("hswish", "sigmoid", "hsigmoid", "add"):
                continue
            spent = sum(c * float(FEATURES[name](op)) for name, c in device.coefficients[op.name].items())
            kind = "Gemm" if i == len(operators) - 1 else types.get(op.kind, "Conv")
            nodes.append([kind, [], [], spent + 0.001])
        found[one.name] = nodes
    return found


def test_profiles_of_a_few_networks_do_as_well() -> None:
    manifest = _manifest()
    measurement = replace(_measured(manifest, DEVICE), profiles=_profile(manifest, DEVICE))
    table = fit_table(manifest, measurement)
    check = check_table(table, manifest, measurement)
    assert table.method == "profiled"
    assert check.table.error < 0.02
    assert check.beats_macs
    depthwise = {name: table.coefficients[name] for name in ("depthwise3", "depthwise5")}
    one = operators_of(manifest.samples[0], manifest)[0]._replace(kind="depthwise", c_in=32.0, c_out=32.0, in_area=144.0, out_area=144.0)
    spent = {name: sum(c * float(FEATURES[f](one)) for f, c in own.items()) for name, own in depthwise.items()}
    assert spent["depthwise5"] > 4 * spent["depthwise3"]
    operators = operators_of(manifest.samples[0], manifest)
    with pytest.raises(InputError, match=r"a profile has 1 convolutions, and its network \d+"):
        match(operators, [["Conv", [], [], 1.0]])


def test_a_processor_that_whole_vectors_are_cheap_for() -> None:
    """As of int8 depthwise convolutions on AVX-512: twice as long a multiply-accumulate where channels are no multiple of 16."""
    shapes = [(c, side, stride) for c in (8, 16, 24, 32, 40, 64, 96, 200) for side in (8, 16, 28) for stride in (1, 2)]
    rows = []
    for c, side, stride in shapes:
        one = Operator("depthwise", float(c), float(c), float(side**2), float((side // stride) ** 2), 5, c)
        rows.append((one, 5e-8 * float(one.macs) * (2 if c % 16 else 1)))
    found = fit._of_nodes(rows)
    for one, spent in rows:
        assert sum(value * float(FEATURES[name](one)) for name, value in found.items()) == pytest.approx(spent, rel=0.05, abs=2e-4)


def test_operators_of_a_head_are_found_by_their_shapes() -> None:
    """They are listed map by map: that of the coarse map, which runs first, stands last."""
    arch = dense_arch()
    head = HeadDef("lraspp", 3, {"channels": 16, "low_stride": 8})
    operators = operators_of(Sample("net000", arch, "fit"), Manifest("dense", "", head, 3, ()))
    layers = [one for one in operators if one.kind in ("conv", "pointwise", "depthwise", "linear")]
    fine, summed, coarse, gate = layers[-4:]
    run = [*layers[:-4], coarse, gate, summed, fine]

    def node(one: Operator, spent: float, last: bool = False) -> list:
        side, filled = int(one.out_area**0.5), -int(-one.c_out // 8) * 8  # up to whole vectors
        weights = [filled, 1 if one.kind == "depthwise" else int(one.c_in), one.kernel, one.kernel]
        read, written = [1, int(one.c_in), int(one.in_area**0.5), int(one.in_area**0.5)], [1, filled, side, side]
        if last:  # as in int8: channels last, and nothing of the weights
            return ["QLinearConv", [[1, *read[2:], read[1]], [], []], [1, side, side, int(one.c_out)], spent]
        return ["Conv", [read, weights, [filled]], written, spent]

    for last in (False, True):
        found, rest = match(operators, [node(one, float(i), last) for i, one in enumerate(run)])
        assert found == [(one, float(i)) for i, one in enumerate(run)]
        assert rest == 0
    run[-1] = run[-1]._replace(out_area=25.0)
    with pytest.raises(InputError, match=r"a profile has a Conv of .* to \[1, 8, 5, 5\], which its network has not"):
        match(operators, [node(one, 1.0) for one in run])


def test_a_dozen_networks_scale_the_table_of_another_runtime() -> None:
    manifest = _manifest()
    factor = {"pointwise": 2.0, "depthwise": 0.5}
    other = made_up(
        {
            name: {f: c * next((v for kind, v in factor.items() if name.startswith(kind)), 1.0) for f, c in own.items()}
            for name, own in DEVICE.coefficients.items()
        },
        constant=0.2,
    )
    few = replace(manifest, samples=(*manifest.samples[:12], *[one for one in manifest.samples if one.part == "check"]))
    measurement = _measured(few, other)
    table = fit_table(few, measurement, like=DEVICE)
    check = check_table(table, few, measurement)
    assert table.method == "scaled"
    assert check.table.error < 1e-6
    assert table.constant == pytest.approx(0.2, rel=1e-3)


def test_a_kernel_that_none_of_the_dozen_has_is_scaled_as_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """Its factor was 0: a search would have taken it wherever it may."""
    manifest = _manifest()
    without = [one for one in manifest.samples if all("k5" not in layer.names[0] for layer in one.arch.layers)]
    few = replace(manifest, samples=tuple(replace(one, part="fit") for one in without))
    assert len(without) >= 8
    twice = made_up({name: {f: 2 * c for f, c in own.items()} for name, own in DEVICE.coefficients.items()}, constant=0.1)
    table = fit_table(few, _measured(few, twice), like=DEVICE)
    assert table.coefficients["depthwise5"]["written"] == pytest.approx(2 * DEVICE.coefficients["depthwise5"]["written"], rel=1e-3)
    assert "depthwise5: no measured network has it; scaled as depthwise3 and depthwise7" in caplog.text
    for one in manifest.samples:
        assert table.latency(one.arch, 10) == pytest.approx(twice.latency(one.arch, 10), rel=1e-3)


def test_a_csv_of_a_phone_becomes_a_table_and_one_that_is_no_better_than_macs_is_refused(tmp_path: Path) -> None:
    manifest = _manifest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_dict()))
    assert read_manifest(tmp_path) == manifest

    def csv(times: dict[str, float]) -> Path:
        (tmp_path / "phone.csv").write_text("name,ms\n" + "".join(f"/data/local/tmp/{name}.pte, {ms}\n" for name, ms in times.items()))
        return tmp_path / "phone.csv"

    path = csv({one.name: DEVICE.latency(one.arch, 10) for one in manifest.samples})
    table = tmp_path / "phone.json"
    args = ["fit", str(tmp_path), "--csv", str(path), "--output", str(table), "--device", "My phone", "--runtime", "executorch"]
    done = run_tool("latency", *args, "--version", "1.5", "--picture", str(tmp_path / "phone.png"))
    assert done.returncode == 0, done.stderr
    assert "15 networks" in done.stdout
    assert "MACs alone" in done.stdout
    assert (tmp_path / "phone.png").stat().st_size > 5000
    loaded = nas.LatencyTable.load(table)
    assert (loaded.device, loaded.runtime, loaded.version, loaded.check["networks"]) == ("My phone", "executorch", "1.5", 15)
    done = run_tool("latency", "check", str(table), str(tmp_path), "--csv", str(path))
    assert done.returncode == 0, done.stderr

    csv({one.name: 1e-6 * one.arch.cost(10).macs + 0.02 for one in manifest.samples})
    table.unlink()
    done = run_tool("latency", *args)
    assert done.returncode == 2
    assert "phone.json: not written: no better than MACs alone (error " in done.stderr
    assert "search for MACs" in done.stderr
    assert not table.exists()
    done = run_tool("latency", *[one for one in args if one not in ("--device", "My phone")])
    assert done.returncode == 2
    assert "--device: missing" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line name,ms"),
        ("net000", "line 1: 'net000': give a name and milliseconds"),
        ("name,ms\nnet000,fast", "line 2: 'net000,fast'"),
        ("net000,-3", "line 1: 'net000,-3': give a name and milliseconds above 0"),
        ("net000,1,2", "line 1"),
        ("net000.onnx,8\nnet000_int8.onnx,4", "net000.onnx and net000_int8.onnx are no passes of one kind"),
        ("nets/net000.onnx,8\nnets/net000.pte,9", "net000.onnx and net000.pte are no passes of one kind"),
    ],
)
def test_lines_of_a_csv_that_say_nothing(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_measurement(tmp_path / "a.csv")


def test_times_are_those_of_the_runtime_and_precision_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = _manifest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_dict()))
    phone, table = str(tmp_path / "phone.csv"), str(tmp_path / "phone.json")
    Path(phone).write_text("".join(f"{one.name}_int8.pte,{DEVICE.latency(one.arch, 10)}\n" for one in manifest.samples))
    fit = ["fit", str(tmp_path), "--csv", phone, "--output", table, "--device", "My phone", "--runtime", "executorch"]
    assert latency(fit) == 2
    assert "phone.csv: names of int8 files, not of fp32: give --precision int8" in capsys.readouterr().err
    assert latency([*fit, "--precision", "int8"]) == 0
    assert latency(["check", table, str(tmp_path), "--csv", phone]) == 0
    capsys.readouterr()
    macs = {one.name: [1e-6 * one.arch.cost(10).macs + 0.02] for one in manifest.samples}
    replace(_measured(manifest, DEVICE), times=macs).save(tmp_path / "measured_onnxruntime_fp32.json")  # no times of the table's kind
    assert latency(["check", table, str(tmp_path)]) == 2
    assert "measured_executorch_int8.json" in capsys.readouterr().err


def test_names_must_be_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("net000,1\nnetwork,2\n")
    with pytest.raises(InputError, match=r"network: no network of the manifest; the names are those of the files, such as net000"):
        fit_table(_manifest(), read_measurement(tmp_path / "a.csv"))


@pytest.mark.slow
def test_networks_are_written_and_measured_here(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    space = nas.SearchSpace.parse({"input_size": 16, "stages": [[["conv_k3_hs", 8, 2]], [[["ir_k3", "ir_k5_se_hs"], [8, 24, 8], 1, 1]]]})
    drawn = draw_samples(space, 6, 1)
    assert list(write_samples(space, drawn, tmp_path, [".onnx"], head=HeadDef("classifier", 10))) == [one.name for one in drawn]
    first = measure(tmp_path, "onnxruntime", passes=1, calls=3, profiled=2)
    again = measure(tmp_path, "onnxruntime", passes=1, calls=3, device="here")
    assert {len(values) for values in again.times.values()} == {2}
    assert set(again.times) == {one.name for one in drawn}
    assert all(again.times[name][0] == first.times[name][0] > 0 for name in first.times)
    assert again.device == "here"
    assert again.runtime == "onnxruntime"
    assert again.profiles.keys() == first.profiles.keys()
    manifest = read_manifest(tmp_path)
    for name, nodes in again.profiles.items():
        one = next(one for one in manifest.samples if one.name == name)
        found, rest = match(operators_of(one, manifest), nodes)
        assert [op.kind for op, _ in found].count("depthwise") == 1
        assert sum(spent for _, spent in found) + rest == pytest.approx(sum(node[3] for node in nodes))
    assert profile(tmp_path / "net000.onnx", calls=2)
    with pytest.raises(InputError, match="only onnxruntime says the times of operators"):
        measure(tmp_path, "executorch", profiled=1)
    with pytest.raises(InputError, match=r"no \.pte file of its networks; write them by tools/latency\.py sample \.\.\. --formats \.pte"):
        measure(tmp_path, "executorch")
    with pytest.raises(InputError, match="the folder has other networks"):
        list(write_samples(space, draw_samples(space, 6, 1, seed=3), tmp_path, []))
