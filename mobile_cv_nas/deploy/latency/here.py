"""The milliseconds of one network on this machine, where it is the one that a table was made on."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ..benchmark import machine
from ..check import one_thread
from ..export import export
from .measure import FORMATS, least_time
from .table import LatencyTable

_PASSES = 5
_CALLS = 20
_CALIBRATING = 4


def cannot_measure(table: LatencyTable) -> str:
    """Why networks cannot be measured here as a table's were; "" where they can."""
    if table.runtime not in FORMATS or importlib.util.find_spec(table.runtime) is None:
        return f"{table.runtime if table.runtime in FORMATS else 'its runtime'} is not here"
    if table.threads != 1 or table.batch != 1:
        return f"the table is of {table.threads} threads and batches of {table.batch}"
    cpu = machine(1)["cpu"]
    return "" if cpu == table.processor else f"the table is of {table.processor}, this is {cpu}"


def measure_here(network: nn.Module, table: LatencyTable, input_size: int, in_channels: int = 3) -> float:
    """Least CPU time of a call, in milliseconds, in the runtime and precision of a table; a copy of the network is exported.

    Raises InputError where that cannot be; `cannot_measure` says so before.
    """
    why = cannot_measure(table)
    if why:
        raise InputError(f"the network cannot be measured: {why}")
    images: Any = None
    if table.precision == "int8":
        images = list(torch.randn(_CALIBRATING, in_channels, input_size, input_size))
    with tempfile.TemporaryDirectory() as folder, one_thread():
        path = Path(folder) / f"network{FORMATS[table.runtime]}"
        export(network, path, int8=images, batch=1, check=False)
        return min(least_time(path, table.runtime, _CALLS) for _ in range(_PASSES))
