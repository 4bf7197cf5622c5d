"""What a test leaves beside its scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from mobile_cv_nas.data.build import build_data, build_loader
from mobile_cv_nas.data.options import DataOptions
from mobile_cv_nas.engine.runtime import RuntimeOptions, start_runtime
from mobile_cv_nas.report.test import Examination, class_rows, worst_images, write_test
from mobile_cv_nas.tasks.classification import Classification


class Grey(torch.nn.Module):
    """Says the first class of dark images, the second of bright ones, the surer the further from the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean((1, 2, 3))
        return torch.stack([-bright, bright], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of ten dark images one is bright; of ten bright ones two are dark, the second of them darker."""
    values = {"dark": [30] * 9 + [250], "light": [220] * 8 + [100, 5]}
    for split in ("train", "val", "test"):
        for name, shades in values.items():
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i, shade in enumerate(shades):
                Image.new("RGB", (8, 8), (shade, shade, (shade + 7 * ["train", "val", "test"].index(split)) % 256)).save(place / f"{i}.png")
    return tmp_path


def test_a_test_keeps_classes_confusion_and_worst_images(folder: Path, tmp_path: Path) -> None:
    options = DataOptions(root=str(folder), workers=0, mean=(0.5,) * 3, std=(0.5,) * 3)
    data = build_data(options, "classes")
    assert data.test is not None
    runtime = start_runtime(RuntimeOptions(device="cpu"))
    loader = build_loader(options, data.test, 8, 7, False)
    kept = Examination()
    scores = Classification(data.classes).evaluate(Grey(), loader.epoch(), runtime, kept)
    assert scores["top1"] == pytest.approx(17 / 20)
    assert kept.confusion is not None
    assert kept.confusion.tolist() == [[9, 1], [2, 8]]
    assert kept.per_class == {"dark": 0.9, "light": 0.8}
    assert class_rows(kept) == [("  dark", "0.9000"), ("  light", "0.8000")]
    worst = worst_images(kept, loader, runtime)
    assert [Path(row["image"]).parts[-2:] for row in worst] == [("light", "9.png"), ("dark", "9.png"), ("light", "8.png")]
    assert [(row["true"], row["predicted"]) for row in worst] == [(1, 0), (0, 1), (1, 0)]
    names = write_test(tmp_path / "out", scores, kept, worst, loader, data.classes)
    assert names == ["test.json", "confusion.png", "worst_01.png", "worst_02.png", "worst_03.png"]
    assert all((tmp_path / "out" / name).stat().st_size > 100 for name in names)
    content = json.loads((tmp_path / "out" / "test.json").read_text())
    assert content["confusion"] == [[9, 1], [2, 8]]
    assert content["worst"][0]["image"].endswith("light/9.png")


def test_of_many_classes_the_worst_are_shown() -> None:
    kept = Examination(per_class={f"c{i}": i / 20 for i in range(20)} | {"none": math.nan})
    rows = class_rows(kept)
    assert len(rows) == 10
    assert rows[0] == ("  c0 (of the worst 10)", "0.0000")
