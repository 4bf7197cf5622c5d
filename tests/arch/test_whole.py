"""Candidates with an expansion and groups of their own, and FBNet's space of them."""

import pytest
import torch
from spaces import SPACES, decide, randomise, relative, samples
from torchvision.ops import StochasticDepth

import mobile_cv_nas as nas
from mobile_cv_nas.arch import ArchError

NAMES = ["ir_k3_e1", "ir_k3_e1_g2", "ir_k3_e3", "ir_k3_e6", "ir_k5_e1", "ir_k5_e1_g2", "ir_k5_e3", "ir_k5_e6", "skip"]


def test_fbnets_space_is_that_of_its_tables():
    space = nas.SearchSpace.load(SPACES / "fbnet.yaml")
    searched = [layer for layer in space.layers if len(layer.names) > 1]
    assert len(searched) == 22
    assert [layer.channels for layer in searched] == [
        (c,) for c, n in zip((16, 24, 32, 64, 112, 184, 352), (1, 4, 4, 4, 4, 4, 1)) for _ in range(n)
    ]
    assert [layer.stride for layer in searched].count(2) == 4
    for layer in searched:
        assert list(layer.names) == (NAMES if layer.stride == 1 and layer.c_in == layer.channels else NAMES[:-1])
    assert space.size() == 9**16 * 8**6
    for arch in samples(space, 3):
        assert nas.count(nas.build_model(arch, 1000), 224) == arch.cost(1000)
        assert space.contains(arch)


@pytest.mark.parametrize(("name", "ratio", "groups"), [("ir_k3_e1_g2", 1, 2), ("ir_k5_e6", 6, 1), ("ir_k3_e3", 3, 1)])
def test_a_whole_candidate_is_the_inverted_residual_that_its_name_says(name, ratio, groups):
    arch = nas.ArchDef.parse({"input_size": 12, "stages": [[["conv_k3", 16]], [[name, 16]]]})
    layers = [m for m in nas.build_model(arch, 5).blocks[1].modules() if isinstance(m, torch.nn.Conv2d)]
    kernel = int(name[4])
    assert [m.kernel_size[0] for m in layers] == [1, kernel, 1]
    assert [m.out_channels for m in layers] == [16 * ratio, 16 * ratio, 16]
    assert [m.groups for m in layers] == [groups, 16 * ratio, groups]


def test_stochastic_depth_reaches_whole_candidates():
    """As it does the same blocks under their other name."""
    found = []
    for row in (["ir_k3_e3", 16, 1, 4], ["ir_k3", 16, 1, 4, {"expansion": 3}]):
        network = nas.build_model(nas.ArchDef.parse({"input_size": 12, "stages": [[["conv_k3", 16]], [row]]}), 5)
        network.set_drop_path(0.4)
        found.append([m.p for m in network.modules() if isinstance(m, StochasticDepth)])
    assert found[0] == found[1] == pytest.approx([0.1, 0.2, 0.3])


def test_a_supernet_of_whole_candidates_is_its_children():
    table = {"input_size": 12, "stages": [[["conv_k3", 16, 2]], [[NAMES, 16, 1, 2], [NAMES[:-1], 32, 2, 1]]]}
    space = nas.SearchSpace.parse(table)
    supernet = nas.build_supernet(space, 5).eval()
    randomise(supernet)
    x = torch.randn(2, 3, 12, 12)
    for arch in samples(space, 8):
        child = nas.inherit_weights(nas.build_model(arch, 5), supernet).eval()
        with torch.no_grad():
            supernet.select(arch)
            assert relative(supernet(x), child(x)) < 1e-5
            assert (int(supernet.cost().macs), int(supernet.cost().params)) == tuple(nas.count(child, 12))
            decide(supernet, arch)
            assert relative(supernet(x), child(x)) < 1e-5
            assert round(float(supernet.cost().macs)) == arch.cost(5).macs


def test_what_they_cannot_be_is_said():
    with pytest.raises(ArchError, match="needs a fixed input width"):
        nas.SearchSpace.parse({"input_size": 12, "stages": [[["conv_k3", [8, 16, 8], 2]], [[["ir_k3_e1", "ir_k3_e6"], 16]]]})
    with pytest.raises(ArchError, match="that 2 divides"):
        nas.ArchDef.parse({"input_size": 12, "stages": [[["conv_k3", 15, 2]], [["ir_k3_e1_g2", 16]]]})
    with pytest.raises(ArchError, match="unknown option"):
        nas.ArchDef.parse({"input_size": 12, "stages": [[["conv_k3", 16, 2]], [["ir_k3_e1", 16, 1, 1, {"expansion": 3}]]]})
