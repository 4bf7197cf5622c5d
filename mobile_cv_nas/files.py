"""Reading and writing of small files: guarded YAML in, atomic writes out."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from .errors import FileError

MAX_DEPTH = 32  # nesting of lists and mappings; the deepest file of this project has 6
MAX_NODES = 50_000  # scalars, lists and mappings together: bounds time and memory


TEMPORARY = ".tmp"  # how the names of unfinished files end


# -- reading ------------------------------------------------------------------------------------------


def read_bytes(path: str | os.PathLike, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes. Raises FileError, which names the file."""
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # Windows lacks the one, others the other
        with open(os.open(os.fspath(path), flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"{path}: not a regular file")
            if status.st_size > max_bytes:  # before it fills the memory
                raise FileError(f"{path}: larger than the limit of {max_bytes:,} bytes for such a file")
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; check the name and the folder you run from") from None
    except IsADirectoryError:
        raise FileError(f"{path}: a folder, where a file is needed") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except FileError:
        raise
    except (ValueError, TypeError) as error:
        raise FileError(f"{path!r}: not a file name: {error}") from None
    if len(data) > max_bytes:  # it grew, or is of a kind that has no size
        raise FileError(f"{path}: larger than the limit of {max_bytes:,} bytes for such a file")
    return data


def read_yaml(path: str | os.PathLike, max_bytes: int = 1_000_000) -> Any:
    """The object in a YAML file, of plain types only: None, bool, int, float, str, list, dict.

    The YAML 1.2 core schema applies: `1e-4` is a number, `no` is a string. Raises FileError naming the file, and the
    line of a syntax error, for: a missing or empty file, a folder, text that is not UTF-8, more than `max_bytes`
    bytes, anchors, aliases and tags, a key given twice, and deep nesting.
    """
    data = read_bytes(path, max_bytes)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}: line {line}: not UTF-8 text; is this a YAML file?") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """As `read_yaml`, from text; `source` names it in errors."""
    try:
        _check_events(text, source)
        obj = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise FileError(f"{source}: {where}{error.problem or error.context}; not valid YAML") from None
    except yaml.YAMLError as error:  # characters that no YAML file may hold
        raise FileError(f"{source}: {' '.join(str(error).split())[:200]}; not valid YAML") from None
    except FileError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise FileError(f"{source}: a value that cannot be read: {str(error)[:100]}") from None
    if obj is None:
        raise FileError(f"{source}: empty; write the file again or restore it")
    return obj


def _check_events(text: str, source: str) -> None:
    """Refuses what could grow without bound or run code, before any object is built."""
    depth = nodes = documents = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise FileError(f"{source}: line {line}: anchors and aliases (& and *) are not allowed; write values out")
        if getattr(event, "tag", None):
            raise FileError(f"{source}: line {line}: the tag {str(event.tag)[:40]!r} is not allowed; use plain values")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise FileError(f"{source}: line {line}: a second document (---); a file holds one")
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise FileError(f"{source}: line {line}: nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.NodeEvent)
        if nodes > MAX_NODES:
            raise FileError(f"{source}: line {line}: more than {MAX_NODES:,} values")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML with the 1.2 core schema; a key given twice is an error."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  (PyYAML's own name; filled below)


def _mapping(loader: Any, node: yaml.MappingNode) -> dict:
    result: dict = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key_node.start_mark)
        key = loader.construct_object(key_node)
        if key in result:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_NUMBERS = list("-+0123456789")
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value.replace("_", "")))
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", _NUMBERS),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*_NUMBERS, "."]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that this or another YAML version would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def dump_yaml(obj: Any) -> str:
    """Plain objects as YAML text that `parse_yaml` reads back as equal ones, keys in the order given."""
    return yaml.dump(obj, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


# -- writing ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only once it is whole and on the disk.

    On any error the file that was there before stays as it was. Raises FileError when the folder is missing or
    read-only, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    raw, done = None, False
    try:
        raw = _Raw(temporary, "w")
        with io.BufferedWriter(raw) as file:
            yield file  # type: ignore[misc]  # a BinaryIO in all but name
            file.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
        done = True
        _sync_folder(path.parent)
    except Exception as error:
        cause = raw.error if raw is not None and raw.error is not None else error
        if isinstance(cause, OSError):
            raise write_error(path, cause) from None
        raise
    finally:
        if not done:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


class _Raw(io.FileIO):
    """Remembers the error of a failed write: torch and others report it as something else."""

    error: OSError | None = None

    def write(self, data: Any) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a whole file or leaves the old one: temporary name, fsync, rename. Text is UTF-8. Raises FileError."""
    with atomic_open(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def write_error(path: str | os.PathLike, error: OSError) -> FileError:
    """The FileError for a failed write, with a remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or set OUTPUT_DIR to another disk",
        getattr(errno, "EDQUOT", -1): "the disk quota is used up; free some space or set OUTPUT_DIR to another disk",
        errno.EROFS: "the folder is read-only; set OUTPUT_DIR to one you may write",
        errno.EACCES: "no permission to write there; set OUTPUT_DIR to a folder you may write",
        errno.EPERM: "no permission to write there; set OUTPUT_DIR to a folder you may write",
        errno.ENOENT: "its folder does not exist (any more)",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EISDIR: "a folder of that name is in the way",
    }
    return FileError(f"{path}: cannot be written: {remedies.get(error.errno or 0, error.strerror or error)}")


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut; some file systems cannot, and that is no error."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
