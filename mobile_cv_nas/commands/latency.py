"""Latency tables: networks to measure, their measurement here, a table fitted to it, and its check on networks that it was not fitted to.

python tools/latency.py sample fbnetv2_f 80 nets                          # nets/net000.onnx, ...; for a phone: --formats .pte
python tools/latency.py sample space.yaml 80 nets --head lraspp --num-classes 21         # segmenters; --head ssdlite: detectors
python tools/latency.py measure nets --runtime onnxruntime --profiled 24  # here; again later, for more passes
python tools/latency.py fit nets --output cpu.json                        # from a phone: --csv phone.csv --device "My phone"
python tools/latency.py check cpu.json nets --picture cpu.png

Then: tools/search_net.py ... SEARCH.TARGET "8 ms" SEARCH.TABLE cpu.json. See docs/latency.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from torch import nn

from ..arch import ArchDef, SearchSpace
from ..cli import Parser, guarded
from ..deploy.latency.check import Check, check_table
from ..deploy.latency.fit import fit_table, with_check
from ..deploy.latency.measure import FORMATS, Measurement, measure, measured_file, read_measurement
from ..deploy.latency.sample import MANIFEST, PRECISIONS, draw_samples, read_manifest, write_samples
from ..deploy.latency.table import LatencyTable
from ..errors import InputError, did_you_mean
from ..report.latency import draw_latency
from ..tasks.build import make_task
from ..tasks.options import HeadOptions
from ..tasks.task import Task

_HEADS = {"classifier": (), "lraspp": ("channels", "low_stride"), "ssdlite": ("channels", "strides")}  # that can be searched for


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments, does what they say; returns the exit code: 0 done, 2 bad input or a table that is no good, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    _sample_arguments(commands.add_parser("sample", help="write networks of a space to measure, with a manifest"))
    _measure_arguments(commands.add_parser("measure", help="measure them here"))
    _fit_arguments(commands.add_parser("fit", help="fit a table, and check it"))
    check = commands.add_parser("check", help="check a table on the networks that none is fitted to")
    check.add_argument("table", help="its file, or the name of a shipped one")
    _source_arguments(check, "the table's", "the table's")
    args = parser.parse_args(argv)
    actions = {"sample": _sample, "measure": _measure, "fit": _fit, "check": _check}
    return guarded(lambda: actions[args.command](args))


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", help="a space's file, or the name of a shipped one")
    parser.add_argument("count", type=int, help="networks in all; 60 to 100")
    parser.add_argument("folder", help="for the files")
    parser.add_argument("--check", type=int, default=20, help="of these, kept to check a table by (20)")
    parser.add_argument("--formats", default=".onnx", help="of .onnx and .pte, comma between (.onnx)")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of the files (fp32)")
    parser.add_argument("--num-classes", type=int, default=1000, help="of the head (1000)")
    parser.add_argument("--head", default="classifier", choices=tuple(_HEADS), help="of the networks (classifier)")
    options = "of the head, once each: channels=128; lraspp: low_stride=8; ssdlite: strides=16,32"
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=options)
    parser.add_argument("--in-channels", type=int, default=3, help="of the images (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the random networks (0)")


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="of sample")
    parser.add_argument("--runtime", default="onnxruntime", choices=tuple(FORMATS), help="(onnxruntime)")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="(fp32)")
    parser.add_argument("--passes", type=int, default=4, help="over all networks; earlier ones are kept (4)")
    parser.add_argument("--calls", type=int, default=8, help="that count, of a network in a pass (8)")
    parser.add_argument("--profiled", type=int, default=0, help="onnxruntime: of so many networks also keep the times of operators (0)")
    parser.add_argument("--device", default="", help="what to call this machine")


def _source_arguments(parser: argparse.ArgumentParser, runtime: str = "onnxruntime", precision: str = "fp32") -> None:
    parser.add_argument("folder", help="of sample; measured here, unless --csv is given")
    parser.add_argument("--csv", metavar="FILE", help="milliseconds that came back from a device: name,ms a line")
    parser.add_argument("--runtime", help=f"({runtime})")
    parser.add_argument("--precision", choices=PRECISIONS, help=f"({precision})")
    parser.add_argument("--picture", metavar="FILE", help="draw predicted over measured into this PNG")


def _fit_arguments(parser: argparse.ArgumentParser) -> None:
    _source_arguments(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="the table, .json")
    parser.add_argument("--whole", action="store_true", help="fit whole networks, even where there are profiles: of the tiniest networks")
    parser.add_argument(
        "--like", metavar="TABLE", help="scale a table of a similar device: a dozen networks and those of the check do then"
    )
    parser.add_argument("--device", default="", help="what to call the device; needed with --csv")
    parser.add_argument("--processor", default="", help="--csv: its processor")
    parser.add_argument("--version", default="", help="--csv: of the runtime")
    parser.add_argument("--threads", type=int, default=1, help="--csv: of the runtime (1)")
    parser.add_argument("--note", default="", help="for the users of the table")


def _sample(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    formats = [one.strip() for one in args.formats.split(",") if one.strip()]
    wrong = [one for one in formats if one not in FORMATS.values()]
    if wrong or not formats:
        raise InputError(f"--formats {args.formats!r}: give {' or '.join(FORMATS.values())}, or both with a comma between")
    if args.num_classes < 1 or args.in_channels < 1 or args.check < 0:
        raise InputError(
            f"--num-classes {args.num_classes}, --in-channels {args.in_channels}, --check {args.check}: give 1 or more classes, 1 or more "
            "channels, and 0 or more networks"
        )
    space = SearchSpace.load(args.space)
    task, samples = _task(args, space), draw_samples(space, args.count, args.check, args.seed)

    def build(arch: ArchDef) -> nn.Module:
        return task.child(arch).network(arch)

    head = task.head_def(space)
    written = write_samples(space, samples, args.folder, formats, args.precision, head, build, args.in_channels)
    for _ in tqdm(written, total=len(samples), desc="exporting", disable=None, dynamic_ncols=True):
        pass
    print(f"{len(samples)} networks and {MANIFEST} in {args.folder}; measure them on a device, or here by tools/latency.py measure")


def _task(args: argparse.Namespace, space: SearchSpace) -> Task:
    """The task whose networks are measured, with the head as a search for it has it. Raises InputError where head and space do not fit."""
    name = "" if args.head == "classifier" else args.head
    options: dict[str, Any] = {}
    for text in args.option:
        key, _, value = text.partition("=")
        if key not in _HEADS[args.head]:
            raise InputError(f"--option {text}: {key!r} is no option of --head {args.head}{did_you_mean(key, _HEADS[args.head], few=4)}")
        try:
            numbers = tuple(int(one) for one in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1 or (key != "strides" and len(numbers) > 1):
            raise InputError(f"--option {text}: give a number above 0" + (", or several with a comma between" if key == "strides" else ""))
        options[key] = numbers if key == "strides" else numbers[0]
    if name:
        options |= {"input_size": space.max_input_size, "output_stride": math.prod(layer.stride for layer in space.layers)}
    classes, half = tuple(map(str, range(args.num_classes))), (0.5,) * args.in_channels
    task = make_task(classes, HeadOptions(name, **options), half, half)
    try:
        task.head_def(space)
    except InputError as error:  # it names the keys of a search
        text = str(error).replace("HEAD.STRIDES", "--option strides").replace("HEAD.LOW_STRIDE", "--option low_stride")
        raise InputError(f"--head {args.head}: {text}") from None
    return task


def _measure(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    total = args.passes * len(read_manifest(args.folder).samples) + args.profiled
    with tqdm(total=total, desc="measuring", disable=None, dynamic_ncols=True) as bar:
        found = measure(args.folder, args.runtime, args.precision, args.passes, args.calls, args.device, args.profiled, progress=bar.update)
    least = found.least().values()
    passes = len(next(iter(found.times.values())))
    path = measured_file(args.folder, args.runtime, args.precision)
    print(f"{len(least)} networks, {passes} passes, {min(least):.3g} to {max(least):.3g} ms: {path}")


def _measured(args: argparse.Namespace, runtime: str = "onnxruntime", precision: str = "fp32") -> Measurement:
    """What was measured here, or came back from a device: of this runtime and precision, where the arguments name no other."""
    runtime, precision = args.runtime or runtime, args.precision or precision
    if not args.csv:
        found = read_measurement(measured_file(args.folder, runtime, precision))
        return replace(found, device=getattr(args, "device", "") or found.device)
    found = read_measurement(args.csv)
    if found.precision not in ("", precision):
        raise InputError(
            f"{args.csv}: names of {found.precision} files, not of {precision}: give --precision {found.precision}, or other times"
        )
    if args.command == "check":
        return found
    if not args.device:
        raise InputError(
            "--device: missing; a table of --csv says what was measured: --device 'Pixel 9' --runtime executorch --version 1.5"
        )
    about: dict[str, Any] = {"device": args.device, "processor": args.processor, "runtime": runtime, "version": args.version}
    return replace(found, **about, threads=args.threads, precision=precision, date=date.today().isoformat())


def _fit(args: argparse.Namespace) -> None:
    if not args.output.endswith(".json"):
        raise InputError(f"--output {args.output}: a table is a .json file")
    manifest, measurement = read_manifest(args.folder), _measured(args)
    measurement = replace(measurement, profiles={}) if args.whole else measurement
    table = fit_table(manifest, measurement, LatencyTable.load(args.like) if args.like else None, args.note)
    check = check_table(table, manifest, measurement)
    _show(check, table, args.picture)
    _require_good(check, f"{args.output}: not written")
    with_check(table, check).save(args.output)
    print(f"written to {args.output}, fitted to {table.method}")


def _check(args: argparse.Namespace) -> None:
    manifest, table = read_manifest(args.folder), LatencyTable.load(args.table)
    check = check_table(table, manifest, _measured(args, table.runtime, table.precision))
    _show(check, table, args.picture)
    if table.digest != manifest.digest:
        print(f"the table was made for {table.space or 'another space'}, these are networks of {manifest.space or 'another'}")
    _require_good(check, args.table)


def _show(check: Check, table: LatencyTable, picture: str | None) -> None:
    print(check)
    if picture:
        title = (
            f"{table.device}\n{table.runtime} {table.version}, {table.precision}, {table.space}, {len(check.networks)} held-out networks"
        )
        words = [f"{name}: R2 {a.r2:.3f}, error {a.error:.1%}" for name, a in (("table", check.table), ("MACs", check.macs))]
        draw_latency(check.measured, check.predicted, check.by_macs, Path(picture), (title, words[0], words[1]))


def _require_good(check: Check, what: str) -> None:
    if not check.beats_macs:
        raise InputError(
            f"{what}: no better than MACs alone (error {check.table.error:.1%} and {check.macs.error:.1%}, tau {check.table.tau:.3f} and "
            f"{check.macs.tau:.3f}): measure more passes or more networks, or search for MACs"
        )
