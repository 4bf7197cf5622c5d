"""The shipped latency tables know every cell of their space, and did better than MACs alone on networks they were not fitted to."""

from __future__ import annotations

import pytest
import torch
from spaces import SPACES

import mobile_cv_nas as nas
from mobile_cv_nas.deploy.latency.table import digest_matches

TABLES = sorted((SPACES.parent / "latency").glob("*.json"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_shipped_table(path) -> None:
    table = nas.LatencyTable.load(path.stem)
    space = nas.SearchSpace.load(SPACES / f"{table.space}.yaml")
    assert path.stem == f"{table.space}_{table.runtime}_{table.precision}"
    assert digest_matches(table, space), "the space has changed since: measure its networks again"
    supernet = nas.build_supernet(space, num_classes=10 if table.space == "digits" else 1000)
    with torch.no_grad():
        expected = table.expected(supernet).item()
    ends = [table.latency(arch, 10) for arch in (space.smallest(10), space.largest(10))]
    assert ends[0] < expected < ends[1]
    found = table.check
    assert found["table"]["r2"] >= 0.93
    assert found["table"]["tau"] >= max(0.85, found["macs"]["tau"])
    assert found["table"]["error"] < found["macs"]["error"]
    assert "An example" in table.note
