"""Whether the values of a config can be, and go together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from ..errors import did_you_mean, shown
from .files import COMMAND_LINE, ConfigError, flatten
from .keys import ALPHAS, ANY, CHOICES, DENSE, DETECTORS, RANGES, SEGMENTERS, STRATEGIES, SUPERNETS, TINY, get_cfg

PURPOSES = ("", "search", "train", "test")
MAX_CHANNELS = 64  # of an image


@dataclass(frozen=True)
class Rule:
    """Keys that do nothing under some setting of others."""

    keys: tuple[str, ...]  # "HEAD.*" stands for all of a section
    when: Callable[[CfgNode, str], bool]  # of the config and the purpose: whether they do nothing
    by: str  # the key that disables them, whose value is told; "" if it is the purpose
    remedy: str  # what would make them work
    harmless: tuple[Any, ...] = ()  # values that say the same as not setting them
    typed_only: bool = False  # an error on the command line only: one file may serve several tools

    def covers(self, key: str) -> bool:
        """Whether the rule is of that key."""
        return any(key == name or (name.endswith(".*") and key.startswith(name[:-1])) for name in self.keys)


def _dataset(*names: str) -> Callable[[CfgNode, str], bool]:
    return lambda cfg, _: cfg.DATA.DATASET in names


def _not_dataset(*names: str) -> Callable[[CfgNode, str], bool]:
    return lambda cfg, _: cfg.DATA.DATASET not in names


def _not_head(*names: str) -> Callable[[CfgNode, str], bool]:
    return lambda cfg, _: cfg.HEAD.NAME not in names


def _purpose(*names: str) -> Callable[[CfgNode, str], bool]:
    return lambda _, purpose: purpose in names


def _strategy(keys: str, names: Sequence[str], remedy: str = "", harmless: tuple[Any, ...] = ()) -> Rule:
    """Keys that only some strategies read. One file may serve several, so that only typed ones are refused."""
    told = remedy or "it is for " + ", ".join(names)
    named = tuple(f"SEARCH.{key}" for key in keys.split())
    return Rule(named, lambda c, _: c.SEARCH.STRATEGY not in names, "SEARCH.STRATEGY", told, harmless, typed_only=True)


STRATEGY_RULES = (
    _strategy("ALPHA_LR ALPHA_FRACTION ALPHA_WEIGHT_DECAY COST_WEIGHT WARMUP_FRACTION DRAWS CANDIDATES", ALPHAS),
    _strategy("TEMPERATURE.*", ("dmasking", "dnas")),
    _strategy("FINALISTS FINALIST_EPOCHS", (*ALPHAS, "one_shot"), harmless=(1,)),
    Rule(("SEARCH.FINALIST_EPOCHS",), lambda c, _: c.SEARCH.FINALISTS == 1, "SEARCH.FINALISTS", "raise it"),
    _strategy("SHARING", tuple(name for name in STRATEGIES if name != "single_path"), "it has one super-kernel"),
    _strategy("DARTS.SECOND_ORDER", ("darts",), harmless=(False,)),
    _strategy("PROXYLESS.GRADIENT", ("proxyless",)),
    _strategy("REINFORCE.BASELINE", ("reinforce", "proxyless")),
    Rule(
        ("SEARCH.REINFORCE.BASELINE",),
        lambda c, _: c.SEARCH.STRATEGY == "proxyless" and c.SEARCH.PROXYLESS.GRADIENT == "gates",
        "SEARCH.PROXYLESS.GRADIENT",
        "use reinforce",
        typed_only=True,
    ),
    _strategy(
        "BATCH_SIZE WEIGHT_LR WEIGHT_MOMENTUM WEIGHT_DECAY CLIP_GRAD SHARING RECOMPUTE RESOLUTION ON_NAN "
        "RECALIBRATION_IMAGES RANKING_IMAGES",
        SUPERNETS,
    ),
    _strategy("EPOCHS", (*SUPERNETS, "predictor", "random")),
    _strategy("ARCH", ("single",), harmless=("",)),
    _strategy("RANDOM.ARCHS", ("random",)),
    _strategy("EVOLUTION.FROM_ALPHAS", ALPHAS, harmless=(False,)),
    Rule(
        ("SEARCH.EVOLUTION.POPULATION", "SEARCH.EVOLUTION.GENERATIONS", "SEARCH.EVOLUTION.MUTATION"),
        lambda c, _: c.SEARCH.STRATEGY not in ("one_shot", "predictor") and not c.SEARCH.EVOLUTION.FROM_ALPHAS,
        "SEARCH.STRATEGY",
        "set SEARCH.EVOLUTION.FROM_ALPHAS, or use one_shot or predictor",
        typed_only=True,
    ),
    _strategy("PREDICTOR.SAMPLES", ("predictor",)),
    _strategy("ONE_SHOT.*", ("one_shot",), harmless=(False,)),
    Rule(("SEARCH.ONE_SHOT.DISTILL",), lambda c, _: not c.SEARCH.ONE_SHOT.SANDWICH, "SEARCH.ONE_SHOT.SANDWICH", "set it", (False,)),
)

_HEAD = tuple(f"HEAD.{name}" for name in get_cfg().HEAD if name != "NAME")  # that one says which labels a data set has

# The one table of keys that others disable. Set, such a key would be a wish that nothing fulfils.
DISABLED = (
    Rule(("TRAIN.RMSPROP_DECAY", "TRAIN.RMSPROP_EPS"), lambda c, _: c.TRAIN.OPTIMIZER != "rmsprop", "TRAIN.OPTIMIZER", "use rmsprop"),
    Rule(("TRAIN.NESTEROV",), lambda c, _: c.TRAIN.OPTIMIZER != "sgd", "TRAIN.OPTIMIZER", "use sgd", (False,)),
    Rule(("TRAIN.NESTEROV",), lambda c, _: c.TRAIN.MOMENTUM == 0, "TRAIN.MOMENTUM", "set it above 0", (False,)),
    Rule(("TRAIN.LABEL_SMOOTHING",), lambda c, _: c.HEAD.NAME in DETECTORS, "HEAD.NAME", "use a classifier or segmenter", (0,)),
    Rule(("TRAIN.QAT",), lambda c, _: c.HEAD.NAME != "", "HEAD.NAME", "use a classifier", (False,)),
    Rule(("TRAIN.QAT",), lambda c, _: c.TRAIN.INIT != "inherit", "TRAIN.INIT", "use inherit, from a trained model", (False,)),
    Rule(("TRAIN.QAT",), _purpose("search"), "", "train the network that was found with it", (False,)),
    Rule(("RUNTIME.COMPILE",), lambda c, _: c.TRAIN.QAT, "TRAIN.QAT", "it rounds outside of compiled code", (False,)),
    Rule(("TRAIN.CLASS_WEIGHTS",), lambda c, _: c.HEAD.NAME != "", "HEAD.NAME", "use a classifier", ("none",)),
    Rule(("DATA.RANDAUGMENT_MAGNITUDE",), lambda c, _: c.DATA.AUGMENT != "randaugment", "DATA.AUGMENT", "use randaugment"),
    Rule(("DATA.CROP_SCALE",), lambda c, _: c.DATA.AUGMENT not in ("crop", "randaugment"), "DATA.AUGMENT", "use crop or randaugment"),
    Rule(("DATA.CROP_SCALE",), lambda c, _: c.HEAD.NAME in DETECTORS, "HEAD.NAME", "a detector crops around its objects"),
    Rule(("DATA.CROP_RATIO",), _dataset("digits", *DENSE), "DATA.DATASET", "it is for image files of a class"),
    Rule(("DATA.INTERPOLATION",), lambda c, _: c.HEAD.NAME in DETECTORS, "HEAD.NAME", "a detector resizes its images itself"),
    Rule(("DATA.CLASS_FRACTION",), _not_dataset("imagefolder", "imagenet"), "DATA.DATASET", "use imagefolder or imagenet", (1,)),
    Rule(("DATA.VAL_FRACTION",), _not_dataset("imagefolder", "cifar10"), "DATA.DATASET", "its validation images are fixed"),
    Rule(("DATA.TEST_FRACTION",), _not_dataset("imagefolder"), "DATA.DATASET", "its test images are fixed"),
    Rule(("DATA.SPLIT_SEED",), _dataset("digits", *DENSE), "DATA.DATASET", "its splits are fixed"),
    Rule(("DATA.BACKGROUND",), _dataset("digits", "cifar10", "digit_scenes"), "DATA.DATASET", "its images have no transparent parts"),
    Rule(("DATA.ON_BAD",), _not_dataset("coco", "digit_scenes"), "DATA.DATASET", "use coco", ("stop",)),
    Rule(("DATA.ROOT",), _dataset("digits"), "DATA.DATASET", "use imagefolder for a folder of images", ("",)),
    Rule(("DATA.WORKERS",), _dataset("digits"), "DATA.DATASET", "its images are in memory", (0,)),
    Rule(("DATA.MAX_SKIPPED_SHARE",), _dataset("digits"), "DATA.DATASET", "its images are in memory"),
    Rule(("DATA.ERASE",), _dataset("digits"), "DATA.DATASET", "it is for image files of a class", (0,)),
    Rule(("DATA.ERASE", "DATA.MIXUP"), _dataset(*DENSE), "DATA.DATASET", "they are for a classifier", (0,)),
    Rule(
        ("SEARCH.TABLE",),
        lambda c, _: c.SEARCH.OBJECTIVE != "latency" and not any(text.startswith("latency") for text in c.SEARCH.LIMITS),
        "SEARCH.OBJECTIVE",
        "use latency, or limit it",
        ("",),
    ),
    Rule(("SEARCH.TEMPERATURE.DECAY",), lambda c, _: c.SEARCH.TEMPERATURE.SCHEDULE != "paper", "SEARCH.TEMPERATURE.SCHEDULE", "use paper"),
    Rule(
        ("SEARCH.TEMPERATURE.END",),
        lambda c, _: c.SEARCH.TEMPERATURE.SCHEDULE != "geometric",
        "SEARCH.TEMPERATURE.SCHEDULE",
        "use geometric",
    ),
    Rule(("SEARCH.TARGET_CLASSES",), lambda c, _: c.HEAD.NAME != "", "HEAD.NAME", "it is for a classifier", (0,)),
    *STRATEGY_RULES,
    Rule(_HEAD, _purpose("test"), "", "the model has a head of its own", typed_only=True),
    Rule(("OUTPUT_DIR",), _purpose("test"), "", "set TEST.OUTPUT", typed_only=True),
    Rule(("HEAD.INPUT_SIZE",), _not_head(*DETECTORS, *SEGMENTERS), "HEAD.NAME", "name a head"),
    Rule(("HEAD.CHANNELS", "HEAD.FROZEN_STAGES", "HEAD.FROZEN_NORM"), _not_head(*DETECTORS, *SEGMENTERS), "HEAD.NAME", "name a head", (0,)),
    Rule(("HEAD.STRIDES",), _not_head(*DETECTORS), "HEAD.NAME", "it is for a detector", ([],)),
    Rule(("HEAD.LOW_STRIDE",), _not_head("lraspp"), "HEAD.NAME", "it is for lraspp"),
    Rule(("HEAD.OUTPUT_STRIDE",), _not_head(*SEGMENTERS), "HEAD.NAME", "it is for a segmenter"),
    Rule(("HEAD.ANCHOR_SCALE",), _not_head("faster_rcnn", "retinanet"), "HEAD.NAME", "it is for faster_rcnn and retinanet", (0,)),
    Rule(("HEAD.MIN_RATIO",), _not_head("ssdlite"), "HEAD.NAME", "it is for ssdlite", (0,)),
    Rule(("EXPORT.INT8",), lambda c, _: not set(c.EXPORT.FORMATS) & {"onnx", "pte"}, "EXPORT.FORMATS", "name onnx or pte", (False,)),
    Rule(("EXPORT.IMAGES",), lambda c, _: not c.EXPORT.INT8, "EXPORT.INT8", "set it"),
    Rule(("EXPORT.*",), _purpose("test"), "", "tools/export_net.py writes files", ([],), typed_only=True),
    Rule(("MODEL.*",), _purpose("search"), "", "a search finds the network; set SEARCH.SPACE", ("",)),
    Rule(("TEST.SPLIT", "TEST.OUTPUT"), _purpose("search", "train"), "", "tools/test_net.py reads it", typed_only=True),
    Rule(("SEARCH.*",), _purpose("train", "test"), "", "tools/search_net.py reads it", typed_only=True),
    Rule(("TRAIN.*", "CHECKPOINT.*"), _purpose("test"), "", "tools/train_net.py reads it", typed_only=True),
)


def disabled(cfg: CfgNode, key: str, purpose: str = "") -> Rule | None:
    """The rule by which a key does nothing here, if there is one."""
    return next((rule for rule in DISABLED if not rule.typed_only and rule.covers(key) and rule.when(cfg, purpose)), None)


def validate(cfg: CfgNode, purpose: str = "", sources: Mapping[str, str] | None = None, file: str | None = None) -> None:
    """Raises ConfigError where a value of `cfg` is out of range, or keys do not go together.

    `sources` says where each key was set: by COMMAND_LINE or a file, of which `file` is the last. Without it every key
    that has not its default counts as set by `file`.
    """
    for key, value in flatten(cfg):
        for one in (value if isinstance(value, list) else [value]) if key in CHOICES else []:
            if one not in CHOICES[key]:
                raise ConfigError(f"{key}: {shown(one)} does not exist{did_you_mean(str(one), CHOICES[key], few=12)}")
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{key}: {value!r} holds a NUL character; no name can")
        numbers = value if isinstance(value, list) and key in RANGES else [value]
        for one in [one for one in numbers if isinstance(one, (int, float)) and not isinstance(one, bool)]:
            low, high = RANGES.get(key, (0, ANY))
            if not (math.isfinite(one) and low <= one <= high):
                raise ConfigError(f"{key}: {one!r} is not {_interval(low, high)}")
    _check_channels(cfg)
    _check_together(cfg)
    _check_disabled(cfg, purpose, sources, file)


def _check_channels(cfg: CfgNode) -> None:
    for name, low in (("MEAN", -ANY), ("STD", TINY)):
        values = cfg.DATA[name]
        if not 1 <= len(values) <= MAX_CHANNELS or not all(math.isfinite(v) and v >= low for v in values):
            above = " above 0" if low > 0 else ""
            raise ConfigError(f"DATA.{name}: {shown(values)} is not a number{above} for each of 1 to {MAX_CHANNELS} channels")
    if not cfg.DATA.IN_CHANNELS and len(cfg.DATA.MEAN) != len(cfg.DATA.STD):
        raise ConfigError(f"DATA.STD: {len(cfg.DATA.STD)} values, and DATA.MEAN has {len(cfg.DATA.MEAN)}; give one for each channel")


def _check_together(cfg: CfgNode) -> None:
    data, head = cfg.DATA, cfg.HEAD.NAME
    if not cfg.OUTPUT_DIR:
        raise ConfigError("OUTPUT_DIR: empty; name the folder for this run's files")
    dense = data.DATASET in DENSE
    if dense and not head:
        raise ConfigError(f"HEAD.NAME: empty; DATA.DATASET {data.DATASET} needs one of {', '.join((*DETECTORS, *SEGMENTERS))}")
    if head and not dense:
        raise ConfigError(f"DATA.DATASET: {data.DATASET} has classes only; HEAD.NAME {head} needs one of {', '.join(DENSE)}")
    if data.DATASET == "voc" and head in DETECTORS:
        raise ConfigError("DATA.DATASET: voc is read for segmentation; for a detector use coco")
    if data.DATASET == "digits" and data.AUGMENT not in ("none", "affine"):
        raise ConfigError(f"DATA.AUGMENT: {data.AUGMENT!r} is not for DATA.DATASET digits; use affine or none")
    if dense and data.AUGMENT == "randaugment":
        raise ConfigError("DATA.AUGMENT: randaugment would move an image without its boxes or mask; use crop or affine")
    if data.VAL_FRACTION + data.TEST_FRACTION >= 1:
        raise ConfigError("DATA.VAL_FRACTION + DATA.TEST_FRACTION: 1 or more; nothing is left to train on")
    if cfg.EXPORT.FORMATS and head == "faster_rcnn":
        raise ConfigError("EXPORT.FORMATS: a faster_rcnn has two stages and cannot be exported; use ssdlite, or leave EXPORT.FORMATS out")
    if cfg.TRAIN.WARMUP_EPOCHS > cfg.TRAIN.EPOCHS:
        raise ConfigError(f"TRAIN.WARMUP_EPOCHS: {cfg.TRAIN.WARMUP_EPOCHS} is more than TRAIN.EPOCHS")
    tau = cfg.SEARCH.TEMPERATURE
    if tau.SCHEDULE == "geometric" and tau.END > tau.START:
        raise ConfigError("SEARCH.TEMPERATURE.END: above SEARCH.TEMPERATURE.START; tau falls during a search")
    if cfg.RUNTIME.PRECISION == "fp16" and cfg.RUNTIME.DEVICE == "cpu":
        raise ConfigError("RUNTIME.PRECISION: fp16 needs a GPU; use bf16 or no")


def _check_disabled(cfg: CfgNode, purpose: str, sources: Mapping[str, str] | None, file: str | None) -> None:
    defaults, values = dict(flatten(get_cfg())), dict(flatten(cfg))
    given = sources if sources is not None else dict.fromkeys(values, file or "")
    for key, source in given.items():
        typed, value = source == COMMAND_LINE, values[key]
        if not typed and (source != (file or "") or value == defaults[key]):
            continue
        for rule in DISABLED:
            if rule.covers(key) and value not in rule.harmless and (typed or not rule.typed_only) and rule.when(cfg, purpose):
                by = f"{rule.by} {values[rule.by] or chr(34) * 2}" if rule.by else f"a {purpose}"
                raise ConfigError(f"{key}: {shown(value)} does nothing with {by}: {rule.remedy}, or leave {key} out")


def _interval(low: float, high: float) -> str:
    lower = "above 0" if low == TINY else f"{low:g} or more"
    upper = "finite" if high == ANY else "below 1" if high == 1 - 1e-9 else f"at most {high:g}"
    return f"{lower} and {upper}"
