"""Every key does something under some setting, and says so where it does nothing."""

import ast
import dataclasses
from pathlib import Path

import pytest

from mobile_cv_nas.commands.options import export_options, recipe_of, search_options
from mobile_cv_nas.config import ConfigError, dump_config, flatten, get_cfg, load_config
from mobile_cv_nas.config.keys import CHOICES, RANGES, STRATEGIES
from mobile_cv_nas.config.validate import DISABLED

ROOT = Path(__file__).resolve().parents[2]
KEYS = dict(flatten(get_cfg()))
# Read by the commands themselves rather than through options.
BY_COMMANDS = {"OUTPUT_DIR", "MODEL.ARCH", "MODEL.WEIGHTS", "SEARCH.SPACE", "TRAIN.INIT", "TEST.SPLIT", "TEST.OUTPUT"}
# Settings, one of which allows each key.
SETTINGS = [
    {"SEARCH.FINALISTS": 4},
    {},
    {"DATA.DATASET": "imagefolder"},
    {"DATA.DATASET": "imagefolder", "DATA.AUGMENT": "randaugment"},
    {"TRAIN.OPTIMIZER": "rmsprop"},
    {"TRAIN.INIT": "inherit"},
    {"TRAIN.INIT": "inherit", "TRAIN.QAT": True},
    {"SEARCH.TEMPERATURE.SCHEDULE": "paper"},
    {"SEARCH.OBJECTIVE": "latency"},
    *({"SEARCH.STRATEGY": name} for name in STRATEGIES if name != "dmasking"),
    {"SEARCH.STRATEGY": "one_shot", "SEARCH.ONE_SHOT.SANDWICH": True},
    {"EXPORT.FORMATS": "[onnx]"},
    {"EXPORT.FORMATS": "[onnx]", "EXPORT.INT8": True},
    {"DATA.DATASET": "coco", "HEAD.NAME": "ssdlite", "DATA.AUGMENT": "crop"},
    *({"DATA.DATASET": "coco", "HEAD.NAME": head} for head in ("ssdlite", "retinanet", "lraspp", "deeplabv3")),
]


def texts(settings):
    return [text for key, value in settings.items() for text in (key, str(value))]


def other(key):
    """A value that is not the default."""
    value = KEYS[key]
    if key in CHOICES and isinstance(value, list):
        return f"[{CHOICES[key][0]}]"
    if key in CHOICES:
        return next(choice for choice in reversed(CHOICES[key]) if choice not in (value, "fp16")) if len(CHOICES[key]) > 1 else None
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return {"DATA.MEAN": "[0.1, 0.2, 0.3]", "DATA.STD": "[0.1, 0.2, 0.3]", "SEARCH.LIMITS": "{params: 4M}"}.get(key, "[8]")
    if isinstance(value, str):
        return "elsewhere"
    low, high = RANGES.get(key, (0, 1e9))
    for candidate in (value / 2, value * 2, 1 if isinstance(value, int) else 0.5):
        number = int(candidate) if isinstance(value, int) else candidate
        if low <= number <= high and number != value:
            return number
    raise AssertionError(key)


def load(settings, **values):
    return load_config(None, texts(settings) + [text for pair in values.items() for text in pair])


@pytest.mark.parametrize("key", sorted(set(KEYS) - BY_COMMANDS - {"VERSION"}))
def test_every_key_changes_an_option_under_some_setting(key):
    value = other(key)
    if value is None:  # one strategy so far: nothing else can be chosen
        assert search_options(get_cfg()).strategy == KEYS[key]
        return
    for setting in SETTINGS:
        if key in setting:
            continue
        try:
            before, after = load(setting), load({**setting, key: value})
        except ConfigError:
            continue
        if any(read(before) != read(after) for read in (recipe_of, search_options, export_options)):
            return
    if key in ("DATA.DATASET", "HEAD.NAME"):  # the two go together
        after = load({"DATA.DATASET": "coco", "HEAD.NAME": "lraspp"})
        assert (recipe_of(after).data.dataset, recipe_of(after).head.name) == ("coco", "lraspp")
        return
    raise AssertionError(f"{key}: {value} changes nothing under any setting")


def test_the_commands_read_the_other_keys():
    read = set()
    for path in (ROOT / "mobile_cv_nas" / "commands").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                read.add(ast.unparse(node).removeprefix("cfg."))
    assert read >= BY_COMMANDS
    with pytest.raises(ConfigError, match="VERSION"):
        load_config(None, ["VERSION", "2"])


def test_every_option_has_a_key():
    assert {field.name for field in dataclasses.fields(recipe_of(get_cfg()).data)} == {name.lower() for name in get_cfg().DATA}


def test_every_key_has_a_comment():
    lines = (ROOT / "mobile_cv_nas" / "config" / "keys.py").read_text(encoding="utf-8").splitlines()
    for key in KEYS:
        (line,) = [line for line in lines if line.startswith(f"_C.{key} = ")]
        assert "  # " in line, key
    for table in (CHOICES, RANGES):
        assert set(table) <= set(KEYS)


# -- keys that others disable -------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(DISABLED)), ids=[f"{rule.keys[0]} by {rule.by or 'purpose'}" for rule in DISABLED])
def test_every_rule_refuses_what_it_is_for(index):
    """A rule that never fires is dead; one that fires for the default, with nothing set, would refuse every run."""
    rule = DISABLED[index]
    covered = [key for key in KEYS if rule.covers(key)]
    assert covered
    assert all(any(name == key or name.endswith(".*") for key in covered) for name in rule.keys)
    fired = False
    for purpose in ("", "search", "train", "test"):
        for setting in [*SETTINGS, {"TRAIN.MOMENTUM": 0, "DATA.DATASET": "digits"}]:
            key = next((k for k in covered if k not in setting and k not in ("SEARCH.SPACE", "SEARCH.STRATEGY")), None)
            if key is None:
                continue
            load_config(None, texts({k: v for k, v in setting.items() if not any(r.covers(k) for r in DISABLED)}), purpose)
            try:
                load_config(None, texts({**setting, key: other(key)}), purpose)
            except ConfigError as error:
                text = str(error)
                if f"{key}: " in text and rule.remedy in text:
                    assert (rule.by or f"a {purpose}") in text
                    assert "\n" not in text
                    fired = True
    assert fired


DEAD = [
    (["TRAIN.RMSPROP_DECAY", "0.9"], "TRAIN.RMSPROP_DECAY: 0.9 does nothing with TRAIN.OPTIMIZER sgd: use rmsprop"),
    (["TRAIN.RMSPROP_EPS", "0.1"], "TRAIN.OPTIMIZER sgd"),
    (["TRAIN.NESTEROV", "true", "TRAIN.OPTIMIZER", "rmsprop"], "TRAIN.NESTEROV: True does nothing with TRAIN.OPTIMIZER rmsprop"),
    (["TRAIN.NESTEROV", "true", "TRAIN.MOMENTUM", "0"], "TRAIN.MOMENTUM"),
    (["DATA.RANDAUGMENT_MAGNITUDE", "5"], "DATA.AUGMENT none: use randaugment"),
    (["DATA.CROP_SCALE", "0.5"], "DATA.AUGMENT none: use crop or randaugment"),
    (["SEARCH.TEMPERATURE.DECAY", "0.1"], "SEARCH.TEMPERATURE.SCHEDULE geometric: use paper"),
    (["SEARCH.TEMPERATURE.SCHEDULE", "paper", "SEARCH.TEMPERATURE.END", "0.1"], "SEARCH.TEMPERATURE.SCHEDULE paper: use geometric"),
    (["HEAD.CHANNELS", "64"], 'HEAD.NAME "": name a head'),
    (["HEAD.INPUT_SIZE", "64"], 'HEAD.NAME "": name a head'),
    (["DATA.WORKERS", "4"], "DATA.DATASET digits: its images are in memory"),
    (["DATA.ON_BAD", "skip"], "DATA.DATASET digits: use coco"),
]


@pytest.mark.parametrize(("opts", "reason"), DEAD, ids=[" ".join(opts) for opts, _ in DEAD])
def test_a_key_that_does_nothing_is_refused_and_both_are_named(opts, reason):
    with pytest.raises(ConfigError) as error:
        load_config(None, opts)
    assert reason in str(error.value)
    assert str(error.value).startswith("command line: ")


SCENES = ["HEAD.NAME", "lraspp", "DATA.DATASET", "digit_scenes"]


@pytest.mark.parametrize(
    ("purpose", "opts", "reason"),
    [
        ("search", ["MODEL.ARCH", "FBNetV2_F1"], "MODEL.ARCH: 'FBNetV2_F1' does nothing with a search"),
        ("search", ["TEST.SPLIT", "val"], "TEST.SPLIT: 'val' does nothing with a search"),
        ("train", ["SEARCH.EPOCHS", "3"], "SEARCH.EPOCHS: 3 does nothing with a train"),
        ("test", ["TRAIN.LR", "0.1"], "TRAIN.LR: 0.1 does nothing with a test"),
        ("test", ["OUTPUT_DIR", "out"], "OUTPUT_DIR: 'out' does nothing with a test: set TEST.OUTPUT, or leave OUTPUT_DIR out"),
        ("test", [*SCENES, "HEAD.INPUT_SIZE", "64"], "HEAD.INPUT_SIZE: 64 does nothing with a test: the model has a head of its own"),
        ("test", [*SCENES, "HEAD.CHANNELS=8"], "HEAD.CHANNELS: 8 does nothing with a test"),
    ],
)
def test_what_a_tool_does_not_read_is_refused(purpose, opts, reason):
    load_config(None, opts)
    with pytest.raises(ConfigError) as error:
        load_config(None, opts, purpose)
    assert reason in str(error.value)


def test_a_test_reads_the_head_of_a_file_of_keys(tmp_path):
    """What a training left says its head and its folder; of a data set with boxes or masks the name of a head says which."""
    (tmp_path / "config.yaml").write_text(dump_config(load_config(None, [*SCENES, "HEAD.INPUT_SIZE", "64", "OUTPUT_DIR", "out"], "train")))
    assert load_config(tmp_path / "config.yaml", SCENES, "test").HEAD.INPUT_SIZE == 64


def test_what_says_the_same_as_leaving_it_out_is_accepted():
    load_config(None, ["DATA.WORKERS", "0", "HEAD.CHANNELS", "0", "TRAIN.NESTEROV", "false", "TRAIN.OPTIMIZER", "rmsprop", "DATA.ROOT", ""])


def test_only_the_last_file_and_the_command_line_count_as_set(tmp_path):
    (tmp_path / "base.yaml").write_text("TRAIN: {OPTIMIZER: rmsprop, RMSPROP_DECAY: 0.5}\n")
    path = tmp_path / "derived.yaml"
    path.write_text("_BASE_: base.yaml\nTRAIN: {OPTIMIZER: sgd}\n")
    cfg = load_config(path)
    assert KEYS["TRAIN.RMSPROP_DECAY"] == cfg.TRAIN.RMSPROP_DECAY  # nothing reads it: back to its default
    (tmp_path / "run.yaml").write_text(dump_config(cfg))
    assert load_config(tmp_path / "run.yaml") == cfg  # a run's own file, which has every key, is valid
    path.write_text("_BASE_: base.yaml\nTRAIN: {OPTIMIZER: sgd, RMSPROP_DECAY: 0.5}\n")
    with pytest.raises(ConfigError, match=r"derived\.yaml: TRAIN\.RMSPROP_DECAY: 0\.5 does nothing with TRAIN\.OPTIMIZER sgd"):
        load_config(path)
    path.write_text("TRAIN: {OPTIMIZER: rmsprop, RMSPROP_DECAY: 0.5}\n")
    with pytest.raises(ConfigError, match="RMSPROP_DECAY"):
        load_config(path, ["TRAIN.OPTIMIZER", "sgd"])
    assert load_config(path).TRAIN.RMSPROP_DECAY == 0.5


# -- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("60M", 60e6), ("60m", 60e6), ("60e6", 60e6), ("400k", 400e3), ("1.5G", 1.5e9), ("2B", 2e9), ("7", 7)]
)
def test_targets_as_people_write_them(tmp_path, text, value):
    assert value == load_config(None, ["SEARCH.TARGET", text]).SEARCH.TARGET
    (tmp_path / "a.yaml").write_text(f"SEARCH: {{TARGET: {text}}}\n")
    assert value == load_config(tmp_path / "a.yaml").SEARCH.TARGET


@pytest.mark.parametrize(
    ("text", "value", "objective"),
    [
        ("8 ms", 8, "latency"),
        ("8.5ms", 8.5, "latency"),
        ("256 kB", 256e3, "memory"),
        ("60M macs", 60e6, "macs"),
        ("4M params", 4e6, "params"),
    ],
)
def test_the_unit_of_a_target_says_the_objective(tmp_path, text, value, objective):
    cfg = load_config(None, ["SEARCH.TARGET", text])
    assert (value, objective) == (cfg.SEARCH.TARGET, cfg.SEARCH.OBJECTIVE)
    (tmp_path / "a.yaml").write_text(f"SEARCH: {{TARGET: {text}}}\n")
    cfg = load_config(tmp_path / "a.yaml")
    assert (value, objective) == (cfg.SEARCH.TARGET, cfg.SEARCH.OBJECTIVE)
    (tmp_path / "run.yaml").write_text(dump_config(cfg))
    assert load_config(tmp_path / "run.yaml") == cfg
    other = "macs" if objective != "macs" else "params"
    with pytest.raises(ConfigError, match=rf"SEARCH\.TARGET: '{text}' is of {objective}, and SEARCH\.OBJECTIVE is {other}"):
        load_config(None, ["SEARCH.TARGET", text, "SEARCH.OBJECTIVE", other])


def test_limits_are_written_as_a_mapping(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("SEARCH: {LIMITS: {macs: 60M, latency: 8 ms}, TABLE: phone.json}\n")
    cfg = load_config(path)
    assert cfg.SEARCH.LIMITS == ["macs: 60M", "latency: 8 ms"]
    assert str(tmp_path / "phone.json") == cfg.SEARCH.TABLE
    (tmp_path / "run.yaml").write_text(dump_config(cfg))
    assert load_config(tmp_path / "run.yaml") == cfg
    assert load_config(None, ["SEARCH.LIMITS", "{params: 4M}"]).SEARCH.LIMITS == ["params: 4M"]
    with pytest.raises(ConfigError, match=r"SEARCH\.LIMITS: 4 is not a list of names, such as \{macs: 60M, params: 4M\}"):
        load_config(None, ["SEARCH.LIMITS", "4"])
    with pytest.raises(ConfigError, match=r"SEARCH\.TABLE: .* does nothing with SEARCH\.OBJECTIVE macs: use latency, or limit it"):
        load_config(None, ["SEARCH.TABLE", "phone.json"])


@pytest.mark.parametrize("text", ["M", "sixtyM", "60T", "60 miles", "ms", "8 ms ms"])
def test_targets_that_are_no_numbers(text):
    with pytest.raises(ConfigError, match=r"SEARCH\.TARGET"):
        load_config(None, ["SEARCH.TARGET", text])


def test_keys_and_values_with_an_equals_sign():
    cfg = load_config(None, ["SEED=4", "TRAIN.LR", "0.5", "OUTPUT_DIR=a=b", "DATA.DATASET=imagefolder", "DATA.ROOT", "x=y"])
    assert (cfg.SEED, cfg.TRAIN.LR, cfg.OUTPUT_DIR, cfg.DATA.ROOT) == (4, 0.5, "a=b", "x=y")
    with pytest.raises(ConfigError, match="SEEED: no such key, did you mean SEED"):
        load_config(None, ["SEEED=4"])
    with pytest.raises(ConfigError, match="'SEED' has no value"):
        load_config(None, ["TRAIN.LR=1", "SEED"])


def test_shipped_spaces_by_name():
    path = load_config(None, ["SEARCH.SPACE", "fbnetv2_l"]).SEARCH.SPACE
    assert Path(path).samefile(ROOT / "configs/spaces/fbnetv2_l.yaml")
    with pytest.raises(ConfigError, match=r"SEARCH\.SPACE: 'fbnetv2_x': no shipped space; one of .*fbnetv2_l"):
        load_config(None, ["SEARCH.SPACE", "fbnetv2_x"])


@pytest.mark.parametrize("count", [1, 4, 64])
def test_means_for_any_number_of_channels(count):
    values = str([0.5] * count)
    assert len(load_config(None, ["DATA.MEAN", values, "DATA.STD", values]).DATA.MEAN) == count


@pytest.mark.parametrize("count", [0, 65])
def test_means_for_impossible_numbers_of_channels(count):
    values = str([0.5] * count)
    with pytest.raises(ConfigError, match="1 to 64 channels"):
        load_config(None, ["DATA.MEAN", values, "DATA.STD", values])
