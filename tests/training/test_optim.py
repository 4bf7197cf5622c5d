"""Optimizers and steps: which values reach which parameters, and what accumulation averages."""

import pytest
import torch
from helpers import quick_cfg, runtime_of, tiny_arch

import mobile_cv_nas as nas
from mobile_cv_nas.engine.step import Loss, Stepper
from mobile_cv_nas.training.optim import build_optimizer
from mobile_cv_nas.training.options import TrainOptions


@pytest.mark.parametrize("kind", ["sgd", "rmsprop"])
def test_norms_and_biases_are_not_decayed(kind):
    network = nas.build_model(tiny_arch(), 10)
    optimizer = build_optimizer(network, TrainOptions(optimizer=kind, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            weight = name == "weight" and isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
            assert decay[id(parameter)] == (0.3 if weight else 0.0), (module, name)


def test_the_values_reach_the_optimizers():
    network = torch.nn.Linear(2, 2)
    options = TrainOptions(optimizer="rmsprop", lr=0.1, momentum=0.8, rmsprop_decay=0.6, rmsprop_eps=0.01)
    for group in build_optimizer(network, options).param_groups:
        assert (group["momentum"], group["alpha"], group["eps"], group["lr"]) == (0.8, 0.6, 0.01, 0.1)
    for group in build_optimizer(network, TrainOptions(momentum=0.8, nesterov=True, weight_decay=0.2)).param_groups:
        assert (group["momentum"], group["nesterov"]) == (0.8, True)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_step_in_parts_takes_the_mean_of_their_losses(tmp_path, parts):
    weight = torch.nn.Parameter(torch.zeros(3))
    network = torch.nn.Module()
    network.weight = weight
    stepper = Stepper({"weight": weight}, torch.optim.SGD([weight], lr=1.0), network, runtime_of(quick_cfg(tmp_path)))
    rows = torch.arange(12.0).view(4, 3)

    def loss(batch, _):
        total = (batch @ weight).mean()
        return Loss(total, len(batch), {"loss": total}, {"loss": total.detach() * len(batch)})

    outcome = stepper.step(rows.chunk(parts), parts, loss, list)
    assert torch.allclose(weight.detach(), -rows.mean(0))
    assert outcome.sums["images"] == 4
