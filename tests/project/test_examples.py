"""The examples run, and are short enough to be read."""

import runpy
import sys

import pytest
from helpers import ROOT

import mobile_cv_nas as nas

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example into `tmp_path`; what it prints."""
    known = dict(nas.BLOCKS._obj_map)

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    yield call
    nas.BLOCKS._obj_map.clear()
    nas.BLOCKS._obj_map.update(known)


def test_examples_are_under_60_lines():
    lengths = {name: len((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in EXAMPLES}
    assert {name: length for name, length in lengths.items() if length >= 60} == {}


def test_a_search_on_a_dataset_of_ones_own(run, tmp_path):
    assert "Cost(macs=" in run("own_dataset", tmp_path / "own")
    model = nas.load(tmp_path / "own")
    assert model.classes == tuple("0123456789")
    assert nas.ArchDef.load(tmp_path / "own" / "arch.yaml") == model.arch


def test_a_block_of_ones_own_in_a_space(run):
    out = run("own_block")
    assert "pointwise_silu" in out
    assert "gradient of the first choice: tensor(" in out


def test_a_strategy_of_ones_own(run, tmp_path):
    from mobile_cv_nas.search.strategies import STRATEGIES

    try:
        assert "Cost(macs=" in run("own_strategy", tmp_path / "curious")
    finally:
        STRATEGIES._obj_map.pop("curious", None)
    assert nas.load(tmp_path / "curious").arch.input_size == 16


def test_a_searched_detector(run, tmp_path):
    out = run("searched_detector", tmp_path / "found")
    assert "detection" in out
    assert "parameters of a segmenter on it" in out
    assert (tmp_path / "found" / "found.png").stat().st_size > 1000


def test_fine_tuning_and_export(run, tmp_path):
    out = run("finetune_export", tmp_path / "tuned")
    assert out.splitlines()[-1] in ("['odd'] is 5", "['even'] is 5")
    assert nas.load(tmp_path / "tuned" / "parity.onnx").classes == ("even", "odd")


def test_a_feature_pyramid(run):
    assert "p5: stride 32" in run("fpn", "FBNetV2_F1")


def test_the_notebook_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds  # figures, and the tables of space and arch
    assert any("is 1" in output.get("text", "") or "probability" in output.get("text", "") for output in outputs)
