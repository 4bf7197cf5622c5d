from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from yacs.config import CfgNode

from mobile_cv_nas.commands.options import recipe_of, search_options
from mobile_cv_nas.config import ConfigError, dump_config, flatten, get_cfg, load_config, validate
from mobile_cv_nas.config.files import merge_file
from mobile_cv_nas.data import DataOptions
from mobile_cv_nas.engine.runtime import RuntimeOptions
from mobile_cv_nas.search.options import SearchOptions
from mobile_cv_nas.training.options import TrainOptions


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_valid_and_each_caller_has_its_own():
    cfg = get_cfg()
    validate(cfg)
    cfg.DATA.MEAN[0] = 7.0
    cfg.SEED = 3
    assert get_cfg().SEED == 0
    assert get_cfg().DATA.MEAN[0] != 7.0


def test_file_base_and_options_in_this_order(tmp_path):
    write(tmp_path / "base.yaml", "TRAIN: {LR: 0.5, EPOCHS: 7}\nSEED: 1\n")
    file = write(tmp_path / "a.yaml", "_BASE_: base.yaml\nTRAIN:\n  EPOCHS: 8\nDATA.DATASET: digits\n")
    cfg = load_config(file, ["SEED", "5", "DATA.MEAN", "[0, 0.5, 1]", "SEARCH.TARGET", "3e5", "RUNTIME.COMPILE", "true"])
    assert (cfg.TRAIN.LR, cfg.TRAIN.EPOCHS, cfg.SEED) == (0.5, 8, 5)
    assert cfg.DATA.MEAN == [0.0, 0.5, 1.0]
    assert cfg.SEARCH.TARGET == 3e5
    assert cfg.RUNTIME.COMPILE is True


def test_definition_files_are_found_from_the_file_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "base.yaml", "SEARCH: {SPACE: ../spaces/s.yaml}\nMODEL: {ARCH: FBNetV2_F4}")
    file = write(tmp_path / "configs" / "a.yaml", "_BASE_: base.yaml\nMODEL: {WEIGHTS: w.safetensors}")
    monkeypatch.chdir(tmp_path)
    cfg = load_config("configs/a.yaml", [])
    assert str(tmp_path / "spaces" / "s.yaml") == cfg.SEARCH.SPACE
    assert str(tmp_path / "configs" / "w.safetensors") == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.ARCH == "FBNetV2_F4"
    assert str(tmp_path / "b.yaml") == load_config(file, ["MODEL.ARCH", "b.yaml"]).MODEL.ARCH


def test_a_tilde_is_the_home_folder_wherever_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("OUTPUT_DIR: ~/run\nTEST: {OUTPUT: ~/test}\n")
    for cfg in (load_config(tmp_path / "c.yaml"), load_config(None, ["OUTPUT_DIR=~/run", "TEST.OUTPUT", "~/test"])):
        folders = cfg.OUTPUT_DIR, cfg.TEST.OUTPUT
        assert folders == (str(tmp_path / "run"), str(tmp_path / "test"))


def test_what_is_written_is_what_was_read(tmp_path):
    cfg = load_config(None, ["TRAIN.LR", "1e-5", "RUNTIME.PRECISION", "no", "SEARCH.TARGET", "1e9", "OUTPUT_DIR", "1e3"])
    assert load_config(write(tmp_path / "config.yaml", dump_config(cfg))) == cfg


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_configs_are_valid(path):
    if path.parent.name != "spaces":
        load_config(path)


BAD_OPTIONS = {
    ("TRAIN.LRR", "1"): "TRAIN.LRR: no such key, did you mean TRAIN.LR?",
    ("train.lr", "1"): "did you mean TRAIN.LR?",
    ("TRAIN.LR.X", "1"): "no such key",
    ("TRAIN", "1"): "a section",
    ("TRAIN.LR", "fast"): "TRAIN.LR: 'fast' is not a number",
    ("TRAIN.LR", "true"): "not a number",
    ("TRAIN.LR", "-1"): "TRAIN.LR: -1.0 is not above 0",
    ("TRAIN.LR", ".nan"): "TRAIN.LR: nan is not above 0",
    ("TRAIN.LR", "1" * 400): "TRAIN.LR",
    ("TRAIN.EPOCHS", "1.5"): "not a whole number",
    ("TRAIN.EPOCHS", "0"): "1 or more",
    ("TRAIN.EPOCHS", ""): "TRAIN.EPOCHS",
    ("TRAIN.EPOCHS", "[1"): "TRAIN.EPOCHS",
    ("TRAIN.OPTIMIZER", "adam"): "one of sgd, rmsprop",
    ("DATA.DATASET", "digit"): "one of digits",
    ("DATA.MEAN", "0.5"): "not a list",
    ("DATA.MEAN", "[a, 0, 0]"): "not a number",
    ("DATA.MEAN", "[0.5, 0.5]"): "DATA.STD: 3 values, and DATA.MEAN has 2; give one for each channel",
    ("DATA.STD", "[0, 1, 1]"): "above 0",
    ("RUNTIME.COMPILE", "1"): "true or false",
    ("DATA.AUGMENT", "crop"): "not for DATA.DATASET digits",
    ("DATA.ROOT", "x"): "does nothing with DATA.DATASET digits",
    ("DATA.CLASS_FRACTION", "0.5"): "does nothing with DATA.DATASET digits: use imagefolder or imagenet",
    ("TRAIN.WARMUP_EPOCHS", "1000"): "more than TRAIN.EPOCHS",
    ("SEARCH.TEMPERATURE.END", "6"): "tau falls",
    ("OUTPUT_DIR", ""): "OUTPUT_DIR: empty",
    ("VERSION", "2"): "VERSION",
    ("SEED",): "'SEED' has no value",
}


@pytest.mark.parametrize("option", BAD_OPTIONS, ids=" ".join)
def test_bad_options_are_one_clear_line(option):
    with pytest.raises(ConfigError) as error:
        load_config(None, list(option))
    assert BAD_OPTIONS[option] in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


BAD_FILES = {
    "TRAIN: {LRR: 1}": "TRAIN.LRR: no such key, did you mean TRAIN.LR?",
    "TRAINING: {LR: 1}": "TRAINING: no such key, did you mean TRAIN",
    "TRAIN: 3": "TRAIN: a section of keys, not 3",
    "TRAIN: {LR: -1}": "TRAIN.LR: -1.0 is not above 0",
    "TRAIN: {LR: 1}\nTRAIN.LR: 2": "TRAIN.LR: given twice",
    "7: 8": "7: no such key",
    "[1, 2]": "a config is a mapping",
    "VERSION: 99": "newer than this library",
    "_BASE_: missing.yaml": "bad.yaml: _BASE_: ",
    '"TRAIN\\n\\e[31m": 1': r"TRAIN\n\x1b[31m: no such key",
    'OUTPUT_DIR: "a\\0"': "OUTPUT_DIR: 'a\\x00' holds a NUL character",
    "_BASE_: 3": "_BASE_: 3 is not a file name",
    "_BASE_: bad.yaml": "a base may not have a base",
    "SEED: &a 1": "anchors",
    "": "empty",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_bad_files_are_named(tmp_path, text):
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert BAD_FILES[text] in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def load_or_refuse(path: Path) -> None:
    try:
        message = None if isinstance(load_config(path), CfgNode) else "not a config"
    except ConfigError as error:
        message = str(error)
    assert message is None or (message.startswith(str(path.parent)) and message.isprintable() and len(message) < 1000)


KEYS = [key for key, _ in flatten(get_cfg())]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(SCALARS, v, max_size=4), max_leaves=20)


@settings(max_examples=250, deadline=None)
@given(text=st.text(max_size=300) | st.text(alphabet="[]{}&*!:-? \n\"'|>%@`#,a1.e_", max_size=300))
def test_any_text_is_a_config_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    load_or_refuse(path)


@settings(max_examples=250, deadline=None)
@given(content=st.dictionaries(st.sampled_from(KEYS) | st.sampled_from(["TRAIN", "DATA", "_BASE_"]) | SCALARS, VALUES, max_size=5))
def test_any_object_is_a_config_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "any.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    load_or_refuse(path)


def test_options_from_python_have_the_defaults_of_the_keys():
    cfg = get_cfg()
    assert search_options(cfg) == SearchOptions()
    recipe = recipe_of(cfg)
    assert recipe.train == TrainOptions()
    assert recipe.runtime == RuntimeOptions()
    assert recipe.data == replace(DataOptions(), dataset="digits")


def test_merging_leaves_the_defaults_alone(tmp_path):
    cfg, defaults = get_cfg(), get_cfg()
    merge_file(cfg, defaults, write(tmp_path / "a.yaml", "SEED: 4"), {})
    assert (cfg.SEED, defaults.SEED) == (4, 0)
