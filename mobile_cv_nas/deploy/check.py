"""Whether a file computes what its network does, and how fast beside it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .file_network import FileNetwork, as_input
from .interface import Interface
from .wrapped import signals

BOUND = 1e-4  # largest difference of a float file, as a share of the output's largest value
LEAST_SQNR = 10.0  # dB of an int8 file: below, classifiers lose several points
BATCHES = (1, 2)
_ROUNDS = 10


class ExportError(InputError):
    """A file that does not compute what its network does."""


@dataclass(frozen=True)
class Difference:
    """How far one output of a file is from its network's."""

    output: str
    batch: int  # images in the call
    largest: float  # absolute difference
    scale: float  # largest absolute value of the network's output
    sqnr: float  # signal-to-quantisation-noise ratio, dB; see `signals`


def images_for(interface: Interface, count: int, images: Sequence[Tensor] = ()) -> Tensor:
    """So many normalised images (count, C, S, S): the given ones over and over, or random pixels."""
    size, channels = interface.input_size, interface.in_channels
    if images:
        return torch.stack([images[i % len(images)] for i in range(count)])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=generator) / 255
    mean, std = (torch.tensor(values or (default,) * channels) for values, default in zip(interface.scaling, (0.5, 0.25), strict=True))
    return (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


@torch.no_grad()
def differences(reference: nn.Module, network: FileNetwork, images: Tensor, batches: Sequence[int] = BATCHES) -> list[Difference]:
    """Every output of a file beside those of `reference` (of `wrap`), on batches of these sizes out of the images (N, C, S, S)."""
    found = []
    for batch in batches:
        part = torch.cat([images] * -(-batch // len(images)))[:batch]
        new, old = network.raw(part), reference(as_input(part, network.interface))
        for name, one, other in zip(network.interface.outputs, new, old, strict=True):
            if one.shape != other.shape:
                raise ExportError(f"{name}: the file gives {tuple(one.shape)}, its network {tuple(other.shape)}")
        noise = map(sqnr, signals(reference, old), signals(reference, new))
        for name, one, other, ratio in zip(network.interface.outputs, new, old, noise, strict=True):
            found.append(Difference(name, batch, float((one - other).abs().max()), float(other.abs().max()), ratio))
    return found


def sqnr(old: Tensor, new: Tensor) -> float:
    """Power of a signal over that of what was added to it, in dB."""
    noise = (new.double() - old.double()).square().sum()
    return float(10 * torch.log10(old.double().square().sum().clamp(min=1e-300) / noise.clamp(min=1e-300)))


def require_close(found: Sequence[Difference], path: object) -> None:
    """Raises ExportError where a float file is further from its network than rounding explains."""
    for one in found:
        if not one.largest <= BOUND * one.scale:  # also NaN
            raise ExportError(
                f"{path}: {one.output} of {one.batch} images differs by {one.largest:.2g}, its values reaching {one.scale:.2g}: "
                f"more than {BOUND:g} of it; not written. Report it, or look at the file with check=False"
            )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def times(calls: dict[str, Callable[[], Any]], rounds: int = _ROUNDS) -> dict[str, list[float]]:
    """Milliseconds of CPU time of each call, round robin, so that a busy moment of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 2):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if round_number > 1:  # the first ones warm up
                found[name].append(1e3 * (time.process_time() - start))
    return found
