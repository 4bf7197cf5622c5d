"""The house rules that a person can forget: sizes of files, functions and constructors, heads, configs and type ignores."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("mobile_cv_nas", "model_zoo", "tools") for path in (ROOT / folder).rglob("*.py"))
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
# The links in the package lead to folders that are looked at by themselves.
SOURCES = {name: text for name, text in SOURCES.items() if not name.startswith(("mobile_cv_nas/model_zoo/", "mobile_cv_nas/configs/"))}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds, with its file."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield name, node


def test_the_library_is_looked_at() -> None:
    assert len(SOURCES) > 60
    assert {"mobile_cv_nas/nn/blocks.py", "model_zoo/builder.py", "tools/search_net.py"} <= set(SOURCES)


def test_no_file_is_over_330_lines() -> None:
    lengths = {name: len(text.splitlines()) for name, text in SOURCES.items()}
    assert {name: length for name, length in lengths.items() if length > 330} == {}


def test_no_function_is_over_60_lines() -> None:
    lengths = {f"{name}:{node.name}": node.end_lineno - node.lineno + 1 for name, node in nodes(*FUNCTIONS)}
    assert {where: length for where, length in lengths.items() if length > 60} == {}


def test_no_constructor_takes_over_8_parameters() -> None:
    many = {}
    for name, node in nodes(ast.ClassDef):
        for function in node.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                arguments = function.args
                count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1
                if count > 8:
                    many[f"{name}:{node.name}"] = count
    assert many == {}


def test_no_int_or_head() -> None:
    found = []
    for name, node in nodes(ast.BinOp):
        parts = {part.strip() for part in ast.unparse(node).split("|")}
        if "int" in parts and any(part.rpartition(".")[2] in ("Head", "HeadDef") for part in parts):
            found.append(f"{name}:{node.lineno}")
    assert found == []


def imported(node: ast.AST) -> list[str]:
    """The modules and names that an import statement names."""
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(alias.name for alias in node.names)]
    return [alias.name for alias in node.names]


def test_configs_stay_at_the_edge() -> None:
    """cli.py hands one through, and needs no import for it; a tool calls commands."""
    found = []
    for name, node in nodes(ast.Import, ast.ImportFrom):
        edge = name.startswith(("mobile_cv_nas/commands/", "mobile_cv_nas/config/"))
        if not edge and any(part.split(".")[0] == "yacs" or part == "CfgNode" for part in imported(node)):
            found.append(f"{name}:{node.lineno}")
    assert found == []


def test_type_ignores_are_few() -> None:
    found = {name: len(re.findall(r"#\s*type:\s*ignore", text)) for name, text in SOURCES.items()}
    assert sum(found.values()) <= 15, {name: count for name, count in found.items() if count}


def test_no_relative_import_leaves_the_package() -> None:
    """The zoo is a folder of its own and a room of the package: it names other rooms by their full names."""
    found = []
    for name, node in nodes(ast.ImportFrom):
        depth = len(Path(name).parts) - 1  # folders above the file, inside the top-level package
        if node.level > depth:
            found.append(f"{name}:{node.lineno}")
    assert found == []
