"""The zoo's networks as timm's: what timm asks of its own models, and the same figures as its own where it has the same network."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from released_facts import filled
from torch import nn
from torchvision.ops import StochasticDepth

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError

timm = pytest.importorskip("timm")
bridge = pytest.importorskip("mobile_cv_nas.model_zoo.timm_bridge")

NAMES = sorted(bridge.__all__)
FEW = ("fbnet_c", "fbnetv2_f1")  # one that ends in a convolution, one in an ir_pool
EVERY = [name if name in FEW else pytest.param(name, marks=pytest.mark.sweep) for name in NAMES]
# ours, timm's, whether it ends in an ir_pool
PAIRS = {
    "MobileNetV2_1.0_torchvision": ("mobilenetv2_100", False),
    "MnasNet_A1": ("semnasnet_100", False),
    "MobileNetV3_Small_torchvision": ("mobilenetv3_small_100", True),
}


def images(count: int = 1, side: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def alike(name: str, **options) -> tuple[nn.Module, nn.Module]:
    """Our network and timm's, in eval mode, with the same weights, statistics of norms at random."""
    torch.manual_seed(0)
    if name.startswith("MobileNetV3"):
        options["bn_eps"] = 1e-3
    ours, theirs = nas.fbnet_builder(name), timm.create_model(PAIRS[name][0], **options)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.75, 1.25)
            nn.init.normal_(module.running_mean, 0, 0.1)
    values = theirs.state_dict().values()
    ours.load_state_dict({key: value.reshape(like.shape) for (key, like), value in zip(ours.state_dict().items(), values, strict=True)})
    return ours.eval(), theirs.eval()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.shape == b.shape
    assert ((a - b).norm() / b.norm()).item() < 1e-5


# -- timm's own network is the truth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
@torch.inference_mode()
def test_parts_equal_timms(name):
    ours, theirs = alike(name)
    x = images(2)
    for what in ("num_classes", "num_features", "head_hidden_size", "in_chans", "drop_rate"):
        assert getattr(ours, what) == getattr(theirs, what), what
    features = ours.forward_features(x)
    close(features, theirs.forward_features(x))
    close(ours.forward_head(features, pre_logits=True), theirs.forward_head(features, pre_logits=True))
    close(ours.forward_head(features), theirs(x))
    end, maps = ours.forward_intermediates(x)
    assert torch.equal(end, features)
    same = 4 if PAIRS[name][1] else 5  # timm's last map of a MobileNetV3 is the one that is pooled
    for a, b in zip(maps[:same], theirs.forward_intermediates(x)[1][:same], strict=True):
        close(a, b)
    for indices in ([0, 2], (1, -2)):
        for a, b in zip(
            *[net.forward_intermediates(x, indices, stop_early=True, intermediates_only=True) for net in (ours, theirs)], strict=True
        ):
            close(a, b)
    close(ours.as_sequential()(x), theirs(x))
    info = [[(one["num_chs"], one["reduction"]) for one in net.feature_info] for net in (ours, theirs)]
    assert info[0][:same] == info[1][:same]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", ""])
@torch.inference_mode()
def test_pools_equal_timms(name, pool):
    ours, theirs = alike(name)
    if pool == "catavgmax" and PAIRS[name][1]:
        with pytest.raises(InputError, match="catavgmax"):
            ours.reset_classifier(5, pool)
        return
    for net in (ours, theirs):
        net.reset_classifier(0, pool)
        assert (net.num_classes, net.get_classifier().__class__) == (0, nn.Identity)
    assert ours.head_hidden_size == theirs.head_hidden_size
    close(ours(images()), theirs(images()))
    if pool:
        ours.reset_classifier(7)
        assert ours.global_pool.pool_type == pool
        assert ours(images()).shape == (1, 7)


@pytest.mark.parametrize("stride", [8, 16, 32])
@torch.inference_mode()
def test_output_stride_equals_timms(stride):
    ours, theirs = alike("MnasNet_A1", output_stride=stride)
    if stride < 32:
        assert ours.forward_features(images()).shape != theirs.forward_features(images()).shape
    ours.set_output_stride(stride)
    close(ours.forward_features(images()), theirs.forward_features(images()))
    assert [one["reduction"] for one in ours.feature_info] == [one["reduction"] for one in theirs.feature_info]


def test_stochastic_depth_is_as_deep_as_timms():
    ours, theirs = nas.fbnet_builder("MnasNet_A1"), timm.create_model("semnasnet_100", drop_path_rate=0.2)
    ours.set_drop_path(0.2)
    found = [block.drop_path.p for block in ours.blocks if getattr(block, "drop_path", None) is not None]
    wanted = [m.drop_path.drop_prob for m in theirs.modules() if getattr(m, "has_skip", False) and hasattr(m.drop_path, "drop_prob")]
    assert found == pytest.approx(wanted)
    ours.set_drop_path(0)
    assert all(getattr(block, "drop_path", None) is None for block in ours.blocks)


def test_stochastic_depth_leaves_out_residuals_image_by_image():
    torch.manual_seed(0)
    block = nas.fbnet_builder("FBNetV2_F1").train().blocks.s2b1
    assert block.adds_input
    nn.init.ones_(block.pwl.norm.weight)
    block.drop_path = StochasticDepth(0.5, "row")
    x = torch.randn(64, block.pw.c_in, 8, 8)
    same = (block(x.clone()) == x).flatten(1).all(1)
    assert 16 < same.sum() < 48
    assert torch.equal(block.eval()(x), x + block.transform(x))


# -- what timm asks of every model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_registered_with_what_the_card_says(name):
    card, cfg = nas.get_card(name), timm.get_pretrained_cfg(name)
    assert cfg.input_size == (3, card.input_size, card.input_size)
    assert (cfg.mean, cfg.std, cfg.interpolation, cfg.num_classes) == (card.mean, card.std, card.interpolation, card.classes)
    assert (cfg.url, cfg.tag) == ((card.weights.url, "fb_in1k") if card.weights else (None, None))
    assert cfg.crop_pct == card.input_size / card.resize
    assert timm.models.is_model_pretrained(name) == (card.weights is not None)
    network = timm.create_model(name)
    assert {f"{cfg.first_conv}.weight", f"{cfg.classifier}.weight"} <= network.state_dict().keys()
    assert network.get_submodule(cfg.first_conv) is next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert timm.data.resolve_model_data_config(network)["crop_pct"] == cfg.crop_pct
    with torch.inference_mode():
        found = network.eval().forward_features(torch.zeros(1, *cfg.input_size))
    assert found.shape == (1, network.num_features, *cfg.pool_size)


@pytest.mark.parametrize("name", EVERY)
def test_heads(name):
    network = timm.create_model(name, num_classes=42, drop_rate=0.1, drop_path_rate=0.1).eval()
    assert (network.num_classes, network.drop_rate, network.get_classifier().out_features) == (42, 0.1, 42)
    with torch.inference_mode():
        x = images()
        features = network.forward_features(x)
        pooled = network.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, network.head_hidden_size)
        assert torch.equal(network(x), network.get_classifier()(pooled))
        network.reset_classifier(0)
        assert torch.equal(network(x), pooled)
        unpooled = timm.create_model(name, num_classes=0, global_pool="").eval()(x)
        assert unpooled.shape == (1, network.head_hidden_size, *features.shape[2:])


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_gets_a_gradient(name):
    network = timm.create_model(name, num_classes=42).train()
    network(images(2)).mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", EVERY)
def test_feature_classes_agree(name):
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    x, state = images(side=96), network.state_dict()
    with torch.inference_mode():
        wanted = network.forward_intermediates(x, intermediates_only=True)
        for kind in (None, "list", "dict", "hook", "fx", "getter"):
            net = timm.create_model(name, features_only=True, **({"feature_cls": kind} if kind else {})).eval()
            own = net.state_dict()
            net.load_state_dict(dict(zip(own, state.values(), strict=False)))
            assert isinstance(net.feature_info, timm.models.FeatureInfo)
            maps = net(x)
            maps = list(maps.values()) if isinstance(maps, dict) else maps
            for m, target, width, stride in zip(maps, wanted, net.feature_info.channels(), net.feature_info.reduction(), strict=True):
                assert m.shape[:2] == (1, width), kind
                assert 96 // stride - 1 <= m.shape[2] <= 96 // stride, "FBNetV3's tables pad less than usual in places"
                torch.testing.assert_close(m, target, rtol=1e-5, atol=1e-5)
            assert "num_classes" not in net.pretrained_cfg


@pytest.mark.parametrize("name", FEW)
def test_features_at_some_strides(name):
    for options in (
        {"out_indices": (1, 3)},
        {"out_indices": (-4, -2), "feature_cls": "getter"},
        {"out_indices": (1, 3), "output_stride": 16},
    ):
        net = timm.create_model(name, features_only=True, **options).eval()
        assert net.feature_info.reduction() == [4, 16]
        assert [m.shape[-1] for m in net(images())] == [16, 4]
    net = timm.create_model(name, features_only=True, out_indices=2, output_stride=8, in_chans=2)
    assert net.feature_info.reduction() == [8, 8]
    assert [m.shape[-1] for m in net(images(channels=2))] == [8, 8]


@pytest.mark.parametrize("name", EVERY)
def test_traced_by_fx(name):
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    network = timm.create_model(name, num_classes=5).eval()
    train_nodes, eval_nodes = get_graph_node_names(network)
    traced = create_feature_extractor(network, train_return_nodes=train_nodes[-1:], eval_return_nodes=eval_nodes[-1:])
    with torch.inference_mode():
        (found,) = traced(images()).values()
        assert torch.equal(found, network(images()))
    (found,) = traced.train()(images(2)).values()
    found.mean().backward()
    assert [key for key, p in traced.named_parameters() if p.grad is None] == []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        assert torch.jit.script(traced.eval())(images()).keys() == set(eval_nodes[-1:])


# -- options ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_checkpointing_changes_nothing_but_memory(name):
    """Gradients and, after one step, norm statistics; the backward pass does run the blocks again."""
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3).train()
    saving = timm.create_model(name, num_classes=3).train()
    saving.load_state_dict(plain.state_dict())
    saving.set_grad_checkpointing()
    runs = []
    for block in saving.blocks:
        block.register_forward_pre_hook(lambda *_: runs.append(1))
    for network in (plain, saving):
        network(images(2)).square().sum().backward()
    assert len(runs) == sum(2 if any(True for _ in block.parameters()) else 1 for block in saving.blocks), "a skip keeps nothing"
    for (key, a), b in zip(plain.state_dict().items(), saving.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    for (key, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    features = timm.create_model(name, features_only=True)
    for saves in (False, True):
        features.set_grad_checkpointing(saves)
        runs.clear()
        hooks = [block.register_forward_pre_hook(lambda *_: runs.append(1)) for block in features.blocks]
        sum(one.square().sum() for one in features.train()(images(2))).backward()
        kept = [any(True for _ in block.parameters()) for block in features.blocks]
        assert len(runs) == sum(2 if saves and some else 1 for some in kept)
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", FEW)
def test_layer_decay_sorts_from_stem_to_classifier(name):
    network = timm.create_model(name)
    assert network.no_weight_decay() == set()
    matcher = pytest.importorskip("timm.models._manipulate")
    for coarse in (False, True):
        layer = matcher.group_parameters(network, network.group_matcher(coarse), reverse=True)
        order = [layer[key] for key, _ in network.named_parameters()]
        assert order == sorted(order)
        assert {layer[key] for key in layer if key.startswith("blocks.s0b0.")} == {0}
        last = [key for key, _ in network.named_parameters() if not key.startswith("classifier.")][-1]
        assert layer["classifier.weight"] == layer[last] + 1
        parts = {key.split(".")[1] for key in layer if not key.startswith("classifier.")}  # of skips there are none
        # the classifier is a group more, and the head's convolution shares the last block's
        assert len(set(order)) == len({part.split("b")[0] for part in parts} if coarse else parts)
    theirs = pytest.importorskip("timm.optim").param_groups_layer_decay(network, weight_decay=0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in theirs) == len(list(network.parameters()))


def test_other_options():
    network = timm.create_model("fbnetv2_f1", bn_eps=1e-2, bn_momentum=0.3, dtype=torch.float64, scriptable=True, exportable=True)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-2, 0.3)}
    assert network.classifier.weight.dtype == torch.float64
    assert timm.create_model("fbnetv2_f1", device="meta").classifier.weight.is_meta
    with pytest.raises(InputError, match="no option is called drop_out, did you mean drop_rate"):
        timm.create_model("fbnetv2_f1", drop_out=0.1)
    with pytest.raises(InputError, match="output_stride 3"):
        timm.create_model("fbnetv2_f1", output_stride=3)
    with pytest.raises(InputError, match="drop_path_rate"):
        timm.create_model("fbnetv2_f1", drop_path_rate=1)
    with pytest.raises(InputError, match="classifier of 1000"):
        timm.create_model("fbnetv2_f1", global_pool="")
    with pytest.raises(InputError, match="one of avg, max"):
        timm.create_model("fbnetv2_f1", global_pool="mean")


def test_dropout_is_in_front_of_the_classifier():
    torch.manual_seed(0)
    network = timm.create_model("fbnetv2_f1", num_classes=0, drop_rate=0.5)
    features = torch.rand(1, network.num_features, 2, 2) + 1
    nn.init.ones_(network.blocks[-1].pwl.weight)
    dropped = network.train().forward_head(features)
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    assert network.eval().forward_head(features).all()


# -- weights ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file of FBNetV2_F1 under the released names."""
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model_ema": filled("FBNetV2_F1", "B")}, path)
    return path


def test_a_released_file_loads(released):
    wanted = nas.fbnet_builder("FBNetV2_F1", weights=released).eval()
    overlay = {"pretrained_cfg_overlay": {"file": str(released)}}
    with torch.inference_mode():
        network = timm.create_model("fbnetv2_f1.fb_in1k", pretrained=True, **overlay).eval()
        assert torch.equal(network(images()), wanted(images()))
        bare = timm.create_model("fbnetv2_f1", pretrained=True, num_classes=0, **overlay).eval()
        assert torch.equal(bare(images()), wanted.forward_head(wanted.forward_features(images()), pre_logits=True))
        maps = timm.create_model("fbnetv2_f1", pretrained=True, features_only=True, **overlay).eval()(images())
        assert all(torch.equal(*pair) for pair in zip(maps, wanted.forward_intermediates(images(), intermediates_only=True), strict=True))
        getter = timm.create_model("fbnetv2_f1", pretrained=True, features_only=True, feature_cls="getter", **overlay).eval()
        assert torch.equal(getter(images())[-1], maps[-1])
        with pytest.warns(UserWarning, match="head is new"):
            grey = timm.create_model("fbnetv2_f1", pretrained=True, in_chans=1, num_classes=5, **overlay).eval()
        same = images(channels=1)
        torch.testing.assert_close(grey.forward_features(same), wanted.forward_features(same.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_timms_loader_reads_the_released_form(released):
    network = timm.create_model("fbnetv2_f1")
    timm.models.load_pretrained(network, {**network.pretrained_cfg, "url": None, "file": str(released)})
    wanted = nas.fbnet_builder("FBNetV2_F1", weights=released)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), wanted.state_dict().values(), strict=True))


def test_what_timm_saves_timm_loads(tmp_path):
    network = timm.create_model("fbnetv2_f1", num_classes=4, in_chans=1, global_pool="max").eval()
    timm.models.save_for_hf(network, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(network(images(channels=1)), again(images(channels=1)))


def test_no_weights_to_load():
    with pytest.raises(InputError, match="has no pretrained weights"):
        timm.create_model("fbnetv2_f0", pretrained=True)
    with pytest.raises(InputError, match="cache_dir"):
        timm.create_model("fbnetv2_f1", pretrained=True, cache_dir="here")


def test_pruned_networks_print_and_run():
    for name in FEW:
        network = timm.create_model(name).eval()
        assert network.prune_intermediate_layers([1, 2]) == [1, 2]
        assert network(images()).shape == (1, network.num_features, 8, 8)
        assert str(network.num_features) in repr(network)
        with pytest.raises(InputError, match="there are 3 maps"):
            network.forward_intermediates(images(), 4)
    with pytest.raises(InputError, match="ir_pool"):
        timm.create_model("fbnetv2_f1").prune_intermediate_layers([-1], extra_blocks=True)


def test_nothing_is_pruned_where_all_is_asked_for():
    network = timm.create_model("fbnetv2_f1").eval()
    names = [name for name, _ in network.blocks.named_children()]
    for extra, count in ((True, len(names) - 1), (False, len(network.maps.blocks))):
        network.prune_intermediate_layers([count - 1 + extra], prune_head=False, extra_blocks=extra)
        assert len(network.blocks) == len(names)
        assert network(images()).shape == (1, 1000)
    assert network.prune_intermediate_layers([1], prune_head=False, extra_blocks=True) == [1]
    assert len(network.blocks) == 2


def test_methods_that_timm_has_take_its_arguments():
    """With the same defaults, in the same order."""

    def arguments(method):
        return [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]

    theirs = timm.models.mobilenetv3.MobileNetV3
    own = set(dir(nas.Network)) - set(dir(nn.Module))
    shared = [name for name in own if not name.startswith("_") and callable(getattr(theirs, name, None))]
    assert len(shared) >= 9
    for name in shared:
        assert arguments(getattr(nas.Network, name)) == arguments(getattr(theirs, name)), name
