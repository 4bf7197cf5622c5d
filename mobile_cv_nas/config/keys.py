"""Every configuration key: its default, its meaning, and the values it may have."""

from __future__ import annotations

import math

from yacs.config import CfgNode

DETECTORS = ("faster_rcnn", "retinanet", "ssdlite")
SEGMENTERS = ("lraspp", "deeplabv3")
ALPHAS = ("dmasking", "dnas", "darts", "proxyless", "reinforce", "single_path")  # strategies with alphas
SUPERNETS = (*ALPHAS, "one_shot", "slimming")  # those that train a supernet
STRATEGIES = (*SUPERNETS, "predictor", "random", "single")  # of a search
EXPORTS = ("onnx", "pte", "mlpackage")  # kinds of files for other runtimes
DENSE = ("coco", "voc", "digit_scenes")  # data sets whose labels are boxes or masks

_C = CfgNode()
_C.VERSION = 1  # of this format; a file of a newer version is refused
_C.SEED = 0  # of everything random: weights, order of the images, augmentation, Gumbel noise
_C.OUTPUT_DIR = "output"  # folder of this run's files, made if missing

_C.MODEL = CfgNode()
_C.MODEL.ARCH = ""  # arch file (.yaml, relative to the config file) or a zoo name; "": the one inside MODEL.WEIGHTS
_C.MODEL.WEIGHTS = ""  # file (ours, timm's, torchvision's) to test or to inherit; of a zoo name pretrained, or pretrained:timm

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
_C.DATA.IN_CHANNELS = 0  # of the images as the network takes them: 1 (grey), 3, or those of .npy and .tif files; 0: as many as MEAN
_C.DATA.MEAN = [0.485, 0.456, 0.406]  # of red, green and blue, in 0..1; one value: grey, or with IN_CHANNELS that of each channel
_C.DATA.STD = [0.229, 0.224, 0.225]  # as MEAN
_C.DATA.CROP_RATIO = 0.875  # image files of a class, not augmented: side of the central crop over the shorter side
_C.DATA.INTERPOLATION = "bilinear"  # bilinear | bicubic, of every resize
_C.DATA.AUGMENT = "none"  # none | affine (slight turn, shift, scale) | crop (and flip) | randaugment (and both; classes only)
_C.DATA.CROP_SCALE = 0.08  # crop, randaugment: smallest area of a crop, as a share of the image
_C.DATA.RANDAUGMENT_MAGNITUDE = 9  # strength of its two operations, 0 to 30
_C.DATA.ERASE = 0.0  # probability of erasing a rectangle of a training image; not for digits
_C.DATA.MIXUP = 0.0  # alpha of MixUp in training; 0 = off
_C.DATA.BACKGROUND = "white"  # white | black: what is behind the transparent parts of an image
_C.DATA.ON_BAD = "stop"  # coco: stop | skip: what to do with a record that cannot be used
_C.DATA.WORKERS = 2  # processes that read image files, for each training process; digits needs none
_C.DATA.MAX_SKIPPED_SHARE = 0.01  # stop when more than this share of the images cannot be read

_C.SEARCH = CfgNode()
_C.SEARCH.SPACE = ""  # search space file, relative to the config file, or the name of a shipped one, such as fbnetv2_l
_C.SEARCH.STRATEGY = "dmasking"  # how the space is searched
_C.SEARCH.TARGETS = []  # several targets in place of TARGET, [50M, 100M, 200M]: a network each from one search, with shared weights
_C.SEARCH.OBJECTIVE = "macs"  # macs | params | latency (TABLE's milliseconds) | memory (bytes of maps): the cost that TARGET limits
_C.SEARCH.TARGET = 400_000.0  # what the derived network shall cost; 60M, 400k and 60e6 will do, and 8 ms or 256 kB, which say the objective
_C.SEARCH.TABLE = ""  # of latency: a table's file, relative to the config file, or the name of a shipped one
_C.SEARCH.LIMITS = []  # at most so much of other costs: {macs: 60M, params: 4M, latency: 8 ms}
_C.SEARCH.TARGET_CLASSES = 0  # of the network that TARGET is of, where the searched images have fewer classes; 0: as many as these
_C.SEARCH.COST_WEIGHT = 1.0  # of |cost / target - 1| beside the cross-entropy
_C.SEARCH.EPOCHS = 30  # each trains the weights, then alpha
_C.SEARCH.BATCH_SIZE = 64  # images a step, over all processes and ACCUMULATE
_C.SEARCH.WARMUP_FRACTION = 0.2  # share of the epochs in which only the weights learn
_C.SEARCH.ALPHA_FRACTION = 0.2  # share of the training images that alpha learns from; the weights get the rest
_C.SEARCH.WEIGHT_LR = 0.1  # SGD, cosine to 0 over the run
_C.SEARCH.WEIGHT_MOMENTUM = 0.9  # Nesterov's is not used
_C.SEARCH.WEIGHT_DECAY = 1e-4  # of the weights
_C.SEARCH.ALPHA_LR = 0.0  # Adam, constant; times the steps of alpha it should come to 12 to 60; 0: chosen so that it is 24, 0.5 at most
_C.SEARCH.ALPHA_WEIGHT_DECAY = 0.0  # of alpha
_C.SEARCH.TEMPERATURE = CfgNode()
_C.SEARCH.TEMPERATURE.SCHEDULE = "geometric"  # geometric (START to END over the run) | paper (START, times exp(-DECAY))
_C.SEARCH.TEMPERATURE.START = 5.0  # tau of the first epoch
_C.SEARCH.TEMPERATURE.END = 0.2  # geometric: tau of the last epoch
_C.SEARCH.TEMPERATURE.DECAY = 0.045  # paper: per epoch
_C.SEARCH.SHARING = "none"  # none (each block type has its own weights) | full (one block for all)
_C.SEARCH.RECOMPUTE = False  # compute candidates again in the backward pass: less memory, more time
_C.SEARCH.RESOLUTION = "all"  # all (every input size each step) | sampled
_C.SEARCH.DRAWS = 2000  # archs drawn from the alphas
# Of those near the target, how many are compared with the argmax, itself included, on validation images; without test images on those of
# alpha. 1: the argmax is taken if it meets the target.
_C.SEARCH.CANDIDATES = 32  # compared; see above
_C.SEARCH.FINALISTS = 1  # of these, how many are trained for a while before one is chosen; 1 = none
_C.SEARCH.FINALIST_EPOCHS = 5  # of each round of their training, after which the better half goes on
_C.SEARCH.RECALIBRATION_IMAGES = 512  # training images that renew a candidate's norm statistics
_C.SEARCH.TOLERANCE = 0.05  # how far from the target a derived network may be, as a share of it
_C.SEARCH.RANKING_IMAGES = 0  # random validation images that candidates are compared on; 0 = all
_C.SEARCH.ARCH = ""  # single: arch file (relative to the config file) or zoo name to take; "": a uniformly scaled one at TARGET
_C.SEARCH.RANDOM = CfgNode()
_C.SEARCH.RANDOM.ARCHS = 16  # random: archs at TARGET that are trained, for EPOCHS in all
_C.SEARCH.PREDICTOR = CfgNode()
_C.SEARCH.PREDICTOR.SAMPLES = 16  # predictor: archs at TARGET that a Gaussian process learns from, trained for EPOCHS in all
_C.SEARCH.EVOLUTION = CfgNode()  # of one_shot and predictor, and of strategies with alphas where it begins with their candidates
_C.SEARCH.EVOLUTION.FROM_ALPHAS = False  # strategies with alphas: CANDIDATES are the first generation, and what evolves competes with them
_C.SEARCH.EVOLUTION.POPULATION = 32  # archs of a generation
_C.SEARCH.EVOLUTION.GENERATIONS = 10  # after the first
_C.SEARCH.EVOLUTION.MUTATION = 0.1  # probability of each choice to be drawn anew
_C.SEARCH.ONE_SHOT = CfgNode()
_C.SEARCH.ONE_SHOT.SANDWICH = False  # each step the largest arch, the smallest and two random ones, instead of one random
_C.SEARCH.ONE_SHOT.DISTILL = False  # with SANDWICH: all but the largest learn from its probabilities
_C.SEARCH.DARTS = CfgNode()
_C.SEARCH.DARTS.SECOND_ORDER = False  # the alphas' gradient sees the weights' next step, for four passes instead of one
_C.SEARCH.REINFORCE = CfgNode()  # of reinforce, and of proxyless with that gradient
_C.SEARCH.REINFORCE.BASELINE = 0.95  # decay of the mean reward, which is subtracted
_C.SEARCH.PROXYLESS = CfgNode()
_C.SEARCH.PROXYLESS.GRADIENT = "gates"  # gates (of two sampled paths) | reinforce (of the reward of one)
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
_C.TRAIN.CLASS_WEIGHTS = "none"  # none | balanced: of the loss, in inverse proportion to the images of each class
_C.TRAIN.EMA_DECAY = 0.0  # of the moving average of the weights, which is then the result; 0 = off
_C.TRAIN.INIT = "scratch"  # scratch | inherit (from the supernet in a search, else from MODEL.WEIGHTS)
_C.TRAIN.QAT = False  # quantisation-aware: train under the rounding of int8, from a trained classifier (INIT inherit)
_C.TRAIN.CLIP_GRAD = 0.0  # largest gradient norm; 0 = off
_C.TRAIN.ON_NAN = "stop"  # stop | skip: what to do with a step whose loss or gradient is not finite
_C.TRAIN.EVAL_EVERY = 1  # epochs between validations; the last epoch is always validated

_C.TEST = CfgNode()
_C.TEST.SPLIT = "test"  # train | val | test: what tools/test_net.py evaluates
_C.TEST.OUTPUT = ""  # folder for tools/test_net.py's test.json, confusion.png and the worst images; "": none are written
_C.TEST.BATCH_SIZE = 256  # images a step, of each process, also in validation

_C.EXPORT = CfgNode()  # files for other runtimes, written beside the weights at the end of a run, and checked
_C.EXPORT.FORMATS = []  # onnx (ONNX) | pte (ExecuTorch) | mlpackage (Core ML, not checked); several: [onnx, pte]
_C.EXPORT.INT8 = False  # onnx, pte: with 8-bit weights and maps, calibrated on training images
_C.EXPORT.IMAGES = 100  # training images to calibrate on

_C.CHECKPOINT = CfgNode()
_C.CHECKPOINT.MINUTES = 10.0  # between saves within an epoch; each epoch's end saves too
_C.CHECKPOINT.KEEP = 2  # newest checkpoints kept

_C.RUNTIME = CfgNode()
_C.RUNTIME.DEVICE = "auto"  # auto (cuda where there is a GPU, else cpu) | cpu | cuda | mps (training only)
_C.RUNTIME.PRECISION = "no"  # no (float32) | fp16 | bf16: mixed precision
_C.RUNTIME.ACCUMULATE = 1  # batches a step is split into, to save memory
_C.RUNTIME.CHANNELS_LAST = False  # memory layout, faster on recent GPUs and on most CPUs
_C.RUNTIME.COMPILE = False  # torch.compile the network
_C.RUNTIME.SYNC_BN = False  # batch statistics over all processes
_C.RUNTIME.TIMEOUT = 30.0  # minutes after which a hung process ends the run

CHOICES = {
    "HEAD.NAME": ("", *DETECTORS, *SEGMENTERS),
    "DATA.DATASET": ("digits", "imagefolder", "cifar10", "imagenet", *DENSE),
    "DATA.INTERPOLATION": ("bilinear", "bicubic"),
    "DATA.BACKGROUND": ("white", "black"),
    "DATA.ON_BAD": ("stop", "skip"),
    "DATA.AUGMENT": ("none", "affine", "crop", "randaugment"),
    "SEARCH.STRATEGY": STRATEGIES,
    "SEARCH.OBJECTIVE": ("macs", "params", "latency", "memory"),
    "SEARCH.PROXYLESS.GRADIENT": ("gates", "reinforce"),
    "SEARCH.TEMPERATURE.SCHEDULE": ("geometric", "paper"),
    "SEARCH.SHARING": ("none", "full"),
    "SEARCH.RESOLUTION": ("all", "sampled"),
    "SEARCH.ON_NAN": ("stop", "skip"),
    "TRAIN.OPTIMIZER": ("sgd", "rmsprop"),
    "TRAIN.INIT": ("scratch", "inherit"),
    "TRAIN.CLASS_WEIGHTS": ("none", "balanced"),
    "TRAIN.ON_NAN": ("stop", "skip"),
    "TEST.SPLIT": ("train", "val", "test"),
    "EXPORT.FORMATS": EXPORTS,  # each of them
    "RUNTIME.DEVICE": ("auto", "cpu", "cuda", "mps"),
    "RUNTIME.PRECISION": ("no", "fp16", "bf16"),
}

# Inclusive bounds; TINY stands for "more than 0". A number that is not named here may be 0 or more.
TINY, ANY = 1e-12, math.inf
RANGES: dict[str, tuple[float, float]] = {
    "VERSION": (1, 1),  # newer ones have a message of their own in files
    "SEED": (0, 2**32 - 1),
    "HEAD.INPUT_SIZE": (32, 8192),
    "HEAD.MIN_RATIO": (0, 0.9),
    "DATA.IN_CHANNELS": (0, 64),
    "DATA.CLASS_FRACTION": (TINY, 1),
    "DATA.SPLIT_SEED": (0, 2**32 - 1),
    "DATA.VAL_FRACTION": (TINY, 0.9),
    "DATA.TEST_FRACTION": (TINY, 0.9),
    "DATA.CROP_RATIO": (TINY, 1),
    "DATA.CROP_SCALE": (TINY, 1),
    "DATA.RANDAUGMENT_MAGNITUDE": (0, 30),
    "DATA.ERASE": (0, 1),
    "DATA.WORKERS": (0, 256),
    "DATA.MAX_SKIPPED_SHARE": (0, 1),
    "SEARCH.TARGET": (TINY, ANY),
    "SEARCH.TARGETS": (TINY, ANY),  # each of them
    "SEARCH.EPOCHS": (1, 1e6),
    "SEARCH.BATCH_SIZE": (2, 1e6),
    "SEARCH.WARMUP_FRACTION": (0, 1),
    "SEARCH.ALPHA_FRACTION": (TINY, 1 - 1e-9),
    "SEARCH.WEIGHT_LR": (0, 1e30),  # beyond, float32 overflows inside torch's optimizers
    "SEARCH.ALPHA_LR": (0, 1e30),
    "SEARCH.WEIGHT_MOMENTUM": (0, 1 - 1e-9),
    "SEARCH.TEMPERATURE.START": (1e-3, 1e3),
    "SEARCH.TEMPERATURE.END": (1e-3, 1e3),
    "SEARCH.DRAWS": (1, 1e7),
    "SEARCH.CANDIDATES": (1, 1e6),
    "SEARCH.FINALISTS": (1, 4096),
    "SEARCH.FINALIST_EPOCHS": (1, 1e6),
    "SEARCH.RECALIBRATION_IMAGES": (2, 1e7),
    "SEARCH.TOLERANCE": (TINY, 1),
    "SEARCH.RANDOM.ARCHS": (1, 4096),
    "SEARCH.PREDICTOR.SAMPLES": (4, 4096),
    "SEARCH.EVOLUTION.POPULATION": (2, 1e5),
    "SEARCH.EVOLUTION.GENERATIONS": (0, 1e5),
    "SEARCH.EVOLUTION.MUTATION": (TINY, 1),
    "SEARCH.REINFORCE.BASELINE": (0, 1 - 1e-9),
    "TRAIN.EPOCHS": (1, 1e6),
    "TRAIN.BATCH_SIZE": (2, 1e6),
    "TRAIN.LR": (TINY, 1e30),
    "TRAIN.MOMENTUM": (0, 1 - 1e-9),
    "TRAIN.RMSPROP_DECAY": (0, 1 - 1e-9),
    "TRAIN.RMSPROP_EPS": (TINY, 1),
    "TRAIN.LABEL_SMOOTHING": (0, 1 - 1e-9),
    "TRAIN.EMA_DECAY": (0, 1 - 1e-9),
    "TRAIN.EVAL_EVERY": (1, 1e6),
    "TEST.BATCH_SIZE": (1, 1e6),
    "EXPORT.IMAGES": (1, 1e6),
    "CHECKPOINT.MINUTES": (TINY, 1e6),
    "CHECKPOINT.KEEP": (1, 1000),
    "RUNTIME.ACCUMULATE": (1, 10000),
    "RUNTIME.TIMEOUT": (TINY, 1e5),
}


def get_cfg() -> CfgNode:
    """A config of all keys at their defaults; the caller's own copy."""
    return _C.clone()
