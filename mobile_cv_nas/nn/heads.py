"""The heads of networks and supernets, each with its construction, forward and cost side by side, like any block.

`HEADS` maps a name to a class; a `HeadDef` is a head as it is asked for, before the widths of the maps that it reads are known.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from .choice import Gates
from .shapes import Cost, widened

if TYPE_CHECKING:
    from ..arch.layer import Layer

HEADS: Registry = Registry("HEADS")
_BILINEAR = 4  # fvcore's count of an interpolated value
_SMALLEST = 2  # pixels of a coarser map: norms need more than one value where a batch is one image


@dataclass(frozen=True)
class HeadDef:
    """A head by its registered name, with its number of classes and its options.

    Raises:
        InputError: no such head.
    """

    name: str
    num_classes: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in HEADS:
            raise InputError(f"head {self.name!r}: no such head{did_you_mean(self.name, [name for name, _ in HEADS], few=8)}")

    @property
    def kind(self) -> Any:
        """The class."""
        return HEADS.get(self.name)

    @property
    def arguments(self) -> dict[str, Any]:
        """All options of its class: those that are left out as its `__init__` has them."""
        return {**_defaults(self.kind), **self.options}

    def reads(self, layers: Sequence[Layer]) -> tuple[int, ...]:
        """The indices of the layers whose maps it reads, ascending; the last one is the last layer. Raises InputError."""
        return self.kind.reads(layers, **self.arguments)

    def cost(self, n: int, width: Any, sides: Sequence[Any]) -> Cost:
        """What map number `n` of these adds to the cost.

        Args:
            n: of the map.
            width: its channels, or their expectation.
            sides: of the image, then of each map read, in pixels: ints, or float64 vectors over the input sizes.
        """
        return self.kind.cost(n, width, sides, self.num_classes, **self.arguments)

    def build(self, widths: Sequence[int], sides: Sequence[int]) -> Any:
        """The module for maps of these widths, and these sides (of the image, then of each map) at the largest input size."""
        return self.kind(widths, sides, self.num_classes, **self.options)


@cache
def _defaults(kind: Any) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


class Classifier(nn.Linear):
    """The global pool and one linear layer: the last of the maps, (N, C, H, W), to logits (N, num_classes).

    Attributes:
        mixes: whether it reads the sum of all input sizes' maps; else each size runs by itself, and outputs are summed under the gates.
        masks: whether it needs the masks of its maps: where it normalises them channel by channel, biases revive what is masked.
        places: where its parts lie in a network of the builders.
        counts: where such a network says how many outputs it has a place (with a background, where the head adds one).
    """

    mixes: ClassVar[bool] = True
    masks: ClassVar[bool] = False
    places: ClassVar[Mapping[str, str]] = {"": "classifier"}
    counts: ClassVar[str] = "classifier.out_features"

    def __init__(self, widths: Sequence[int], sides: Sequence[int], num_classes: int):
        super().__init__(widths[-1], num_classes)

    @staticmethod
    def reads(layers: Sequence[Layer]) -> tuple[int, ...]:
        return (len(layers) - 1,)

    def forward(self, maps: Sequence[Tensor], gates: Gates | None = None, size: Sequence[int] | None = None) -> Tensor:  # type: ignore[override]
        x = maps[-1]
        if gates is not None and gates.area is not None:
            pooled = x.sum((2, 3)) / gates.area.to(x.dtype)  # the effective area: sum_r g_r h_r w_r
        else:
            pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        width = pooled.shape[1]  # a selected arch gives its own width only
        return F.linear(pooled, self.weight if width == self.in_features else self.weight[:, :width], self.bias)

    @staticmethod
    def cost(n: int, width: Any, sides: Sequence[Any], num_classes: int) -> Cost:
        return Cost(width * sides[1] ** 2 + width * num_classes, width * num_classes + num_classes)


class LRASPP(nn.Module):
    """torchvision's LR-ASPP head on the last map and on the last one at `low_stride`, to logits (N, num_classes, *size).

    A supernet's map is masked to its width, so that the head reads it at its widest, and a child's head inherits the first channels.

    Args:
        channels: inside the head.
        low_stride: of the map of fine detail.
    """

    mixes: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    places: ClassVar[Mapping[str, str]] = {"head": "classifier"}
    counts: ClassVar[str] = "classifier.high_classifier.out_channels"

    def __init__(self, widths: Sequence[int], sides: Sequence[int], num_classes: int, channels: int = 128, low_stride: int = 8):
        super().__init__()
        from torchvision.models.segmentation.lraspp import LRASPPHead

        self.widths = tuple(widths)
        self.head = LRASPPHead(*widths, num_classes, channels)

    @staticmethod
    def reads(layers: Sequence[Layer], channels: int, low_stride: int) -> tuple[int, ...]:
        """Raises InputError if there is no such map, or the layers end in what only a classifier needs."""
        return (*_at_strides(layers, (low_stride,), "HEAD.LOW_STRIDE"), _last_of_features(layers))

    def forward(self, maps: Sequence[Tensor], gates: Gates | None = None, size: Sequence[int] | None = None) -> Tensor:
        low, high = (widened(x, width) for x, width in zip(maps, self.widths, strict=True))
        logits = self.head({"low": low, "high": high})
        if size is None or logits.shape[-2:] == torch.Size(size):
            return logits
        return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)

    @staticmethod
    def cost(n: int, width: Any, sides: Sequence[Any], num_classes: int, channels: int, low_stride: int) -> Cost:
        image, area = sides[0] ** 2, sides[n + 1] ** 2
        if n == 0:  # fine detail, and the sum at its size
            macs = width * area * num_classes + channels * num_classes * area + _BILINEAR * (channels * area + num_classes * image)
            return Cost(macs, width * num_classes + channels * num_classes + 2 * num_classes)
        return Cost(width * area * channels + width * area + width * channels, 2 * width * channels + 2 * channels)


class CoarserMaps(nn.Module):
    """Adds maps to a mapping of them, each half as wide as the one before: 1x1, depthwise 3x3 of stride 2, 1x1, as SSDLite has it.

    Args:
        c_in: channels of the last map.
        channels: of each map added.
        count: how many to add.
    """

    def __init__(self, c_in: int, channels: int, count: int):
        super().__init__()
        from torchvision.ops import Conv2dNormActivation

        inner, block = channels // 2, partial(Conv2dNormActivation, activation_layer=nn.ReLU6)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                block(channels if i else c_in, inner, kernel_size=1),
                block(inner, inner, kernel_size=3, stride=2, groups=inner),
                block(inner, channels, kernel_size=1),
            )
            for i in range(count)
        )

    def forward(self, maps: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        maps = OrderedDict(maps)
        x = next(reversed(maps.values()))
        for i, block in enumerate(self.blocks):
            maps[f"extra{i}"] = x = block(x)
        return maps


class SSDLite(nn.Module):
    """torchvision's SSDLite head on the last map of each of some strides and on coarser ones that it adds.

    Gives {"bbox_regression": (N, anchors, 4), "cls_logits": (N, anchors, num_classes + 1)}; label 0 is the background. Widths as of
    `LRASPP`.

    Args:
        num_classes: kinds of objects.
        channels: of the maps it adds, as many as are 2 pixels wide or more.
        strides: of the maps read.
        ratios: aspect ratios of the boxes, beside 1; each also turned.
    """

    mixes: ClassVar[bool] = False
    masks: ClassVar[bool] = True
    places: ClassVar[Mapping[str, str]] = {"neck": "backbone.neck", "predictor": "head"}
    counts: ClassVar[str] = "head.classification_head.num_columns"

    def __init__(
        self,
        widths: Sequence[int],
        sides: Sequence[int],
        num_classes: int,
        channels: int = 128,
        strides: Sequence[int] = (16, 32),
        ratios: int = 2,
    ):
        super().__init__()
        from torchvision.models.detection.ssdlite import SSDLiteHead

        self.widths, self.strides = tuple(widths), tuple(strides)
        added = len(_coarser(sides[-1]))
        self.neck = CoarserMaps(widths[-1], channels, added)
        maps = [*widths, *[channels] * added]
        self.predictor = SSDLiteHead(maps, [2 + 2 * ratios] * len(maps), num_classes + 1, nn.BatchNorm2d)

    @staticmethod
    def reads(layers: Sequence[Layer], channels: int, strides: Sequence[int], ratios: int) -> tuple[int, ...]:
        """Raises InputError if there is no such map, or the layers end in what only a classifier needs."""
        last = _last_of_features(layers)
        found = _at_strides(layers, strides, "HEAD.STRIDES")
        if found[-1] != last:
            raise InputError(
                f"HEAD.STRIDES: {tuple(strides)}: the space goes on to a coarser map; name its last stride too, or end it there"
            )
        return found

    def maps(self, maps: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The maps read, each at its widest, and the coarser ones."""
        wide = (widened(x, width) for x, width in zip(maps, self.widths, strict=True))
        return self.neck(OrderedDict((f"s{stride}", x) for stride, x in zip(self.strides, wide)))

    def forward(self, maps: Sequence[Tensor], gates: Gates | None = None, size: Sequence[int] | None = None) -> dict[str, Tensor]:
        return self.predict(list(self.maps(maps).values()), () if gates is None else gates.maps)

    def predict(self, maps: Sequence[Tensor], masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """What torchvision's head gives of these maps. A mask acts after the depthwise layer: on the weights that read its output."""
        found = {}
        for name, part in (("bbox_regression", self.predictor.regression_head), ("cls_logits", self.predictor.classification_head)):
            outputs = []
            for i, (x, block) in enumerate(zip(maps, part.module_list, strict=True)):
                weight = block[1].weight
                if i < len(masks):
                    weight = weight * masks[i].view(1, -1, 1, 1)
                y = F.conv2d(block[0](x), weight, block[1].bias)  # (N, anchors * columns, H, W)
                outputs.append(y.unflatten(1, (-1, part.num_columns)).permute(0, 3, 4, 1, 2).flatten(1, 3))
            found[name] = torch.cat(outputs, 1)
        return found

    @staticmethod
    def cost(n: int, width: Any, sides: Sequence[Any], num_classes: int, channels: int, strides: Sequence[int], ratios: int) -> Cost:
        outputs = (2 + 2 * ratios) * (num_classes + 1 + 4)

        def predicted(width: Any, side: Any) -> Cost:  # two depthwise 3x3 with norms, and one 1x1 each
            return Cost(side**2 * (2 * 9 * width + width * outputs), 2 * (9 + 2) * width + width * outputs + outputs)

        total = predicted(width, sides[n + 1])
        if n < len(strides) - 1:
            return total
        inner, before = channels // 2, sides[-1]
        for side in _coarser(before):
            macs = width * inner * before**2 + (9 * inner + inner * channels) * side**2
            total += Cost(macs, width * inner + (2 + 9 + 2) * inner + inner * channels + 2 * channels)
            total += predicted(channels, side)
            width, before = channels, side
        return total


def _coarser(side: int) -> list[int]:
    """Sides of the maps that SSDLite adds to one of that side: each half of the one before."""
    found = []
    while (side := -(-side // 2)) >= _SMALLEST:
        found.append(side)
    return found


def _strides(layers: Sequence[Layer]) -> list[int]:
    """Of the image's pixels to those of each layer's output."""
    found: list[int] = []
    for layer in layers:
        found.append((found[-1] if found else 1) * layer.stride)
    return found


def _last_of_features(layers: Sequence[Layer]) -> int:
    """The index of the last layer. Raises InputError if only a classifier needs it."""
    last = layers[-1]
    if last.names[0].startswith(("conv_k1", "ir_pool")):
        raise InputError(f"stage {last.stage}, block {last.block}: a last {last.names[0]} is for classifiers; leave the row out")
    return len(layers) - 1


def _at_strides(layers: Sequence[Layer], strides: Sequence[int], key: str) -> tuple[int, ...]:
    """The index of the last layer at each stride. Raises InputError, which begins with `key`."""
    known = _strides(layers)
    last = key == "HEAD.LOW_STRIDE"  # which is none of the last map's
    for stride in strides:
        if stride not in known or (last and stride == known[-1]):
            fit = ", ".join(str(s) for s in sorted(set(known)) if s > 1 and (not last or s < known[-1]))
            raise InputError(f"{key}: {stride}: the space has maps at strides {fit} for it")
    return tuple(len(known) - 1 - known[::-1].index(stride) for stride in strides)


for _name, _kind in (("classifier", Classifier), ("lraspp", LRASPP), ("ssdlite", SSDLite)):
    HEADS._do_register(_name, _kind)
