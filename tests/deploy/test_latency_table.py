"""What a latency table says of an arch, and its expectation under the gates of a supernet."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from latency import ANY, OPERATORS, made_up, random_table
from spaces import DEEP, SPACES, TINY, decide, members, parsed, random_alphas, samples

import mobile_cv_nas as nas
from mobile_cv_nas.deploy.latency.table import LatencyError, LatencyTable
from mobile_cv_nas.errors import FileError
from mobile_cv_nas.nn.heads import HeadDef

SHIPPED = sorted(path.stem for path in SPACES.glob("*.yaml"))
DENSE = {  # ends in a map that a dense head reads
    "input_size": [32, 48, 16],
    "stages": [
        [["conv_k3_hs", [8, 12, 4], 2]],
        [[["ir_k3", "ir_k5_se_hs"], [8, 16, 8], 2, 1, {"expansion": [1, 2, 1]}]],
        [[["ir_k3_se", "ir_k5"], [8, 16, 8], 2, 1], [["ir_k3", "skip"], [16, 24, 8], 1]],
    ],
}
HEADS = {
    "classifier": HeadDef("classifier", 10),
    "lraspp": HeadDef("lraspp", 5, {"channels": 16, "low_stride": 4}),
    "ssdlite": HeadDef("ssdlite", 5, {"channels": 16, "strides": (4, 8)}),
}


def _space(name: str) -> nas.SearchSpace:
    small = {"tiny": TINY, "deep": DEEP}
    return parsed(small[name]) if name in small else nas.SearchSpace.load(SPACES / f"{name}.yaml")


def test_a_latency_written_from_the_equation() -> None:
    """An inverted residual with squeeze-and-excite that adds its input, and the classifier, summed by hand."""
    table = made_up(
        {
            "conv3": {"macs": 1e-6, "one": 0.01},
            "pointwise": {"macs": 2e-6, "padded": 1e-7, "weights": 3e-6},
            "depthwise5": {"written": 4e-6, "ragged": 5e-6},
            "linear": {"weights": 6e-6},
            "scale": {"read": 7e-6},
            "pool": {"one": 0.02},
            "add": {"written": 8e-6},
            "hswish": {"written": 9e-6},
        }
    )
    rows = [[["conv_k3_hs", 8, 2]], [["ir_k5_se_hs", 8, 1, 1, {"hidden": 24, "squeeze": 8}]]]
    arch = nas.ArchDef.parse({"input_size": 16, "stages": rows})
    area = 8 * 8
    stem = 1e-6 * 27 * 8 * area + 0.01 + 9e-6 * 8 * area
    expand = (2e-6 * 8 * 24 + 1e-7 * 16 * 32) * area + 3e-6 * 8 * 24 + 9e-6 * 24 * area
    depthwise = (4e-6 + 5e-6) * 24 * area + 9e-6 * 24 * area
    squeeze = 0.02 + 6e-6 * 2 * 24 * 8 + 9e-6 * 8 + 7e-6 * 24 * area
    project = (2e-6 * 24 * 8 + 1e-7 * 32 * 16) * area + 3e-6 * 24 * 8 + 8e-6 * 8 * area
    head = 0.02 + 6e-6 * 8 * 10
    assert table.latency(arch, num_classes=10) == pytest.approx(0.125 + stem + expand + depthwise + squeeze + project + head, rel=1e-9)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_expectation_is_the_sum_over_all_archs(head: HeadDef) -> None:
    space = parsed(TINY if head.name == "classifier" else DENSE)
    if head.name == "ssdlite":  # searched at one size
        space = parsed(DENSE, input_size=32)
    table, supernet = random_table(), nas.build_supernet(space, head=head)
    random_alphas(supernet)
    probabilities = supernet.probabilities()
    parts = [
        math.prod(float(probabilities[name][i]) for name, i in picks.items()) * table.latency(arch, head=head)
        for picks, arch in members(space)
    ]
    assert len(parts) > 200
    expected = table.expected(supernet)
    assert expected.dtype == torch.float64
    assert expected.item() == pytest.approx(math.fsum(parts), rel=1e-12)
    supernet.sample(0.5)
    assert table.expected(supernet, noise=False).item() == pytest.approx(math.fsum(parts), rel=1e-12)
    assert table.expected(supernet).item() != pytest.approx(math.fsum(parts), rel=1e-6)


@pytest.mark.parametrize("name", ["tiny", "deep", *(pytest.param(n, marks=[pytest.mark.slow] * ("fbnet" in n)) for n in SHIPPED)])
def test_at_one_hot_gates_it_is_the_childs_to_the_last_bit(name: str) -> None:
    space, table = _space(name), random_table()
    heads = [HEADS["classifier"]]
    if name.startswith("digit_scenes"):
        heads.append(HEADS["lraspp"])
    if name.endswith("detect"):
        heads.append(HeadDef("ssdlite", 5, {"channels": 16, "strides": (8, 16)}))
    for head in heads:
        supernet = nas.build_supernet(space, head=head)
        for i, arch in enumerate(samples(space, 50)):
            exact = table.latency(arch, head=head)
            supernet.select(arch)
            assert table.expected(supernet).item() == exact
            decide(supernet, arch)
            assert table.expected(supernet).item() == exact
            if i % 10 == 0:
                assert table.latency(nas.ArchDef.parse(arch.to_dict()), head=head) == exact


@pytest.mark.parametrize("name", ["tiny", "deep", "digits_resolution", pytest.param("fbnetv2_f", marks=pytest.mark.slow)])
def test_every_alpha_learns_from_it(name: str) -> None:
    supernet = nas.build_supernet(_space(name), num_classes=10)
    random_alphas(supernet, 0.3)
    supernet.sample(2.0)
    table = random_table()
    for _ in range(2):  # each call has a graph of its own
        supernet.zero_grad()
        table.expected(supernet).backward()
        for choice, alpha in supernet.alphas().items():
            assert alpha.grad is not None
            assert alpha.grad.abs().max() > 0, choice


def test_images_of_other_channels_and_a_table_of_entries() -> None:
    """A table of cells, filled from another table: the two say the same, and a cell that is left out is named."""
    from mobile_cv_nas.deploy.latency.table import cell_keys

    space, source, entries = parsed(TINY), random_table(), {}

    class Reader:
        constant = source.constant

        def block(self, cells):
            return self._keep(cells, source.block(cells))

        def head(self, cells):
            return self._keep(cells, source.head(cells))

        def _keep(self, cells, values):
            shape = [v.size for v in (cells.c_in, cells.hidden, cells.c_out)] if hasattr(cells, "layer") else [cells.width.size]
            full = torch.from_numpy(values.copy()).expand(shape).numpy() if values.ndim else values
            for index, key in cell_keys(cells):
                entries[key] = float(full[index])
            return values

    from mobile_cv_nas.networks.additive import Expectation

    supernet = nas.build_supernet(space, num_classes=10, in_channels=1)
    found = Expectation(Reader(), supernet)(supernet, noise=True)
    table = made_up({}, method="cells", entries=entries)
    assert table.expected(supernet).item() == found.item() == source.expected(supernet).item()
    arch = samples(space, 1)[0]
    assert table.latency(arch, 10, in_channels=1) == source.latency(arch, 10, in_channels=1)
    del entries[next(key for key in entries if key.startswith("ir_k7_se_hs,16,"))]
    with pytest.raises(LatencyError, match=r"s2b0: ir_k7_se_hs, 16 to 8 channels, hidden \d+, on a map of 8x8: the cell ir_k7_se_hs,16"):
        made_up({}, method="cells", entries=entries).expected(nas.build_supernet(space, num_classes=10, in_channels=1))


def test_a_cell_outside_is_named() -> None:
    space = parsed(TINY)
    arch = space.largest(10)
    assert random_table().latency(arch, 10) > 0
    narrow = {**dict.fromkeys(random_table().ranges, ANY), "pointwise": {**ANY, "c_out": (1, 20)}}
    with pytest.raises(LatencyError, match=r"s2b0: ir_k3_sehsig, 8 to 8 channels, hidden 48, on a map of 8x8: c_out 48 of pointwise"):
        random_table(ranges=narrow).expected(nas.build_supernet(space, num_classes=10))
    table = made_up({}, tuple(name for name in OPERATORS if name != "depthwise7"))
    with pytest.raises(LatencyError, match=r"s2b0: ir_k7_se_hs.*the operator depthwise7 was never measured; measure"):
        table.expected(nas.build_supernet(space, num_classes=10))
    with pytest.raises(LatencyError, match=r"head classifier, map 0 of \d+ channels, 1x1: c_out 2000 of linear is outside of 1 to 1000"):
        random_table(ranges={**random_table().ranges, "linear": {**ANY, "c_out": (1, 1000)}}).latency(arch, 2000)


def test_a_file_says_the_same_and_damage_is_told(tmp_path: Path) -> None:
    table, path = random_table(), tmp_path / "phone.json"
    table.save(path)
    again, arch = LatencyTable.load(path), samples(parsed(TINY), 1)[0]
    assert again.to_dict() == json.loads(path.read_text()) == json.loads(json.dumps(table.to_dict()))
    for one in (again, copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert one.latency(arch) == table.latency(arch)
    content = json.loads(path.read_text())
    for changes, words in [
        ({"format": 2}, "format 2: this version reads 1"),
        ({"metod": "nets"}, "unknown key 'metod', did you mean method"),
        ({"method": "magic"}, "key method: 'magic'; one of nets, profiled, scaled, cells"),
        ({"constant": -1}, "constant: -1 is no time"),
        ({"constant": float("nan")}, "constant: nan is no time"),
        ({"coefficients": {"pointwise": {"flops": 1}}}, "pointwise: 'flops' is no feature"),
        ({"unit": "s"}, "tables are in ms"),
    ]:
        path.write_text(json.dumps({**content, **changes}))
        with pytest.raises(FileError, match=words):
            LatencyTable.load(path)
    path.write_text("{}")
    with pytest.raises(FileError, match="no latency table"):
        LatencyTable.load(path)
    path.write_text("[1,")
    with pytest.raises(FileError, match="no JSON"):
        LatencyTable.load(path)
    with pytest.raises(FileError, match="no shipped latency table"):
        LatencyTable.load("fbnet_phone")
