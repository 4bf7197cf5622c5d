"""nas.export: a network as a file for another runtime, checked against the network that it came from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from ..files import atomic_write
from .check import BATCHES, Difference, differences, images_for, one_thread, require_close, times
from .file_network import FileNetwork, OnnxNetwork, as_input
from .fold import fold
from .interface import Interface, content_of, interface_of
from .onnx import write_onnx
from .wrapped import Wrapped, wrap

if TYPE_CHECKING:
    from ..tasks.model import Model

FORMATS = (".onnx",)


@dataclass(frozen=True)
class Export:
    """What became of an export.

    Attributes:
        path: of the file.
        interface: what it takes and gives.
        size: bytes.
        differences: of its outputs from the network's; () without a check.
        milliseconds: the least CPU time of one image in one thread, of the network and of the file; {} without a check.
    """

    path: Path
    interface: Interface
    size: int
    differences: tuple[Difference, ...] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        rows = [asdict(one) for one in self.differences]
        return {
            **self.interface.to_dict(),
            "file": self.path.name,
            "bytes": self.size,
            "check": rows,
            "milliseconds": dict(self.milliseconds),
        }

    def __str__(self) -> str:
        batch = "any number" if self.interface.batch is None else str(self.interface.batch)
        lines = [f"{self.path}: {self.size:,} bytes, image {_shape(self.interface)} of {batch} a call"]
        for one in self.differences:
            share = one.largest / one.scale if one.scale else 0.0
            lines.append(f"  {one.output}, batch {one.batch}: differs by {one.largest:.2g} of {one.scale:.3g} ({share:.1g})")
        lines += [f"  {name}: {value:.2f} ms an image, one thread" for name, value in self.milliseconds.items()]
        return "\n".join(lines)


def _shape(interface: Interface) -> str:
    return " x ".join(map(str, interface.shape(1)[1:])) + (" uint8" if interface.with_transform else " float32")


def export(
    model: Model | nn.Module,
    path: str | os.PathLike,
    batch: int | None = None,
    check: bool = True,
    with_transform: bool = False,
    input_size: int | None = None,
) -> Export:
    """Writes a network as a file for another runtime; the ending says which: .onnx.

    The file computes what the network does in eval mode; a detector's boxes and scores are those before suppression (`Interface`). It is
    written whole or not at all, and holds no path of this machine. The extra `onnx` is needed.

    Args:
        model: a `Model` of `nas.load`, whose classes, transform, arch and licence the file keeps; or a network alone.
        path: of the file.
        batch: images a call; None is any number.
        check: run the file beside the network at two batch sizes and time both.
        with_transform: the file takes uint8 (N, S, S, C), resized and cropped, and normalises it itself.
        input_size: side of the images of a network alone, in pixels; by default its arch's.

    Raises:
        ExportError: the file computes something else; it is not left.
        InputError: what cannot be exported, an unknown ending, a missing extra.
        FileError: a file that cannot be written.
    """
    target = Path(path).expanduser()
    if target.suffix not in FORMATS:
        raise InputError(f"{path}: the ending says the format{did_you_mean(target.suffix, FORMATS, few=4)}")
    network, known = _parts(model)
    interface = interface_of(network, known, batch, with_transform, input_size)
    reference, interface = wrap(network, interface)
    folded, _ = wrap(fold(network, channels_last=False), interface)
    content = content_of(interface, network, known)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / target.name
        write_onnx(folded, interface, content, file)
        result = Export(target, interface, file.stat().st_size)
        if check:
            result = _checked(result, reference, OnnxNetwork(file, threads=1))
        atomic_write(target, file.read_bytes())
    return result


def _parts(model: Any) -> tuple[nn.Module, Any]:
    """The network, and the Model if it is one."""
    if isinstance(model, FileNetwork) or isinstance(getattr(model, "network", None), FileNetwork):
        raise InputError("export: a file that was exported already; give the network that it came from")
    if isinstance(model, nn.Module):
        return model, None
    if not isinstance(getattr(model, "network", None), nn.Module):
        raise InputError(f"export: a {type(model).__name__}; give a Model, as nas.load gives it, or a network")
    return model.network.cpu(), model


def _checked(result: Export, reference: Wrapped, network: FileNetwork, images: Sequence[Tensor] = ()) -> Export:
    """The result with the file's differences and times. Raises ExportError."""
    interface = network.interface
    given = images_for(interface, max(BATCHES), images)
    found = differences(reference, network, given, BATCHES if interface.batch is None else (interface.batch,))
    require_close(found, result.path)
    one = as_input(images_for(interface, interface.batch or 1, images), interface)
    with one_thread():
        spent = times({"eager": lambda: reference(one), "file": lambda: network.run(one)})
    least = {name: min(values) / len(one) for name, values in spent.items()}
    return replace(result, differences=tuple(found), milliseconds=least)
