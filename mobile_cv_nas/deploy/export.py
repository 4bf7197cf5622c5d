"""nas.export: a network as a file for another runtime, checked against the network that it came from."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from ..files import atomic_write, write_error
from .calibrate import calibration, check_layers, layer_losses
from .check import BATCHES, LEAST_SQNR, Difference, ExportError, differences, images_for, one_thread, require_close, times
from .coreml import write_coreml
from .executorch import MOST, write_pte
from .file_network import FileNetwork, OnnxNetwork, PteNetwork, as_input
from .fold import fold
from .interface import Interface, content_of, interface_of
from .onnx import write_onnx
from .quantize import quantize_onnx
from .result import Export, Int8
from .wrapped import Wrapped, wrap

if TYPE_CHECKING:
    from ..tasks.model import Model

FORMATS = (".onnx", ".pte", ".mlpackage")
ENOUGH_SQNR = 28.0  # dB at which weights of 7 bits, which every processor multiplies right, are taken in place of 8


@dataclass(frozen=True)
class _Job:
    """One export: the network as its file computes it, and what the file is to be."""

    target: Path
    interface: Interface
    reference: Wrapped  # of the network itself
    folded: Wrapped
    content: dict[str, Any]
    calibrating: Sequence[Tensor] = ()  # images; (): a file in float
    judging: Sequence[Tensor] = ()
    keep_float: tuple[str, ...] = ()


def export(
    model: Model | nn.Module,
    path: str | os.PathLike,
    int8: Any = None,
    batch: int | None = None,
    check: bool = True,
    *,
    images: int = 100,
    keep_float: Sequence[str] = (),
    test: Iterable[Any] | None = None,
    with_transform: bool = False,
    input_size: int | None = None,
) -> Export:
    """Writes a network as a file for another runtime; the ending says which: .onnx, .pte (ExecuTorch, XNNPACK) or .mlpackage (Core ML).

    The file computes what the network does in eval mode; a detector's boxes and scores are those before suppression (`Interface`). It is
    written whole or not at all, and holds no path of this machine. A .pte file keeps nothing but the network: what else there is to know of
    it goes into a .json file beside it. An .mlpackage is not checked: only macOS can run it.

    Args:
        model: a `Model` of `nas.load`, whose classes, transform, arch and licence the file keeps; or a network alone.
        path: of the file.
        int8: images to calibrate int8 on: a folder, paths, PIL images, or normalised tensors (C, S, S). None: the file is in float.
        batch: images a call; None is any number (of .pte 1 to 8; of .mlpackage 1). A .pte file of a fixed number is one delegate call.
        check: run the file beside the network at two batch sizes and time both; of int8 also name the layers that lose most.
        images: how many to calibrate on, evenly spread over those given; 16 others are kept to judge by where there are as many.
        keep_float: names of layers or blocks that stay in float, such as "blocks.s0b0".
        test: batches of the model's task; network and file are scored on them.
        with_transform: the file takes uint8 (N, S, S, C), resized and cropped, and normalises it itself.
        input_size: side of the images of a network alone, in pixels; by default its arch's.

    Raises:
        ExportError: the file computes something else, or int8 is mostly noise; it is not left.
        InputError: what cannot be exported, an unknown ending, a missing extra.
        FileError: a file that cannot be written.
    """
    target = Path(path).expanduser()
    if target.suffix not in FORMATS:
        raise InputError(f"{path}: the ending says the format{did_you_mean(target.suffix, FORMATS, few=4)}")
    network, known = _parts(model)
    if test is not None and known is None:
        raise InputError("test: a network alone has no task to be scored by; export a Model: nas.load(...)")
    if int8 is None and keep_float:
        raise InputError("keep_float: the whole file is in float; give int8 the images to calibrate on")
    if int8 is not None and target.suffix == ".mlpackage":
        raise InputError(f"{path}: int8 is for .onnx and .pte")
    job = _job(target, network, known, interface_of(network, known, batch, with_transform, input_size))
    if int8 is not None:
        calibrating, judging = calibration(int8, known, job.interface, images)
        job = replace(job, calibrating=calibrating, judging=judging, keep_float=check_layers(network, keep_float))
    with tempfile.TemporaryDirectory() as folder:
        result = _write(job, Path(folder), check)
        if test is not None:
            result = replace(result, scores=_scores(model, test, _opened(job, Path(folder) / target.name)))
        _place(job, Path(folder) / target.name, result)
    return result


def _parts(model: Any) -> tuple[nn.Module, Any]:
    """The network, and the Model if it is one."""
    if isinstance(model, FileNetwork) or isinstance(getattr(model, "network", None), FileNetwork):
        raise InputError("export: a file that was exported already; give the network that it came from")
    if isinstance(model, nn.Module):
        return model, None
    if not isinstance(getattr(model, "network", None), nn.Module):
        raise InputError(f"export: a {type(model).__name__}; give a Model, as nas.load gives it, or a network")
    return model.network, model


def _job(target: Path, network: nn.Module, known: Model | None, interface: Interface) -> _Job:
    if target.suffix == ".pte" and interface.batch is None:
        interface = replace(interface, most=MOST)
    if target.suffix == ".mlpackage" and interface.batch is None:
        interface = replace(interface, batch=1)
    # a copy, on the CPU: neither the network's mode nor its device is ours to change
    folded, interface = wrap(fold(network, channels_last=False).cpu(), interface)
    reference, _ = wrap(_copy(network), interface)
    return _Job(target, interface, reference, folded, content_of(interface, network, known))


def _copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).cpu().requires_grad_(False)


def _opened(job: _Job, file: Path) -> FileNetwork:
    """A file in its runtime, in one thread."""
    return OnnxNetwork(file, threads=1) if file.suffix == ".onnx" else PteNetwork(file, job.interface, threads=1)


def _write(job: _Job, folder: Path, check: bool) -> Export:
    """Writes the file into a folder, and checks it."""
    file = folder / job.target.name
    if file.suffix == ".mlpackage":
        write_coreml(job.folded, job.interface, job.content, file)
        size = sum(one.stat().st_size for one in file.rglob("*") if one.is_file())
        return Export(job.target, job.interface, size, note="not verified: only macOS can run it")
    plain = folder / f"float{file.suffix}" if job.calibrating else file
    note = ""
    if file.suffix == ".onnx":
        write_onnx(job.folded, job.interface, job.content, plain)
        if job.calibrating:
            note = _quantized(job, plain, file)
    else:
        if check or not job.calibrating:
            note = _calls(write_pte(job.folded, job.interface, plain))
        if job.calibrating:
            note = _calls(write_pte(job.folded, job.interface, file, job.calibrating, job.keep_float))
    result = Export(job.target, job.interface, file.stat().st_size, note=note)
    return _checked(job, result, plain, file) if check else result


def _quantized(job: _Job, plain: Path, file: Path) -> str:
    """Writes the int8 form of an .onnx file, with weights of 7 bits where these do; says which."""
    noise = {}
    for bits in (7, 8):
        quantize_onnx(plain, file, job.interface, job.calibrating, job.keep_float, bits)
        noise[bits] = min(found.sqnr for found in _noise(job, OnnxNetwork(file, threads=1)))
        if noise[bits] >= ENOUGH_SQNR and bits == 7:
            return "weights of 7 bits: right on processors without VNNI too"
    return (
        f"weights of 8 bits ({noise[8]:.1f} dB over the noise; of 7 bits {noise[7]:.1f}): for ARM, and x86 with VNNI. On older x86 "
        "processors onnxruntime's sums overflow; there nas.load computes in float"
    )


def _noise(job: _Job, network: FileNetwork) -> list[Difference]:
    """What int8 changes, on the images to judge by: all of them, in as many calls as a file of a fixed batch needs."""
    images = torch.stack(list(job.judging or job.calibrating[:16]))
    return differences(job.reference, network, images, (len(images),))


def _calls(number: int) -> str:
    return f"{number} call{'s' if number != 1 else ''} of XNNPACK"


def _checked(job: _Job, result: Export, plain: Path, file: Path) -> Export:
    """The result with the differences, noise and times of its files. Raises ExportError."""
    interface, network = job.interface, _opened(job, plain)
    images = job.judging or job.calibrating
    batches = (interface.batch,) if interface.batch else (*BATCHES, *([interface.most] if interface.most else []))
    found = differences(job.reference, network, images_for(interface, max(batches), images), batches)
    require_close(found, result.path)
    one = as_input(images_for(interface, interface.batch or 1, images), interface)
    calls: dict[str, Any] = {"eager": lambda: job.reference(one), "float file" if job.calibrating else "file": lambda: network.run(one)}
    if job.calibrating:
        small = _opened(job, file)
        calls["int8 file"] = lambda: small.run(one)
        result = replace(result, int8=_int8(job, small, plain.stat().st_size))
    with one_thread():
        spent = times(calls)
    least = {name: min(values) / len(one) for name, values in spent.items()}
    return replace(result, differences=tuple(found), milliseconds=least)


def _int8(job: _Job, network: FileNetwork, float_size: int) -> Int8:
    """What int8 loses. Raises ExportError where it is mostly noise."""
    noise = _noise(job, network)
    layers = layer_losses(job.folded, as_input(torch.stack(list(job.judging or job.calibrating[:16])), job.interface))
    worst = min(noise, key=lambda one: one.sqnr)
    if not worst.sqnr >= LEAST_SQNR:
        raise ExportError(
            f"{job.target}: int8 {worst.output} is {worst.sqnr:.1f} dB over the noise, less than {LEAST_SQNR:g}: not written. Give more "
            f"images, or keep_float the layers that lose most: {', '.join(name for name, _ in layers[:3])}"
        )
    sqnr = {one.output: one.sqnr for one in noise}
    return Int8(len(job.calibrating), len(job.judging), sqnr, float_size, layers, job.keep_float)


def _scores(model: Any, test: Iterable[Any], network: FileNetwork) -> dict[str, dict[str, float]]:
    """Of the network and of its file, on the test images."""
    return {"network": model.task.evaluate(fold(model.network).cpu(), test), "file": model.task.evaluate(network, test)}


def _place(job: _Job, file: Path, result: Export) -> None:
    """Puts what was written where it belongs, whole."""
    if file.is_file():
        atomic_write(job.target, file.read_bytes())
        if file.suffix == ".pte":
            text = json.dumps({**job.content, "report": result.to_dict()}, indent=1)
            atomic_write(job.target.with_name(f"{job.target.name}.json"), text)
        return
    try:
        if job.target.is_dir():
            shutil.rmtree(job.target)
        shutil.move(file, job.target)
    except OSError as error:
        raise write_error(job.target, error) from None
