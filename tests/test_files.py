import errno
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mobile_cv_nas as nas
from mobile_cv_nas.errors import FileError
from mobile_cv_nas.files import MAX_DEPTH, atomic_open, atomic_write, dump_yaml, parse_yaml, read_yaml


def test_yaml_has_the_plain_types_of_yaml_1_2():
    text = "a: 1e-4\nb: no\nc: 1_000\nd: -.inf\ne: [true, ~, 0.5, 'x']\nf: 2020-01-01\ng: 010\n"
    assert parse_yaml(text, "t") == {
        "a": 1e-4, "b": "no", "c": 1000, "d": float("-inf"), "e": [True, None, 0.5, "x"], "f": "2020-01-01", "g": 10,
    }  # fmt: skip


def test_what_is_dumped_is_what_is_read():
    words = [
        "no",
        "1e3",
        "1e-5",
        "~",
        "",
        "0o7",
        "1:30",
        "2020-01-01",
        "<<",
        "=",
        "a: b",
        "é",
        "0x1f",
        "1_0",
        ".5",
        " x ",
    ]
    obj = {"b": words, "a": [1e-5, 1e22, 3, True, None, float("inf")], "1": {"x": [[]]}}
    assert parse_yaml(dump_yaml(obj), "t") == obj
    assert list(parse_yaml(dump_yaml(obj), "t")) == ["b", "a", "1"]


BAD_TEXT = {
    "a: [1,\nb: }": "line 2",
    "a: &x 1": "anchors",
    "a: *x": "anchors",
    "a: !!python/object/apply:os.system [ls]": "tag",
    "a: !local 1": "tag",
    "a: 1\nb: 2\na: 3": "line 3: key 'a' is given twice",
    "? [1, 2]\n: 3": "a key must be one word",
    "--- 1\n--- 2": "second document",
    "": "empty",
    "# only a comment": "empty",
    "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1): "nested",
    "[" + "1," * 60_000 + "]": "values",
    "a: \x00": "not valid YAML",
    "a: \ud800": "cannot be read",
    "9" * 5000: "cannot be read",
}


@pytest.mark.parametrize("text", BAD_TEXT, ids=lambda text: text[:20].encode("unicode_escape").decode())
def test_bad_yaml_is_one_clear_line(text):
    with pytest.raises(FileError) as error:
        parse_yaml(text, "some.yaml")
    assert BAD_TEXT[text] in str(error.value)
    assert str(error.value).startswith("some.yaml: ")
    assert "\n" not in str(error.value)


def test_alias_bomb_costs_nothing():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "bcdefghi")
    with pytest.raises(FileError, match="anchors"):
        parse_yaml(bomb, "bomb")


SYNTAX = "[]{}&*!:-? \n\"'|>%@`#,.~=<\t\\0a1éE_😀"
WORDS = [
    "conv_k3, 8, 1, 1",
    "ir_k3",
    "skip",
    "stages: ",
    "input_size: 8\n",
    "defaults: ",
    "{any: [1]}",
    "- [[",
    "]]\n",
    "\n  - ",
    "expansion: 3",
]


@settings(max_examples=500, deadline=None)
@given(parts=st.lists(st.sampled_from([*SYNTAX, *WORDS]) | st.text(max_size=5), max_size=60), is_arch=st.booleans())
def test_any_text_is_a_definition_or_an_error_with_the_file(tmp_path_factory, parts, is_arch):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes("".join(parts).encode("utf-8", "surrogatepass"))
    kind = nas.ArchDef if is_arch else nas.SearchSpace
    message = None
    try:
        assert isinstance(kind.load(path), kind)
    except nas.ArchError as error:
        message = str(error)
    assert message is None or (message.startswith(str(path)) and message.isprintable() and len(message) < 1000)


def test_files_that_are_none(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xff\xfe")
    (tmp_path / "big.yaml").write_bytes(b"#" * 2000)
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "none.yaml": "no such file", "": "a folder", "latin.yaml": "line 2: not UTF-8", "pipe": "not a regular file",
        "big.yaml": "larger than the limit of 1,000", "\0": "not a file name", "x" * 5000: "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(FileError, match=reason):
            read_yaml(f"{tmp_path}/{name}", max_bytes=1000)


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1}


def test_atomic_write_replaces_whole_files(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, "old")
    atomic_write(path, "é")
    assert path.read_bytes() == "é".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert os.listdir(tmp_path) == ["file"]


def write_half(path, error):
    with atomic_open(path) as file:
        file.write(b"half of the new")
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, number):
    path = tmp_path / "file"
    atomic_write(path, "old")
    with pytest.raises(FileError, match="file: cannot be written"):
        write_half(path, OSError(number, os.strerror(number)))
    with pytest.raises(KeyError):
        write_half(path, KeyError())
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_names_what_is_in_the_way(tmp_path):
    (tmp_path / "folder").mkdir()
    atomic_write(tmp_path / "file", "")
    for path, reason in ((tmp_path / "gone" / "file", "does not exist"), (tmp_path / "file" / "x", "not a folder"),
                         (tmp_path / "folder", "a folder of that name")):  # fmt: skip
        with pytest.raises(FileError, match=reason):
            atomic_write(path, "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
