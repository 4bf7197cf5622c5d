"""What a space decodes is what its file would be read as."""

from __future__ import annotations

import pytest
from spaces import DEEP, SPACES, TINY, parsed, samples

import mobile_cv_nas as nas

SMALL = {"tiny": TINY, "deep": DEEP}
NAMES = [*SMALL, *sorted(path.stem for path in SPACES.glob("*.yaml"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_decoded_arch_is_the_one_its_table_says(name: str) -> None:
    """It is handed over resolved, and never read a second time: every field of every layer must be what reading gives."""
    space = parsed(SMALL[name]) if name in SMALL else nas.SearchSpace.load(SPACES / f"{name}.yaml")
    for arch in [space.largest(), space.smallest(), *samples(space, 50)]:
        again = nas.ArchDef.parse(arch.to_dict())
        assert again.layers == arch.layers
        assert again == arch == nas.ArchDef(arch.input_size, arch.stages)
        assert nas.ArchDef(arch.input_size, arch.stages).layers == arch.layers


def test_an_option_written_out_is_the_option_left_out() -> None:
    plain = parsed({"input_size": 16, "stages": [[["conv_k3", 8], ["ir_k3", 8]]]})
    written = nas.ArchDef.parse(
        {"input_size": 16, "stages": [[["conv_k3", 8, 1, 1, {"bias": False}], ["ir_k3", 8, 1, 1, {"norm_eps": 1e-5}]]]}
    )
    assert plain.contains(written)


def test_a_stride_is_part_of_membership() -> None:
    space = nas.SearchSpace.parse({"input_size": 16, "stages": [[["conv_k3", 8, 2, 1]], [["ir_k3", [8, 16, 8], 1, 1]]]})
    tables = [
        {"input_size": 16, "stages": [[["conv_k3", 8, first, 1]], [["ir_k3", 8, second, 1]]]} for first in (1, 2) for second in (1, 2)
    ]
    assert [space.contains(nas.ArchDef.parse(table)) for table in tables] == [False, False, True, False]
    assert any("stride 1 is not 2" in line for line in space.explain(nas.ArchDef.parse(tables[0])))
