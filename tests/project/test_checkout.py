"""A checkout in which the links of the package are text files, as git leaves them where links are not allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("model_zoo", "configs")
CODE = """
import mobile_cv_nas as nas
from mobile_cv_nas.configs import config_path
assert nas.__file__.startswith({root!r}), nas.__file__
import mobile_cv_nas.model_zoo as zoo
print(zoo.__file__, nas.get_card("FBNetV2_F1").name, nas.SearchSpace.load(config_path("spaces/digits.yaml")).size() > 1)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "mobile_cv_nas", root / "mobile_cv_nas", symlinks=True, ignore=unwanted)
    for name in LINKS:
        shutil.copytree(ROOT / name, root / name, ignore=unwanted)
        link = root / "mobile_cv_nas" / name
        if link.is_symlink():
            link.unlink()
            link.write_text(f"../{name}")
    return root


def test_a_checkout_without_links_works(checkout: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    code = CODE.format(root=str(checkout))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(checkout / "model_zoo/__init__.py"), "FBNetV2_F1", "True"]
