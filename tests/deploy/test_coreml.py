"""An .mlpackage is written with its interface; whether it computes the same, only macOS could tell."""

import json

import pytest
from networks import model_of

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
def test_a_package(tmp_path):
    tools = pytest.importorskip("coremltools")
    path = tmp_path / "net.mlpackage"
    for _ in range(2):  # the second replaces the first
        result = nas.export(model_of("classifier"), path)
    assert "not verified" in str(result)
    spec = tools.utils.load_spec(str(path))
    assert [one.name for one in spec.description.input] == ["image"]
    assert [one.name for one in spec.description.output] == ["logits"]
    assert json.loads(spec.description.metadata.userDefined["input_size"]) == 8


def test_what_it_does_not_do(tmp_path):
    with pytest.raises(InputError, match="int8 is for"):
        nas.export(model_of("classifier"), tmp_path / "net.mlpackage", int8=[])
    with pytest.raises(InputError, match="ImageType"):
        nas.export(model_of("classifier"), tmp_path / "net.mlpackage", with_transform=True)
