"""Feature maps of a zoo network into torchvision's feature pyramid: what a detector or a segmenter is built on.

python examples/fpn.py [NAME]
"""

from __future__ import annotations

import sys
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

import mobile_cv_nas as nas


class PyramidBackbone(nn.Module):
    """Maps at strides 4 to 32 of a network, brought to one width: (N, 3, H, W) to {"p2": ..., "p5": ...}."""

    def __init__(self, name: str, width: int = 128, pretrained: bool = False):
        super().__init__()
        self.body = nas.fbnet_builder(name, pretrained=pretrained, features_only=True, out_indices=(1, 2, 3, 4))
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels, width)
        self.out_channels = width  # torchvision's detectors read this

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((f"p{level}", features) for level, features in enumerate(self.body(x), start=2)))


def main() -> None:
    backbone = PyramidBackbone(sys.argv[1] if len(sys.argv) > 1 else "FBNetV2_F4").eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 224, 224))
    info = backbone.body.feature_info
    for (name, features), stride, channels in zip(maps.items(), info.strides, info.channels, strict=True):
        print(f"{name}: stride {stride:2d}, {channels:3d} channels in, {tuple(features.shape)} out")


if __name__ == "__main__":
    main()
