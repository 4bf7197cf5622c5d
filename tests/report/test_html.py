"""report.html: what it says, that it needs nothing else, and that a browser shows it without a complaint."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import read_metrics, run_tool
from searches import search_and_train, tiny_cfg

import mobile_cv_nas as nas
from mobile_cv_nas.errors import InputError
from mobile_cv_nas.report import svg
from mobile_cv_nas.report.html import write_report
from mobile_cv_nas.report.run import read_run, standard_error
from mobile_cv_nas.report.tables import derived_how


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search, not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    search_and_train(tiny_cfg(folder, "TRAIN.EPOCHS", 2))
    return folder / "run"


class Page(HTMLParser):
    """The tags of a page that could ask for something, the text of its scripts, and all other text."""

    def __init__(self, text: str):
        super().__init__()
        self.asked: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], "tags that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "input", "img"):
            self.open.append(tag)
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if "script" in self.open else self.words).append(data)


def page(run: Path) -> tuple[Page, str]:
    text = (run / "report.html").read_text(encoding="utf-8")
    found = Page(text)
    return found, " ".join(" ".join(found.words).split())


def test_a_search_leaves_a_page_of_its_result(run: Path) -> None:
    found, text = page(run)
    result = json.loads((run / "result.json").read_text())
    assert derived_how(result) in text
    for value in (f"{result['macs']:,}", f"{result['params']:,}", f"{result['top1']:.4f}", f"{result['val_top1']:.4f}", "12,000"):
        assert value in text
    assert f"± {(result['top1'] * (1 - result['top1']) / 360) ** 0.5:.4f}" in text  # 360 test images
    arch = nas.ArchDef.load(run / "arch.yaml")
    assert all(layer.names[0] in text for layer in arch.layers)
    for key in ("SEARCH.SHARING", "TRAIN.LR", "DATA.MEAN", "SEED"):
        assert key in text
    assert f"--config-file {run / 'config.yaml'}" in text
    assert f"train {json.loads((run / 'run.json').read_text())['data']['digest']['train']}" in text
    assert found.asked  # icon and images, all of them inside
    assert all(value.startswith("data:") for value in found.asked)
    assert "@import" not in (run / "report.html").read_text()


def test_the_slider_has_the_probabilities_of_every_epoch(run: Path) -> None:
    found, _ = page(run)
    data = json.loads(found.scripts[0])
    records = [record for record in read_metrics(run) if record["phase"] == "search"]
    assert data["epochs"] == [record["epoch"] + 1 for record in records]
    space = nas.SearchSpace.load(run.parent / "tiny.yaml")
    for choice, values in zip(space.choices, data["values"], strict=True):
        for record, shown in zip(records, values, strict=True):
            assert shown == pytest.approx(record["probabilities"][choice.name], abs=6e-4)


def test_run_json_says_what_was_run(run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    assert about["data"]["images"] == {"train": 1257, "val": 180, "test": 360}
    assert about["options"]["SEARCH.TARGET"] == 12000
    assert about["seconds"]["search"] > 0
    assert about["versions"]["torch"]
    child = json.loads((run / "child" / "run.json").read_text())
    assert child["seconds"]["training"] == about["seconds"]["training"]
    assert str(run) not in (run / "run.json").read_text()


def test_tensorboard_has_figures_texts_and_options(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert {"alphas", "arch", "curves", "confusion"} == set(board.Tags()["images"])
    assert {"arch/text_summary", "config/text_summary"} <= set(board.Tags()["tensors"])
    assert "_hparams_/experiment" in board.summary_metadata
    (score,) = board.Scalars("result/top1")
    assert score.value == pytest.approx(json.loads((run / "result.json").read_text())["top1"])


def test_the_tool_writes_a_page_of_a_search_or_a_training(run: Path, tmp_path: Path) -> None:
    for folder in (run, run / "child"):
        done = run_tool("report", str(folder), "--output", str(tmp_path / "page.html"))
        assert (done.returncode, done.stderr) == (0, "")
        text = (tmp_path / "page.html").read_text()
        Page(text)
        assert ("What each layer chose" in text) == (folder == run)
        assert "The test" in text
    done = run_tool("report", str(tmp_path))
    assert done.returncode == 2
    assert "holds no result.json" in done.stderr


def test_names_from_files_cannot_become_markup(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    evil = "<script>alert(1)</script>"
    test = json.loads((folder / "child/test/test.json").read_text())
    test["classes"][0] = evil
    test["per_class"] = {evil: 0.5}
    (folder / "child/test/test.json").write_text(json.dumps(test))
    write_report(folder)
    text = (folder / "report.html").read_text()
    assert evil not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_page_of_one_target_names_the_command_of_the_whole_search(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "family" / "12k")
    (tmp_path / "family" / "front.yaml").write_text("- {folder: 12k}\n")
    text = write_report(folder).read_text()
    assert f"--config-file {tmp_path / 'family' / 'config.yaml'}" in text
    assert f"--config-file {folder / 'config.yaml'}" in text


def test_a_run_from_python_has_a_page_without_a_config_file(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "config.yaml").unlink()
    text = write_report(folder).read_text()
    assert "nas.search(space, train, val, target=12000.0, epochs=4" in text
    assert "SEARCH.SHARING" in text


def test_unfinished_and_damaged_runs_are_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"result\.json: not valid JSON"):
        read_run(folder)
    (folder / "result.json").unlink()
    with pytest.raises(InputError, match="unfinished run; finish it with --resume"):
        read_run(folder)
    with pytest.raises(InputError, match="no such folder"):
        read_run(tmp_path / "none")


def test_standard_error() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 100) == 0


@pytest.mark.parametrize("log", [False, True])
def test_lines_are_drawn_where_their_values_are(log: bool) -> None:
    drawing = svg.lines({"a": [(1, 10.0), (2, 20.0), (3, 40.0)], "none": []}, "x", log=log)
    (points,) = re.findall(r'<polyline class="line s0" points="([^"]+)"', drawing)
    pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
    steps = [a[1] - b[1] for a, b in itertools.pairwise(pairs)]
    assert pairs[1][0] - pairs[0][0] == pytest.approx(pairs[2][0] - pairs[1][0], abs=0.11)
    assert steps[1] / steps[0] == pytest.approx(1 if log else 2, rel=0.02)
    ticks = {float(value): float(y) - 3.5 for y, value in re.findall(r'y="([\d.]+)" text-anchor="end" class="tick">([\d.]+)<', drawing)}
    assert ticks[20.0] == pytest.approx(pairs[1][1], abs=0.11)


def test_a_network_is_drawn_to_scale() -> None:
    stages = [
        [["conv_k3_hs", 8, 2, 1]],
        [["ir_k5_se", 16, 2, 1, {"hidden": 32}], ["skip", 16, 1, 1], ["ir_k3_hs", 16, 1, 1, {"hidden": 32}]],
    ]
    from mobile_cv_nas.report.network import KERNEL_COLOURS, block_rows

    rows = block_rows(nas.ArchDef.parse({"input_size": 16, "stages": stages}))
    boxes = re.findall(r'height="([\d.]+)" class="(\w+)"(?: fill="(#\w+)")?', svg.network(rows, "x"))
    assert [kind for _, kind, _ in boxes] == ["block", "block", "gap", "block"]
    assert [colour for *_, colour in boxes] == [KERNEL_COLOURS[3], KERNEL_COLOURS[5], "", KERNEL_COLOURS[3]]
    heights = [float(height) for height, *_ in boxes]
    assert heights[1] / heights[3] == pytest.approx(2)  # 32 / 8 and 32 / 16
    assert heights[3] / heights[0] == pytest.approx(2)


def chromium(page: Path, *flags: str) -> subprocess.CompletedProcess:
    """What headless Chromium makes of a page; its own calls home are cut off."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium")
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", *quiet, *flags]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)


# The last script moves the slider, and says how wide the page would like to be, and what it asked for.
PROBE = """<script>const s = document.getElementById("epoch"); s.value = 0; s.dispatchEvent(new Event("input"));
addEventListener("load", () => document.title = [document.documentElement.scrollWidth, window.innerWidth,
  ...performance.getEntriesByType("resource").map(e => e.name)].join(" "));</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_the_page_asks_for_nothing_and_does_not_complain(run: Path, tmp_path: Path, width: int) -> None:
    from PIL import Image

    text = (run / "report.html").read_text(encoding="utf-8").replace("</body>", PROBE)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    shot, size = tmp_path / "page.png", f"--window-size={max(width, 500)},1200"
    if width < 500:  # the window of headless Chromium is never narrower: a frame is
        (tmp_path / "page.html").rename(tmp_path / "inner.html")
        frame = (
            f'<iframe src="inner.html" style="border:0" width="{width}" height="3000" onload="document.title=this.contentDocument.title">'
        )
        (tmp_path / "page.html").write_text(f"<title></title>{frame}")
    done = chromium(tmp_path / "page.html", size, "--dump-dom", "--allow-file-access-from-files")
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(\d+) (\d+)([^<]*)</title>", done.stdout)
    assert title is not None
    assert int(title[1]) <= int(title[2])  # nothing is wider than the window
    assert title[3] == ""  # nothing was asked for
    chromium(tmp_path / "page.html", size, f"--screenshot={shot}")
    with Image.open(shot) as image:
        assert image.size[0] == max(width, 500)
    if width > 500:
        assert '<output id="shown">1</output>' in done.stdout
        first = next(record for record in read_metrics(run) if record["phase"] == "search")["probabilities"]["s1b0.block"]
        panel = done.stdout.partition("<h3>s1b0.block</h3>")[2].partition('class="panel"')[0]
        assert [float(w) for w in re.findall(r"width: ?([\d.]+)%", panel)] == pytest.approx([100 * p for p in first], abs=0.06)
