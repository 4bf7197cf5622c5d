"""All tools as one command: `mobile-cv-nas COMMAND ...`, or `python -m mobile_cv_nas COMMAND ...`."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from .cli import BAD_INPUT, DONE
from .commands import COMMANDS
from .errors import did_you_mean

NAME = "mobile-cv-nas"


def main(argv: Sequence[str] | None = None) -> int:
    """Calls the tool that the first word names; returns its exit code: 0 done, 2 bad input, 1 anything else."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return DONE
    name = words.pop(0)
    if name == "--version":
        from . import __version__

        print(__version__)
        return DONE
    if name not in COMMANDS:
        print(f"error: {name}: no such command{did_you_mean(name, COMMANDS)}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    sys.argv[0] = f"{NAME} {name}"  # what argparse calls the program in --help
    code: int = importlib.import_module(f".commands.{COMMANDS[name]}", __package__).main(words)
    return code


def usage() -> str:
    """The commands, a line each: the first of the module's own docstring, which is read without an import."""
    lines = [f"usage: {NAME} COMMAND ...   ({NAME} COMMAND --help says more, with examples)", ""]
    folder = Path(__file__).parent / "commands"
    for name, module in COMMANDS.items():
        text = ast.get_docstring(ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<{max(map(len, COMMANDS)) + 2}}{text.splitlines()[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
