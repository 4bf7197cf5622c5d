"""One image in a forward pass: told before the run where no norm could take statistics of it."""

from dataclasses import replace

import pytest
import torch
from helpers import quick_cfg, runtime_of, tiny_arch, train
from searches import search_and_train, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.config import ConfigError
from mobile_cv_nas.engine.one_image import check_one_image
from mobile_cv_nas.engine.runtime import RuntimeOptions
from mobile_cv_nas.errors import InputError


def arch_of(size):
    return nas.ArchDef.parse({**tiny_arch().to_dict(), "input_size": size})


def refused(size, total, runtime):
    network = nas.build_model(arch_of(size), 10)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    try:
        check_one_image(network, lambda: nas.count(network, size), runtime, "TRAIN", total)
    except ConfigError as error:
        return str(error)
    finally:
        assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())
    return ""


@pytest.mark.parametrize("size", [4, 8, 9])
def test_it_is_refused_exactly_where_torch_would_stop(tmp_path, size):
    network = nas.build_model(arch_of(size), 10).train()
    try:
        network(torch.zeros(1, 3, size, size))
        stops = False
    except ValueError:
        stops = True
    runtime = runtime_of(quick_cfg(tmp_path, "RUNTIME.ACCUMULATE", "4"))
    assert stops == (size == 4)
    assert bool(refused(size, 4, runtime)) == stops
    assert not refused(size, 8, runtime)


def test_the_message_names_the_keys_and_a_way_out(tmp_path):
    runtime = replace(runtime_of(quick_cfg(tmp_path)), options=RuntimeOptions(accumulate=2), world=3)
    message = refused(4, 6, runtime)
    for part in (
        "TRAIN.BATCH_SIZE: 6 in 3 processes x RUNTIME.ACCUMULATE 2",
        "set TRAIN.BATCH_SIZE to 12 or more or lower RUNTIME.ACCUMULATE",
    ):
        assert part in message
    assert "RUNTIME.ACCUMULATE" not in refused(4, 3, replace(runtime, options=RuntimeOptions()))
    assert not refused(4, 6, replace(runtime, options=RuntimeOptions(accumulate=2, sync_bn=True)))  # statistics over all three


def test_a_training_is_refused_and_leaves_nothing(tmp_path):
    cfg = quick_cfg(tmp_path, "TRAIN.BATCH_SIZE", "4", "RUNTIME.ACCUMULATE", "4")
    with pytest.raises(ConfigError, match=r"TRAIN\.BATCH_SIZE: 4 in RUNTIME\.ACCUMULATE 4 is one image in a forward pass"):
        train(cfg, arch_of(4), tmp_path)
    assert not list(tmp_path.iterdir())


ONE_PIXEL = """
input_size: [4, 8, 4]
stages:
  - [[conv_k3_hs, 4, 2, 1]]
  - [[[ir_k3, ir_k5], [4, 8, 4], 2, 1, {expansion: 1}]]
"""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("SEARCH.BATCH_SIZE", 2, "TRAIN.BATCH_SIZE", 4), r"SEARCH\.BATCH_SIZE: 2 in RUNTIME\.ACCUMULATE 2 is one image"),
        (("SEARCH.BATCH_SIZE", 4, "TRAIN.BATCH_SIZE", 2), r"TRAIN\.BATCH_SIZE: 2 in RUNTIME\.ACCUMULATE 2 is one image"),
        (("SEARCH.BATCH_SIZE", 4, "TRAIN.BATCH_SIZE", 3), r"BATCH_SIZE: 3 does not divide"),
        (("SEARCH.BATCH_SIZE", 4, "TRAIN.BATCH_SIZE", 2000), r"TRAIN\.BATCH_SIZE: 1257 training images are fewer than the 2000"),
    ],
    ids=["search", "child", "uneven child", "child of too few"],
)
def test_a_search_is_refused_before_it_begins(tmp_path, options, reason):
    cfg = tiny_cfg(tmp_path, "RUNTIME.ACCUMULATE", 2, "SEARCH.TARGET", 2000, *options)
    (tmp_path / "tiny.yaml").write_text(ONE_PIXEL)
    with pytest.raises(InputError, match=reason):
        search_and_train(cfg)
    assert not (tmp_path / "run").exists()
