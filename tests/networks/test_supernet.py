"""The invariants of the design: cost, children, masks, gradients, over random archs of every shipped space."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from spaces import DEEP, POOLED, SAME, SPACES, TINY, decide, members, parsed, random_alphas, randomise, relative, samples

import mobile_cv_nas as nas
from mobile_cv_nas.arch.layer import map_sizes
from mobile_cv_nas.networks.additive import Expectation
from mobile_cv_nas.networks.mixed import MixedBlock
from mobile_cv_nas.nn.choice import ChoiceTable, Gates
from mobile_cv_nas.nn.heads import HeadDef
from mobile_cv_nas.search.memory import PeakMemory

SHIPPED = sorted(path.stem for path in SPACES.glob("*.yaml"))
SHARINGS = ("none", "full")
SMALL = {"tiny": TINY, "deep": DEEP, "same": SAME, "pooled": POOLED}


def _space(name: str) -> nas.SearchSpace:
    return parsed(SMALL[name]) if name in SMALL else nas.SearchSpace.load(SPACES / f"{name}.yaml")


@pytest.mark.parametrize(
    "name", ["tiny", "deep", "same", "pooled", *(pytest.param(n, marks=[pytest.mark.slow] * ("fbnet" in n)) for n in SHIPPED)]
)
def test_a_child_is_its_supernet(name: str) -> None:
    """At one-hot gates, over 50 random archs: exact cost, and equal logits with inherited weights, by slices and by masks."""
    space = _space(name)
    # Logits are compared on small maps: widths, masks and kernels do not depend on the size of the image.
    sizes = (33, 48, 64) if space.max_input_size > 64 else space.input_sizes
    small = nas.SearchSpace(space.name, sizes, space.layers)
    cost_net = nas.build_supernet(space, num_classes=10)
    supernets = [nas.build_supernet(small, num_classes=10, sharing=sharing) for sharing in SHARINGS]
    for supernet in supernets:
        randomise(supernet)
        supernet.eval()
    image = torch.randn(2, 3, sizes[-1], sizes[-1])
    for i, arch in enumerate(samples(space, 50)):
        child = nas.build_model(arch, num_classes=10).eval()
        counted = nas.count(child, arch.input_size)
        assert not any(isinstance(module, (MixedBlock, ChoiceTable)) for module in child.modules())
        assert not any(word in key for key in child.state_dict() for word in ("alpha", "mask", "gate", "choice", "table"))
        assert arch.cost(10) == space.cost(arch, 10) == counted
        for gates in (cost_net.select, lambda arch: decide(cost_net, arch)):
            gates(arch)
            cost = cost_net.cost()
            assert (cost.macs.item(), cost.params.item()) == (counted.macs, counted.params)
            assert cost.macs.dtype == cost.params.dtype == torch.float64
        child.arch = small.decode({**space.encode(arch), "input_size": i % len(sizes)})
        for supernet in supernets:
            _compare(child, supernet, image, masks=i % 5 == 0 or name in SMALL)


def _compare(child: nas.Network, supernet: nas.Supernet, image: torch.Tensor, masks: bool) -> None:
    assert nas.inherit_weights(child, supernet) is child
    with torch.no_grad():
        expected = child(nas.subsample(image, child.arch.input_size))
        supernet.select(child.arch)
        assert relative(supernet(image), expected) < 1e-5
        if masks:
            decide(supernet, child.arch)
            assert supernet.derive() == child.arch
            assert relative(supernet(image), expected) < 1e-5


@pytest.mark.parametrize("sharing", SHARINGS)
def test_soft_cost_is_the_expectation_over_all_archs(sharing: str) -> None:
    space = parsed(TINY)
    supernet = nas.build_supernet(space, num_classes=10, sharing=sharing)
    random_alphas(supernet)
    probabilities = supernet.probabilities()
    macs = params = 0.0
    for picks, arch in members(space):
        p = math.prod(float(probabilities[name][i]) for name, i in picks.items())
        macs, params = macs + p * arch.cost(10).macs, params + p * arch.cost(10).params
    cost = supernet.cost()
    assert cost.macs.item() == pytest.approx(macs, rel=1e-12)
    assert cost.params.item() == pytest.approx(params, rel=1e-12)
    supernet.sample(0.5)
    assert supernet.expected_cost().macs.item() == pytest.approx(macs, rel=1e-12)
    assert supernet.cost().macs.item() != pytest.approx(macs, rel=1e-6)


@pytest.mark.parametrize("name", ["tiny", "deep", *SHIPPED])
def test_cost_is_differentiable_in_every_alpha(name: str) -> None:
    space = _space(name)
    supernet = nas.build_supernet(space, num_classes=10)
    random_alphas(supernet, 0.3)
    supernet.sample(2.0)
    for objective in ("macs", "params"):
        supernet.zero_grad()
        getattr(supernet.cost(), objective).backward()
        for choice, alpha in supernet.alphas().items():
            if choice == "input_size" and objective == "params":
                assert alpha.grad is None or not alpha.grad.any()
            else:
                assert alpha.grad is not None
                assert alpha.grad.abs().max() > 0, (choice, objective)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("table", [TINY, DEEP], ids=["tiny", "deep"])
def test_every_parameter_learns_from_the_task(table: dict, sharing: str, recompute: bool) -> None:
    torch.manual_seed(0)
    supernet = nas.build_supernet(parsed(table), num_classes=10, sharing=sharing, recompute=recompute)
    randomise(supernet)
    supernet.sample(5.0)
    F.cross_entropy(supernet(torch.randn(16, 3, 24, 24)), torch.arange(16) % 10).backward()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    # A mask in front of a norm would make the gradients of widths about 770 times smaller than the others'.
    norms = {name: float(alpha.grad.norm()) for name, alpha in supernet.alphas().items()}
    kinds = {kind: [n for name, n in norms.items() if name.endswith(kind)] for kind in ("block", "channels", "hidden")}
    means = [math.exp(sum(map(math.log, values)) / len(values)) for values in kinds.values()]
    assert max(means) / min(means) < 60


def test_shared_weights_make_eq_1_equal_eq_3() -> None:
    """The sum of zero-padded units with 8, 12 and 16 filters equals one masked unit."""
    space = parsed({"input_size": 8, "stages": [[["conv_k3_hs", [8, 16, 4], 1]]]})
    supernet = nas.build_supernet(space, num_classes=10)
    randomise(supernet)
    random_alphas(supernet)
    supernet.sample(1.0)
    image = torch.randn(4, 3, 8, 8)
    gates = supernet.table.gates()[0, :3].float()
    unit = supernet.blocks["s0b0"].unit("conv_k3_hs")
    for training in (True, False):
        supernet.train(training)
        total = torch.zeros(4, 16, 8, 8)
        for gate, width in zip(gates, (8, 12, 16), strict=True):
            y = F.conv2d(image, unit.conv.weight[:width], padding=1)
            statistics = (unit.norm.running_mean[:width].clone(), unit.norm.running_var[:width].clone())
            y = F.batch_norm(y, *statistics, unit.norm.weight[:width], unit.norm.bias[:width], training)
            total = total + gate * F.pad(F.hardswish(y), (0, 0, 0, 0, 0, 16 - width))
        torch.testing.assert_close(supernet.blocks["s0b0"](image, supernet.gates()), total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_norm_statistics_move_as_those_of_torch(momentum: float | None) -> None:
    """By the momentum, or as the mean of all passes; not in eval mode."""
    supernet = nas.build_supernet(parsed({"input_size": 8, "stages": [[["conv_k3_hs", [8, 16, 4], 1]]]}), num_classes=10)
    unit, own = supernet.blocks["s0b0"].unit("conv_k3_hs"), torch.nn.BatchNorm2d(16, momentum=momentum)
    unit.norm.momentum = momentum
    for training in (True, True, False):
        supernet.train(training)
        own.train(training)
        image = 1 + 2 * torch.randn(4, 3, 8, 8)
        supernet.blocks["s0b0"](image, supernet.gates())
        own(F.conv2d(image, unit.conv.weight, padding=1))
        torch.testing.assert_close(unit.norm.running_mean, own.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(unit.norm.running_var, own.running_var, rtol=1e-5, atol=1e-6)


def test_effective_width_of_the_paper() -> None:
    """16 channels at 0.8 and 12 at 0.2 are 15.2."""
    supernet = nas.build_supernet(parsed({"input_size": 8, "stages": [[["conv_k3", [12, 16, 4], 2]]]}))
    with torch.no_grad():
        supernet.alphas()["s0b0.channels"].copy_(torch.tensor([0.2, 0.8]).log())
    (image_channels, image_side), (channels, side) = supernet.shapes()
    assert (image_channels, image_side, side) == (3, 8, 4)
    assert channels == pytest.approx(15.2)


def test_effective_shapes_of_a_chosen_arch_are_its_own() -> None:
    space = parsed(TINY)
    supernet = nas.build_supernet(space, 10)
    for arch in samples(space, 10):
        supernet.select(arch)
        own = [layer.channels[0] for layer in arch.layers]
        found = supernet.shapes()
        assert found[0] == (3, arch.input_size)
        assert [channels for channels, _ in found[1:]] == own
        assert [side for _, side in found[:-1]] == pytest.approx(map_sizes(arch.layers, arch.input_size)[:-1])
        assert found[-1][1] in (1, *map_sizes(arch.layers, arch.input_size))


def test_full_shares_as_many_weights_as_the_largest_block() -> None:
    none, full = (nas.build_supernet(parsed(DEEP), num_classes=10, sharing=s) for s in SHARINGS)
    weights = [sum(p.numel() for p in net.weight_parameters()) for net in (none, full)]
    assert weights[0] > 2 * weights[1]
    assert [c.name for c in none.space.choices] == [c.name for c in full.space.choices]
    assert len(none.alpha_parameters()) == len(full.alpha_parameters()) == len(none.space.choices)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_shared_block_mixes_kernels_as_a_sum_of_convolutions(sharing: str) -> None:
    """Where candidates differ in the kernel alone, the gated kernel is the gated sum: full equals none with equal weights, up to norms."""
    table = {"input_size": 12, "stages": [[["conv_k3", 8, 1]], [[["ir_k3", "ir_k5"], 8, 1, 1, {"hidden": 16}]]]}
    supernet = nas.build_supernet(parsed(table), num_classes=10, sharing=sharing).eval()
    block = supernet.blocks["s1b0"]
    with torch.no_grad():
        supernet.alphas()["s1b0.block"].copy_(torch.tensor([0.3, 0.7]).log())
        x = torch.randn(2, 8, 12, 12)
        gates = supernet.gates()
        if sharing == "full":
            unit = block.unit("ir_k3")
            taps = unit.dw.conv.weight.clone()
            taps[:, :, 0], taps[:, :, -1], taps[:, :, :, 0], taps[:, :, :, -1] = 0, 0, 0, 0
            y = unit.pw(x)
            y = 0.3 * F.conv2d(y, taps, padding=2, groups=16) + 0.7 * F.conv2d(y, unit.dw.conv.weight, padding=2, groups=16)
            expected = x + unit.pwl(F.relu(unit.dw.norm(y)))
        else:
            expected = x + 0.3 * block.unit("ir_k3").transform(x) + 0.7 * block.unit("ir_k5").transform(x)
        torch.testing.assert_close(block(x, gates), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("table", [TINY, DEEP], ids=["tiny", "deep"])
def test_recomputation_changes_nothing(table: dict, sharing: str) -> None:
    """Gradients, and norm statistics updated once."""
    plain, again = (nas.build_supernet(parsed(table), 10, sharing=sharing, recompute=r) for r in (False, True))
    again.load_state_dict(plain.state_dict())
    image = torch.randn(8, 3, 24, 24)
    for net in (plain, again):
        torch.manual_seed(3)
        net.sample(2.0)
        loss = F.cross_entropy(net(image), torch.arange(8))
        net.sample(2.0)  # noise drawn between forward and backward must not reach the backward pass
        loss.backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7, msg=name)
    for (name, a), b in zip(plain.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARINGS)
def test_recomputation_compiled_changes_nothing(sharing: str) -> None:
    """As above through torch.compile: the compiler's own recomputation must not update norm statistics again."""
    torch._dynamo.reset()
    blocks = [["ir_k3", "ir_k5_se_hs", "skip"], [4, 8, 4], 1, 1, {"expansion": [1, 2, 1]}]
    space = parsed({"input_size": 8, "stages": [[["conv_k3_hs", 8, 2], blocks]]})
    plain, again = (nas.build_supernet(space, 10, sharing=sharing, recompute=r) for r in (False, True))
    randomise(plain)
    again.load_state_dict(plain.state_dict())
    before = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    compiled = torch.compile(again, backend="aot_eager", fullgraph=True)
    image = torch.randn(8, 3, 8, 8)
    for _ in range(2):  # the second step runs what the first one compiled
        for net, run in ((plain, plain), (again, compiled)):
            torch.manual_seed(3)
            net.sample(2.0)
            net.zero_grad()
            F.cross_entropy(run(image), torch.arange(8)).backward()
        for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7, msg=name)
        for (name, a), b in zip(plain.named_buffers(), again.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)
    for name, buffer in again.named_buffers():
        assert not name.endswith(("running_mean", "running_var")) or not torch.equal(buffer, before[name]), name


def test_state() -> None:
    supernet = nas.build_supernet(parsed(TINY), num_classes=10)
    image = torch.randn(2, 3, 24, 24)
    keys = [key for key in supernet.state_dict() if "alpha" in key]
    assert len(keys) == len(supernet.space.choices)
    assert len(supernet.weight_parameters()) + len(supernet.alpha_parameters()) == len(list(supernet.parameters()))
    supernet.sample(1.0)
    supernet(image).sum().backward()
    supernet(image).sum().backward()
    supernet.cost().macs.backward()
    twin = copy.deepcopy(supernet).eval()
    supernet.eval()
    torch.testing.assert_close(twin(image), supernet(image))
    torch.manual_seed(7)
    supernet.sample(1.0)
    first = supernet.table.gates()
    torch.manual_seed(7)
    supernet.sample(1.0)
    assert torch.equal(first, supernet.table.gates())
    assert torch.allclose(first.sum(1), torch.ones(len(first), dtype=torch.float64))


def test_only_the_selected_path_is_run() -> None:
    supernet = nas.build_supernet(parsed(TINY), num_classes=10).eval()
    arch = next(arch for _, arch in members(supernet.space) if arch.stages[1][0].name == "skip" and arch.input_size == 16)
    for key, parameter in supernet.named_parameters():
        if key.startswith("blocks.s1b0."):
            parameter.data.fill_(math.nan)  # 0 * NaN would show
    supernet.select(arch)
    assert torch.isfinite(supernet(torch.randn(2, 3, 24, 24))).all()


def test_gumbel_draws_follow_the_alphas_at_any_temperature() -> None:
    supernet = nas.build_supernet(parsed(TINY), num_classes=10)
    with torch.no_grad():
        supernet.alphas()["s1b0.block"].copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    torch.manual_seed(0)
    row = supernet.table.row["s1b0.block"]
    for temperature in (0.2, 5.0):
        counts = torch.zeros(3)
        for _ in range(2000):
            supernet.sample(temperature)
            counts[supernet.table.gates()[row, :3].argmax()] += 1
        assert (counts / 2000 - torch.tensor([0.6, 0.3, 0.1])).abs().max() < 0.04
    with pytest.raises(ValueError, match="temperature must be positive"):
        supernet.sample(0.0)


def test_entropy() -> None:
    supernet = nas.build_supernet(parsed(TINY), num_classes=10)
    assert all(value == pytest.approx(1.0) for value in supernet.entropies().values())
    decide(supernet, supernet.space.sample(random.Random(0)))
    assert all(value == pytest.approx(0.0, abs=1e-9) for value in supernet.entropies().values())


def test_errors() -> None:
    space = parsed(TINY)
    supernet = nas.build_supernet(space, num_classes=10)
    for wrong in ({"sharing": "some"}, {"resolution": "half"}, {"num_classes": 0}, {"in_channels": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            nas.build_supernet(space, **wrong)
    with pytest.raises(nas.ArchError, match="input_size 20"):
        supernet.select(nas.ArchDef.parse({**space.sample(random.Random(0)).to_dict(), "input_size": 20}))
    for sides in ((16, 16), (16, 24), (24, 16)):
        with pytest.raises(ValueError, match="24x24.*not {}x{}".format(*sides)):
            supernet(torch.randn(1, 3, *sides))
    arch = space.sample(random.Random(0))
    with pytest.raises(ValueError, match="classes"):
        nas.inherit_weights(nas.build_model(arch, 5), supernet)
    with pytest.raises(ValueError, match="build_model"):
        nas.inherit_weights(torch.nn.Linear(1, 1), supernet)
    table = arch.to_dict()
    table["stages"][0][0][2] = 1  # another stride: its weights would fit
    other = nas.build_model(nas.ArchDef.parse(table), 10)
    with pytest.raises(nas.ArchError, match="stride 1"):
        nas.inherit_weights(other, supernet)


def test_gates_of_a_plain_value() -> None:
    assert Gates().value(5) == 5
    assert Gates().tensor(5) is None


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("table", [TINY, DEEP], ids=["tiny", "deep"])
def test_one_compilation_serves_all_gates(table: dict, sharing: str) -> None:
    """No graph break, and no recompilation as noise and temperature change."""
    torch._dynamo.reset()
    supernet = nas.build_supernet(parsed(table), num_classes=10, sharing=sharing)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(supernet, backend=counter, fullgraph=True)
    image = torch.randn(4, 3, 24, 24)
    for temperature in (5.0, 2.0, 0.2):
        supernet.sample(temperature)
        compiled(image).sum().backward()
    assert counter.frame_count == 1
    supernet.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), supernet(image))


@pytest.mark.parametrize("sharing", ["none", "full"])
def test_synchronised_norms_are_the_same_in_one_process(sharing: str) -> None:
    torch.manual_seed(0)
    supernet = nas.build_supernet(parsed(TINY), num_classes=10, sharing=sharing)
    random_alphas(supernet)
    supernet.sample(1.0)
    x = torch.randn(4, 3, 24, 24)
    expected = supernet(x).detach()
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(supernet)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in synchronised.modules())
    assert relative(synchronised(x).detach(), expected) < 1e-5


@pytest.mark.parametrize("sharing", ["none", "full"])
def test_a_second_pass_leaves_synchronised_statistics_alone(sharing: str) -> None:
    torch.manual_seed(0)
    plain = nas.build_supernet(parsed(TINY, input_size=24), num_classes=10, sharing=sharing)
    plain.sample(1.0)
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    x = torch.randn(4, 3, 24, 24)
    start = {name: value.clone() for name, value in plain.named_buffers()}
    synchronised._run(x, synchronised.gates().frozen())
    for name, value in synchronised.named_buffers():
        assert torch.equal(value, start[name]), name
    plain._run(x, plain.gates())
    synchronised._run(x, synchronised.gates())
    for name in (name for name in start if "running" in name):
        torch.testing.assert_close(synchronised.get_buffer(name), plain.get_buffer(name), rtol=1e-4, atol=1e-5, msg=name)
    assert any("running_mean" in name and not torch.equal(value, start[name]) for name, value in synchronised.named_buffers())


def test_statistics_are_renewed_from_the_beginning_each_time() -> None:
    network = nas.build_model(nas.get_arch("Digits"), 10, 3).eval()
    batches = [torch.randn(8, 3, 16, 16) for _ in range(2)]
    nas.recalibrate_batchnorm(network, batches)
    once = {name: buffer.clone() for name, buffer in network.named_buffers()}
    nas.recalibrate_batchnorm(network, [5 + batch for batch in batches])
    nas.recalibrate_batchnorm(network, batches)
    assert not network.training
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, once[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("sharing", ["none", "full"])
@pytest.mark.parametrize("head", [None, HeadDef("lraspp", 5, {"channels": 16, "low_stride": 2})])
def test_a_state_holds_what_was_learnt_alone(sharing, head) -> None:
    """What follows from the space is computed anew: it would grow each checkpoint, and tie it to how it is computed."""
    supernet = nas.build_supernet(parsed(TINY, stages=TINY["stages"][:3]), 10, sharing=sharing, head=head)
    supernet.cost().macs.backward()
    learnt = {name for name, _ in supernet.named_parameters()}
    rest = {name.rpartition(".")[2] for name in supernet.state_dict() if name not in learnt}
    assert rest == {"running_mean", "running_var", "num_batches_tracked"}
    if head is None:
        assert not Expectation(PeakMemory().maps, supernet).state_dict()


def test_a_supernet_is_by_default_of_a_thousand_classes_and_three_channels() -> None:
    supernet = nas.build_supernet(parsed(TINY))
    assert (supernet.head_def, supernet.in_channels) == (HeadDef("classifier", 1000), 3)
