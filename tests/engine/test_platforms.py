"""What Windows and macOS lack or do otherwise, simulated: no fcntl, no fork, processes that are spawned, Apple's GPU."""

import os
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers import data_of_cfg, image_folder, quick_cfg, runtime_of, tiny_arch, train
from searches import build_searcher, tiny_cfg

from mobile_cv_nas.data import DataOptions, build_data, build_loader
from mobile_cv_nas.engine.runtime import Runtime, RuntimeOptions, start_runtime
from mobile_cv_nas.errors import InputError


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, "-W", "ignore", str(path)], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_everything_is_imported_without_what_only_unix_has(tmp_path):
    done = script(
        tmp_path,
        """
        import errno, importlib, os, pathlib, pkgutil, signal, sys, tempfile
        import filelock, torch, torchvision.transforms.v2, torch.utils.data  # what these need of the system is their own affair
        import fvcore.nn, iopath, matplotlib.pyplot, safetensors.torch, sklearn.datasets, tqdm.auto, yacs.config
        from torch.utils.tensorboard import SummaryWriter

        kept = os.O_NONBLOCK
        for module, names in ((os, ("register_at_fork", "O_NONBLOCK", "sched_getaffinity")), (errno, ("EDQUOT",)), (signal, ("SIGCHLD",))):
            for name in names:
                delattr(module, name)
        sys.modules["fcntl"] = sys.modules["resource"] = None
        import mobile_cv_nas as nas

        for found in pkgutil.walk_packages(nas.__path__, "mobile_cv_nas."):
            importlib.import_module(found.name)
        from mobile_cv_nas.data.loader import processors
        from mobile_cv_nas.engine.memory import peak_memory
        from mobile_cv_nas.engine.run_folder import RunFolder
        from mobile_cv_nas.files import atomic_write, read_yaml

        with tempfile.TemporaryDirectory() as folder:
            atomic_write(pathlib.Path(folder) / "a.yaml", "a: 1")
            assert read_yaml(pathlib.Path(folder) / "a.yaml") == {"a": 1}
            assert peak_memory(torch.device("cpu")) is None
            assert processors() == os.cpu_count()
            os.O_NONBLOCK = kept
            with RunFolder(pathlib.Path(folder) / "run"):
                pass
        print("done")
        """,
    )
    assert done.stdout.endswith("done\n"), done.stderr


SPAWNED = """
import multiprocessing, sys
import torch
from mobile_cv_nas.data import DataOptions, build_data, build_loader

def main():
    options = DataOptions(root={root!r}, workers=2, augment="crop")
    loader = build_loader(options, build_data(options).train, 8, 4, True)
    print(torch.cat([labels for _, labels in loader.epoch(0)]).tolist())

multiprocessing.set_start_method("spawn", force=True)
{call}
"""


@pytest.mark.slow
def test_readers_may_be_spawned_and_a_script_without_a_guard_is_told(tmp_path):
    root = image_folder(tmp_path / "images", {"train/a": 8, "train/b": 8, "val/a": 1, "val/b": 1})
    options = DataOptions(root=str(root), workers=0, augment="crop")
    loader = build_loader(options, build_data(options).train, 8, 4, True)
    expected = torch.cat([labels for _, labels in loader.epoch(0)]).tolist()
    guarded = script(tmp_path, SPAWNED.format(root=str(root), call='if __name__ == "__main__":\n    main()'))
    assert guarded.stdout == f"{expected}\n", guarded.stderr
    bare = script(tmp_path, SPAWNED.format(root=str(root), call="main()"))
    assert bare.returncode != 0
    assert bare.stderr.count('under: if __name__ == "__main__":') >= 1
    assert "[" not in bare.stdout


@pytest.mark.parametrize("dataset", ["imagefolder", "digits"])
def test_what_a_reader_needs_can_be_sent_to_it(tmp_path, dataset):
    options = ["DATA.DATASET", dataset]
    if dataset == "imagefolder":
        options += ["DATA.ROOT", str(image_folder(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1}))]
    data = data_of_cfg(quick_cfg(tmp_path, *options))
    mean = (0.5, 0.5, 0.5)
    loader = build_loader(DataOptions(mean=mean, std=mean), data.train, 8, 4, True)
    copy = pickle.loads(pickle.dumps(loader._reader))
    key = loader._epoch_keys(0)[0]
    assert torch.equal(copy.__getitems__(key).images, loader._reader.__getitems__(key).images)


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "süß 日本 é"
    folder.mkdir()
    assert train(quick_cfg(folder, "TRAIN.EPOCHS", "1"), tiny_arch(), folder)["finished"]
    assert list((folder / "tensorboard").iterdir())
    assert (folder / "model.safetensors").exists()


def test_apples_gpu_is_for_training(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"RUNTIME\.DEVICE: mps, but this machine has no Apple GPU"):
        start_runtime(RuntimeOptions(device="mps"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    runtime = start_runtime(RuntimeOptions(device="mps"))
    assert (runtime.device.type, runtime.world) == ("mps", 1)
    assert runtime.sum([1.0, 2.5]) == [1.0, 2.5]  # on the CPU: mps has no float64
    assert runtime.exact(torch.ones(2)).dtype == torch.float64
    assert start_runtime(RuntimeOptions()).device.type != "mps"  # only where it is asked for
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="mps serves one process, not 2"):
        start_runtime(RuntimeOptions(device="mps"))
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(Runtime, "place", lambda self, model: model)
    with pytest.raises(InputError, match=r"RUNTIME\.DEVICE: mps has no float64"):
        build_searcher(tiny_cfg(tmp_path, "RUNTIME.DEVICE", "mps"))
    assert os.environ.get("WORLD_SIZE") is None
    assert runtime_of(quick_cfg(tmp_path)).device.type == "cpu"
