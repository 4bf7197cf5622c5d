"""A folded network is the network: every norm behind a convolution is gone, and the outputs are the same."""

import copy

import pytest
import torch
from helpers import tiny_arch
from networks import NETWORKS, network_of, renewed
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.tasks.classification import Classification
from mobile_cv_nas.tasks.features import freeze_norms
from mobile_cv_nas.tasks.load import default_transform
from mobile_cv_nas.tasks.model import Model


def tensors(output):
    """Of any nesting, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in tensors(value)]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_folded_network_is_the_network(name):
    network, size = network_of(name), NETWORKS[name][1]
    before = copy.deepcopy(network.state_dict())
    folded = nas.fold(network)
    x = torch.rand(2, 3, size, size)
    given = list(x) if name in ("ssdlite", "retinanet") else x
    for new, old in zip(tensors(folded(given)), tensors(network(given)), strict=True):
        torch.testing.assert_close(new.contiguous(), old, atol=1e-5 * max(1.0, float(old.abs().max())), rtol=0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    left = [module for module in folded.modules() if type(module).__name__.endswith("BatchNorm2d")]
    # The one that stays is in DeepLab's pooling, whose class has a forward of its own.
    assert len(left) == (name == "deeplabv3")
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_every_card_folds_whole():
    """Of all blocks that the zoo is made of, none has a norm that stays."""
    for name in ("FBNetV2_F1", "FBNetV3_A", "MobileNetV3_Large", "MnasNet_A1", "EfficientNet_Lite0"):
        with torch.no_grad():
            network = renewed(nas.fbnet_builder(name))
            x = torch.rand(1, 3, 64, 64)
            folded = nas.fold(network)
            expected = network(x)
            torch.testing.assert_close(folded(x), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
        assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]


def test_what_cannot_be_folded_stays():
    """A convolution that two modules share, a norm that a hook watches, a norm without statistics, a Sequential of another kind."""

    class Doubled(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + self[0](x)

    conv = nn.Conv2d(3, 3, 1)
    watched = nn.BatchNorm2d(3)
    watched.register_forward_hook(lambda *_: None)
    batch = nn.BatchNorm2d(3, track_running_stats=False)
    network = nn.Sequential(
        nn.Sequential(conv, nn.BatchNorm2d(3)),
        nn.Sequential(conv, nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 3, 1), watched),
        nn.Sequential(nn.Conv2d(3, 3, 1), batch),
        Doubled(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
    )
    renewed(network)
    x = torch.rand(2, 3, 4, 4)
    folded = nas.fold(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 5
    torch.testing.assert_close(folded(x), network(x))


def test_a_frozen_norm_without_affine_part():
    network = renewed(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)))
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(nas.fold(network)(x).contiguous(), network(x))
    frozen = copy.deepcopy(network)
    freeze_norms(frozen)
    torch.testing.assert_close(nas.fold(frozen)(x).contiguous(), network(x))


def test_a_supernet_is_refused():
    space = nas.SearchSpace.parse(tiny_arch().to_dict())
    with pytest.raises(InputError, match="fold the child"):
        nas.fold(nas.build_supernet(space, 10))


def test_a_folded_model_predicts_and_is_not_saved(tmp_path):
    torch.manual_seed(0)
    arch, task = tiny_arch(), Classification(tuple("0123456789"))
    model = Model(renewed(nas.build_model(arch, 10)), arch, task, default_transform(task, arch))
    folded = model.fold()
    image = torch.rand(3, 8, 8)
    assert folded.predict(image).scores == pytest.approx(model.predict(image).scores, abs=1e-5)
    with pytest.raises(InputError, match="folded from"):
        folded.save(tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folded_network_has_as_many_macs_and_its_own_parameters():
    """Frozen parameters are parameters."""
    model = nas.load("Digits")
    before, after = model.count(), model.fold().count()
    norms = sum(p.numel() for m in model.network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert after.macs == before.macs
    assert after.params == before.params - norms // 2  # a bias each, in place of a scale and a shift
    frozen = nas.build_model(tiny_arch(), 10)
    own = nas.count(frozen, 8)
    assert nas.count(frozen.requires_grad_(False), 8) == own
