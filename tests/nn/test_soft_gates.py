"""Under soft gates, against the slow sum that the equations say: masks, marginals of a joint choice, skips, norms."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import mobile_cv_nas as nas
from mobile_cv_nas.nn.blocks import BLOCKS, Dims, InvertedResidual
from mobile_cv_nas.nn.choice import SKIP, Choice, ChoiceTable, Gates


def gates_of(table):
    return table.gates().detach()


def soft(table):
    return Gates(tensors=table.tensors(table.gates()))


def mask_of(options, gates):
    """M = sum_i g_i 1_i."""
    ones = torch.stack([(torch.arange(options[-1]) < option).double() for option in options])
    return (gates[: len(options), None] * ones).sum(0).float()


@pytest.mark.parametrize("se", [None, "sigmoid"])
def test_a_hidden_mask_is_applied_once(se):
    torch.manual_seed(0)
    options = (4, 8, 12)
    table = ChoiceTable([Choice("hidden", options)])
    hidden = table.width("hidden", options)
    table.compile_tables()
    block = InvertedResidual(Dims(3, 5, 1, hidden, 2, True), kernel=3, activation="relu", se=se).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    table.sample(1.0)
    mask = mask_of(options, gates_of(table)[0]).view(1, -1, 1, 1)
    assert 0 < float(mask.min()) < 0.9
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        found = block.transform(x, soft(table))
        # by hand: each unit's output is masked, and a mask is a factor of a map only once
        y = block.pw.norm(block.pw.conv(x)).relu() * mask
        y = block.dw.norm(block.dw.conv(y)).relu() * mask
        if se:
            attention = block.se.pool(y)
            attention = block.se.expand(block.se.reduce(attention).relu()).sigmoid()
            y = y * attention
        expected = block.pwl.norm(block.pwl.conv(y))
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_hard_gates_fall_as_softmax_of_the_alphas_says():
    """The largest of alpha plus Gumbel noise; with the noise the other way round these frequencies would be far off."""
    table = ChoiceTable([Choice("block", ("a", "b", "c", "d"))])
    table.compile_tables()
    alpha = torch.tensor([2.0, 1.0, 0.0, -3.0])
    with torch.no_grad():
        table.alpha["block"].copy_(alpha)
    torch.manual_seed(0)
    count, drawn = 6000, torch.zeros(4)
    for _ in range(count):
        table.sample(0.05)
        drawn[gates_of(table)[0].argmax()] += 1
    expected = F.softmax(alpha, 0)
    error = (expected * (1 - expected) / count).sqrt()
    assert ((drawn / count - expected).abs() < 4 * error).all()


def marginals(noise, skip):
    values = [3, 5, 3, SKIP] if skip else [3, 5, 3]
    table = ChoiceTable([Choice("block", ("a", "b", "c", "skip")[: len(values)])])
    table.marginal("block", values, (3, 5), taps=True)
    activations = ["relu", "hswish", "hswish", SKIP][: len(values)]
    table.marginal("block", activations, ("relu", "hswish"))
    table.compile_tables()
    with torch.no_grad():
        table.alpha["block"].copy_(torch.tensor([0.3, -0.4, 0.2, 2.0][: len(values)]))
    if noise:
        torch.manual_seed(3)
        table.sample(0.7)
    return table


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_marginals_are_of_the_gates_of_the_step_given_that_the_block_is_there(noise, skip):
    table = marginals(noise, skip)
    gates = gates_of(table)[0]
    there = gates[:3] / gates[:3].sum()
    if noise:
        assert not torch.allclose(gates, table.gates(noise=False).detach()[0])
    taps, activation = (t.detach().double() for t in table.tensors(table.gates()))
    assert activation[:2].tolist() == pytest.approx([float(there[0]), float(there[1] + there[2])], rel=1e-5)
    assert taps.shape == (5, 5)
    assert torch.allclose(taps[1:4, 1:4], torch.ones(3, 3, dtype=torch.float64))  # every kernel has its centre
    assert float(taps[0, 0]) == pytest.approx(float(there[1]), rel=1e-5)  # only the 5x5 has the outer ring


def test_marginals_of_a_block_that_is_not_there_have_finite_gradients():
    table = marginals(False, True)
    gates = torch.tensor([[0.0, 0.0, 0.0, 1.0]]).expand_as(table.gates(noise=False)).clone().requires_grad_()
    table.given = gates.detach()
    found = table._conditioned(gates)
    assert found.tolist() == [pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])] * 2  # all that have it alike
    (gradient,) = torch.autograd.grad(found.square().sum(), gates)
    assert torch.isfinite(gradient).all()


def test_what_a_block_that_is_not_there_would_be_is_of_its_own_options_alone():
    table = ChoiceTable([Choice("block", ("a", "b", "skip")), Choice("channels", tuple(range(1, 7)))])  # three columns are padding
    table.marginal("block", ["relu", "hswish", SKIP], ("relu", "hswish"))
    table.compile_tables()
    gates = torch.zeros(3, 6, dtype=torch.float64)
    gates[0, 2] = gates[1, 0] = gates[2, 0] = 1
    table.assign(lambda: gates)
    assert table._conditioned(gates).tolist() == [[0.5, 0.5, 0, 0, 0, 0]]
    gates[0, :3] = torch.tensor([0.1, 0.3, 0.6])  # and where it may be there, of its share
    torch.testing.assert_close(table._conditioned(gates)[0, :3].tolist(), [0.25, 0.75, 0.0])


@pytest.mark.parametrize("then", ["sample", "select", "reset"])
def test_gates_of_the_callers_end_with_the_next_ones(then):
    table, mine = marginals(False, True), torch.full((2, 4), 0.25, dtype=torch.float64)
    table.assign(lambda: mine)
    assert table.gates() is mine
    calls = {"sample": lambda: table.sample(0.7), "select": lambda: table.select({"block": 1}), "reset": table.reset}
    calls[then]()
    found = table.gates()
    expected = {"sample": F.softmax((table.logits() + table.noise) / 0.7, 1)[0], "select": torch.eye(4)[1], "reset": table.gates(False)[0]}
    assert torch.allclose(found[0], expected[then].double())
    table.assign(lambda: mine)
    assert table.gates() is mine


def test_reset_forgets_noise_temperature_and_selection():
    table = marginals(True, True)
    table.sample(0.1)
    table.select({"block": 1})
    table.reset()
    assert torch.equal(table.gates(), table.gates(noise=False))
    assert torch.allclose(table.gates()[0, :4], F.softmax(table.alpha["block"].double(), 0))


@pytest.mark.parametrize("first", [12, [8, 12, 4]], ids=["never agrees", "may agree"])
def test_channels_that_only_a_skip_brings_have_its_gate(first):
    table = {"input_size": 8, "stages": [[["conv_k3", first, 1]], [[["ir_k3", "skip"], [4, 8, 4], 1, 1, {"expansion": 1}]]]}
    space = nas.SearchSpace.parse(table)
    supernet = nas.build_supernet(space, num_classes=3).eval()
    for seed, temperature in itertools.product(range(3), (0.5, 5.0)):
        torch.manual_seed(seed)
        supernet.sample(temperature)
        gates = supernet.gates()
        block = supernet.mixed()[1]
        unit = block.unit("ir_k3")
        x = torch.randn(2, 12, 8, 8)
        with torch.no_grad():
            found = block(x, gates)
            row = supernet.table.row["s1b0.block"]
            ir, skip = supernet.table.gates()[row, :2].float()
            own = unit.transform(x, gates)  # masked to its width; 12 channels never agree with 4 or 8
            agree = float(supernet.table.gates()[supernet.table.row["s1b0.channels"], 1])  # both of 8 channels
            agree *= 0.0 if first == 12 else float(supernet.table.gates()[supernet.table.row["s0b0.channels"], 0])
        assert found.shape[1] == 12
        assert torch.allclose(found[:, 8:], skip * x[:, 8:], atol=1e-6)
        assert torch.allclose(found[:, :8], ir * own[:, :8] + (skip + agree * ir) * x[:, :8], atol=1e-5)


@pytest.mark.parametrize("block", ["conv_k3", "ir_k3", "ir_k3_se"])
def test_the_supernet_has_the_epsilon_of_its_norms(block):
    options = {"norm_eps": 0.5} | ({"expansion": 2} if block != "conv_k3" else {})
    space = nas.SearchSpace.parse({"input_size": 8, "stages": [[["conv_k3", 8, 2]], [[block, [4, 8, 4], 1, 1, options]]]})
    supernet = nas.build_supernet(space, num_classes=3).eval()
    for norm in (m for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_var, 0.1, 0.4)
    arch = space.largest(3)
    child = nas.build_model(arch, 3).eval()
    nas.inherit_weights(child, supernet)
    x = torch.randn(2, 3, 8, 8)
    supernet.select(arch)
    with torch.no_grad():
        assert torch.allclose(supernet(x), child(x), atol=1e-5)
    epsilons = {norm.eps for norm in supernet.mixed()[1].modules() if isinstance(norm, torch.nn.BatchNorm2d)}
    assert epsilons == {0.5}


@pytest.mark.parametrize(("stride", "c_out", "zero"), [(1, 8, True), (2, 8, False), (1, 12, False)])
def test_zero_gamma_is_for_blocks_with_a_residual_only(stride, c_out, zero):
    block = InvertedResidual(Dims(8, c_out, stride, 16, 0, True), zero_gamma=True)
    assert bool((block.pwl.norm.weight == 0).all()) == zero
    table = ChoiceTable([Choice("channels", (8, 16))])
    width = table.width("channels", (8, 16))
    searched = InvertedResidual(Dims(8, width, stride, 16, 0, True), zero_gamma=True)
    assert bool((searched.pwl.norm.weight == 0).all()) == (stride == 1)


@pytest.fixture
def registered():
    """Inverted residuals of a user's own: as the library's, with another activation or a wider kernel."""
    own = {"ir_k3_silu": {"activation": "silu"}, "ir_k3_relu6_se": {"activation": "relu6", "se": "sigmoid"}, "ir_k9": {"kernel": 9}}
    for name, arguments in own.items():
        nas.register_block(name, InvertedResidual, **arguments)
    yield
    for name in own:
        BLOCKS._obj_map.pop(name)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "names", [["ir_k3_hs", "ir_k3_silu"], ["ir_k3_silu", "ir_k3"], ["ir_k3", "ir_k3_relu6_se", "ir_k5_hs"], ["ir_k3", "ir_k9"]]
)
def test_a_shared_block_is_each_of_the_candidates_that_a_user_registered(names):
    """Where the gates of a soft pass are one-hot it gives what the selected child gives; between, every alpha gets a gradient."""
    torch.manual_seed(0)
    space = nas.SearchSpace.parse({"input_size": 16, "stages": [[["conv_k3", 8, 2]], [[names, 8, 1, 1, {"expansion": 2}]]]})
    supernet = nas.build_supernet(space, num_classes=3, sharing="full").eval()
    for norm in (m for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.bias, 1, 3)  # beyond 6 and below 0 too, where the activations differ
    x = torch.randn(2, 3, 16, 16)
    alpha = supernet.alphas()["s1b0.block"]
    for option in range(len(names)):
        arch = space.decode({"s1b0.block": option})
        child = nas.inherit_weights(nas.build_model(arch, 3), supernet).eval()
        with torch.no_grad():
            alpha.fill_(-1e4)[option] = 1e4
            supernet.reset()
            assert torch.allclose(supernet(x), child(x), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        alpha.zero_()
    supernet(x).square().sum().backward()
    assert alpha.grad.all()


def test_the_noise_of_all_processes_is_the_first_ones(monkeypatch):
    table, sent = marginals(True, False), []
    monkeypatch.setattr("mobile_cv_nas.nn.choice.dist.is_initialized", lambda: True)
    for world, count in ((1, 0), (2, 1)):
        monkeypatch.setattr("mobile_cv_nas.nn.choice.dist.get_world_size", lambda world=world: world)
        monkeypatch.setattr("mobile_cv_nas.nn.choice.dist.broadcast", lambda noise, src: sent.append(src) or noise.fill_(2.5))
        table.sample(1.0)
        assert sent == [0] * count
        assert bool(table.noise.eq(2.5).all()) == (count == 1)
