"""All tools as one command, and the help of each: what it does, with an example."""

import re

import pytest
from helpers import ROOT, run_tool

from mobile_cv_nas.__main__ import main, usage
from mobile_cv_nas.commands import COMMANDS
from mobile_cv_nas.configs import config_path

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))


def help_of(*words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_every_tool_is_a_command():
    assert sorted(COMMANDS.values()) == TOOLS, "a line in mobile_cv_nas/commands/__init__.py names each tool"


@pytest.mark.parametrize("tool", TOOLS)
def test_the_help_of_a_tool_has_an_example(tool):
    done = run_tool(tool, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^python tools/{tool}\.py", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 140


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example_of_that_command(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mobile-cv-nas"])
    text = help_of(name, capsys=capsys)
    assert text.startswith(f"usage: mobile-cv-nas {name} ")
    assert re.search(rf"^mobile-cv-nas {name}\b", text, re.MULTILINE)
    assert "python tools/" not in text
    assert not re.search(r"torchrun .*tools/", text)


def test_the_commands_are_listed(capsys):
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out == f"{usage()}\n" * 2
    assert all(re.search(rf"^  {name}  +[A-Z].*\.$", out, re.MULTILINE) for name in COMMANDS)


def test_an_unknown_command_is_one_line(capsys):
    assert main(["serach"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: serach: no such command, did you mean search?")
    assert err.count("\n") == 1


def test_a_command_does_what_its_tool_does(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mobile-cv-nas"])
    assert main(["summarize", "MODEL.ARCH", "FBNetV2_F1"]) == 0
    assert capsys.readouterr().out == run_tool("summarize_net", "MODEL.ARCH", "FBNetV2_F1").stdout
    assert main(["predict", "none.jpg", "--model", "FBNetV2_F1"]) == 2


def test_a_shipped_config_is_found_from_any_folder(tmp_path, monkeypatch):
    from mobile_cv_nas import cli

    monkeypatch.chdir(tmp_path)
    for name in ("search/digits.yaml", "configs/search/digits.yaml"):
        assert cli._shipped(name) == str(config_path("search/digits.yaml"))
    assert cli._shipped("search/none.yaml") == "search/none.yaml"
    (tmp_path / "search").mkdir()
    (tmp_path / "search/digits.yaml").write_text("SEED: 1\n")  # a file that is there comes first
    assert cli._shipped("search/digits.yaml") == "search/digits.yaml"
