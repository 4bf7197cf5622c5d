"""The command line that all tools share."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .arch import ArchError
from .config import load_config, own_config
from .configs import config_path
from .errors import InputError

DONE, FAILED, BAD_INPUT = 0, 1, 2
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]*)*(=.*)?", re.DOTALL)  # what a word looks like that sets one


def main(
    run: Callable[[Any, argparse.Namespace], None],
    argv: Sequence[str] | None = None,
    description: str = "",
    resumable: bool = True,
    purpose: str = "",
) -> int:
    """Reads `--config-file FILE`, KEY VALUE pairs and, if `resumable`, `--dry-run` and `--resume` or `--overwrite`; calls `run(cfg, args)`.

    The file may stand alone before the pairs, and so may the model of a test.

    Returns the exit code:
    0 done (also after a stop by signal that was saved); 2 bad input, told in one line on stderr; 1 anything else.
    """
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", metavar="FILE", help="YAML file of keys, or a shipped one: search/digits.yaml")
    if resumable:
        parser.add_argument("--dry-run", action="store_true", help="say what would be done, in how much time and memory, and end")
        into = parser.add_mutually_exclusive_group()
        into.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in OUTPUT_DIR")
        into.add_argument("--overwrite", action="store_true", help="replace the run that OUTPUT_DIR holds, finished or not")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys set after the file: TRAIN.EPOCHS 10 ...")
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: run(_config(args.config_file, args.opts, purpose), args))


def _config(file: str | None, opts: Sequence[str], purpose: str) -> Any:
    """The configuration of a command line, whose first words may be a config file and, of a test, the model."""
    words = list(opts)
    if words and file is None and not _KEY.fullmatch(words[0]) and words[0].lower().endswith((".yaml", ".yml")):
        file = words.pop(0)
    if purpose == "test" and words and not _KEY.fullmatch(words[0]):
        source = words.pop(0)
        words = [f"MODEL.WEIGHTS={source}", *words]
        if file is None and (own := own_config(source)) is not None:
            file = str(own)
            words = words if source.lower().endswith((".pt", ".pth")) else ["MODEL.ARCH=", *words]  # a model brings its own
    return load_config(None if file is None else _shipped(file), words, purpose)


def _shipped(file: str) -> str:
    """A file, or the shipped one of that name where there is none: an installed library is used from any folder."""
    if not Path(file).exists():
        with contextlib.suppress(FileNotFoundError):
            return str(config_path(file.removeprefix("configs/")))
    return file


def guarded(action: Callable[[], None]) -> int:
    """Calls `action` and returns the exit code of a command line, as `main` does; for tools without a config."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        action()
    except (InputError, ArchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader of our output is gone; python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception:
        traceback.print_exc()
        return FAILED
    return DONE


class Parser(argparse.ArgumentParser):
    """Tells an error in one line, and exits with the code of bad input; its examples say how it was called."""

    def format_help(self) -> str:
        text = super().format_help()
        if self.prog.startswith("mobile-cv-nas "):  # not as the file in tools/ that the examples name
            text = re.sub(r"python tools/\w+\.py", self.prog, text)
            text = re.sub(r"torchrun (.*)tools/\w+\.py", rf"torchrun \1-m {self.prog.replace('mobile-cv-nas', 'mobile_cv_nas')}", text)
        return text

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}; see --help\n")
