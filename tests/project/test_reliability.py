"""Every fault that docs/reliability.md lists is shown by a test that exists."""

import ast
import re

from helpers import ROOT


def test_every_test_that_the_table_names_exists():
    lines = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    assert len(rows) > 40
    for row in rows:
        assert len(row) == 3, row
        assert all(row), row
        named = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", row[2])
        assert named, row
        (path,) = (ROOT / "tests").rglob(named[1])
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert named[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row[2]
