"""Mutants of the core: one operator, constant or call changed at a time; how many of them do the tests see?

python benchmarks/mutants.py --count 200 --output mutants.jsonl [--seed 0] [--only nn/choice.py ...] [--tests tests/nn/test_blocks.py ...]

A mutant is a module of `nn`, `arch`, `networks` or `search` with one change: a comparison, an arithmetic or boolean operator, a number,
True for False, a condition the other way round, min for max, a call left out. Nothing is written to the sources: a process forked from
one that has imported torch loads the changed module in place of the file, and runs tests until one fails.

Which tests: those that run the changed line, those of its namesake and the quickest first, then the others of their files, as many as
take `--seconds` together.
A first run of the fast tests under coverage (pip install coverage) finds out, and is kept beside the output, in mutants.map.json; remove
that file when tests were added. `--tests` runs these instead, as for survivors that a new test is to kill.

A mutant on which the tests take longer than ten times that counts as killed. What is done is a line of the output, and is not done again:
the same command goes on where it was stopped. At the end: the share killed in each room, and every survivor with its line.
"""

from __future__ import annotations

import argparse
import ast
import collections
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mobile_cv_nas"
ROOMS = ("nn", "arch", "networks", "search")
# The tests that run under coverage, beside those of the rooms.
MORE_TESTS = (
    *("tests/tasks/test_heads.py", "tests/report/test_space_info.py", "tests/model_zoo", "tests/engine/test_one_image.py"),
    *("tests/config", "tests/project/test_comparison.py", "tests/commands/test_start_block.py"),
)
FAST = ("-q", "-m", "fast", "-p", "no:cacheprovider")
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin", "topk": "sort"}


@dataclass(frozen=True)
class Mutant:
    """One change: the file, from the package on, its place in the walk over the tree, the line, and what it does."""

    file: str
    place: int
    line: int
    change: str

    @property
    def key(self) -> str:
        return f"{self.file}:{self.line}:{self.place}: {self.change}"

    @property
    def module(self) -> str:
        return "mobile_cv_nas." + self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


# -- what can be changed -----------------------------------------------------------------------------------------------


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a file's text, in the order of the walk."""
    return [Mutant(file, place, line, change) for place, (line, change, _) in enumerate(_changes(ast.parse(source)))]


def mutated(source: str, place: int) -> ast.Module:
    """The tree of a text with the change at that place."""
    tree = ast.parse(source)
    for number, (_, _, apply) in enumerate(_changes(tree)):
        if number == place:
            apply()
            return ast.fix_missing_locations(tree)
    raise IndexError(place)


def _changes(tree: ast.Module) -> Iterator[tuple[int, str, Any]]:
    """(line, change, what makes it) of every place. Words for people, types and messages of errors are left alone."""
    for node in _walk(tree):
        if isinstance(node, (ast.Compare, ast.BinOp, ast.BoolOp, ast.AugAssign)):
            yield from _operators(node)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield from _constants(node)
        elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
            test = node.test
            yield node.lineno, "condition the other way round", lambda n=node, t=test: setattr(n, "test", ast.UnaryOp(ast.Not(), t))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
            plain = ast.UAdd() if isinstance(node.op, ast.USub) else None
            if plain:
                yield node.lineno, "minus left out", lambda n=node, p=plain: setattr(n, "op", p)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in NAMES and name != "topk":
                field = "attr" if isinstance(node.func, ast.Attribute) else "id"
                yield node.lineno, f"{NAMES[name]} for {name}", lambda f=node.func, k=field, n=name: setattr(f, k, NAMES[n])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node.lineno, f"left out: {ast.unparse(node.value)[:50]}", lambda n=node: setattr(n, "value", ast.Constant(None))


def _operators(node: Any) -> Iterator[tuple[int, str, Any]]:
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            new = SWAPS.get(type(op))
            if new:
                yield node.lineno, f"{new.__name__} for {type(op).__name__}", lambda n=node, i=i, new=new: n.ops.__setitem__(i, new())
        return
    new = SWAPS.get(type(node.op))
    if new and not (isinstance(node.op, ast.Mod) and isinstance(getattr(node, "left", None), ast.Constant)):
        yield node.lineno, f"{new.__name__} for {type(node.op).__name__}", lambda n=node, new=new: setattr(n, "op", new())


def _constants(node: ast.Constant) -> Iterator[tuple[int, str, Any]]:
    value: Any = node.value
    new = not value if isinstance(value, bool) else value + 1
    yield node.lineno, f"{new} for {value}", lambda n=node, new=new: setattr(n, "value", new)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Depth first, without type annotations, docstrings, formatted text, errors that are raised, assertions, and the log."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _told(child):
                yield from _walk(child)


def _told(node: ast.AST) -> bool:
    """Whether it only tells something, or only asserts it: that what is zipped is of one length."""
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return True
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return ast.unparse(node.value.func) in ("log.warning", "_LOG.warning", "_LOG.info", "print")


# -- running tests on one ----------------------------------------------------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a changed tree."""

    tree: ast.Module

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    """Gives one module from another tree than its file has."""

    def __init__(self, module: str, path: Path, tree: ast.Module):
        self.module, self.path, self.tree = module, path, tree

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        if fullname != self.module:
            return None
        loader = _Loader(fullname, str(self.path))
        loader.tree = self.tree
        folders = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader, submodule_search_locations=folders)


class Recorder:
    """A plugin of pytest: tells coverage which test runs, and notes how long each takes."""

    def __init__(self, coverage: Any):
        self.coverage = coverage
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration


def unchanged(tests: Sequence[str], *plugins: Any) -> None:
    """Runs tests without a change. Raises SystemExit where they fail, or are none: every mutant would count as killed."""
    import pytest

    if code := pytest.main([*FAST, *tests], plugins=list(plugins)):
        raise SystemExit(f"error: without any change pytest ends with {int(code)}: tests that fail, or that are not there or not fast")


def record(path: Path) -> None:
    """Runs the fast tests of the core under coverage, and writes what `Map` reads. It prints as pytest does."""
    import coverage

    lines = coverage.Coverage(data_file=None, config_file=False, source=[str(PACKAGE / room) for room in ROOMS])
    recorder = Recorder(lines)
    lines.start()
    unchanged([*(f"tests/{room}" for room in ROOMS), *MORE_TESTS], recorder)
    lines.stop()
    from mobile_cv_nas.files import atomic_write

    names = list(recorder.seconds)
    number = {name: i for i, name in enumerate(names)}
    ran: dict[str, dict[int, list[int]]] = {}
    for file in lines.get_data().measured_files():
        contexts = lines.get_data().contexts_by_lineno(file)
        found = {line: sorted(number[name] for name in seen if name in number) for line, seen in contexts.items()}
        ran[Path(file).relative_to(PACKAGE).as_posix()] = {line: tests for line, tests in sorted(found.items()) if tests}
    atomic_write(path, json.dumps({"tests": names, "seconds": [round(recorder.seconds[name], 3) for name in names], "lines": ran}) + "\n")


class Map:
    """Which tests run a line, and how long they take."""

    def __init__(self, path: Path):
        found = json.loads(path.read_text(encoding="utf-8"))
        self.tests, self.seconds, self.lines = found["tests"], found["seconds"], found["lines"]

    def of(self, mutant: Mutant, seconds: float) -> list[str]:
        """Tests for a mutant.

        What runs at import, as a default or a constant, is for all that run anything of the file; of a file of constants alone, for all.
        """
        lines = self.lines.get(mutant.file, {})
        near = lines.get(str(mutant.line)) or sorted({test for tests in lines.values() for test in tests}) or range(len(self.tests))
        files = {self.tests[test].partition("::")[0] for test in near}
        direct = set(near)
        beside = [i for i, name in enumerate(self.tests) if name.partition("::")[0] in files and i not in direct]
        namesake = f"test_{Path(mutant.file).stem}.py::"

        def order(test: int) -> tuple[bool, float]:
            return namesake not in self.tests[test], self.seconds[test]

        found, spent = [], 0.0
        for test in [*sorted(near, key=order), *sorted(beside, key=order)]:
            spent += self.seconds[test]
            if spent > seconds and found:
                break
            found.append(self.tests[test])
        return found


def killed(module: str, path: Path, tree: ast.Module, tests: Sequence[str], limit: float) -> tuple[bool, float]:
    """Whether the tests see the change, in a process that may use `limit` seconds of the processor, and the seconds that passed."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit)))  # its end by a signal counts as killed
            sys.meta_path.insert(0, Finder(module, path, tree))
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            import pytest

            code = int(pytest.main(["-x", *FAST, *tests]))
        except BaseException:
            code = 4
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) != 0, time.monotonic() - begin


def in_a_fork(work: Callable[[], None]) -> None:
    """Does it in a process of its own, which keeps what it imports to itself."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as error:
            print(error, file=sys.stderr)
        except BaseException:  # os._exit would leave it unsaid
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(1)


def _prepare() -> None:
    """Imports what every forked process would import again, and nothing of the package."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for name in (
        "torch",
        "torchvision.transforms.v2",
        "numpy",
        "PIL.Image",
        "yaml",
        "yacs.config",
        "sklearn.datasets",
        "pytest",
        "tabulate",
    ):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    assert not any(name.startswith("mobile_cv_nas") for name in sys.modules)


def chosen(count: int, seed: int, only: Sequence[str]) -> list[Mutant]:
    """So many mutants at random; the first of a larger number are those of a smaller one."""
    found: list[Mutant] = []
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            file = path.relative_to(PACKAGE).as_posix()
            if not only or file in only:
                found += mutants_of(file, path.read_text(encoding="utf-8"))
    random.Random(seed).shuffle(found)
    return found[:count]


def report(results: Sequence[dict[str, Any]]) -> str:
    """The share killed in each room and in all, and the survivors."""
    rooms: dict[str, list[bool]] = collections.defaultdict(list)
    for one in results:
        rooms[one["key"].split("/")[0]].append(one["killed"])
    lines = [f"{room:10} {sum(seen):4} of {len(seen):4} killed, {sum(seen) / len(seen):.1%}" for room, seen in sorted(rooms.items())]
    seen = [one["killed"] for one in results]
    lines.append(f"{'all':10} {sum(seen):4} of {len(seen):4} killed, {sum(seen) / max(1, len(seen)):.1%}")
    return "\n".join([*lines, *(f"survived: {one['key']}" for one in results if not one["killed"])])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is left of the mutants, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests for a mutant, as long as these take without a change")
    parser.add_argument("--tests", nargs="*", default=[], help="that run in place of those that run the changed line")
    parser.add_argument("--only", nargs="*", default=[], help="files, from the package on: nn/choice.py")
    parser.add_argument("--output", type=Path, default=Path("mutants.jsonl"))
    options = parser.parse_args(argv)
    output = options.output.absolute()
    wanted = chosen(options.count, options.seed, options.only)
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    done = {one["key"]: one for one in map(json.loads, lines)}
    todo, tests_map = [mutant for mutant in wanted if mutant.key not in done], output.with_suffix(".map.json")
    _prepare()
    if todo and options.tests:
        in_a_fork(lambda: unchanged(options.tests))
    elif todo and not tests_map.exists():
        in_a_fork(lambda: record(tests_map))
    known = Map(tests_map) if todo and not options.tests else None
    for mutant in todo:
        path = PACKAGE / mutant.file
        tree = mutated(path.read_text(encoding="utf-8"), mutant.place)
        tests = options.tests if known is None else known.of(mutant, options.seconds)
        seen, seconds = killed(mutant.module, path, tree, tests, 10 * options.seconds) if tests else (False, 0.0)
        done[mutant.key] = {"key": mutant.key, "killed": seen, "seconds": round(seconds, 1)}
        with open(output, "a", encoding="utf-8") as file:
            file.write(json.dumps(done[mutant.key]) + "\n")
        print(f"{'killed  ' if seen else 'SURVIVED'} {seconds:6.1f} s  {mutant.key}", flush=True)
    print(report([done[mutant.key] for mutant in wanted if mutant.key in done]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
