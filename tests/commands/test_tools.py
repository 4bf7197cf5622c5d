"""The command lines: exit codes, one line an error, tables that fit a terminal."""

import re

import pytest
from dense_runs import dense_arch
from helpers import image_folder, quick_cfg, run_tool, tiny_arch, train

import mobile_cv_nas as nas
from mobile_cv_nas.cli import main
from mobile_cv_nas.config import ConfigError
from mobile_cv_nas.tasks.build import make_task
from mobile_cv_nas.tasks.load import default_transform
from mobile_cv_nas.tasks.model import save_model
from mobile_cv_nas.tasks.options import HeadOptions


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


def test_a_summary_is_of_the_network_that_was_named(scenes, tmp_path):
    """By fvcore: the head of a file or of HEAD.NAME, the channels of the images, the card of another library's weights."""
    tiny_arch().save(tmp_path / "arch.yaml")

    def said(*options):
        done = run_tool("summarize_net", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        numbers = re.findall(r"\b\d[\d,]*\b", done.stdout.partition("total" if "total" in done.stdout else "MACs")[2])
        return [int(text.replace(",", "")) for text in numbers]

    def counted(network, size, channels=3):
        cost = nas.count(network.eval(), size, channels)
        return [cost.macs, cost.params]

    dense_arch().save(tmp_path / "dense.yaml")
    task = make_task([str(i) for i in range(11)], HeadOptions(name="lraspp", input_size=96), (0.5,) * 3, (0.5,) * 3)
    segmenter = task.network(dense_arch())
    save_model(tmp_path / "seg.safetensors", segmenter, dense_arch(), task, default_transform(task, dense_arch()))
    assert said("MODEL.WEIGHTS", "seg.safetensors") == counted(segmenter, 96)
    dense = ["HEAD.NAME", "lraspp", "HEAD.INPUT_SIZE", "96", "DATA.DATASET", "digit_scenes", "DATA.ROOT", str(scenes)]
    assert said("MODEL.ARCH", "dense.yaml", *dense) == counted(segmenter, 96)

    for given in (["DATA.IN_CHANNELS", "1"], ["DATA.MEAN", "[0.5]", "DATA.STD", "[0.5]"]):
        assert said("MODEL.ARCH", "arch.yaml", *given) == counted(nas.build_model(tiny_arch(), 10, 1), 8, 1)
        assert said("MODEL.ARCH", "Digits", *given) == counted(nas.build_model(nas.get_arch("Digits"), 10, 1), 16, 1)

    archs = [nas.get_arch(name) for name in ("FBNet_C", "FBNet_C_timm")]
    ours, theirs = (counted(nas.build_model(arch, 1000), arch.input_size) for arch in archs)
    assert ours != theirs
    for weights, expected in (("pretrained", ours), ("pretrained:timm", theirs)):
        assert said("MODEL.ARCH", "FBNet_C", "MODEL.WEIGHTS", weights) == expected


def test_weights_of_other_classes_are_refused(tmp_path):
    train(quick_cfg(tmp_path, "TRAIN.EPOCHS", "1"), tiny_arch(), tmp_path)
    image_folder(tmp_path / "images", {f"class{i}": 4 for i in range(3)})
    options = ["MODEL.WEIGHTS", "model.safetensors", "DATA.DATASET", "imagefolder", "DATA.ROOT", "images"]
    done = run_tool("test_net", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a network of 10 classes" in done.stderr
    assert "the data has 3" in done.stderr
