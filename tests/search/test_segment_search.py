"""The search for a segmenter: its supernet against its children, its cost against fvcore's count, and whole runs."""

import random

import pytest
import torch
from helpers import StopAfter, read_metrics
from searches import search_and_train

import mobile_cv_nas as nas
from mobile_cv_nas.commands.test_net import test_from as net_tested
from mobile_cv_nas.config import load_config
from mobile_cv_nas.data.digit_scenes import write_digit_scenes
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.report.tables import search_table
from mobile_cv_nas.weights.file import load_weights

HEAD = HeadDef("lraspp", 5, {"channels": 16, "low_stride": 4})
TABLE = {
    "name": "scenes",
    "input_size": [32, 48, 16],
    "stages": [
        [["conv_k3_hs", 8, 2, 1]],
        [[["ir_k3", "ir_k5_se_hs"], [8, 16, 4], 2, 1, {"expansion": [1, 3, 1]}], [["ir_k3", "skip"], [8, 16, 8], 1, 1, {"expansion": 2}]],
        [[["ir_k3", "ir_k5"], [8, 24, 8], 2, 2, {"expansion": [1, 2, 1]}]],
    ],
}


def make_space(**changes):
    return nas.SearchSpace.parse({**TABLE, **changes})


def randomise(module):
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, 0, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 2)
            torch.nn.init.normal_(part.bias, 0, 0.2)


@pytest.mark.parametrize("sharing", ["none", "full"])
@pytest.mark.parametrize("seed", range(3))
def test_a_child_is_its_supernet_and_costs_what_is_counted(sharing, seed):
    torch.manual_seed(seed)
    space, rng = make_space(), random.Random(seed)
    supernet = nas.build_supernet(space, sharing=sharing, head=HEAD).eval()
    randomise(supernet)
    images = torch.randn(2, 3, 48, 48)
    for _ in range(8):
        arch = space.sample(rng)
        child = nas.inherit_weights(nas.build_segmenter("lraspp", arch, 5, output_stride=8, low_stride=4, channels=16), supernet).eval()
        supernet.select(arch)
        with torch.no_grad():
            found = supernet(images)
            expected = child(nas.subsample(images, arch.input_size))["out"]
            expected = torch.nn.functional.interpolate(expected, (48, 48), mode="bilinear", align_corners=False)
        assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()
        counted = nas.count(child, arch.input_size)
        assert arch.cost(head=HEAD) == counted
        assert [float(value) for value in supernet.cost()] == list(counted)


@torch.no_grad()
def test_logits_are_the_mean_of_the_sizes_by_their_gates():
    """Of supernets that have one size each and the same weights."""
    supernet = nas.build_supernet(make_space(), head=HEAD).eval()
    randomise(supernet)
    supernet.alphas()["input_size"].copy_(torch.tensor([0.3, 0.7]).log())
    images, total = torch.randn(2, 3, 48, 48), torch.zeros(2, 5, 48, 48)
    for size, weight in ((32, 0.3), (48, 0.7)):
        alone = nas.build_supernet(make_space(input_size=size), head=HEAD).eval()
        known = supernet.state_dict()
        alone.load_state_dict({key: known[key] for key in alone.state_dict()})
        logits = alone(nas.subsample(images, size))
        total += weight * torch.nn.functional.interpolate(logits, (48, 48), mode="bilinear", align_corners=False)
    assert torch.allclose(supernet(images), total, atol=1e-5)


def test_the_cost_of_soft_gates_is_the_expectation():
    stages = [[["conv_k3_hs", 4, 2, 1]], [[["ir_k3", "ir_k5_se"], [4, 8, 4], 2, 1, {"expansion": 2}], [["ir_k3", "skip"], [4, 8, 4], 1, 1]]]
    space = make_space(stages=[*stages, [["ir_k3", [4, 8, 4], 2, 1, {"expansion": [1, 2, 1]}]]], input_size=[16, 32, 16])
    supernet = nas.build_supernet(space, head=HEAD)
    with torch.no_grad():
        for alpha in supernet.alpha_parameters():
            alpha.normal_()
    tables = supernet.probabilities()
    total = torch.zeros(2, dtype=torch.float64)
    for picks in torch.cartesian_prod(*(torch.arange(len(table)) for table in tables.values())).tolist():
        chance = torch.stack([table[i] for table, i in zip(tables.values(), picks, strict=True)]).prod()
        total += chance * torch.tensor(list(space.decode(dict(zip(tables, picks, strict=True))).cost(head=HEAD)), dtype=torch.float64)
    assert torch.allclose(torch.stack(list(supernet.cost())), total, rtol=1e-12)


def test_the_extremes_are_those_of_all_children():
    stages = [[["conv_k3_hs", 4, 2, 1]], [["ir_k3", [4, 16, 4], 2, 1, {"expansion": 2}], [["ir_k3", "skip"], [4, 16, 4], 1, 1]]]
    space = make_space(stages=[*stages, [["ir_k3", [4, 8, 4], 2, 1, {"expansion": [1, 2, 1]}]]], input_size=32)
    rng = random.Random(0)
    for by in ("macs", "params"):
        costs = [getattr(space.sample(rng).cost(head=HEAD), by) for _ in range(2000)]
        low, high = (getattr(find(by=by, head=HEAD).cost(head=HEAD), by) for find in (space.smallest, space.largest))
        assert low == min(costs)
        assert high == max(costs)


def test_a_head_that_costs_more_than_a_block_decides_the_smallest():
    """With 60 classes a narrow map is worth the block that makes it: skipping it costs more in the head."""
    stages = [[["conv_k3_hs", 4, 2, 1]], [["ir_k3", 16, 2, 1, {"hidden": 8}], [["ir_k3", "skip"], [4, 16, 12], 1, 1, {"hidden": 8}]]]
    space = make_space(stages=[*stages, [["ir_k3", 8, 2, 1, {"hidden": 8}]]], input_size=32)
    head = HeadDef("lraspp", 60, {"channels": 4, "low_stride": 4})
    for by in ("macs", "params"):
        costs = {arch: getattr(arch.cost(head=head), by) for arch in {space.sample(seed) for seed in range(40)}}
        assert len(costs) == 3
        assert costs[space.smallest(by=by, head=head)] == min(costs.values())
        assert costs[space.largest(by=by, head=head)] == max(costs.values())
    assert space.smallest(head=head).layers[2].names == ("ir_k3",)
    assert space.smallest(head=HeadDef("lraspp", 2, {"channels": 4, "low_stride": 4})).layers[2].names == ("skip",)


@pytest.mark.parametrize("resolution", ["all", "sampled"])
def test_everything_learns(resolution):
    torch.manual_seed(0)
    supernet = nas.build_supernet(make_space(), head=HEAD, resolution=resolution)
    supernet.sample(1.0)
    loss = torch.nn.functional.cross_entropy(supernet(torch.randn(4, 3, 48, 48)), torch.randint(5, (4, 48, 48)))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in supernet.alpha_parameters())
    assert all(p.grad is not None for p in supernet.weight_parameters())


def test_spaces_that_do_not_fit():
    stages = [*TABLE["stages"], [["conv_k1_hs", 64, 1, 1]]]
    with pytest.raises(InputError, match=r"stage 3, block 0: a last conv_k1_hs is for classifiers; leave the row out"):
        nas.build_supernet(make_space(stages=stages), head=HEAD)
    with pytest.raises(InputError, match=r"HEAD\.LOW_STRIDE: 8: the space has maps at strides 2, 4 for it"):
        nas.build_supernet(make_space(), head=HeadDef("lraspp", 5, {"channels": 16, "low_stride": 8}))
    stages = [[["conv_k3_hs", 8, 1, 1]], *TABLE["stages"]]  # a map at stride 1 is none for a head
    with pytest.raises(InputError, match=r"the space has maps at strides 2, 4 for it"):
        nas.build_supernet(make_space(stages=stages), head=HeadDef("lraspp", 5, {"channels": 16, "low_stride": 8}))


# -- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", {"train": 40, "val": 8, "test": 8})


@pytest.fixture
def config(tmp_path, scenes):
    def make(*opts):
        (tmp_path / "space.yaml").write_text(str({**TABLE, "input_size": TABLE["input_size"]}).replace("'", '"'))
        options = {
            "OUTPUT_DIR": tmp_path / "run", "RUNTIME.DEVICE": "cpu", "HEAD.NAME": "lraspp", "HEAD.INPUT_SIZE": 48, "HEAD.LOW_STRIDE": 4,
            "HEAD.OUTPUT_STRIDE": 8, "HEAD.CHANNELS": 16, "DATA.DATASET": "digit_scenes", "DATA.ROOT": scenes, "DATA.WORKERS": 0,
            "SEARCH.SPACE": tmp_path / "space.yaml", "SEARCH.EPOCHS": 2, "SEARCH.BATCH_SIZE": 8, "SEARCH.WARMUP_FRACTION": 0.5,
            "SEARCH.TARGET": 900000, "SEARCH.TOLERANCE": 0.3, "SEARCH.CANDIDATES": 2, "SEARCH.DRAWS": 50,
            "SEARCH.RECALIBRATION_IMAGES": 16, "TRAIN.EPOCHS": 1, "TRAIN.BATCH_SIZE": 8, "TRAIN.INIT": "inherit",
        }  # fmt: skip
        options |= dict(zip(opts[::2], opts[1::2], strict=True))
        return load_config(None, [str(text) for pair in options.items() for text in pair])

    return make


def test_a_search_ends_in_a_segmenter_with_inherited_weights(config, tmp_path):
    result = search_and_train(config())
    assert 0 <= result["miou"] <= 1
    assert abs(result["macs"] / 900000 - 1) <= 0.3
    assert "test mean IoU" in search_table(result, "", result["seconds"])
    arch = nas.ArchDef.load(tmp_path / "run" / "arch.yaml")
    child = nas.build_segmenter("lraspp", arch, 11, output_stride=8, low_stride=4, channels=16)
    state, content = load_weights(result["weights"])
    child.load_state_dict(state)
    assert content["head"]["name"] == "lraspp"
    assert nas.count(child, arch.input_size) == nas.Cost(result["macs"], result["params"])
    tested = net_tested(config("MODEL.WEIGHTS", tmp_path / "run"))  # at the size of the masks, as the run was
    assert f"{result['miou']:.4f}" in tested
    searched = [record for record in read_metrics(tmp_path / "run") if record["phase"] == "search"]
    assert searched[-1]["weight_loss"] < 2.4  # less than log 11: it learned something


def test_a_stopped_search_ends_as_an_uninterrupted_one(config, tmp_path):
    whole = search_and_train(config("OUTPUT_DIR", tmp_path / "whole"))
    assert not search_and_train(config(), stop=StopAfter(5))["finished"]
    resumed = search_and_train(config(), resume=True)
    one, other = (load_weights(result["weights"])[0] for result in (whole, resumed))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("HEAD.OUTPUT_STRIDE", 16, r"HEAD\.OUTPUT_STRIDE: 16, but the space ends at stride 8; set 8"),
        ("HEAD.INPUT_SIZE", 64, r"HEAD\.INPUT_SIZE: 64, but the largest of the space is 48"),
        ("SEARCH.TARGET", 1, r"SEARCH\.TARGET: 1 macs is out of the reach"),
    ],
)
def test_a_config_that_does_not_fit(config, tmp_path, key, value, message):
    with pytest.raises(InputError, match=message):
        search_and_train(config(key, value))
    assert not (tmp_path / "run").exists()


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[32, 48, 16], [48, 64, 16], [48, 48, 16]])
def test_logits_have_the_size_of_the_largest_image(sizes):
    supernet = nas.build_supernet(make_space(input_size={"any": sorted(set(sizes[:2]))}), head=HEAD).eval()
    largest = max(sizes[:2])
    for arch in [supernet.space.sample(seed) for seed in range(4)]:
        supernet.select(arch)
        assert supernet(torch.randn(1, 3, largest, largest)).shape[-2:] == (largest, largest)
