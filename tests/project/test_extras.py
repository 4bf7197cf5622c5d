"""What a user of the zoo can do without the extras, and that what needs one says which."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobile_cv_nas.errors import InputError, require

ROOT = Path(__file__).resolve().parents[2]
# tqdm is not among them: fvcore and iopath bring it.
BLOCK = """
import sys
MISSING = ("tensorboard", "matplotlib", "sklearn", "accelerate", "timm", "pycocotools", "onnx", "onnxscript", "onnxruntime", "executorch",
           "torchao", "coremltools")
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            return None
        return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
ZOO = """
import torch, mobile_cv_nas as nas
assert sorted(set(nas.__all__) - set(dir(nas))) == []
torch.manual_seed(0)
child = nas.fbnet_builder("FBNetV2_F1").eval()
with torch.inference_mode():
    assert child(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
print(nas.count(child, 128).macs, nas.get_arch("FBNetV2_F1").cost().macs)
import hubconf
assert hubconf.fbnetv2_f1().state_dict().keys() == child.state_dict().keys()
space = nas.SearchSpace.load("configs/spaces/digits.yaml")
print(space.largest().cost(10).macs)
"""


def without_extras(code: str) -> str:
    """What python prints, in the project's folder, where no extra is installed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", BLOCK + code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_zoo_needs_no_extra() -> None:
    counted, published, largest = without_extras(ZOO).split()
    assert int(counted) > 0
    assert int(published) > 0
    assert int(largest) > 0


NEEDS = {
    "figures": (
        "import mobile_cv_nas as nas; from mobile_cv_nas.report.network import draw_arch; "
        "draw_arch(nas.get_arch('FBNetV2_F1'), '/dev/null')",
        "search",
    ),
    "digits": ("from mobile_cv_nas.data.digits import digits; digits()", "search"),
    "ONNX": ("import mobile_cv_nas as nas; nas.export(nas.fbnet_builder('FBNetV2_F1'), 'net.onnx')", "onnx"),
    "ExecuTorch": ("import mobile_cv_nas as nas; nas.export(nas.fbnet_builder('FBNetV2_F1'), 'net.pte')", "executorch"),
    "Core ML": ("import mobile_cv_nas as nas; nas.export(nas.fbnet_builder('FBNetV2_F1'), 'net.mlpackage')", "coreml"),
    "a run's log": (
        "from pathlib import Path; from mobile_cv_nas.engine.progress import MetricsLog; MetricsLog(Path('.'), True)",
        "search",
    ),
}


@pytest.mark.parametrize("what", NEEDS)
def test_what_needs_an_extra_says_which(what: str) -> None:
    code, extra = NEEDS[what]
    head = f"from mobile_cv_nas.errors import InputError\ntry:\n    exec({code!r})\nexcept InputError as error:\n    print(error)"
    assert f'pip install "mobile_cv_nas[{extra}]"' in without_extras(head)


def test_require() -> None:
    assert require("json.decoder", "search").__name__ == "json.decoder"
    with pytest.raises(InputError, match=r'^needs no_such_package; run: pip install "mobile_cv_nas\[search\]"$'):
        require("no_such_package.part", "search")


def test_require_passes_on_what_the_package_itself_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        require("lacking", "search")


def test_the_extras_cover_what_the_library_imports() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    required = text.partition("install_requires=[")[2].partition("]")[0]
    assert not [
        name
        for name in ("tensorboard", "tqdm", "matplotlib", "scikit-learn", "accelerate", "timm", "onnx", "executorch")
        if name in required
    ]
