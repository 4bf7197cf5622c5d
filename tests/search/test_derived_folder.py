"""The folder that `derive` writes: what it may replace, and what a training leaves in it."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import run_tool
from latency import random_table
from searches import TINY, search_and_train, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.deploy.latency.sample import digest
from mobile_cv_nas.errors import FileError, InputError
from mobile_cv_nas.files import parse_yaml, read_yaml
from mobile_cv_nas.search.folder import prepare_derived


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search for 12k MACs, not to be changed."""
    folder = tmp_path_factory.mktemp("derived")
    search_and_train(tiny_cfg(folder))
    return folder / "run"


def _derive(run: Path, folder: Path, *more: str, target: str = "16k") -> tuple[int, str, str]:
    done = run_tool("derive_net", str(run), "--target", target, "--count", "2", "--epochs", "0", "--output", str(folder), *more)
    return done.returncode, done.stdout, done.stderr


def test_only_what_a_derivation_left_is_removed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    mine = {name: f"mine: {name}\n" for name in ("arch_9.yaml", "arch_04.yaml", "arch.yaml", "config.yaml", "metrics.jsonl", "notes.txt")}
    for name, text in mine.items():
        (folder / name).write_text(text)
    for count in ("3", "1"):
        assert _derive(run, folder, "--count", count)[0] == 0
    assert [row["arch"] for row in read_yaml(folder / "networks.yaml")["networks"]] == ["arch_1.yaml"]
    assert {path.name for path in folder.iterdir()} - {".lock"} == {*mine, "networks.yaml", "arch_1.yaml"}
    found = nas.derive_networks(run, "16k", count=1, epochs=0)
    found.save(folder)
    assert all((folder / name).read_text() == text for name, text in mine.items())

    code, _, error = _derive(run, folder, "--train")  # whose arch.yaml and config.yaml these are not
    assert (code, "mine: holds config.yaml, arch.yaml, which this would replace and no derivation left" in error) == (2, True)
    code, _, error = _derive(run, folder, "--count", "9")
    assert (code, "holds arch_9.yaml, which this would replace" in error) == (2, True)
    assert all((folder / name).read_text() == text for name, text in mine.items())
    assert (folder / "arch_1.yaml").exists()


@pytest.mark.parametrize("listing", [None, "networks: [{arch: ../arch_1.yaml}]\n", "my: networks\n", "- arch_1.yaml\n"])
def test_a_folder_of_ones_own_is_refused_unless_it_shall_be_overwritten(run: Path, tmp_path: Path, listing: str | None) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in (folder / "arch_2.yaml", folder / "arch_7.yaml", tmp_path / "arch_1.yaml"):
        path.write_text("mine\n")
    if listing is not None:
        (folder / "networks.yaml").write_text(listing)
    code, _, error = _derive(run, folder)
    assert (code, "arch_2.yaml, which this would replace" in error, len(error.splitlines())) == (2, True, 1)
    assert "--overwrite" in error
    assert (folder / "arch_2.yaml").read_text() == "mine\n"
    assert _derive(run, folder, "--overwrite")[0] == 0
    assert (folder / "arch_7.yaml").read_text() == (tmp_path / "arch_1.yaml").read_text() == "mine\n"
    assert nas.ArchDef.load(folder / "arch_2.yaml").name == "tiny"


def test_another_run_is_never_replaced(run: Path) -> None:
    code, _, error = _derive(run, run, "--overwrite")
    assert (code, "holds another run" in error) == (2, True)


# -- milliseconds from a search for MACs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of a device that does not exist, of the space of `run`."""
    path = tmp_path_factory.mktemp("device") / "device.json"
    random_table(digest=digest(nas.SearchSpace.parse(parse_yaml(TINY, "tiny"))), constant=1e-3).save(path)
    return path


def test_a_search_for_macs_gives_networks_for_milliseconds(run: Path, device: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = nas.LatencyTable.load(device)
    target = table.latency(nas.ArchDef.load(run / "arch.yaml"), 10)
    for given in (device, table):
        found = nas.derive_networks(run, f"{target:.9f} ms", count=2, epochs=0, table=given)
        assert all(table.latency(one.arch, 10) == pytest.approx(target, rel=0.2) for one in found.networks)
    limited = nas.derive_networks(run, "12k", count=3, epochs=0, limits={"latency": f"{target:.9f} ms"}, table=str(device))
    assert all(table.latency(one.arch, 10) <= target for one in limited.networks)
    assert caplog.text == ""
    nas.derive_networks(run, f"{target:.9f} ms", count=1, epochs=0, table=replace(table, digest="", space="other"))
    assert "the table was made for other, and the search was of tiny" in caplog.text


@pytest.mark.slow
def test_the_tool_takes_a_table_and_keeps_it(run: Path, device: Path, tmp_path: Path) -> None:
    table, folder = nas.LatencyTable.load(device), tmp_path / "out"
    target = table.latency(nas.ArchDef.load(run / "arch.yaml"), 10)
    code, out, error = _derive(run, folder, "--train", "--table", str(device), target=f"{target:.9f} ms")
    assert (code, error) == (0, "")
    assert "ms" in out
    arch = nas.ArchDef.load(folder / "arch.yaml")
    assert read_yaml(folder / "networks.yaml")["networks"][0]["latency"] == table.latency(arch, 10) == pytest.approx(target, rel=0.2)
    kept = load_config(folder / "config.yaml", purpose="search").SEARCH
    assert ("latency", str(device), pytest.approx(target)) == (kept.OBJECTIVE, kept.TABLE, kept.TARGET)
    result = json.loads((folder / "result.json").read_text())
    assert (result["latency"], result["latency_not_measured"]) == (table.latency(arch, 10), "its runtime is not here")
    assert result["latency_expected"] == pytest.approx(table.expected(nas.load_supernet(run), noise=False).item())
    assert f"--table {device}" in html.unescape((folder / "report.html").read_text())
    for words, told in (
        (["--target", "0.1 ms"], "was searched without a latency table, which milliseconds need; name its file, or a shipped one: --table"),
        (["--target", "16k", "--limits", "latency: 1 ms"], "was searched without a latency table"),
        (["--target", "16k", "--table", str(device)], "--table: neither the target nor a limit is in milliseconds"),
        (["--target", "1 ms", "--table", "digits_onnxruntime"], "no shipped latency table"),
    ):
        done = run_tool("derive_net", str(run), *words, "--output", str(tmp_path / "none"))
        assert (done.returncode, told in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr


# -- exported files -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_derived_network_is_exported_as_a_search_exports_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    copy = shutil.copytree(run, tmp_path / "run")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("FORMATS: []", "FORMATS: [onnx]"))
    assert load_config(config, purpose="search").EXPORT.FORMATS == ["onnx"]
    code, out, error = _derive(copy, tmp_path / "out", "--train")
    assert (code, error) == (0, "")
    assert "model.onnx" in out
    assert nas.load(tmp_path / "out/child/model.onnx").arch == nas.ArchDef.load(tmp_path / "out/arch.yaml")
    assert (tmp_path / "out/child/export.json").is_file()
    code, _, error = _derive(copy, tmp_path / "none", "--train", "EXPORT.FORMATS", "[]", "EXPORT.INT8", "True")
    assert (code, "EXPORT.INT8" in error) == (2, True)
    code, _, error = _derive(copy, tmp_path / "plain", "--train", "EXPORT.FORMATS=[]")
    assert (code, error, (tmp_path / "plain/child/model.onnx").exists()) == (0, "", False)

    def missing(module: str, extra: str) -> None:
        raise InputError(f"needs {module} of {extra}")

    monkeypatch.setattr("mobile_cv_nas.commands.deployment.require", missing)
    code, _, error = _derive(copy, tmp_path / "before", "--train")
    assert (code, "needs onnx of onnx" in error, (tmp_path / "before").exists()) == (2, True, False)
    assert _derive(copy, tmp_path / "before")[0] == 0  # which writes none


@pytest.mark.parametrize("name", ["result.json", "search.pt", "checkpoints"])
def test_a_folder_that_holds_a_part_of_another_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(FileError, match="holds another run, which this would replace"):
        prepare_derived(tmp_path, False, True, 5, False)
    assert (tmp_path / name).is_dir()
