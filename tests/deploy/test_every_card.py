"""Every network of the zoo as a file of both runtimes, whole and as a backbone."""

import pytest
import torch
from networks import renewed

import mobile_cv_nas as nas
from mobile_cv_nas.deploy.file_network import OnnxNetwork, PteNetwork

# ExecuTorch and torchao warn of their own code while they are imported.
pytestmark = [pytest.mark.sweep, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("ending", [".onnx", ".pte"])
@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("name", nas.list_models())
def test_a_card(name, features, ending, tmp_path):
    """At 64 pixels at most, or the sweep would take a day; nothing in a file depends on the side but the sizes of maps."""
    torch.manual_seed(0)
    network, side = renewed(nas.fbnet_builder(name, features_only=features)).requires_grad_(False), min(64, nas.get_card(name).input_size)
    path = tmp_path / f"net{ending}"
    nas.export(network, path, input_size=side)
    loaded = OnnxNetwork(path) if ending == ".onnx" else PteNetwork(path)
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, side, side)
        found, expected = loaded(images), network(images)
        for new, old in zip(found, expected, strict=True) if features else [(found, expected)]:
            torch.testing.assert_close(new, old, atol=1e-4 * float(old.abs().max()), rtol=0)
