"""Every configuration key with its default and its meaning, and the checks on their values."""

from __future__ import annotations

import math
import os

from yacs.config import CfgNode

from ..files import dump_yaml
from .files import ConfigError, flatten, merge_file, merge_options, nearest

__all__ = ["DENSE", "DETECTORS", "SEGMENTERS", "ConfigError", "dump_config", "flatten", "get_cfg", "load_config", "validate"]

DETECTORS = ("faster_rcnn", "retinanet", "ssdlite")
SEGMENTERS = ("lraspp", "deeplabv3")
DENSE = ("coco", "voc", "digit_scenes")  # data sets whose labels are boxes or masks

_C = CfgNode()
_C.VERSION = 1  # of this format; a file of a newer version is refused
_C.SEED = 0  # of everything random: weights, order of the images, augmentation, Gumbel noise
_C.OUTPUT_DIR = "output"  # folder of this run's files, made if missing

_C.MODEL = CfgNode()
_C.MODEL.ARCH = ""  # arch file (.yaml, relative to the config file) or a zoo name; "": the one inside MODEL.WEIGHTS
_C.MODEL.WEIGHTS = ""  # .safetensors file to test or to inherit, or "pretrained" for those of a zoo name

_C.HEAD = CfgNode()  # what makes a detector or a segmenter of the network
_C.HEAD.NAME = ""  # detection: faster_rcnn | retinanet | ssdlite; segmentation: lraspp | deeplabv3; "": a classifier
_C.HEAD.INPUT_SIZE = 256  # pixels: the longer side of a detector's image, each side of a segmenter's
_C.HEAD.STRIDES = []  # detection: of the maps it reads; []: the head's own
_C.HEAD.LOW_STRIDE = 8  # lraspp: of its map of fine detail
_C.HEAD.OUTPUT_STRIDE = 16  # segmentation: of the last map; stages beyond it are dilated
_C.HEAD.CHANNELS = 0  # of the head; 0: the head's own
_C.HEAD.ANCHOR_SCALE = 0.0  # faster_rcnn, retinanet: side of the anchors in strides; 0: the head's own
_C.HEAD.MIN_RATIO = 0.0  # ssdlite: side of the boxes on its first map, as a share of the image; 0: the head's own
_C.HEAD.FROZEN_STAGES = 0  # first stages of the backbone that keep their weights and norm statistics
_C.HEAD.FROZEN_NORM = False  # all norms of the backbone keep theirs

_C.DATA = CfgNode()
_C.DATA.DATASET = "digits"  # digits | imagefolder | cifar10 | imagenet; with a HEAD digit_scenes | coco | voc (masks only)
_C.DATA.ROOT = ""  # folder of the images, for every data set but digits; digit_scenes: where to write it, "": the cache
_C.DATA.CLASS_FRACTION = 1.0  # imagefolder, imagenet: random share of the classes to keep (the paper searches on 0.1)
_C.DATA.SPLIT_SEED = 0  # chooses those classes, and which images of a single folder are for validation and test
_C.DATA.VAL_FRACTION = 0.1  # share for validation, of cifar10 and of folders without val/
_C.DATA.TEST_FRACTION = 0.1  # share for the test, of a folder that is not split at all
_C.DATA.MEAN = [0.485, 0.456, 0.406]  # of red, green and blue, for images in 0..1
_C.DATA.STD = [0.229, 0.224, 0.225]  # as MEAN
_C.DATA.CROP_RATIO = 0.875  # image files of a class, not augmented: side of the central crop over the shorter side
_C.DATA.INTERPOLATION = "bilinear"  # bilinear | bicubic, of every resize
_C.DATA.AUGMENT = "none"  # none | affine (slight turn, shift, scale) | crop (and flip) | randaugment (and both; classes only)
_C.DATA.CROP_SCALE = 0.08  # crop, randaugment: smallest area of a crop, as a share of the image
_C.DATA.RANDAUGMENT_MAGNITUDE = 9  # strength of its two operations, 0 to 30
_C.DATA.ERASE = 0.0  # probability of erasing a rectangle of a training image; not for digits
_C.DATA.MIXUP = 0.0  # alpha of MixUp in training; 0 = off
_C.DATA.WORKERS = 2  # processes that read image files, for each training process; digits needs none
_C.DATA.MAX_SKIPPED_SHARE = 0.01  # stop when more than this share of the images cannot be read

_C.SEARCH = CfgNode()
_C.SEARCH.SPACE = ""  # search space file, relative to the config file
_C.SEARCH.OBJECTIVE = "macs"  # macs | params: the cost that TARGET limits
_C.SEARCH.TARGET = 400_000.0  # multiply-adds or parameters the derived network shall have
_C.SEARCH.COST_WEIGHT = 1.0  # of |cost / target - 1| beside the cross-entropy
_C.SEARCH.EPOCHS = 30  # each trains the weights, then alpha
_C.SEARCH.BATCH_SIZE = 64  # images a step, over all processes and ACCUMULATE
_C.SEARCH.WARMUP_FRACTION = 0.2  # share of the epochs in which only the weights learn
_C.SEARCH.ALPHA_FRACTION = 0.2  # share of the training images that alpha learns from; the weights get the rest
_C.SEARCH.WEIGHT_LR = 0.1  # SGD, cosine to 0 over the run
_C.SEARCH.WEIGHT_MOMENTUM = 0.9  # Nesterov's is not used
_C.SEARCH.WEIGHT_DECAY = 1e-4  # of the weights
_C.SEARCH.ALPHA_LR = 0.1  # Adam, constant
_C.SEARCH.ALPHA_WEIGHT_DECAY = 0.0  # of alpha
_C.SEARCH.TEMPERATURE = CfgNode()
_C.SEARCH.TEMPERATURE.SCHEDULE = "geometric"  # geometric (START to END over the run) | paper (START, times exp(-DECAY))
_C.SEARCH.TEMPERATURE.START = 5.0  # tau of the first epoch
_C.SEARCH.TEMPERATURE.END = 0.2  # geometric: tau of the last epoch
_C.SEARCH.TEMPERATURE.DECAY = 0.045  # paper: per epoch
_C.SEARCH.SHARING = "none"  # none (each block type has its own weights) | full (one block for all)
_C.SEARCH.RECOMPUTE = False  # compute candidates again in the backward pass: less memory, more time
_C.SEARCH.RESOLUTION = "all"  # all (every input size each step) | sampled
_C.SEARCH.DRAWS = 2000  # archs drawn where the most probable one misses the target
_C.SEARCH.CANDIDATES = 32  # of these, how many are compared on the validation images
_C.SEARCH.RECALIBRATION_IMAGES = 512  # training images that renew a candidate's norm statistics
_C.SEARCH.TOLERANCE = 0.05  # how far from the target a derived network may be, as a share of it
_C.SEARCH.CLIP_GRAD = 0.0  # largest gradient norm of the weights; 0 = off
_C.SEARCH.ON_NAN = "stop"  # stop | skip: what to do with a step whose loss or gradient is not finite

_C.TRAIN = CfgNode()
_C.TRAIN.EPOCHS = 45  # passes over the training images
_C.TRAIN.BATCH_SIZE = 64  # images a step, over all processes and ACCUMULATE
_C.TRAIN.OPTIMIZER = "sgd"  # sgd | rmsprop
_C.TRAIN.LR = 0.2  # after the warm-up; cosine to 0 over the run
_C.TRAIN.MOMENTUM = 0.9  # of either optimizer
_C.TRAIN.NESTEROV = False  # sgd: Nesterov's momentum
_C.TRAIN.RMSPROP_DECAY = 0.9  # rmsprop: of the mean square
_C.TRAIN.RMSPROP_EPS = 1e-3  # rmsprop: added to its root
_C.TRAIN.WEIGHT_DECAY = 5e-4  # of convolution and linear weights; norms and biases have none
_C.TRAIN.WARMUP_EPOCHS = 0.0  # linear rise of the learning rate from 0; may be a fraction
_C.TRAIN.LABEL_SMOOTHING = 0.0  # share of the probability spread over all classes
_C.TRAIN.EMA_DECAY = 0.0  # of the moving average of the weights, which is then the result; 0 = off
_C.TRAIN.INIT = "scratch"  # scratch | inherit (from the supernet in a search, else from MODEL.WEIGHTS)
_C.TRAIN.CLIP_GRAD = 0.0  # largest gradient norm; 0 = off
_C.TRAIN.ON_NAN = "stop"  # stop | skip: what to do with a step whose loss or gradient is not finite
_C.TRAIN.EVAL_EVERY = 1  # epochs between validations; the last epoch is always validated

_C.TEST = CfgNode()
_C.TEST.SPLIT = "test"  # train | val | test: what tools/test_net.py evaluates
_C.TEST.BATCH_SIZE = 256  # images a step, of each process, also in validation

_C.CHECKPOINT = CfgNode()
_C.CHECKPOINT.MINUTES = 10.0  # between saves within an epoch; each epoch's end saves too
_C.CHECKPOINT.KEEP = 2  # newest checkpoints kept

_C.RUNTIME = CfgNode()
_C.RUNTIME.DEVICE = "auto"  # auto | cpu | cuda
_C.RUNTIME.PRECISION = "no"  # no (float32) | fp16 | bf16: mixed precision
_C.RUNTIME.ACCUMULATE = 1  # batches a step is split into, to save memory
_C.RUNTIME.CHANNELS_LAST = False  # memory layout, faster on recent GPUs and on most CPUs
_C.RUNTIME.COMPILE = False  # torch.compile the network
_C.RUNTIME.SYNC_BN = False  # batch statistics over all processes
_C.RUNTIME.TIMEOUT = 30.0  # minutes after which a hung process ends the run

_CHOICES = {
    "HEAD.NAME": ("", *DETECTORS, *SEGMENTERS),
    "DATA.DATASET": ("digits", "imagefolder", "cifar10", "imagenet", *DENSE),
    "DATA.INTERPOLATION": ("bilinear", "bicubic"),
    "DATA.AUGMENT": ("none", "affine", "crop", "randaugment"),
    "SEARCH.OBJECTIVE": ("macs", "params"),
    "SEARCH.TEMPERATURE.SCHEDULE": ("geometric", "paper"),
    "SEARCH.SHARING": ("none", "full"),
    "SEARCH.RESOLUTION": ("all", "sampled"),
    "SEARCH.ON_NAN": ("stop", "skip"),
    "TRAIN.OPTIMIZER": ("sgd", "rmsprop"),
    "TRAIN.INIT": ("scratch", "inherit"),
    "TRAIN.ON_NAN": ("stop", "skip"),
    "TEST.SPLIT": ("train", "val", "test"),
    "RUNTIME.DEVICE": ("auto", "cpu", "cuda"),
    "RUNTIME.PRECISION": ("no", "fp16", "bf16"),
}

# Inclusive bounds; TINY stands for "more than 0". A number that is not named here may be 0 or more.
_TINY, _ANY = 1e-12, math.inf
_RANGES: dict[str, tuple[float, float]] = {
    "VERSION": (1, 1),  # newer ones have a message of their own in files
    "SEED": (0, 2**32 - 1),
    "HEAD.INPUT_SIZE": (32, 8192),
    "HEAD.MIN_RATIO": (0, 0.9),
    "DATA.CLASS_FRACTION": (_TINY, 1),
    "DATA.SPLIT_SEED": (0, 2**32 - 1),
    "DATA.VAL_FRACTION": (_TINY, 0.9),
    "DATA.TEST_FRACTION": (_TINY, 0.9),
    "DATA.CROP_RATIO": (_TINY, 1),
    "DATA.CROP_SCALE": (_TINY, 1),
    "DATA.RANDAUGMENT_MAGNITUDE": (0, 30),
    "DATA.ERASE": (0, 1),
    "DATA.WORKERS": (0, 256),
    "DATA.MAX_SKIPPED_SHARE": (0, 1),
    "SEARCH.TARGET": (_TINY, _ANY),
    "SEARCH.EPOCHS": (1, 1e6),
    "SEARCH.BATCH_SIZE": (2, 1e6),
    "SEARCH.WARMUP_FRACTION": (0, 1),
    "SEARCH.ALPHA_FRACTION": (_TINY, 1 - 1e-9),
    "SEARCH.WEIGHT_LR": (0, 1e30),  # beyond, float32 overflows inside torch's optimizers
    "SEARCH.ALPHA_LR": (0, 1e30),
    "SEARCH.WEIGHT_MOMENTUM": (0, 1 - 1e-9),
    "SEARCH.TEMPERATURE.START": (1e-3, 1e3),
    "SEARCH.TEMPERATURE.END": (1e-3, 1e3),
    "SEARCH.DRAWS": (1, 1e7),
    "SEARCH.CANDIDATES": (1, 1e6),
    "SEARCH.RECALIBRATION_IMAGES": (2, 1e7),
    "SEARCH.TOLERANCE": (_TINY, 1),
    "TRAIN.EPOCHS": (1, 1e6),
    "TRAIN.BATCH_SIZE": (2, 1e6),
    "TRAIN.LR": (_TINY, 1e30),
    "TRAIN.MOMENTUM": (0, 1 - 1e-9),
    "TRAIN.RMSPROP_DECAY": (0, 1 - 1e-9),
    "TRAIN.RMSPROP_EPS": (_TINY, 1),
    "TRAIN.LABEL_SMOOTHING": (0, 1 - 1e-9),
    "TRAIN.EMA_DECAY": (0, 1 - 1e-9),
    "TRAIN.EVAL_EVERY": (1, 1e6),
    "TEST.BATCH_SIZE": (1, 1e6),
    "CHECKPOINT.MINUTES": (_TINY, 1e6),
    "CHECKPOINT.KEEP": (1, 1000),
    "RUNTIME.ACCUMULATE": (1, 10000),
    "RUNTIME.TIMEOUT": (_TINY, 1e5),
}


def get_cfg() -> CfgNode:
    """A config of all keys at their defaults; the caller's own copy."""
    return _C.clone()


def load_config(path: str | os.PathLike | None = None, opts: list[str] | tuple[str, ...] = ()) -> CfgNode:
    """Defaults, then the file (its `_BASE_` first), then `[KEY, VALUE, KEY, VALUE, ...]`; validated, not frozen.

    Raises ConfigError, which names file, key and remedy.
    """
    cfg = get_cfg()
    sources: dict[str, str] = {}  # where each value was set, for errors
    if path is not None:
        merge_file(cfg, _C, path, sources)
    merge_options(cfg, _C, opts, sources)
    try:
        validate(cfg)
    except ConfigError as error:
        source = sources.get(str(error).split(":")[0])
        raise ConfigError(f"{source}: {error}" if source else str(error)) from None
    return cfg


def dump_config(cfg: CfgNode) -> str:
    """The complete config as YAML text that `load_config` reads back as an equal one."""

    def plain(node: CfgNode) -> dict:
        return {name: plain(value) if isinstance(value, CfgNode) else value for name, value in node.items()}

    return dump_yaml(plain(cfg))


def validate(cfg: CfgNode) -> None:
    """Raises ConfigError where a value of `cfg` is out of range or two values do not go together."""
    for key, value in flatten(cfg):
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(f"{key}: {value!r} does not exist; {nearest(str(value), _CHOICES[key])}")
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{key}: {value!r} holds a NUL character; no name can")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high = _RANGES.get(key, (0, _ANY))
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{key}: {value!r} is not {_interval(low, high)}")
    for name, low in (("MEAN", -_ANY), ("STD", _TINY)):
        values = cfg.DATA[name]
        if len(values) != 3 or not all(math.isfinite(v) and v >= low for v in values):
            raise ConfigError(f"DATA.{name}: {values} is not three numbers{' above 0' if low > 0 else ''}")
    _validate_together(cfg)


def _validate_together(cfg: CfgNode) -> None:
    if not cfg.OUTPUT_DIR:
        raise ConfigError("OUTPUT_DIR: empty; name the folder for this run's files")
    data = cfg.DATA
    if data.DATASET == "digits":
        for key, fits in (
            ("ROOT", not data.ROOT),
            ("AUGMENT", data.AUGMENT in ("none", "affine")),
            ("ERASE", data.ERASE == 0),
        ):
            if not fits:
                raise ConfigError(f"DATA.{key}: {data[key]!r} is not for DATA.DATASET digits; leave it out")
    _validate_head(cfg)
    if data.CLASS_FRACTION < 1 and data.DATASET in ("digits", "cifar10"):
        raise ConfigError(f"DATA.CLASS_FRACTION: {data.DATASET} has all its classes only; leave it at 1")
    if data.VAL_FRACTION + data.TEST_FRACTION >= 1:
        raise ConfigError("DATA.VAL_FRACTION + DATA.TEST_FRACTION: 1 or more; nothing is left to train on")
    if cfg.TRAIN.WARMUP_EPOCHS > cfg.TRAIN.EPOCHS:
        raise ConfigError(f"TRAIN.WARMUP_EPOCHS: {cfg.TRAIN.WARMUP_EPOCHS} is more than TRAIN.EPOCHS")
    if cfg.TRAIN.NESTEROV and (cfg.TRAIN.OPTIMIZER != "sgd" or cfg.TRAIN.MOMENTUM == 0):
        raise ConfigError("TRAIN.NESTEROV: needs TRAIN.OPTIMIZER sgd and a TRAIN.MOMENTUM above 0")
    if cfg.SEARCH.TEMPERATURE.END > cfg.SEARCH.TEMPERATURE.START:
        raise ConfigError("SEARCH.TEMPERATURE.END: above SEARCH.TEMPERATURE.START; tau falls during a search")
    if cfg.RUNTIME.PRECISION == "fp16" and cfg.RUNTIME.DEVICE == "cpu":
        raise ConfigError("RUNTIME.PRECISION: fp16 needs a GPU; use bf16 or no")


def _validate_head(cfg: CfgNode) -> None:
    head, data = cfg.HEAD, cfg.DATA
    dense = data.DATASET in DENSE
    if bool(head.NAME) != dense:
        if dense:
            raise ConfigError(f"HEAD.NAME: empty; DATA.DATASET {data.DATASET} needs one of {', '.join((*DETECTORS, *SEGMENTERS))}")
        raise ConfigError(f"DATA.DATASET: {data.DATASET} has classes only; HEAD.NAME {head.NAME} needs one of {', '.join(DENSE)}")
    detector = head.NAME in DETECTORS
    unfit: list[tuple[str, object, object, str]] = [
        ("HEAD.STRIDES", head.STRIDES, [] if not detector else None, "a detector"),
        ("HEAD.LOW_STRIDE", head.LOW_STRIDE, 8 if head.NAME != "lraspp" else None, "lraspp"),
        ("HEAD.OUTPUT_STRIDE", head.OUTPUT_STRIDE, 16 if head.NAME not in SEGMENTERS else None, "a segmenter"),
        ("HEAD.ANCHOR_SCALE", head.ANCHOR_SCALE, 0 if head.NAME not in ("faster_rcnn", "retinanet") else None, "faster_rcnn and retinanet"),
        ("HEAD.MIN_RATIO", head.MIN_RATIO, 0 if head.NAME != "ssdlite" else None, "ssdlite"),
        ("HEAD.CHANNELS", head.CHANNELS, 0 if not head.NAME else None, "a head"),
        ("HEAD.FROZEN_STAGES", head.FROZEN_STAGES, 0 if not head.NAME else None, "a head"),
        ("HEAD.FROZEN_NORM", head.FROZEN_NORM, False if not head.NAME else None, "a head"),
        ("DATA.MIXUP", data.MIXUP, 0 if dense else None, "a classifier"),
        ("DATA.ERASE", data.ERASE, 0 if dense else None, "a classifier"),
        ("DATA.CLASS_FRACTION", data.CLASS_FRACTION, 1 if dense else None, "a classifier"),
        ("TRAIN.LABEL_SMOOTHING", cfg.TRAIN.LABEL_SMOOTHING, 0 if detector else None, "a classifier or segmenter"),
    ]
    for key, value, only, whose in unfit:
        if only is not None and value != only:
            raise ConfigError(f"{key}: {value!r} is for {whose}, and HEAD.NAME is {head.NAME!r}; leave it out")
    if dense and data.AUGMENT == "randaugment":
        raise ConfigError("DATA.AUGMENT: randaugment would move an image without its boxes or mask; use crop or affine")
    if data.DATASET == "voc" and detector:
        raise ConfigError("DATA.DATASET: voc is read for segmentation; for a detector use coco")


def _interval(low: float, high: float) -> str:
    lower = "above 0" if low == _TINY else f"{low:g} or more"
    upper = "finite" if high == _ANY else "below 1" if high == 1 - 1e-9 else f"at most {high:g}"
    return f"{lower} and {upper}"
