"""The search for a detector: its supernet against its children, its cost against fvcore's count, and a whole run."""

import random

import pytest
import torch
from dense_runs import few_scenes
from helpers import StopAfter
from searches import search_and_train
from spaces import randomise

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.networks.counting import count_detector
from mobile_cv_nas.nn.heads import HeadDef

HEAD = HeadDef("ssdlite", 5, {"channels": 16, "strides": (8, 16)})
STAGES = [
    [["conv_k3_hs", 8, 2, 1]],
    [[["ir_k3", "ir_k5_se_hs"], [8, 16, 4], 2, 1, {"expansion": [1, 3, 1]}]],
    [["ir_k3", [8, 16, 8], 2, 1, {"expansion": 2}], [["ir_k3", "skip"], [8, 16, 8], 1, 1]],
    [[["ir_k3", "ir_k5"], [8, 24, 8], 2, 2, {"expansion": [1, 2, 1]}], [["ir_k3", "skip"], [8, 24, 8], 1, 1]],  # may end in an identity
]


def make_space(stages=STAGES, size=64):
    return nas.SearchSpace.parse({"name": "boxes", "input_size": size, "stages": stages})


def child_of(arch):
    return nas.build_detector("ssdlite", arch, 5, input_size=64, strides=(8, 16), channels=16)


@pytest.mark.parametrize("sharing", ["none", "full"])
@pytest.mark.parametrize("size", [64, 75])
def test_a_child_is_its_supernet_and_costs_what_is_counted(sharing, size):
    torch.manual_seed(0)
    space, rng = make_space(size=size), random.Random(0)
    supernet = nas.build_supernet(space, sharing=sharing, head=HEAD).eval()
    randomise(supernet)
    images = torch.randn(2, 3, size, size)
    for _ in range(10):
        arch = space.sample(rng)
        child = nas.build_detector("ssdlite", arch, 5, input_size=size, strides=(8, 16), channels=16).eval()
        nas.inherit_weights(child, supernet)
        supernet.select(arch)
        with torch.no_grad():
            found, expected = supernet(images), child.head(list(child.backbone(images).values()))
        assert found.keys() == expected.keys()
        for name in found:
            assert torch.allclose(found[name], expected[name], atol=1e-5), name
        counted = count_detector(child, size)
        assert arch.cost(head=HEAD) == counted
        assert [float(value) for value in supernet.cost()] == list(counted)


def test_decided_alphas_are_the_child_too():
    """The masks of soft gates, where they are one-hot, do what a selection does."""
    torch.manual_seed(0)
    space, rng = make_space(), random.Random(1)
    supernet = nas.build_supernet(space, sharing="full", head=HEAD).eval()
    randomise(supernet)
    images = torch.randn(2, 3, 64, 64)
    for _ in range(5):
        arch = space.sample(rng)
        picks = space.encode(arch)
        supernet.reset()
        with torch.no_grad():
            for name, alpha in supernet.alphas().items():
                alpha.fill_(-1e4)
                alpha[picks[name]] = 1e4
            soft = supernet(images)
            supernet.select(arch)
            hard = supernet(images)
        assert all(torch.allclose(soft[name], hard[name], atol=1e-5) for name in soft)


def test_the_cost_of_soft_gates_is_the_expectation():
    stages = [[["conv_k3_hs", 4, 2, 1]], [["ir_k3", [4, 8, 4], 2, 1, {"expansion": 2}]]]
    stages += [[["ir_k3", [4, 8, 4], 2, 1, {"expansion": 2}], [["ir_k3", "skip"], [4, 8, 4], 1, 1]], [["ir_k3", [4, 8, 4], 2, 1]]]
    space = make_space(stages)
    supernet = nas.build_supernet(space, head=HEAD)
    with torch.no_grad():
        for alpha in supernet.alpha_parameters():
            alpha.normal_()
    tables = supernet.probabilities()
    total = torch.zeros(2, dtype=torch.float64)
    for picks in torch.cartesian_prod(*(torch.arange(len(table)) for table in tables.values())).tolist():
        chance = torch.stack([table[i] for table, i in zip(tables.values(), picks, strict=True)]).prod()
        cost = space.decode(dict(zip(tables, picks, strict=True))).cost(head=HEAD)
        total += chance * torch.tensor(list(cost), dtype=torch.float64)
    assert torch.allclose(torch.stack(list(supernet.cost())), total, rtol=1e-12)


def test_what_does_not_fit():
    with pytest.raises(InputError, match=r"boxes: key input_size: 64, 96: a detector is searched at one size; leave one"):
        nas.build_supernet(make_space(size=[64, 96, 32]), head=HEAD)
    with pytest.raises(InputError, match=r"HEAD\.STRIDES: 32: the space has maps at strides 2, 4, 8, 16 for it"):
        nas.build_supernet(make_space(), head=HeadDef("ssdlite", 5, {"strides": (16, 32)}))
    with pytest.raises(InputError, match="the space goes on to a coarser map"):
        nas.build_supernet(make_space(), head=HeadDef("ssdlite", 5, {"strides": (4, 8)}))
    space = make_space()
    other = nas.build_detector("ssdlite", space.largest(head=HEAD), 4, input_size=64, strides=(8, 16), channels=16)
    with pytest.raises(ValueError, match="the child has 5 classes, the supernet 6"):
        nas.inherit_weights(other, nas.build_supernet(space, head=HEAD))


@pytest.mark.slow
def test_a_search_ends_in_a_detector_and_resumes(tmp_path):
    scenes = few_scenes(tmp_path / "scenes", 40, 8, 8)
    (tmp_path / "space.yaml").write_text(str({"name": "boxes", "input_size": 64, "stages": STAGES}).replace("'", '"'))

    def config(name):
        options = {
            "OUTPUT_DIR": tmp_path / name, "RUNTIME.DEVICE": "cpu", "HEAD.NAME": "ssdlite", "HEAD.INPUT_SIZE": 64,
            "HEAD.STRIDES": "[8, 16]", "HEAD.CHANNELS": 16, "DATA.DATASET": "digit_scenes", "DATA.ROOT": scenes, "DATA.WORKERS": 0,
            "SEARCH.SPACE": tmp_path / "space.yaml", "SEARCH.EPOCHS": 2, "SEARCH.BATCH_SIZE": 8, "SEARCH.WARMUP_FRACTION": 0.5,
            "SEARCH.TARGET": 0.9e6, "SEARCH.TOLERANCE": 0.3, "SEARCH.CANDIDATES": 2, "SEARCH.DRAWS": 50, "SEARCH.RECALIBRATION_IMAGES": 16,
            "TRAIN.EPOCHS": 1, "TRAIN.BATCH_SIZE": 8, "TRAIN.INIT": "inherit", "TRAIN.LR": 0.01,
        }  # fmt: skip
        return load_config(None, [str(text) for pair in options.items() for text in pair])

    whole = search_and_train(config("whole"))
    assert abs(whole["macs"] / 0.9e6 - 1) <= 0.3
    assert 0 <= whole["ap50"] <= 1
    model = nas.load(tmp_path / "whole")
    assert (model.task.kind, model.classes) == ("detection", tuple("0123456789"))
    assert count_detector(model.network, 64) == nas.Cost(whole["macs"], whole["params"])
    assert not search_and_train(config("parts"), stop=StopAfter(6))["finished"]
    assert search_and_train(config("parts"), resume=True)["finished"]
    other = nas.load(tmp_path / "parts").network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.network.state_dict().items())
