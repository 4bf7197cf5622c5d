"""Costs and gates are exact and finite in whatever precision a supernet is, and at no temperature that is none."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.networks.additive import Expectation
from mobile_cv_nas.networks.cells import BlockCells, HeadCells

TABLE = {
    "input_size": [8, 16, 8],
    "stages": [[["conv_k3", 8, 2]], [[["ir_k3", "ir_k5_se", "skip"], [8, 16, 8], 1, 2, {"expansion": [1, 3, 1]}]]],
}
TO: dict[str, Any] = {
    "float": lambda net: net.float(),
    "double": lambda net: net.double(),
    "half": lambda net: net.half(),
    "bfloat16": lambda net: net.bfloat16(),
    "to": lambda net: net.to(torch.float32),
    "there and back": lambda net: net.half().to("cpu", torch.float64).float(),
}


def supernet() -> nas.Supernet:
    torch.manual_seed(0)
    return nas.build_supernet(nas.SearchSpace.parse(TABLE), 4)


def exact(net: nas.Supernet) -> dict[str, torch.Tensor]:
    """The buffers that are no statistics of norms."""
    return {name: value for name, value in net.named_buffers() if "norm" not in name}


@pytest.mark.parametrize("how", TO)
def test_costs_keep_their_precision(how: str) -> None:
    net, like = TO[how](supernet()), supernet()
    assert {name: value.dtype for name, value in exact(net).items()} == {name: value.dtype for name, value in exact(like).items()}
    assert all(torch.equal(value, exact(net)[name]) for name, value in exact(like).items())
    assert (net.cost().macs, net.cost().params) == (like.cost().macs, like.cost().params)
    torch.manual_seed(1)
    net.sample(1.0)
    torch.manual_seed(1)
    like.sample(1.0)
    assert net.cost().macs == like.cost().macs
    assert net.cost().macs.dtype == torch.float64
    net.float()
    assert torch.equal(net.eval()(torch.ones(1, 3, 16, 16)), net(torch.ones(1, 3, 16, 16)))
    arch = net.space.sample(3)
    net.select(arch)
    assert net.cost().macs.item() == arch.cost(4).macs


def test_a_supernet_moves_to_another_device_with_its_exact_numbers() -> None:
    net = supernet().to("meta", torch.float16)
    assert {value.device.type for value in net.buffers()} == {"meta"}
    assert net.table.noise.dtype == torch.float64
    assert net.effective._areas.dtype == torch.float64


class Widths:
    """Numbers that float16 lacks, and products that float32 lacks."""

    constant = 0.1

    def block(self, cells: BlockCells) -> Any:
        return cells.c_in + 0.1 * cells.c_out + (2**25 + 1) * cells.hidden

    def head(self, cells: HeadCells) -> Any:
        return 0.1 * cells.width


def test_sums_over_layers_keep_their_precision() -> None:
    net = supernet()
    expectation = Expectation(Widths(), net)
    before = expectation(net, True)
    assert torch.equal(expectation.half()(net.half(), True), before)


@pytest.mark.parametrize("temperature", [float("inf"), float("nan"), 0, -1.0, "1", None, True, 1j, [1.0], torch.ones(2), 10**400])
def test_what_is_no_temperature_says_so_and_changes_nothing(temperature: Any) -> None:
    net = supernet()
    net.sample(2.0)
    gates = net.table.gates()
    with pytest.raises(InputError, match=r"temperature must be positive and finite, not .*: the paper anneals it"):
        net.sample(temperature)
    assert torch.equal(net.table.gates(), gates)


@pytest.mark.parametrize("temperature", [2, Fraction(2), np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2), torch.full((1,), 2.0)])
def test_a_temperature_is_any_real_number(temperature: Any) -> None:
    net = supernet()
    torch.manual_seed(0)
    net.sample(2.0)
    gates = net.table.gates()
    torch.manual_seed(0)
    net.sample(temperature)
    assert torch.equal(net.table.gates(), gates)


def test_a_saved_supernet_holds_what_learns_and_nothing_that_is_derived() -> None:
    net = supernet()
    learnt = {name for name, _ in net.named_parameters()}
    kept = {name for name in net.state_dict() if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert kept == learnt
