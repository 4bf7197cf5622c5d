"""The names of the library: what is imported late is known to type checkers and editors, from another folder too."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import mobile_cv_nas as nas

ROOT = Path(__file__).resolve().parents[2]
USER = """
import mobile_cv_nas as nas

reveal_type(nas.fbnet_builder)
reveal_type(nas.build_detector)
reveal_type(nas.SearchSpace.load("space.yaml"))
nas.SearchSpace.load("space.yaml", 3)
nas.no_such_name
"""


def test_type_checkers_know_the_names_that_are_imported_late() -> None:
    tree = ast.parse((ROOT / "mobile_cv_nas/__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == nas._LAZY
    assert all(alias.asname == alias.name for node in block.body for alias in node.names)  # "as" marks it as exported


def test_every_name_can_be_imported() -> None:
    assert len(set(nas.__all__)) == len(nas.__all__)
    assert set(nas.__all__) <= set(dir(nas))
    assert all(getattr(nas, name) is not None for name in nas.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        nas.no_such_name  # noqa: B018


@pytest.mark.slow
def test_mypy_sees_the_signatures_from_another_folder(tmp_path: Path) -> None:
    # An environment that has the project as an editable install has it: by a path file, and typed by its py.typed.
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)}))
    (site / "project.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    (tmp_path / "user.py").write_text(USER)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    command = [sys.executable, "-m", "mypy", "--python-executable", str(python), "--config-file=", "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("user.py")]
    for number, text in {4: "pretrained: bool", 5: "num_classes: int", 6: "SearchSpace", 7: "Too many arguments"}.items():
        assert any(line.startswith(f"user.py:{number}:") and text in line for line in lines), done.stdout + done.stderr
