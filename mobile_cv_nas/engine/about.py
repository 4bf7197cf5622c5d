"""What a run was, beside its result: its seconds, machine, versions, images and options, kept as run.json.

result.json has who it was: a run that is repeated, or resumed, writes the same file again but for its seconds.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..data.data_set import Data
from ..data.digest import data_digest
from ..files import atomic_write
from .runtime import Runtime

ABOUT = "run.json"
_PACKAGES = ("mobile_cv_nas", "torch", "torchvision", "numpy")


def about_run(runtime: Runtime, data: Data, options: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """The facts of a run, plain values: `options` by key, `seconds` by what took them, over all parts of an interrupted run."""
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {
        "seconds": rounded(seconds),
        "machine": machine(runtime),
        "versions": versions(),
        "data": {
            "classes": list(data.classes),
            "images": {name: len(split) for name, split in splits.items() if split is not None},
            "digest": data_digest(data),
        },
        "options": options,
    }


def identity(options: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """What result.json says of a run beside its result, equal where the run is repeated but for the seconds; as `about_run` takes them."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()
    return {"seed": options.get("SEED"), "versions": versions(), "config_digest": digest[:16], "seconds": rounded(seconds)}


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds by what took them, to a tenth."""
    return {name: round(value, 1) for name, value in seconds.items()}


def write_about(folder: Path, facts: dict[str, Any]) -> None:
    """Writes run.json. Raises FileError."""
    atomic_write(folder / ABOUT, json.dumps(facts, indent=1) + "\n")


def machine(runtime: Runtime) -> dict[str, Any]:
    """What computed, without names of machines or paths."""
    on_gpu = runtime.device.type == "cuda"
    name = torch.cuda.get_device_name(runtime.device) if on_gpu else processor()
    return {"device": name, "processes": runtime.world, "threads": torch.get_num_threads(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Of python and of the packages that decide what a run computes, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that was never installed
            continue
    return found


def processor() -> str:
    """What the system calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
