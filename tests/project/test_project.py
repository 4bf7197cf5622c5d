"""The project as others get it: the wheel, an editable install, and what an import costs."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = {"model_zoo": "mobile_cv_nas/model_zoo", "configs": "mobile_cv_nas/configs"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of a wheel built from a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mobile_cv_nas", *MAPPED):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True, timeout=600)
    (built,) = out.glob("*.whl")
    return built


def expected_files():
    """{path in the wheel: path of the source} of every module, YAML file and template."""
    files = {}
    for name in ("mobile_cv_nas", *MAPPED):
        for pattern in ("*.py", "*.yaml", "*.j2"):
            for path in (ROOT / name).rglob(pattern):
                files[str(Path(MAPPED.get(name, name)) / path.relative_to(ROOT / name))] = path
    return files


def test_wheel_holds_every_module_and_every_yaml_file(wheel):
    expected = expected_files()
    assert all(any(name.endswith(end) for name in expected) for end in (".yaml", ".j2"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert set(expected) <= names
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name
        assert any(name.endswith("/LICENSE") for name in names)
        assert not [name for name in names if name.startswith(("tests/", "tools/", "model_zoo/", "configs/"))]


def test_wheel_brings_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "mobile-cv-nas = mobile_cv_nas.__main__:main" in archive.read(name).decode()


@pytest.mark.slow
def test_the_index_would_take_the_wheel(wheel):
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def run_python(code, cwd, **env):
    """What a fresh interpreter prints, started in the folder `cwd`."""
    import os

    command = [sys.executable, "-W", "error::DeprecationWarning:mobile_cv_nas", "-c", code]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WHERE = """
import mobile_cv_nas as nas, mobile_cv_nas.model_zoo as zoo
from mobile_cv_nas.configs import config_path
print(nas.__file__, zoo.__file__, nas.SearchSpace.load(config_path("spaces/digits.yaml")).size(), sep="\\n")
"""


def test_installed_wheel_works_from_another_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    package, zoo, size = run_python(WHERE, elsewhere, PYTHONPATH=str(site)).splitlines()
    assert Path(package) == site / "mobile_cv_nas/__init__.py"
    assert Path(zoo) == site / "mobile_cv_nas/model_zoo/__init__.py"
    assert int(size) > 1


def test_editable_install_works_from_another_folder(tmp_path):
    package, zoo, _ = run_python(WHERE, tmp_path).splitlines()
    assert Path(package) == ROOT / "mobile_cv_nas/__init__.py"
    assert Path(zoo) == ROOT / "mobile_cv_nas/model_zoo/__init__.py"


def test_import_leaves_heavy_packages_alone(tmp_path):
    heavy = ("torchvision", "matplotlib", "tensorboard", "accelerate", "sklearn", "timm", "pandas")
    code = f"import mobile_cv_nas.tasks.detectors, sys; print(*[name for name in {heavy} if name in sys.modules])"
    assert run_python(code, tmp_path) == ""


def test_config_path_names_what_there_is(tmp_path):
    from mobile_cv_nas.configs import config_path

    assert config_path("search/digits.yaml").is_file()
    for name in ("spaces/nothing.yaml", "../setup.py", "__init__.py", "spaces"):
        with pytest.raises(FileNotFoundError, match=r"spaces/digits\.yaml"):
            config_path(name)


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:configs|tools|docs|benchmarks|model_zoo)/[\w./-]+\.(?:yaml|py|png|md)", text))
    assert {"tools/search_net.py"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    assert "make search" in text
    assert "make test" in text
