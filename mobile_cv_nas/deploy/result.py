"""What became of an export: its check and, of int8, what it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import decimal
from .check import Difference
from .interface import Interface


@dataclass(frozen=True)
class Int8:
    """What int8 loses."""

    images: int  # it was calibrated on
    judged: int  # other images that the noise was measured on; 0: the same
    sqnr: Mapping[str, float]  # signal-to-quantisation-noise ratio of each output, dB
    float_size: int  # bytes of the file in float
    layers: Sequence[tuple[str, float]]  # those that lose most, the worst first: dB of the outputs where only this layer is int8
    kept_float: Sequence[str] = ()  # layers and blocks that stayed in float


@dataclass(frozen=True)
class Export:
    """What became of an export.

    Attributes:
        path: of the file.
        interface: what it takes and gives.
        size: bytes.
        differences: of the float file's outputs from the network's; () without a check.
        milliseconds: least CPU time of one image in one thread, of the eager network, the file and, of int8, the float file; {} without.
        scores: of the network and of the file on test images, where such were given.
        int8: what was lost, of an int8 file.
        note: what else there is to say.
    """

    path: Path
    interface: Interface
    size: int
    differences: Sequence[Difference] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    int8: Int8 | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = {"file": self.path.name, "bytes": self.size, "check": [asdict(one) for one in self.differences]}
        found |= {"milliseconds": dict(self.milliseconds), "scores": {name: dict(values) for name, values in self.scores.items()}}
        int8 = None if self.int8 is None else asdict(self.int8)
        return {**self.interface.to_dict(), **found, "int8": int8, "note": self.note}

    def __str__(self) -> str:
        return "\n".join([*self._file(), *self._check(), *self._int8(), *self._scores()])

    def _file(self) -> list[str]:
        takes = self.interface
        most = f"1 to {takes.most}" if takes.most else "any number of"
        shape = " x ".join(map(str, takes.shape(1)[1:]))
        dtype = "uint8" if takes.with_transform else "float32"
        lines = [f"{self.path}: {self.size:,} bytes; image: {takes.batch or most} x {shape} {dtype}; gives {', '.join(takes.outputs)}"]
        return lines + ([self.note] if self.note else [])

    def _check(self) -> list[str]:
        of = "in float " if self.int8 else ""
        lines = []
        for one in self.differences:
            lines.append(f"{of}{one.output} of {one.batch}: differs by {one.largest:.1g}, its largest value being {one.scale:.3g}")
        lines += [f"{name}: {decimal(value)} ms of CPU time an image, one thread" for name, value in self.milliseconds.items()]
        return lines

    def _int8(self) -> list[str]:
        if self.int8 is None:
            return []
        on = f"{self.int8.judged} others" if self.int8.judged else "the same"
        lines = [f"int8: {self.size / self.int8.float_size:.0%} of the float file; calibrated on {self.int8.images} images, judged on {on}"]
        lines += [f"int8 {name}: {value:.1f} dB over the noise" for name, value in self.int8.sqnr.items()]
        if self.int8.layers:
            lines.append("layers that lose most (dB if only this one is int8; --keep-float leaves them out):")
        return lines + [f"  {name}  {value:.1f}" for name, value in self.int8.layers]

    def _scores(self) -> list[str]:
        return [f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()) for name, values in self.scores.items()]
