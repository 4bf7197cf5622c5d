"""The examples run."""

import runpy
import sys

import pytest
from helpers import ROOT

import mobile_cv_nas as nas

pytestmark = pytest.mark.slow


def test_a_search_on_a_dataset_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["own_dataset.py", str(tmp_path / "own")])
    runpy.run_path(str(ROOT / "examples" / "own_dataset.py"), run_name="__main__")
    assert "Cost(macs=" in capsys.readouterr().out
    model = nas.load(tmp_path / "own")
    assert model.classes == tuple("0123456789")
    assert nas.ArchDef.load(tmp_path / "own" / "arch.yaml") == model.arch
