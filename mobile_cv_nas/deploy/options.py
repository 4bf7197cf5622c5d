"""Which files a run leaves for other runtimes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportOptions:
    """Files that are written beside the weights at the end of a run."""

    formats: tuple[str, ...] = ()  # endings: onnx | pte | mlpackage
    int8: bool = False  # onnx, pte: with 8-bit weights and maps
    images: int = 100  # training images that int8 is calibrated on
