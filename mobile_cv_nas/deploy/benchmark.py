"""How fast networks are in several runtimes: all of them in turn, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.about import processor
from ..errors import InputError, did_you_mean
from .check import images_for
from .executorch import write_pte
from .file_network import OnnxNetwork, PteNetwork
from .fold import fold
from .interface import content_of, interface_of
from .onnx import write_onnx
from .quantize import quantize_onnx
from .wrapped import wrap

RUNTIMES = ("eager", "folded", "compile", "onnxruntime", "onnxruntime-int8", "executorch", "executorch-int8")
_CALIBRATING = 4  # random images: ranges do not change the time
_WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """One network in one runtime: milliseconds of a batch, over all rounds."""

    source: str
    runtime: str
    batch: int  # images
    size: int  # bytes of the file; of eager, folded and compile those of the weights
    cpu: tuple[float, float, float]  # minimum, median, 90th percentile of CPU time, of all threads together
    wall: tuple[float, float, float]  # the same of the clock

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("min", "median", "p90")
        return {**asdict(self), "cpu": dict(zip(names, self.cpu)), "wall": dict(zip(names, self.wall))}


class Contender:
    """A network that is ready to run in one runtime.

    Args:
        source: its name.
        runtime: one of RUNTIMES, or "file" of an exported one.
        batch: images of a call.
        call: runs it once.
        size: bytes.
    """

    def __init__(self, source: str, runtime: str, batch: int, call: Callable[[], Any], size: int):
        self.source, self.runtime, self.batch, self.call, self.size = source, runtime, batch, call, size
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def run(self, counts: bool) -> None:
        """Once, and notes the time if it counts."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if counts:
            self.cpu.append(1e3 * cpu)
            self.wall.append(1e3 * wall)

    def timing(self) -> Timing:
        """What was measured."""
        return Timing(self.source, self.runtime, self.batch, self.size, _summary(self.cpu), _summary(self.wall))


def _summary(values: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]


def prepare(name: str, model: Any, runtimes: Sequence[str], batch: int, threads: int, folder: Path) -> list[Contender]:
    """A network in each runtime, on random images of its own size.

    Args:
        name: to call it by.
        model: a Model or a network; of an exported file its own runtime is the only one.
        runtimes: of RUNTIMES.
        batch: images of a call.
        threads: of onnxruntime and ExecuTorch.
        folder: for its files.

    Raises:
        InputError: an unknown runtime, a missing extra.
    """
    for one in runtimes:
        if one not in RUNTIMES:
            raise InputError(f"runtime {one!r}: no such one{did_you_mean(one, RUNTIMES, few=8)}")
    network = model if isinstance(model, nn.Module) else model.network
    interface = interface_of(network, None if isinstance(model, nn.Module) else model, batch)
    # a copy: nobody's network is put into eval mode, or on the CPU, for a measurement
    plain = fold(network, channels_last=False).cpu()
    folded, interface = wrap(plain, interface)
    x = images_for(interface, batch)
    found = []
    for runtime in runtimes:
        call, size = _call(runtime, network, folded, interface, x, threads, folder / f"{len(list(folder.iterdir()))}")
        found.append(Contender(name, runtime, batch, call, size))
    return found


def _call(
    runtime: str, network: nn.Module, folded: nn.Module, interface: Any, x: Tensor, threads: int, stem: Path
) -> tuple[Callable[[], Any], int]:
    """What runs a network once, and its bytes."""
    int8 = runtime.endswith("-int8")
    images = list(images_for(interface, _CALIBRATING))
    if runtime.startswith("onnxruntime"):
        file = stem.with_suffix(".onnx")
        write_onnx(folded, interface, content_of(interface, network, None), file)
        if int8:
            small = stem.with_name(f"{stem.name}_int8.onnx")
            quantize_onnx(file, small, interface, images, (), weight_bits=7)  # right everywhere; as fast as 8
            file = small
        session = OnnxNetwork(file, threads, exact=False)
        return lambda: session.run(x), file.stat().st_size
    if runtime.startswith("executorch"):
        file = stem.with_suffix(".pte")
        write_pte(folded, interface, file, images if int8 else ())
        program = PteNetwork(file, interface, threads)
        return lambda: program.run(x), file.stat().st_size
    module = wrap(fold(network).cpu(), interface)[0] if runtime != "eager" else _eager(network, interface)
    given = x if runtime == "eager" else x.contiguous(memory_format=torch.channels_last)
    called: Any = torch.compile(module) if runtime == "compile" else module
    return lambda: called(given), sum(one.numel() * one.element_size() for one in module.state_dict().values())


def _eager(network: nn.Module, interface: Any) -> nn.Module:

    return wrap(copy.deepcopy(network).cpu().requires_grad_(False), interface)[0]


def measure(contenders: Sequence[Contender], rounds: int, threads: int, progress: Callable[[int], Any] = lambda _: None) -> list[Timing]:
    """The times of all, round robin.

    Args:
        contenders: of `prepare`.
        rounds: that count, 1 or more.
        threads: of torch; it has as many as before afterwards.
        progress: called with 1 after each call.
    """
    if rounds < 1 or threads < 1:
        raise InputError(f"rounds {rounds}, threads {threads}: give 1 or more of each")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for number in range(rounds + _WARM_UP):
                for one in contenders:
                    one.run(number >= _WARM_UP)
                    progress(1)
    finally:
        torch.set_num_threads(before)
    return [one.timing() for one in contenders]


def machine(threads: int) -> dict[str, Any]:
    """Where it was measured: processor, system and versions; no name of the machine, and no path."""
    found: dict[str, Any] = {"cpu": processor(), "system": platform.system(), "python": platform.python_version(), "threads": threads}
    found["torch"] = torch.__version__
    for module in ("onnxruntime", "executorch"):
        version = _version(module)
        found |= {module: version} if version else {}
    return found


def _version(module: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(module)
    except PackageNotFoundError:
        return None


def relative(timings: Sequence[Timing]) -> Mapping[tuple[str, str, int], float]:
    """Median CPU time as a share of the eager network's, by source, runtime and batch; empty where eager was not measured."""
    eager = {(one.source, one.batch): one.cpu[1] for one in timings if one.runtime == "eager"}
    known = [one for one in timings if (one.source, one.batch) in eager]
    return {(one.source, one.runtime, one.batch): one.cpu[1] / eager[one.source, one.batch] for one in known}
