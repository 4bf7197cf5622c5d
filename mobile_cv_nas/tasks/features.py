"""Feature modules for detection and segmentation heads: found by name or taken as they are, reduced to some maps, frozen."""

from __future__ import annotations

import copy
import logging
import numbers
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..arch import ArchDef
from ..errors import InputError
from ..model_zoo.builder import find_arch
from ..model_zoo.weights import load_weights as load_zoo_weights
from ..networks.backbone import FeatureBackbone, dilate
from ..networks.build import build_model
from ..weights.file import WeightsError, load_weights
from ..weights.fit import check_arch

_BODY = "backbone.body."  # of a backbone in a detector or a segmenter
_LOG = logging.getLogger(__name__)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def backbone_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a backbone, with their defaults, and the rest."""
    own: dict[str, Any] = {"pretrained": False, "weights": None, "frozen_stages": 0, "frozen_norm": False, "in_channels": 3}
    rest = {name: value for name, value in options.items() if name not in own}
    return {name: options.get(name, default) for name, default in own.items()}, rest


class Features:
    """A module that gives maps, and what is known of them: all that a head needs of its backbone.

    Args:
        backbone: a name of the zoo, an ArchDef, the path of an arch file; or a module that returns maps (a list, tuple or mapping)
            and has `feature_info`, with channels and strides as ours or as timm's.
        pretrained: load the network's published weights, or those of a library's hub ("timm").
        weights: a file to load; goes before `pretrained`. Of a detector or a segmenter of this library its backbone is taken.
        in_channels: of the images, for a backbone by name or arch.

    Attributes:
        body: the module. One that was given is never changed: where it has to be, a copy of it is.
        channels: of each map.
        strides: input pixels a pixel of each map.
        mean: of the images the network was trained on, in 0..1.
        std: as mean.

    Raises:
        InputError: not a backbone; weights asked for a module.
        ZooError, ArchError, WeightsError: as `fbnet_builder`.
    """

    def __init__(self, backbone: Any, pretrained: bool | str = False, weights: str | os.PathLike | None = None, in_channels: int = 3):
        self.in_channels = in_channels
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self._owned = not isinstance(backbone, nn.Module)
        if self._owned:
            self.body: nn.Module = self._build(backbone, pretrained, weights)
        elif pretrained or weights is not None:
            raise InputError("pretrained and weights are for a backbone by name or arch: load the weights into the module before")
        else:
            self.body = backbone
        self.channels, self.strides = describe(self.body)
        self.indices = list(range(len(self.strides)))

    def _build(self, backbone: Any, pretrained: bool | str, weights: str | os.PathLike | None) -> FeatureBackbone:
        if not isinstance(backbone, (str, os.PathLike, ArchDef)):
            raise InputError(f"backbone: a {type(backbone).__name__}; give a name of the zoo, an ArchDef, an arch file or a feature module")
        arch, card = find_arch(backbone, pretrained)
        network = build_model(arch, in_channels=self.in_channels)
        found = None if weights is None else body_state(weights)
        if found is not None:
            features = FeatureBackbone(network)
            load_body(features, *found, str(weights))
            return features
        if pretrained or weights is not None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the weights have .* classes")  # the classifier is dropped all the same
                load_zoo_weights(network, card, weights)
        if card is not None and card.in_channels == self.in_channels == 3:
            self.mean, self.std = card.mean, card.std  # type: ignore[assignment]
        return FeatureBackbone(network)

    def pick(self, strides: Sequence[int], what: str) -> None:
        """Keeps the last map of each of these strides. `what` begins the error."""
        known = ", ".join(map(str, dict.fromkeys(self.strides)))
        given = tuple(strides) if isinstance(strides, Iterable) and not isinstance(strides, str) else (strides,)
        if not given or any(isinstance(s, bool) or not isinstance(s, numbers.Integral) or s not in self.strides for s in given):
            raise InputError(f"{what} {_shown(given)}: the backbone has maps at strides {known}; choose from these")
        if list(given) != sorted(set(given)):
            raise InputError(f"{what} {_shown(given)}: give each once, in ascending order")
        self._keep([len(self.strides) - 1 - self.strides[::-1].index(s) for s in given])

    def pick_last(self, output_stride: int, low_stride: int | None = None) -> None:
        """Keeps the last map, at `output_stride` by dilation where it has to be, after the last one of `low_stride` if that is given."""
        known = ", ".join(map(str, dict.fromkeys(self.strides)))
        if isinstance(output_stride, bool) or not isinstance(output_stride, int) or output_stride not in self.strides:
            raise InputError(f"output_stride {output_stride!r}: the backbone has maps at strides {known}; choose from these")
        indices = [len(self.strides) - 1]
        if low_stride is not None:
            before = self.strides[:-1]
            if isinstance(low_stride, bool) or low_stride not in before or low_stride > output_stride:
                fit = ", ".join(str(s) for s in dict.fromkeys(before) if s <= output_stride)
                raise InputError(f"low_stride {low_stride!r}: the backbone has maps at strides {fit} for it; choose from these")
            indices.insert(0, len(before) - 1 - before[::-1].index(low_stride))
        last = self.strides[-1]
        self._keep(indices)
        if last > output_stride:
            if not isinstance(self.body, FeatureBackbone):
                raise InputError(
                    f"output_stride {output_stride}: the last map of this module is at stride {last}; build it dilated to {output_stride}, "
                    f"or give output_stride={last}"
                )
            self.body = dilate(self.body, output_stride)
            self._owned, self.strides = True, list(self.body.feature_info.strides)

    def _keep(self, indices: list[int]) -> None:
        self.channels, self.strides = [self.channels[i] for i in indices], [self.strides[i] for i in indices]
        if isinstance(self.body, FeatureBackbone):
            self.body = self.body.pick(indices)
            indices = list(range(len(indices)))
        self.indices = indices

    def freeze(self, stages: int, norm: bool) -> None:
        """Freezes the first `stages` stages of the arch, weights and norms, and with `norm` every norm."""
        if isinstance(stages, bool) or not isinstance(stages, int) or stages < 0:
            raise InputError(f"frozen_stages {stages!r}: give a number of stages, 0 for none")
        if (stages or norm) and not self._owned:
            self.body, self._owned = copy.deepcopy(self.body), True
        if stages:
            if not isinstance(self.body, FeatureBackbone):
                raise InputError(f"frozen_stages {stages}: this module has no stages of an arch; freeze its parameters before, and give 0")
            names = [name for name, _ in self.body.blocks.named_children()]
            count = 1 + max(map(_stage, names))
            if stages > count:
                raise InputError(f"frozen_stages {stages}: the backbone has {count} stages; give 0 to {count}")
            for name, block in self.body.blocks.named_children():
                if _stage(name) < stages:
                    block.requires_grad_(False)
                    freeze_norms(block)
        if norm:
            freeze_norms(self.body)


def body_state(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The backbone in a file that tools/train_detector.py or tools/train_segmenter.py wrote, and what else it says; None for any other."""
    if not str(path).lower().endswith(".safetensors"):
        return None
    state, content = load_weights(path)
    if "head" not in content:
        return None
    return {name.removeprefix(_BODY): value for name, value in state.items() if name.startswith(_BODY)}, content


def load_body(features: FeatureBackbone, state: Mapping[str, Tensor], content: Mapping[str, Any], source: str) -> None:
    """Loads the blocks that a head was trained on; those that it had no use for start at random, with a warning.

    Raises WeightsError naming the first name or shape that does not fit, or the first block that is another in the file's arch.
    """
    own = features.state_dict()
    for name, value in state.items():
        if name not in own or own[name].shape != value.shape:
            shape = f"is {tuple(own[name].shape)} here, not {tuple(value.shape)}" if name in own else "does not exist here"
            raise WeightsError(f"{source}: {name} {shape}: the weights of another arch")
    blocks = {_block(name) for name in state}
    for name in own:  # a frozen norm counts no batches
        if name not in state and _block(name) in blocks and not name.endswith("num_batches_tracked"):
            raise WeightsError(f"{source}: misses {name}: the weights of another arch")
    check_arch(state, content, features.arch, source)
    missing = sorted({_block(name) for name in own} - blocks)
    if missing:
        _LOG.warning("%s: without %s, which start at random", source, ", ".join(missing))
    features.load_state_dict(dict(state), strict=False)


def _block(name: str) -> str:
    return ".".join(name.split(".")[:2])


def describe(module: nn.Module) -> tuple[list[int], list[int]]:
    """Channels and strides of a feature module's maps. Raises InputError if it does not say."""
    info = getattr(module, "feature_info", None)
    channels = getattr(info, "channels", None)
    strides = getattr(info, "strides", None) or getattr(info, "reduction", None)
    channels, strides = [value() if callable(value) else value for value in (channels, strides)]
    if not channels or not strides or len(channels) != len(strides):
        raise InputError(
            f"backbone: a {type(module).__name__} without feature_info, channels and strides of its maps; "
            "build it with fbnet_builder(..., features_only=True), or by timm with features_only=True"
        )
    return list(channels), list(strides)


def freeze_norms(module: nn.Module) -> None:
    """Replaces every BatchNorm2d below a module by torchvision's FrozenBatchNorm2d: the same function, of constants.

    Raises:
        InputError: a norm of a derived class, or without statistics, which has no such form.
    """
    from torchvision.ops import FrozenBatchNorm2d

    for parent_name, parent in list(module.named_modules()):
        for name, norm in parent.named_children():
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
                where = f"{parent_name}.{name}".lstrip(".")
                raise InputError(f"frozen_norm: {where} is a {type(norm).__name__}, of which no frozen form is known; freeze it before")
            frozen = FrozenBatchNorm2d(norm.num_features, norm.eps).to(norm.running_mean)
            frozen.load_state_dict(norm.state_dict(), strict=norm.affine)
            setattr(parent, name, frozen)


def _stage(name: str) -> int:
    """The stage in a block's name, as 3 in s3b1."""
    return int(name[1:].split("b")[0])


def _shown(values: tuple) -> str:
    text = ", ".join(repr(value) for value in values)
    return f"({text})" if len(text) <= 80 else f"({text[:77]}...)"
