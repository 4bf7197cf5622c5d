"""What stands around the zoo: configs, command lines, torch.hub and timm."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from released_facts import filled

import mobile_cv_nas as nas
from mobile_cv_nas.config import load_config
from mobile_cv_nas.model_zoo.card import all_cards

ROOT = Path(__file__).parents[2]
NETWORKS = [card for card in all_cards() if card.table is not None and card.classes == 1000]


def readme_tables() -> list[list[list[str]]]:
    """The cells of the tables in model_zoo/README.md, without their headers."""
    text = (ROOT / "model_zoo" / "README.md").read_text(encoding="utf-8").splitlines()
    tables: list[list[list[str]]] = []
    for row in [[cell.strip() for cell in line.strip("|").split("|")] for line in text if line.startswith("| ")]:
        if row[0] == "Network":
            tables.append([])
        else:
            tables[-1].append(row)
    return tables


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("card", NETWORKS, ids=lambda c: c.name)
def test_config_of_every_network(card):
    cfg = load_config(ROOT / "configs" / "zoo" / f"{card.name}.yaml", ["DATA.ROOT", "."])
    assert (card.name, "pretrained" if card.weights else "") == (cfg.MODEL.ARCH, cfg.MODEL.WEIGHTS)
    assert round(card.input_size / cfg.DATA.CROP_RATIO) == card.resize
    assert (tuple(cfg.DATA.MEAN), tuple(cfg.DATA.STD)) == (card.mean, card.std)
    assert ("imagenet", card.interpolation) == (cfg.DATA.DATASET, cfg.DATA.INTERPOLATION)


def test_predict_prints_the_five_most_probable(tmp_path, capsys):
    from PIL import Image

    torch.save({"state_dict": filled("FBNetV2_F1", "B")}, tmp_path / "model.pth")
    picture = Image.effect_noise((200, 180), 80).convert("RGB")
    picture.save(tmp_path / "image.png")
    arguments = [str(tmp_path / "image.png"), "--model", str(tmp_path / "model.pth"), "--arch", "fbnetv2_f1"]
    assert tool("predict").main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    network = nas.fbnet_builder("FBNetV2_F1", weights=tmp_path / "model.pth").eval()
    with torch.inference_mode():
        logits = network(nas.get_card("FBNetV2_F1").transform()(picture)[None])[0]
    from torchvision.models import MobileNet_V2_Weights

    names = MobileNet_V2_Weights.DEFAULT.meta["categories"]
    assert [line[: line.rindex(" ")].strip() for line in lines[2:]] == [names[i] for i in logits.topk(5).indices]


@pytest.mark.parametrize("content", [None, b"no image", b""])
def test_predict_refuses_what_is_no_image(content, tmp_path, capsys):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    assert tool("predict").main([str(path), "--model", "FBNetV2_F1"]) == 2
    assert str(path) in capsys.readouterr().err


def test_table_fits_the_screen():
    from mobile_cv_nas.commands import zoo_table as table

    zoo, table4, *heads = readme_tables()
    assert len(zoo) == len(all_cards())
    assert len(table4) == 22
    for width in (80, 120):
        lines = table.render(zoo, table4, heads, width).splitlines()
        assert max(map(len, lines)) <= width


def test_table_of_backbones_tells_the_truth():
    from mobile_cv_nas.commands import zoo_table as table

    name = "MobileNetV3_Small"

    written = [{row[0]: row for row in rows} for rows in readme_tables()[2:]]
    assert [len(rows) for rows in written] == [len(NETWORKS)] * 2
    assert [rows[name] for rows in written] == [rows[0] for rows in table.heads_rows([nas.get_card(name)])]


def test_hub_builds_from_a_checkout_that_is_not_installed(tmp_path):
    code = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in f"{{finder}}".lower()]
import torch
network = torch.hub.load({str(ROOT)!r}, "fbnetv2_f1", source="local", num_classes=5)
print(network.classifier.out_features, sys.modules["mobile_cv_nas.model_zoo"].__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["5", str(ROOT / "mobile_cv_nas" / "model_zoo" / "__init__.py")], done.stderr


@pytest.mark.parametrize("first", ["timm", "mobile_cv_nas"])
def test_timm_knows_the_zoo_whichever_is_imported_first(first, tmp_path):
    pytest.importorskip("timm")
    second = {"timm": "mobile_cv_nas", "mobile_cv_nas": "timm"}[first]
    code = f"import {first}, {second}; print(len(timm.list_models('fbnetv2_*')), type(timm.__spec__.loader).__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["7", "SourceFileLoader"], done.stderr


def test_looking_for_timm_leaves_the_zoo_to_who_imports_it(tmp_path):
    pytest.importorskip("timm")
    code = """
import importlib.util, sys
import mobile_cv_nas
found = [importlib.util.find_spec("timm").origin for _ in range(2)]
assert "timm" not in sys.modules
import timm
print(found == [timm.__file__] * 2, timm.is_model("fbnetv2_f4"), any("AfterTimm" in repr(finder) for finder in sys.meta_path))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


def test_timm_builds_our_networks():
    timm = pytest.importorskip("timm")
    network = timm.create_model("fbnetv2_f1", num_classes=6, in_chans=1)
    assert network(torch.randn(1, 1, 64, 64)).shape == (1, 6)
    assert timm.data.resolve_model_data_config(timm.create_model("fbnetv2_f4"))["crop_pct"] == 224 / 251
    pooled = timm.create_model("fbnetv2_f1", num_classes=0)
    assert pooled(torch.randn(1, 3, 64, 64)).shape == (1, 1600)
    assert timm.create_model("fbnetv3_b").__module__.startswith("timm."), "timm's own networks stay"


def test_timm_features_are_those_timm_takes():
    timm = pytest.importorskip("timm")
    ours, theirs = (timm.create_model(n, features_only=True, out_indices=(1, 3, 4)) for n in ("fbnet_c", "fbnetc_100"))
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    x = torch.randn(1, 3, 64, 64)
    assert [m.shape for m in ours(x)] == [m.shape for m in theirs(x)]
