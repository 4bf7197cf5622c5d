"""Any text, nesting and types as an arch, a space or a config: a valid object or an error that names the place, soon and in little memory.

python benchmarks/fuzz_definitions.py [--cases 20000] [--seed 0]

A third of the cases each are archs, spaces and configs. They are shipped files with characters, lines or values changed, random text of
YAML's own characters, and random objects; one in a hundred is large or deep. A case fails on any other exception, on an error that does not
begin with its file's name or is not one short line, on more than 1 second of the processor, on more than 256 MiB, and if an object that was
accepted is not equal to itself written and read again. Exit code 0 if none fails, else 1.
"""

from __future__ import annotations

import argparse
import collections
import copy
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import mobile_cv_nas as nas
from mobile_cv_nas.config import ConfigError, dump_config, flatten, get_cfg, load_config
from mobile_cv_nas.files import read_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
SECONDS, MEMORY = 1.0, 256 * 2**20
SYNTAX = "[]{}&*!:-? \n\"'|>%@`#,.~=<\t\\"
LETTERS = "ab01eE_xnyNté\x00\x85\u2028\ud800😀"
WORDS = ["conv_k3", "ir_k3", "ir_k5_se_hs", "skip", "ir_pool", "stages", "input_size", "defaults", "name", "any", "expansion", "hidden",
         "divisor", "squeeze", "_BASE_", "VERSION", *(key for key, _ in flatten(get_cfg()))]  # fmt: skip
SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    8,
    10**9,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "1e3",
    "no",
    "\x00",
]


# -- making cases -------------------------------------------------------------------------------------


def any_scalar(rng: random.Random) -> Any:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(SCALARS)
    if kind == 1:
        return rng.choice(WORDS)
    return rng.randint(-5, 70) if kind == 2 else "".join(rng.choices(SYNTAX + LETTERS, k=rng.randrange(12)))


def any_object(rng: random.Random, depth: int = 4) -> Any:
    """Lists, mappings (with keys of any kind), tuples, sets, bytes and scalars."""
    kind = rng.randrange(10) if depth else 0
    if kind < 4:
        return any_scalar(rng)
    items = [any_object(rng, depth - 1) for _ in range(rng.randrange(5))]
    if kind < 7:
        return items
    if kind < 9:
        return {any_scalar(rng): item for item in items}
    return rng.choice([tuple(items), {1, "a"}, b"bytes", 1j, object()])


def changed(obj: Any, rng: random.Random) -> Any:
    """A copy of nested lists and mappings with up to three places changed."""
    obj = copy.deepcopy(obj)
    for _ in range(rng.randint(0, 3)):
        places: list[tuple[Any, Any]] = []
        todo = [obj]
        while todo:
            node = todo.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            places += [(node, key) for key in keys]
            todo += [node[key] for key in keys]
        if not places:
            return any_object(rng)
        node, key = rng.choice(places)
        action = rng.randrange(4)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[any_scalar(rng)] = any_object(rng, 2)
        else:
            node[key] = any_object(rng, 2) if action < 3 else copy.deepcopy(rng.choice(places)[0])
    return obj


def changed_text(text: str, rng: random.Random) -> str:
    """Text with characters or lines replaced, doubled or removed."""
    for _ in range(rng.randint(0, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 1, 1, 5, 40]))
        new = rng.choice(["", "".join(rng.choices(SYNTAX + LETTERS, k=rng.randint(1, 4))), str(any_scalar(rng)), text[start:end] * 2])
        text = text[:start] + new + text[end:]
    return text


def large_text(rng: random.Random) -> str:
    """Up to two megabytes: one character, one word or one structure, over and over."""
    unit = rng.choice(
        [*SYNTAX, *LETTERS, "- ", "? ", "[[", "{a: ", "a: 1\n", "- [ir_k3, 8, 1, 1]\n", "&a [*a, ", "1,", "9", "a: b: ", "\\u1234", "<<: "]
    )
    head = rng.choice(["", "stages: ", "input_size: 8\nstages:\n", "TRAIN: {", '"', "[", "? "])
    return head + unit * (rng.choice([100, 10_000, 400_000, 2_000_000]) // len(unit))


@dataclass
class Kind:
    """One sort of definition: how it is read, its error, and shipped files to start from."""

    name: str
    load: Callable[[Path], Any]
    parse: Callable[[Any, str], Any] | None
    rewritten: Callable[[Any, Path], Any]
    error: type[Exception]
    texts: list[str] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)


def build_kinds() -> list[Kind]:
    def saved(thing: Any, path: Path) -> Any:
        thing.save(path)
        return type(thing).load(path)

    def dumped(cfg: Any, path: Path) -> Any:
        path.write_text(dump_config(cfg), encoding="utf-8")
        return load_config(path)

    spaces = sorted((CONFIGS / "spaces").glob("*.yaml"))
    recipes = sorted([*(CONFIGS / "search").glob("*.yaml"), *(CONFIGS / "train").glob("*.yaml")])
    kinds = [
        Kind("arch", nas.ArchDef.load, nas.ArchDef.parse, saved, nas.ArchError),
        Kind("space", nas.SearchSpace.load, nas.SearchSpace.parse, saved, nas.ArchError),
        Kind("config", load_config, None, dumped, ConfigError),
    ]
    for kind, paths in zip(kinds[1:], (spaces, recipes), strict=True):
        kind.texts, kind.objects = [path.read_text(encoding="utf-8") for path in paths], [read_yaml(path) for path in paths]
    kinds[0].objects = [nas.SearchSpace.load(path).sample(random.Random(0)).to_dict() for path in spaces]
    kinds[0].texts = [yaml.safe_dump(obj) for obj in kinds[0].objects]
    return kinds


def make_case(kind: Kind, rng: random.Random) -> Any:
    """Bytes, to be read as a file, or an object, to be parsed."""
    if rng.random() < 0.01:
        return large_text(rng).encode("utf-8", "surrogatepass")
    form = rng.randrange(4)
    if form == 0:
        return changed_text(rng.choice(kind.texts), rng).encode("utf-8", "surrogatepass")
    if form == 1:
        return "".join(rng.choices([*SYNTAX, *LETTERS, *WORDS], k=rng.randrange(60))).encode("utf-8", "surrogatepass")
    obj = changed(rng.choice(kind.objects), rng) if form == 2 else any_object(rng)
    if kind.parse is None or rng.random() < 0.3:
        try:
            return yaml.safe_dump(obj, allow_unicode=True).encode("utf-8", "surrogatepass")
        except Exception:  # of a type that YAML does not have
            return (
                yaml.dump(obj, allow_unicode=True).encode("utf-8", "surrogatepass") if not _has(obj, object) else b"x: !!python/object:o {}"
            )
    return obj


def _has(obj: Any, kind: type) -> bool:
    """Whether a plain `kind()` is somewhere in it."""
    if isinstance(obj, dict):
        return any(_has(item, kind) for pair in obj.items() for item in pair)
    if isinstance(obj, (list, tuple)):
        return any(_has(item, kind) for item in obj)
    return type(obj) is kind


# -- trying them --------------------------------------------------------------------------------------


def attempt(kind: Kind, case: Any, path: Path) -> tuple[str, float]:
    """ "valid", "refused" or what is wrong, and seconds of the processor."""
    if isinstance(case, bytes):
        path.write_bytes(case)
    source = str(path)
    begin = time.process_time()
    try:
        signal.alarm(30)
        thing = kind.load(path) if isinstance(case, bytes) or kind.parse is None else kind.parse(case, source)
        seconds = time.process_time() - begin
    except kind.error as error:
        seconds = time.process_time() - begin
        message = str(error)
        if not message.startswith((source, str(path.parent) + os.sep)):  # or its base's
            return f"the error does not begin with the file: {message[:200]!r}", seconds
        if not message.isprintable() or len(message) > 1000:
            return f"the error is not one short line: {message[:200]!r} ({len(message)} characters)", seconds
        return ("refused" if seconds < SECONDS else f"refused after {seconds:.2f} s"), seconds
    except BaseException:
        return f"another exception: {traceback.format_exc(limit=-3)}", time.process_time() - begin
    finally:
        signal.alarm(0)
    if seconds >= SECONDS:
        return f"valid after {seconds:.2f} s", seconds
    return ("valid" if kind.rewritten(thing, path) == thing else "written and read again it is another"), seconds


def limit_memory() -> None:
    """What takes more than MEMORY from now on raises MemoryError; what hangs is interrupted."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))

    def hang(*_: object) -> None:
        raise TimeoutError("30 seconds")

    signal.signal(signal.SIGALRM, hang)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kinds, counts, failures, slowest = build_kinds(), collections.Counter(), [], (0.0, "")
    limit_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        for recipe in [*CONFIGS.glob("search/*.yaml"), *CONFIGS.glob("train/*.yaml")]:  # some are the base of others
            shutil.copy(recipe, folder)
        for number in range(args.cases):
            rng, kind = random.Random(f"{args.seed} {number}"), kinds[number % len(kinds)]
            case = make_case(kind, rng)
            outcome, seconds = attempt(kind, case, Path(folder) / "case.yaml")
            counts[kind.name, outcome if outcome in ("valid", "refused") else "FAILED"] += 1
            if outcome not in ("valid", "refused"):
                failures.append(f"case {number}, {kind.name} {case!r:.300}: {outcome}")
            slowest = max(slowest, (seconds, f"case {number}, {kind.name} {case!r:.60}"))
    for failure in failures[:20]:
        print(failure)
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:7} {outcome:8} {count:6}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"slowest: {slowest[0]:.3f} s of the processor, {slowest[1]}; peak memory grew by {grown:.0f} MiB")
    print(f"{args.cases - len(failures)} of {args.cases} passed (seed {args.seed})")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
