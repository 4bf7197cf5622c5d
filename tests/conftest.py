"""Fixtures of several test files."""

import shutil
from pathlib import Path

import pytest
from dense_runs import few_scenes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is neither slow nor a sweep is fast: the three tiers together are all tests."""
    for item in items:
        if not (item.get_closest_marker("slow") or item.get_closest_marker("sweep")):
            item.add_marker("fast")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """digit_scenes of a few images, to be read only."""
    return few_scenes(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture
def own(scenes: Path, tmp_path: Path) -> Path:
    """A copy of the scenes, to be spoiled."""
    return shutil.copytree(scenes, tmp_path / "scenes")
