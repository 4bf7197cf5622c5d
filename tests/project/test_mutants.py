"""The mutation run: what it changes, what it leaves alone, and that it tells killed from survived."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SOURCE = '''
"""A module."""
LIMIT: int = 3

def f(a: int, b=True):
    """Doubles."""
    if a < LIMIT and not b:
        raise ValueError(f"{a + 1}: below {LIMIT - 1}")
    print(a)
    a.clear()
    return -max(a, 2, *zip(a, a, strict=True)) * 4
'''


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("mutants")
    sys.modules.pop("mutants")


def test_each_change_is_one_and_messages_and_types_are_left_alone(mutants):
    found = mutants.mutants_of("nn/some.py", SOURCE)
    texts = [ast.unparse(mutants.mutated(SOURCE, mutant.place)) for mutant in found]
    plain = ast.unparse(ast.parse(SOURCE))
    lines = [[(a, b) for a, b in zip(plain.splitlines(), text.splitlines(), strict=True) if a != b] for text in texts]
    assert all(len(changed) == 1 for changed in lines)
    assert len(set(texts)) == len(texts)
    changes = ["4 for 3", "False for True", "condition the other way round", "Or for And", "LtE for Lt", "left out: a.clear()"]
    changes += ["minus left out", "Div for Mult", "min for max", "3 for 2", "5 for 4"]
    assert sorted(mutant.change for mutant in found) == sorted(changes)
    assert found[0].module == "mobile_cv_nas.nn.some"


def test_the_core_has_mutants_enough_and_the_choice_is_repeatable(mutants):
    first, more = mutants.chosen(200, 0, []), mutants.chosen(300, 0, [])
    assert more[:200] == first
    assert len({mutant.key for mutant in more}) == 300
    assert {mutant.file.split("/")[0] for mutant in first} == set(mutants.ROOMS)
    assert {mutant.file for mutant in mutants.chosen(9, 0, ["nn/shapes.py"])} == {"nn/shapes.py"}


def test_tests_that_run_the_line_go_first_the_quickest_before_the_others(mutants, tmp_path):
    names = ["tests/a.py::slow", "tests/a.py::quick", "tests/a.py::other", "tests/b.py::far"]
    lines = {"nn/a.py": {"3": [0, 1], "5": [3]}}
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"tests": names, "seconds": [9, 1, 4, 2], "lines": lines}))
    known = mutants.Map(path)
    ran, at_import = mutants.Mutant("nn/a.py", 0, 3, "x"), mutants.Mutant("nn/a.py", 1, 1, "x")
    assert known.of(ran, 60) == ["tests/a.py::quick", "tests/a.py::slow", "tests/a.py::other"]
    assert known.of(ran, 5) == ["tests/a.py::quick"]
    assert known.of(ran, 0.1) == ["tests/a.py::quick"]  # one at least
    assert known.of(at_import, 60) == ["tests/a.py::quick", "tests/b.py::far", "tests/a.py::slow", "tests/a.py::other"]
    assert known.of(mutants.Mutant("nn/constants.py", 0, 1, "x"), 8) == ["tests/a.py::quick", "tests/b.py::far", "tests/a.py::other"]


def test_the_report_has_shares_and_survivors(mutants):
    results = [
        {"key": "nn/a.py:1:0: x", "killed": True},
        {"key": "nn/a.py:2:1: y", "killed": False},
        {"key": "arch/b.py:1:0: z", "killed": True},
    ]
    text = mutants.report(results)
    assert "nn            1 of    2 killed, 50.0%" in text
    assert "all           2 of    3 killed, 66.7%" in text
    assert text.endswith("survived: nn/a.py:2:1: y")


@pytest.mark.slow
def test_a_run_tells_killed_from_survived_and_goes_on(tmp_path):
    output = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "benchmarks/mutants.py"),
        "--output",
        str(output),
        "--only",
        "nn/shapes.py",
        "--tests",
        "tests/nn/test_shapes.py",
        "--count",
    ]
    done = subprocess.run([*command, "1"], capture_output=True, text=True, check=True)
    (line,) = output.read_text().splitlines()
    assert json.loads(line)["killed"] == ("SURVIVED" not in done.stdout)
    assert not output.with_suffix(".map.json").exists()  # it was told which tests
    wrong = [*command[:-2], "tests/nn/nothing.py", "--count", "2"]
    refused = subprocess.run(wrong, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "error: without any change pytest ends with 4" in refused.stderr  # else all would be killed by that
    assert output.read_text().splitlines() == [line]
    again = subprocess.run([*command, "1"], capture_output=True, text=True, check=True)
    assert output.read_text().splitlines() == [line]
    assert again.stdout.splitlines()[-1] in done.stdout
