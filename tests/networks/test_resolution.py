"""The search over input resolution, against a slow reference written from the paper's Fig. 2."""

from __future__ import annotations

import pytest
import torch
from spaces import DEEP, SAME, TINY, parsed, random_alphas, randomise, relative, samples

import mobile_cv_nas as nas
from mobile_cv_nas.nn.choice import Gates
from mobile_cv_nas.nn.shapes import out_size, place, subsample_index


def test_rows_and_columns_are_exact_integers() -> None:
    for full in range(1, 60):
        for size in range(1, full + 1):
            assert subsample_index(size, full).tolist() == [i * full // size for i in range(size)]


def test_subsample_and_place() -> None:
    x = torch.randn(2, 3, 10, 10)
    small = nas.subsample(x, 7)
    total = place(torch.zeros(2, 3, 10, 10), small)
    rows = subsample_index(7, 10).tolist()
    for i in range(10):
        for j in range(10):
            expected = x[:, :, i, j] if i in rows and j in rows else torch.zeros(2, 3)
            assert torch.equal(total[:, :, i, j], expected)
    assert nas.subsample(x, 10) is x
    for wrong in (0, 11):
        with pytest.raises(ValueError, match="cannot subsample"):
            nas.subsample(x, wrong)


def test_place_has_the_gradient_of_its_definition() -> None:
    total = torch.randn(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    part = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, p: place(t * 1, p), (total, part))


# A skip that brings more channels than any block of its layer gives.
WIDE = {"input_size": 24, "stages": [[["conv_k3", [8, 12, 4], 2]], [[["ir_k3", "skip"], 8, 1, 1, {"expansion": 2}]]]}


def _reference(supernet: nas.Supernet, image: torch.Tensor) -> torch.Tensor:
    """Section 3.2 and Fig. 2, pixel by pixel: for each layer and size take pixels, run the block, put the result back, sum by gates."""
    gates = supernet.gates()
    weights = gates.sizes.float()
    sides = [[size] for size in supernet.space.input_sizes]
    x = image
    for layer, block in zip(supernet.space.layers, supernet.blocks.values(), strict=True):
        for side in sides:
            side.append(layer.out_size(side[-1]))
        full_in, full_out = sides[-1][-2], sides[-1][-1]
        total = torch.zeros(len(x), block.width, full_out, full_out)
        for side, weight in zip(sides, weights, strict=True):
            small = torch.zeros(*x.shape[:2], side[-2], side[-2])
            for i in range(side[-2]):
                for j in range(side[-2]):
                    small[:, :, i, j] = x[:, :, i * full_in // side[-2], j * full_in // side[-2]]
            y = block(small, gates)
            for i in range(side[-1]):
                for j in range(side[-1]):
                    total[:, :, i * full_out // side[-1], j * full_out // side[-1]] += weight * y[:, :, i, j]
        x = total
    area = sum(w * side[-1] ** 2 for w, side in zip(weights, sides, strict=True))
    return torch.nn.functional.linear(x.sum((2, 3)) / area, supernet.head.weight, supernet.head.bias)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("sharing", ["none", "full"])
@pytest.mark.parametrize("sizes", [[16, 24, 8], {"any": [11, 17, 24]}, {"any": [21, 22, 23, 24]}], ids=["two", "odd", "coinciding"])
def test_all_sizes_equal_the_slow_reference(sizes: object, sharing: str, recompute: bool) -> None:
    for table in (TINY, DEEP, SAME, WIDE):
        supernet = nas.build_supernet(parsed(table, input_size=sizes), 10, sharing=sharing, recompute=recompute).eval()
        randomise(supernet)
        random_alphas(supernet)
        supernet.sample(1.0)
        image = torch.randn(2, 3, 24, 24)
        with torch.no_grad():
            assert relative(supernet(image), _reference(supernet, image)) < 1e-5


def test_gradients_of_all_sizes_equal_the_slow_reference() -> None:
    supernet = nas.build_supernet(parsed(TINY, input_size={"any": [11, 17, 24]}), 10, recompute=True).eval()
    randomise(supernet)
    supernet.sample(1.0)
    image = torch.randn(2, 3, 24, 24)
    found = torch.autograd.grad(supernet(image).square().sum(), list(supernet.parameters()))
    expected = torch.autograd.grad(_reference(supernet, image).square().sum(), list(supernet.parameters()))
    for (name, _), a, b in zip(supernet.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()), msg=name)


def test_sizes_at_every_depth_are_those_of_the_child() -> None:
    assert [out_size(n, 3, 2, 1) for n in (224, 225, 7, 1)] == [112, 113, 4, 1]
    space = parsed(DEEP, input_size={"any": [21, 22, 23, 24]})
    supernet = nas.build_supernet(space, 10)
    for arch in samples(space, 10):
        child, sides = nas.build_model(arch, 10), [arch.input_size]
        x = torch.zeros(1, 3, arch.input_size, arch.input_size)
        child.eval()
        for block in child.blocks:
            x = block(x)
            sides.append(x.shape[-1])
        assert sides == supernet._sides[space.input_sizes.index(arch.input_size)]


def test_sampled_runs_one_size_and_its_gradient_reaches_two_gates() -> None:
    space = parsed(TINY, input_size={"any": [12, 16, 20, 24]})
    supernet = nas.build_supernet(space, 10, resolution="sampled").eval()
    randomise(supernet)
    random_alphas(supernet)
    image = torch.randn(2, 3, 24, 24)
    alpha = supernet.alphas()["input_size"]
    for seed in range(5):
        torch.manual_seed(seed)
        supernet.sample(1.0)
        gates = supernet.gates()
        order = gates.sizes.argsort(descending=True).tolist()
        first, second = (supernet._run(nas.subsample(image, space.input_sizes[i]), gates) for i in order[:2])
        logits = supernet(image)
        torch.testing.assert_close(logits, first)
        direction = torch.randn_like(logits)
        (gradient,) = torch.autograd.grad(logits, alpha, direction, retain_graph=True)
        # d(pair) of the softmax over the two drawn sizes, each weighted by what its logits would change
        p = gates.sizes[order[:2]] / gates.sizes[order[:2]].sum()
        expected = (p[0] * p[1] * (direction * (first - second)).sum()).detach()
        assert float(gradient[order[0]]) == pytest.approx(float(expected), rel=0.01)
        assert float(gradient[order[1]]) == pytest.approx(-float(expected), rel=0.01)
        with torch.no_grad():
            torch.testing.assert_close(supernet(image), first)


@pytest.mark.parametrize("learns", [False, True])
def test_a_second_size_runs_only_where_its_alpha_learns(learns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = nas.build_supernet(parsed(TINY), 10, resolution="sampled")
    run, seen = supernet._run, []
    monkeypatch.setattr(supernet, "_run", lambda x, gates: (seen.append(x.shape[-1]), run(x, gates))[1])
    for alpha in supernet.alpha_parameters():
        alpha.requires_grad_(learns)
    supernet.sample(1.0)
    supernet(torch.randn(2, 3, 24, 24)).sum().backward()
    assert len(seen) == len(set(seen)) == (2 if learns else 1)
    with torch.no_grad():
        supernet(torch.randn(2, 3, 24, 24))
    assert len(seen) == (3 if learns else 2)


@pytest.mark.parametrize(("tau", "least", "most"), [(5.0, 0.7, 0.8), (1.0, 0.75, 0.95), (0.2, 0.9, 1.1)])
def test_the_norm_of_the_sampled_estimate(tau: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each size has a known loss, so have all gradients: of the mixture (`all`), of the expected loss, of the mean estimate."""
    space = parsed(TINY, input_size={"any": [12, 16, 20]})
    supernet = nas.build_supernet(space, 10, resolution="sampled")
    losses = torch.tensor([0.3, 1.0, 2.0])
    monkeypatch.setattr(supernet, "_run", lambda x, gates: losses[space.input_sizes.index(x.shape[-1])].view(1))
    alpha, image = supernet.alphas()["input_size"], torch.zeros(1, 3, 20, 20)
    torch.manual_seed(0)
    sampled, mixture = [], []
    for _ in range(1500):
        supernet.sample(tau)
        sampled.append(torch.autograd.grad(supernet(image).sum(), alpha)[0])
        sizes = supernet.gates().sizes
        mixture.append(torch.autograd.grad((sizes * losses).sum(), alpha)[0])
    estimate, whole = torch.stack(sampled).mean(0), torch.stack(mixture).mean(0)
    p = torch.full((3,), 1 / 3)
    expected = p * (losses - (p * losses).sum())
    for truth in (whole, expected):
        assert float(torch.nn.functional.cosine_similarity(estimate, truth, dim=0)) > 0.98
    # Two sizes of three are seen at a time: n / 2(n - 1) of the mixture's at first, all of it as the gates harden.
    assert least < float(estimate.norm() / whole.norm()) < most
    if tau == 5.0:  # and the softmax over alpha / tau has 1 / tau of the gradient, as every soft gate and the cost term have
        assert float(estimate.norm() / expected.norm()) == pytest.approx(0.75 / 5, rel=0.15)


@pytest.mark.parametrize("scale", [0.13, 1.0, 7.0])
def test_adam_takes_the_same_steps_at_any_scale_of_the_gradient(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(50, 5, generator=generator) + 0.3
    ends = []
    for factor in (1.0, scale):
        alpha = torch.nn.Parameter(torch.zeros(5))
        adam = torch.optim.Adam([alpha], lr=0.1)
        for gradient in gradients:
            alpha.grad = factor * gradient
            adam.step()
        ends.append(alpha.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_sampled_draws_follow_the_alphas() -> None:
    supernet = nas.build_supernet(parsed(TINY), 10, resolution="sampled")
    with torch.no_grad():
        supernet.alphas()["input_size"].copy_(torch.tensor([0.25, 0.75]).log())
    torch.manual_seed(0)
    smaller = 0
    for _ in range(1000):
        supernet.sample(3.0)
        smaller += int(supernet.gates().sizes.argmax() == 0)
    assert abs(smaller / 1000 - 0.25) < 0.05


def test_norm_statistics_are_updated_once_an_option() -> None:
    supernet = nas.build_supernet(parsed(TINY), 10)
    norm = supernet.blocks["s0b0"].unit("conv_k3_hs").norm
    norm.momentum = None  # counts its updates
    supernet(torch.randn(2, 3, 24, 24))
    assert int(norm.num_batches_tracked) == 2
    assert isinstance(supernet.gates(), Gates)


def test_place_is_the_same_sum_where_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda now=compiling: now)
        torch.manual_seed(0)
        total, part = (torch.randn(2, 3, side, side, requires_grad=True) for side in (9, 5))
        out = place(total * 1, part)
        out.square().sum().backward()
        found.append((out.detach(), total.grad, part.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16), (32, 32)])
def test_images_of_another_shape_than_the_largest_are_refused(shape: tuple[int, int]) -> None:
    supernet = nas.build_supernet(parsed(TINY), 10)
    with pytest.raises(ValueError, match=f"takes images of 24x24, its largest input size, not {shape[0]}x{shape[1]}"):
        supernet(torch.randn(1, 3, *shape))
