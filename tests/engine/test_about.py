"""What result.json says of the run: the same for the same run, another for another."""

import json

import torch
from helpers import quick_cfg, tiny_arch, train
from searches import search_and_train, tiny_cfg

from mobile_cv_nas.engine.about import identity


def test_a_digest_is_of_the_options_only():
    one = identity({"SEED": 3, "TRAIN.LR": 0.1}, {"training": 1.23})
    assert one == identity({"TRAIN.LR": 0.1, "SEED": 3}, {"training": 1.21})
    assert one["seconds"] == {"training": 1.2}
    assert one["seed"] == 3
    assert one["versions"]["torch"] == torch.__version__.split("+")[0] or one["versions"]["torch"].startswith(torch.__version__[:3])
    assert one["config_digest"] != identity({"SEED": 3, "TRAIN.LR": 0.2}, {})["config_digest"]


def test_results_say_seed_versions_and_digest(tmp_path):
    found = {}
    for name, opts in (("a", ()), ("b", ()), ("c", ("SEED", "7"))):
        (tmp_path / name).mkdir()
        train(quick_cfg(tmp_path / name, "TRAIN.EPOCHS", "1", *opts), tiny_arch(), tmp_path / name)
        found[name] = json.loads((tmp_path / name / "result.json").read_text())
    assert all(json.loads((tmp_path / name / "run.json").read_text())["seconds"] == found[name].pop("seconds") for name in "abc")
    assert found["a"] == found["b"]  # whatever the folder
    assert [found[name]["seed"] for name in "ac"] == [0, 7]
    assert found["a"]["config_digest"] != found["c"]["config_digest"]
    assert json.loads((tmp_path / "a/run.json").read_text())["seconds"]["training"] > 0


def test_a_search_says_them_and_how_sure_it_was(tmp_path):
    search_and_train(tiny_cfg(tmp_path, "SEARCH.EPOCHS", 2, "SEED", 5))
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["seed"], len(result["config_digest"])) == (5, 16)
    assert {"python", "torch"} <= set(result["versions"])
    assert 0 < result["entropy"] <= 1
    assert min(result["seconds"][name] for name in ("search", "training")) > 0
