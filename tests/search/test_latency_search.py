"""Searches for latency: by a table they end near a number of milliseconds, and away from what is dear on the device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from latency import made_up
from searches import TINY, search_and_train, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.deploy.latency.check import check_table
from mobile_cv_nas.deploy.latency.fit import fit_table
from mobile_cv_nas.deploy.latency.measure import read_measurement
from mobile_cv_nas.deploy.latency.sample import Manifest, digest, draw_samples
from mobile_cv_nas.deploy.latency.table import LatencyTable
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.report.tables import search_table
from mobile_cv_nas.search.objective import objectives

DEAR = {"depthwise5": {"written": 4e-4}, "hswish": {"written": 2e-4}}
CHEAP = {"conv3": {"macs": 1e-6}, "pointwise": {"macs": 5e-6}, "depthwise3": {"written": 2e-5}, "linear": {"weights": 1e-6}}
SPACE = TINY.replace("[ir_k3, ir_k5_se_hs], [4, 8, 4], 2", "[ir_k3, ir_k5, ir_k3_hs, ir_k5_hs], [4, 8, 4], 2")
SPACE = SPACE.replace("[ir_k3_hs, ir_k3_se, skip]", "[ir_k3, ir_k5, ir_k3_hs, ir_k5_hs]")


def _search(folder: Path, *opts: object) -> dict:
    cfg = tiny_cfg(folder, "SEARCH.EPOCHS", 10, "SEARCH.BATCH_SIZE", 32, "SEARCH.ALPHA_LR", 0.3, "TRAIN.EPOCHS", 1, *opts)
    (folder / "tiny.yaml").write_text(SPACE)
    return search_and_train(cfg)


@pytest.mark.slow
def test_a_search_goes_away_from_what_is_dear_on_the_device(tmp_path: Path) -> None:
    """Kernels of 5x5 and hswish cost most of the milliseconds of a device that does not exist, and nearly nothing in MACs."""
    space = nas.SearchSpace.parse(_parsed(SPACE))
    table = _from_csv(tmp_path, space)
    cheap = [_only(space, "ir_k3", end) for end in (0, -1)]
    low, high = (table.latency(arch, 10, in_channels=3) for arch in cheap)
    target = round((low + high) / 2, 3)  # within reach of 3x3 kernels and relu alone
    result = _search(tmp_path, "SEARCH.TARGET", f"{target} ms", "SEARCH.TABLE", tmp_path / "device.json", "OUTPUT_DIR", tmp_path / "run")
    arch = nas.ArchDef.load(tmp_path / "run" / "arch.yaml")
    assert {layer.names[0] for layer in arch.layers[1:]} == {"ir_k3"}
    assert result["latency"] == table.latency(arch, 10) == pytest.approx(target, rel=0.2)
    assert result["latency_expected"] > 0
    assert result["latency_measured"] is None
    assert result["latency_not_measured"] == "its runtime is not here"
    shown = search_table(result, "run", (1.0, 1.0))
    assert "target, ms" in shown
    assert re.search(r"measured, ms +not: its runtime is not here", shown)


@pytest.mark.slow
def test_limits_hold(tmp_path: Path) -> None:
    result = _search(
        tmp_path, "SEARCH.TARGET", "14000", "SEARCH.LIMITS", "{params: 700, memory: 900 bytes}", "OUTPUT_DIR", tmp_path / "run"
    )
    assert result["params"] <= 700
    assert result["limits"]["memory"]["cost"] <= 900
    assert re.search(r"at most, parameters +700 \(\d+\)", search_table(result, "run", (1.0, 1.0)))


def test_the_keys_name_every_objective() -> None:
    from mobile_cv_nas.config.keys import CHOICES

    assert tuple(objectives()) == CHOICES["SEARCH.OBJECTIVE"]


def _from_csv(folder: Path, space: nas.SearchSpace) -> LatencyTable:
    """The table that is fitted to milliseconds which came back from the device, in device.json."""
    device = made_up({**CHEAP, **DEAR}, constant=0.01)
    samples = tuple(draw_samples(space, 80, 10))
    manifest = Manifest(space.name, digest(space), HeadDef("classifier", 10), 3, samples)
    lines = [f"{one.name}.onnx,{device.latency(one.arch, 10):.6f}" for one in samples]
    (folder / "device.csv").write_text("\n".join(["name,ms", *lines]))
    measurement = read_measurement(folder / "device.csv")
    table = fit_table(manifest, measurement)
    check = check_table(table, manifest, measurement)
    assert check.beats_macs
    assert check.table.error < 0.02
    table.save(folder / "device.json")
    return table


def _parsed(text: str) -> dict:
    from mobile_cv_nas.files import parse_yaml

    return parse_yaml(text, "space")


def _only(space: nas.SearchSpace, name: str, end: int) -> nas.ArchDef:
    picks = {c.name: (len(c.options) - 1 if end else 0) for c in space.choices}
    for layer in space.layers:
        if len(layer.names) > 1:
            picks[f"{layer.key}.block"] = layer.names.index(name)
    return space.decode(picks)
