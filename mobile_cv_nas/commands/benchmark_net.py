"""Measures networks in several runtimes, in turn: CPU time and wall time, size, MACs, parameters, beside accuracy where it is known.

python tools/benchmark_net.py FBNetV2_F1 FBNetV2_F4
python tools/benchmark_net.py output/digits digits.onnx --runtimes eager,folded,onnxruntime --batch 1,16 --json digits.json

A source is a result folder, a .safetensors file, a name of the zoo (its weights are not needed), or a file of tools/export_net.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cli import Parser, guarded
from ..deploy.benchmark import RUNTIMES, Contender, Timing, machine, measure, prepare, relative
from ..deploy.check import images_for
from ..deploy.file_network import FileNetwork, OnnxNetwork, PteNetwork
from ..engine.progress import short
from ..errors import InputError, decimal
from ..files import atomic_write
from ..model_zoo.builder import fbnet_builder
from ..model_zoo.card import ZooError, get_card
from ..networks.counting import count
from ..report.speed import draw_speed
from ..tasks.load import load
from ..tasks.model import Model

_DEFAULT = "eager,folded,onnxruntime,executorch"


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, measures, prints a table; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a result folder, weights, a name of the zoo, or an exported file")
    parser.add_argument("--runtimes", default=_DEFAULT, help=f"of {', '.join(RUNTIMES)} ({_DEFAULT})")
    parser.add_argument("--threads", type=int, default=1, help="of every runtime (1)")
    parser.add_argument("--batch", default="1", help="images of a call; several: 1,16 (1)")
    parser.add_argument("--rounds", type=int, default=30, help="calls that count, of each (30)")
    parser.add_argument("--json", metavar="FILE", help="write the figures into this file")
    parser.add_argument("--picture", metavar="FILE", help="draw accuracy over milliseconds into this PNG")
    args = parser.parse_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    batches, runtimes = _batches(args.batch), [one.strip() for one in args.runtimes.split(",") if one.strip()]
    if args.rounds < 1 or args.threads < 1:
        raise InputError(f"--rounds {args.rounds}, --threads {args.threads}: give 1 or more of each")
    loaded = [(source, _open(source)) for source in args.sources]
    with tempfile.TemporaryDirectory() as folder:
        contenders: list[Contender] = []
        jobs = [(source, model, batch) for source, model in loaded for batch in batches]
        for source, model, batch in tqdm(jobs, desc="exporting", disable=None, dynamic_ncols=True):
            contenders += _contenders(source, model, runtimes, batch, args.threads, Path(folder))
        with tqdm(total=len(contenders) * (args.rounds + 3), desc="measuring", disable=None, dynamic_ncols=True) as bar:
            timings = measure(contenders, args.rounds, args.threads, bar.update)
    facts = {source: _facts(source, model) for source, model in loaded}
    rows = [{**one.to_dict(), **facts[one.source]} for one in timings]
    print(_table(timings, facts))
    where = machine(args.threads)
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if args.json:
        atomic_write(args.json, json.dumps({"machine": where, "rounds": args.rounds, "unit": "ms", "rows": rows}, indent=1))
    if args.picture:
        draw_speed(rows, args.picture)


def _batches(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InputError(f"--batch {text!r}: give numbers of images, such as 1,16")
    return found


def _open(source: str) -> Any:
    """A Model; a network at random of a name of the zoo, whose weights do not change the time; or a file's network."""
    if source.endswith((".onnx", ".pte")):
        return OnnxNetwork(source) if source.endswith(".onnx") else PteNetwork(source)
    if not Path(source).expanduser().exists():
        try:
            get_card(source)
        except ZooError:
            return load(source)  # whose error speaks of files too
        return fbnet_builder(source)
    return load(source)


def _contenders(source: str, model: Any, runtimes: Sequence[str], batch: int, threads: int, folder: Path) -> list[Contender]:
    if not isinstance(model, FileNetwork):
        return prepare(source, model, runtimes, batch, threads, folder)
    takes = model.interface
    if takes.batch not in (None, batch) or (takes.most or batch) < batch:
        raise InputError(f"{source}: takes {takes.batch or f'1 to {takes.most}'} images a call, and --batch has {batch}; leave that out")
    if takes.with_transform:
        raise InputError(f"{source}: takes bytes; measure one that was exported without --with-transform")
    network = OnnxNetwork(source, threads, exact=False) if source.endswith(".onnx") else PteNetwork(source, threads=threads)
    x = images_for(takes, batch)
    return [Contender(source, "file", batch, lambda: network.run(x), Path(source).stat().st_size)]


def _facts(source: str, model: Any) -> dict[str, Any]:
    """MACs, parameters and accuracy, None where they are not known."""
    if isinstance(model, FileNetwork):
        return {"macs": None, "params": None, "accuracy": None}
    if isinstance(model, Model):
        cost = model.count()
        return {"macs": cost.macs, "params": cost.params, "accuracy": _tested(source, model)}
    card = get_card(source)
    cost = count(model, card.input_size, card.in_channels)
    top1 = card.published.top1 if card.published else None
    return {"macs": cost.macs, "params": cost.params, "accuracy": None if top1 is None else top1 / 100}


def _tested(source: str, model: Model) -> float | None:
    """The score that a run left in its folder, beside its own weights or their exports; other files may lie there too."""
    path = Path(source).expanduser()
    folder = path if path.is_dir() else path.parent
    if (path.is_dir() or path.stem == "model") and (folder / "result.json").is_file():
        return json.loads((folder / "result.json").read_text(encoding="utf-8")).get(model.task.main)
    return None


def _table(timings: Sequence[Timing], facts: Mapping[str, Mapping[str, Any]]) -> str:
    from tabulate import tabulate

    shares = relative(timings)
    rows = []
    for one in timings:
        share = shares.get((one.source, one.runtime, one.batch))
        known = facts[one.source]
        numbers = [decimal(value) for value in (*one.cpu, *one.wall)]
        accuracy = "" if known["accuracy"] is None else f"{100 * known['accuracy']:.2f}"
        costs = [short(known[name]) if known[name] else "" for name in ("macs", "params")]
        ratio = "" if share is None else f"{share:.2f}"
        rows.append([one.source, one.runtime, one.batch, *numbers, ratio, f"{one.size / 1e6:.2f}", *costs, accuracy])
    heads = ["network", "runtime", "batch", "CPU min", "median", "p90", "wall min", "median", "p90", "of eager", "MB", "MACs"]
    return tabulate(rows, [*heads, "params", "accuracy %"], disable_numparse=True)
