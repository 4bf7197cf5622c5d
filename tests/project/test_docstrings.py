"""Every public name says what it is, what it takes, gives and raises."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import re
from typing import Any

import pytest
from helpers import ROOT

import mobile_cv_nas as nas
from mobile_cv_nas.search import run

NAMES = sorted(nas.__all__)


def public(name: str) -> Any:
    return run.search if name == "search" else getattr(nas, name)  # the package that can be called, as its function


def sections(doc: str) -> set[str]:
    return set(re.findall(r"^(Args|Returns|Raises|Attributes|Shapes)\b", doc, re.MULTILINE))


def parameters(value: Any) -> list[str]:
    """What a person who calls it gives, of a class its constructor's."""
    try:
        taken = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one.name for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "BLOCKS"])  # a registry of fvcore's, explained at its place
def test_a_name_says_what_it_takes(name: str) -> None:
    value = public(name)
    doc = inspect.getdoc(value) or ""
    assert len(doc.split()) >= 8, "a sentence at least"
    if isinstance(value, type) and issubclass(value, Exception):
        return
    if parameters(value) or dataclasses.is_dataclass(value):
        assert sections(doc) & {"Args", "Attributes", "Returns", "Raises"}, "Args, Attributes, Returns or Raises"
    if "Args" in sections(doc) and not isinstance(value, type):
        missing = [one for one in parameters(value) if not re.search(rf"\b{one}\b", doc)]
        assert missing == []


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(public(name), type)])
def test_public_methods_say_what_they_do(name: str) -> None:
    kind = public(name)
    own = {key: value for base in kind.__mro__ if base.__module__.startswith("mobile_cv_nas") for key, value in vars(base).items()}
    silent = []
    for key, value in own.items():
        plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else getattr(value, "fget", value)
        if not key.startswith("_") and inspect.isroutine(plain) and not (inspect.getdoc(getattr(kind, key)) or ""):
            silent.append(key)
    assert silent == []


@pytest.mark.parametrize("name", [name for name in NAMES if ">>>" in (inspect.getdoc(public(name)) or "")])
def test_examples_in_docstrings_run(name: str) -> None:
    value = public(name)
    module = importlib.import_module(value.__module__)
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(value, name, module=module, globs={**vars(module), "nas": nas}):
        runner.run(test)
    assert runner.failures == 0


def test_every_name_has_an_example() -> None:
    """In its docstring, in a page of docs, all of whose blocks run, or in examples/, which run too."""
    from test_docs import PAGES, blocks

    code = "\n".join(block.code for page in PAGES for block in blocks(page) if block.kind == "python")
    code += "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py"))
    shown = [name for name in NAMES if f"nas.{name}" in code or ">>>" in (inspect.getdoc(public(name)) or "")]
    results = {"SearchResult", "TrainResult", "Prediction", "Model", "Network", "Supernet", "Cost"}  # what those names give
    assert sorted(set(NAMES) - set(shown) - results) == []
