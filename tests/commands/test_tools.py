"""The command lines: exit codes, one line an error, tables that fit a terminal."""

import pytest
from helpers import image_folder, quick_cfg, run_tool, tiny_arch, train

from mobile_cv_nas.cli import main
from mobile_cv_nas.config import ConfigError


def exit_code(action, *argv):
    return main(lambda cfg, args: action(cfg, args), argv)


def fail(error):
    raise error


def test_exit_codes(capsys):
    assert exit_code(lambda cfg, args: None) == 0
    assert exit_code(lambda cfg, args: fail(ConfigError("KEY: the reason"))) == 2
    assert capsys.readouterr().err == "error: KEY: the reason\n"
    assert exit_code(lambda cfg, args: tiny_arch().parse({"stages": 3}, "some.yaml")) == 2
    assert capsys.readouterr().err.startswith("error: some.yaml: ")
    assert exit_code(lambda cfg, args: fail(ZeroDivisionError("x"))) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert exit_code(lambda cfg, args: fail(KeyboardInterrupt())) == 1
    assert exit_code(lambda cfg, args: None, "NO.KEY", "1") == 2
    assert exit_code(lambda cfg, args: None, "--config-file", "none.yaml") == 2


def test_pairs_may_stand_on_either_side_of_options(tmp_path):
    (tmp_path / "c.yaml").write_text("SEED: 1\nTRAIN: {EPOCHS: 3}\n")
    seen = []
    argv = ["SEED", "2", "--config-file", str(tmp_path / "c.yaml"), "--resume", "TRAIN.LR", "0.5"]
    assert exit_code(lambda cfg, args: seen.append((cfg, args.resume)), *argv) == 0
    ((cfg, resume),) = seen
    assert (cfg.SEED, cfg.TRAIN.EPOCHS, cfg.TRAIN.LR, resume) == (2, 3, 0.5, True)


def test_a_run_goes_on_or_is_replaced_not_both(capsys):
    seen = []
    assert exit_code(lambda cfg, args: seen.append((args.resume, args.overwrite)), "--overwrite", "SEED", "2") == 0
    assert seen == [(False, True)]
    with pytest.raises(SystemExit) as stopped:
        exit_code(lambda cfg, args: None, "--overwrite", "--resume")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(lambda cfg, args: None, ["--resume"], resumable=False)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --resume; see --help\n"


@pytest.mark.parametrize(
    ("tool", "options", "reason"),
    [
        ("train_net", [], "MODEL.ARCH: empty"),
        ("train_net", ["MODEL.ARCH", "FBNetV2_F44"], "did you mean"),
        ("train_net", ["MODEL.ARCH", "none.yaml"], "none.yaml: no such file"),
        ("test_net", [], "MODEL.WEIGHTS: empty"),
        ("test_net", ["MODEL.WEIGHTS", "none.safetensors"], "none.safetensors: no such file"),
        ("summarize_net", ["MODEL.ARCH", "bad.yaml"], "bad.yaml: "),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, tool, options, reason):
    (tmp_path / "bad.yaml").write_text("input_size: 8\nstages: [[[ir_k33, 8, 1, 1]]]\n")
    done = run_tool(tool, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_summaries_of_files_of_weights_and_of_the_zoo(tmp_path):
    result = train(quick_cfg(tmp_path, "TRAIN.EPOCHS", "1"), tiny_arch(), tmp_path)
    by_file = run_tool("summarize_net", "MODEL.ARCH", "arch.yaml", cwd=tmp_path)
    by_weights = run_tool("summarize_net", "MODEL.WEIGHTS", "model.safetensors", cwd=tmp_path)
    assert by_file.stdout == by_weights.stdout
    assert by_file.stdout.splitlines()[-1].split() == ["total", f"{result['macs']:,}", f"{result['params']:,}"]
    zoo = run_tool("summarize_net", "MODEL.ARCH", "FBNetV2_F1", cwd=tmp_path)
    assert zoo.stdout.splitlines()[0] == "FBNetV2_F1, input 128x128"
    assert max(map(len, zoo.stdout.splitlines())) <= 80


def test_weights_of_other_classes_are_refused(tmp_path):
    train(quick_cfg(tmp_path, "TRAIN.EPOCHS", "1"), tiny_arch(), tmp_path)
    image_folder(tmp_path / "images", {f"class{i}": 4 for i in range(3)})
    options = ["MODEL.WEIGHTS", "model.safetensors", "DATA.DATASET", "imagefolder", "DATA.ROOT", "images"]
    done = run_tool("test_net", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a network of 10 classes" in done.stderr
    assert "the data has 3" in done.stderr
