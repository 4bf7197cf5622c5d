"""Milliseconds of sampled networks on this machine: CPU time of one thread, in passes over all, so that a busy moment hits all alike."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ...errors import FileError, InputError, did_you_mean, require
from ...files import atomic_write, read_bytes
from ..benchmark import machine
from ..check import images_for, one_thread
from ..file_network import FileNetwork, OnnxNetwork, PteNetwork
from .sample import PRECISIONS, Manifest, Sample, read_manifest, sample_file

FORMATS = {"onnxruntime": ".onnx", "executorch": ".pte"}
_WARM_UP = 2


@dataclass(frozen=True)
class Measurement:
    """What was measured of the networks of a folder, on one device.

    Attributes:
        times: by network, milliseconds of a call: one value a pass, the least of its calls.
        profiles: by network, the runtime's own times: operator, shapes that it reads (values, weights), shape that it writes, milliseconds.
        device: what people call it; the rest as in `LatencyTable`.
    """

    device: str
    processor: str
    runtime: str
    version: str
    threads: int
    precision: str
    batch: int
    date: str
    statistic: str
    times: Mapping[str, list[float]]
    profiles: Mapping[str, list[Any]] = field(default_factory=dict)

    def least(self) -> dict[str, float]:
        """By network, the least over all passes."""
        return {name: min(values) for name, values in self.times.items()}

    def halves(self) -> tuple[dict[str, float], dict[str, float]] | None:
        """The same from every other pass, and from the rest: how well the measurement repeats itself. None of a single pass."""
        if min(map(len, self.times.values())) < 2:
            return None
        found = [{name: min(values[start::2]) for name, values in self.times.items()} for start in (0, 1)]
        return found[0], found[1]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file that `read_measurement` reads."""
        atomic_write(path, json.dumps({"format": 1, **asdict(self)}))


def measured_file(folder: str | os.PathLike, runtime: str, precision: str) -> Path:
    """Where `measure` leaves its results."""
    return Path(folder).expanduser() / f"measured_{runtime}_{precision}.json"


def read_measurement(path: str | os.PathLike) -> Measurement:
    """Milliseconds from a file of `measure`, or from a .csv of lines `name,ms` that came back from a device. Raises FileError.

    Of a .csv whose names are those of files the precision is known too.
    """
    if str(path).endswith(".csv"):
        return _from_csv(path)
    try:
        content = json.loads(read_bytes(path, 256 * 2**20))
        known = {one.name for one in fields(Measurement)}
        return Measurement(**{key: value for key, value in content.items() if key in known})
    except FileError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: no measurement of tools/latency.py measure: {' '.join(str(error).split())[:100]}") from None


def _from_csv(path: str | os.PathLike) -> Measurement:
    """Repeated names are passes of one network. Where they are files' names, these say the precision."""
    times: dict[str, list[float]] = {}
    files: dict[str, str] = {}  # ending of a name, and the first name that has it
    rows = list(csv.reader(io.StringIO(read_bytes(path, 64 * 2**20).decode("utf-8-sig", "replace"))))
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and [cell.lower() for cell in cells] == ["name", "ms"]):
            continue
        try:
            name, value = cells[0], float(cells[1])
        except (IndexError, ValueError):
            raise FileError(f"{path}: line {number}: {','.join(row)[:60]!r}: give a name and milliseconds: net000,8.25") from None
        if not (value > 0 and value < float("inf")) or len(cells) != 2:
            raise FileError(f"{path}: line {number}: {','.join(row)[:60]!r}: give a name and milliseconds above 0")
        file = Path(name).name
        network = file.removesuffix(".onnx").removesuffix(".pte").removesuffix("_int8")
        files.setdefault(file.removeprefix(network), file)
        times.setdefault(network, []).append(value)
    if not times:
        raise FileError(f"{path}: no line name,ms; a device's times belong there, a network a line")
    if len(files) > 1:
        one, other, *_ = files.values()
        raise FileError(f"{path}: {one} and {other} are no passes of one kind: give the times of one runtime and precision, named alike")
    (ending,) = files
    precision = "" if not ending else "int8" if ending.startswith("_int8") else "fp32"
    return Measurement("", "", "", "", 0, precision, 1, "", "min", times)


def measure(
    folder: str | os.PathLike,
    runtime: str,
    precision: str = "fp32",
    passes: int = 4,
    calls: int = 8,
    device: str = "",
    profiled: int = 0,
    progress: Callable[[int], Any] = lambda _: None,
) -> Measurement:
    """Measures every network of a folder of `write_samples` in one thread; earlier passes of the same kind are kept, and these join them.

    A pass opens each network, in an order of its own, runs it twice to warm up and `calls` times, and keeps the least CPU time. Passes that
    are spread over the day find the machine idle more often.

    Args:
        folder: with the files of this runtime.
        runtime: onnxruntime or executorch.
        precision: fp32 or int8.
        passes, calls: see above.
        device: what to call this machine; by default its processor.
        profiled: of how many networks of the part "fit" to keep onnxruntime's times of operators.
        progress: called with 1 after each network.

    Networks without a file of that runtime are left out.

    Raises:
        InputError: an unknown runtime or precision; a missing extra, or no file at all; profiles of ExecuTorch.
    """
    _check(runtime, precision, passes, calls, profiled)
    manifest, path = read_manifest(folder), measured_file(folder, runtime, precision)
    where = machine(1)
    about = {"processor": where["cpu"], "version": str(where.get(runtime, ""))}
    old = read_measurement(path) if path.is_file() else None
    if old is not None and (old.processor, old.version) != (about["processor"], about["version"]):
        raise InputError(f"{path}: measured on {old.processor}, {runtime} {old.version}; remove it to measure here")
    present = _present(manifest, folder, runtime, precision)
    times = {one.name: list(old.times.get(one.name, [])) if old else [] for one in present}
    with one_thread():
        for number in range(passes):
            order = list(present)
            random.Random(number + max(map(len, times.values()))).shuffle(order)
            for one in order:
                file = sample_file(Path(folder).expanduser(), one.name, FORMATS[runtime], precision)
                times[one.name].append(least_time(file, runtime, calls))
                progress(1)
        profiles = dict(old.profiles) if old else {}
        chosen = _spread(manifest, profiled)
        for name in chosen:
            profiles[name] = profile(sample_file(Path(folder).expanduser(), name, ".onnx", precision))
            progress(1)
    found = Measurement(
        device or (old.device if old else about["processor"]), about["processor"], runtime, about["version"], 1, precision, 1,
        date.today().isoformat(), "min", times, profiles,
    )  # fmt: skip
    found.save(path)
    return found


def _check(runtime: str, precision: str, passes: int, calls: int, profiled: int) -> None:
    for what, value, known in (("runtime", runtime, FORMATS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InputError(f"{what} {value!r}: no such one{did_you_mean(value, known, few=4)}")
    if passes < 1 or calls < 1 or profiled < 0:
        raise InputError(f"passes {passes}, calls {calls}, profiled {profiled}: give 1 or more passes and calls")
    if profiled and runtime != "onnxruntime":
        raise InputError(f"profiled {profiled}: only onnxruntime says the times of operators; leave it out for {runtime}")


def _present(manifest: Manifest, folder: str | os.PathLike, runtime: str, precision: str) -> list[Sample]:
    """The networks that have a file of a runtime."""
    root, ending = Path(folder).expanduser(), FORMATS[runtime]
    found = [one for one in manifest.samples if sample_file(root, one.name, ending, precision).is_file()]
    if not found:
        what = f" --precision {precision}" if precision != "fp32" else ""
        raise FileError(f"{root}: no {ending} file of its networks; write them by tools/latency.py sample ... --formats {ending}{what}")
    return found


def least_time(path: Path, runtime: str, calls: int) -> float:
    """Least CPU time of a call of an exported file, in milliseconds, in one thread."""
    network: FileNetwork = OnnxNetwork(path, 1, exact=False) if runtime == "onnxruntime" else PteNetwork(path, threads=1)
    x, found = images_for(network.interface, 1), []
    with torch.inference_mode():
        for number in range(calls + _WARM_UP):
            start = time.process_time()
            network.run(x)
            if number >= _WARM_UP:
                found.append(1e3 * (time.process_time() - start))
    return min(found)


def _spread(manifest: Manifest, count: int) -> list[str]:
    """Names of so many networks to fit to, evenly over the list, which begins with the extremes."""
    names = [one.name for one in manifest.samples if one.part != "check"]
    if count > len(names):
        raise InputError(f"profiled {count}: there are {len(names)} networks to fit to")
    return [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]


def profile(path: Path, calls: int = 30) -> list[Any]:
    """onnxruntime's times of an .onnx file's operators: [operator, shapes read, shape written, milliseconds], in the order of execution.

    Its clock counts whole microseconds; the mean of the faster half of the calls is finer than their least.
    """
    runtime: Any = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_suffix(""))
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = images_for(OnnxNetwork(path, 1, exact=False).interface, 1).numpy()
    for _ in range(calls + _WARM_UP):
        session.run(None, {session.get_inputs()[0].name: image})
    events = Path(session.end_profiling())
    try:
        return list(_nodes(json.loads(events.read_text(encoding="utf-8")), calls))
    finally:
        events.unlink(missing_ok=True)


def _nodes(events: list[dict[str, Any]], calls: int) -> Iterator[list[Any]]:
    nodes: dict[str, tuple[dict[str, Any], list[float]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault(event["name"], (event["args"], []))[1].append(event["dur"] / 1e3)
    for args, spent in nodes.values():
        kept = sorted(spent[-calls:])[: max(1, calls // 2)]
        reads = [next(iter(shape.values())) for shape in args.get("input_type_shape", []) if shape]
        writes = [next(iter(shape.values())) for shape in args.get("output_type_shape", []) if shape]
        yield [args["op_name"], reads, writes[0] if writes else [], statistics.fmean(kept)]
