"""What an exported file takes and gives, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InputError
from ..networks.backbone import FeatureBackbone
from ..networks.build import Network
from ..networks.supernet import Supernet

if TYPE_CHECKING:
    from ..tasks.model import Model

INPUT = "image"
_TV = "torchvision.models."
_SSD, _RETINANET, _TWO_STAGES = (
    f"{_TV}detection.{name}" for name in ("ssd.SSD", "retinanet.RetinaNet", "generalized_rcnn.GeneralizedRCNN")
)
_SEGMENTERS = (f"{_TV}segmentation.lraspp.LRASPP", f"{_TV}segmentation._utils._SimpleSegmentationModel")


@dataclass(frozen=True)
class Interface:
    """Input and outputs of an exported network.

    The input `image` is (N, C, S, S) float32, normalised by mean and std (of a detector: in 0..1, it normalises itself), or with the
    transform inside (N, S, S, C) uint8, resized and cropped by the caller. Outputs by kind:

    classification: `logits` (N, classes).
    features: `features_8` and so on by stride, (N, C, h, w).
    segmentation: `logits` (N, classes, S, S).
    detection: `boxes` (N, A, 4), x1 y1 x2 y2 in pixels of the input, and `scores` (N, A, 1 + classes), the first of which is the
        background, both before suppression.
    """

    kind: str  # classification | detection | segmentation | features
    input_size: int  # S, pixels
    in_channels: int  # C
    outputs: tuple[str, ...]
    mean: tuple[float, ...] = ()  # of images in 0..1; (): not known
    std: tuple[float, ...] = ()
    batch: int | None = None  # images a call; None: any number
    most: int | None = None  # and then so many at most; None: no limit
    with_transform: bool = False  # whether it takes uint8
    suppression: Mapping[str, Any] | None = None  # detection: how boxes are picked; see `detections`

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Of an input of so many images."""
        size = self.input_size
        return (batch, size, size, self.in_channels) if self.with_transform else (batch, self.in_channels, size, size)

    @property
    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that a float input is normalised by: a detector's is not."""
        return ((0.0,) * self.in_channels, (1.0,) * self.in_channels) if self.kind == "detection" else (self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them."""
        return {**asdict(self), "outputs": list(self.outputs), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Interface:
        """The inverse of `to_dict`; other entries are left out."""
        known = {one.name for one in fields(cls)}
        found: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known}
        return cls(**found)


def interface_of(
    network: nn.Module, model: Model | None = None, batch: int | None = None, with_transform: bool = False, input_size: int | None = None
) -> Interface:
    """The interface of a network's file.

    Raises:
        InputError: no network of this library, one of two stages, an input size that is not the detector's, a transform that is not known
            or was never used.
    """
    kind, outputs = _kind(network)
    size = _input_size(network, model, kind, input_size)
    conv = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is None:
        raise InputError("export: a network without convolutions; give one of this library")
    channels = conv.in_channels
    mean, std = _statistics(network, model, kind)
    if with_transform and not mean:
        raise InputError("with_transform: a network alone does not say its mean and std; export a Model: nas.load(...)")
    if with_transform and model is not None and model.about.get("own_inputs"):
        raise InputError(
            "with_transform: the network was trained on tensors that a Dataset of its own prepared, not by a mean and std; leave it out"
        )
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise InputError(f"batch {batch!r}: give a number of images, or none for any number")
    return Interface(kind, size, channels, outputs, mean, std, batch, None, with_transform)


def _kind(network: nn.Module) -> tuple[str, tuple[str, ...]]:
    classes = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(network).__mro__}
    if _TWO_STAGES in classes:
        raise InputError(
            "export: faster_rcnn runs its second stage on boxes that the first one picks, which no file here can say; use ssdlite"
        )
    if classes & {_SSD, _RETINANET}:
        return "detection", ("boxes", "scores")
    if classes & set(_SEGMENTERS):
        return "segmentation", ("logits",)
    if isinstance(network, FeatureBackbone):
        return "features", _names(network.feature_info)
    if isinstance(network, Supernet):
        raise InputError("export: a supernet; export the child that is derived from it: build_model(arch), inherit_weights")
    if isinstance(network, Network):
        return "classification", ("logits",)
    raise InputError(f"export: a {type(network).__name__}; give a Model, a network of this library, or one of its detectors or segmenters")


def _names(info: Any) -> tuple[str, ...]:
    """Of maps, by stride; two maps of one stride are told apart by their position."""
    strides: Sequence[int] = getattr(info, "strides", None) or info.reduction()
    return tuple(f"features_{s}" if strides.count(s) == 1 else f"features_{s}_{i}" for i, s in enumerate(strides))


def _input_size(network: Any, model: Model | None, kind: str, given: int | None) -> int:
    if kind == "detection":
        own = network.transform.fixed_size[0] if network.transform.fixed_size else network.transform.max_size
        if given not in (None, own):
            raise InputError(f"input_size {given}: the detector was built for {own}; leave it out")
        return own
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise InputError(f"input_size {given!r}: give a number of pixels")
        return given
    if model is not None:
        return model.task.input_size(model.arch)
    arch = getattr(network.backbone.body if kind == "segmentation" else network, "arch", None)
    if arch is None:
        raise InputError("export: a backbone that does not say its input size; give input_size")
    return arch.input_size


def _statistics(network: Any, model: Model | None, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if kind == "detection":
        return tuple(map(float, network.transform.image_mean)), tuple(map(float, network.transform.image_std))
    if model is not None:
        return tuple(model.transform.mean), tuple(model.transform.std)
    known: Any = getattr(network, "pretrained_cfg", None)  # of a network that timm made
    return (tuple(known["mean"]), tuple(known["std"])) if known else ((), ())


def content_of(interface: Interface, network: nn.Module, model: Model | None) -> dict[str, Any]:
    """What a file says of itself: the interface, and of a Model its arch, task, classes, transform and licence."""
    content = interface.to_dict()
    content["layout"] = "NHWC uint8" if interface.with_transform else "NCHW float32"
    if model is None:
        arch: Any = getattr(network, "arch", None)
        return content | ({"arch": arch.to_dict()} if arch is not None else {})
    kept = {name: value for name, value in model.about.items() if name in ("licence", "own_inputs")}
    task = {**model.task.content(model.arch), "classes": list(model.classes), "arch": model.arch.to_dict()}
    statistics = {"mean": list(model.task.mean), "std": list(model.task.std)}
    return content | kept | task | statistics | {"transform": model.transform.to_dict()}
