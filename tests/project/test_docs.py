"""Every block of README and docs runs, their tables are what the code prints, and their numbers are those of files that commands wrote."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, image_folder, run_tool
from PIL import Image

import mobile_cv_nas as nas
from mobile_cv_nas import cli
from mobile_cv_nas.__main__ import main
from mobile_cv_nas.commands import COMMANDS
from mobile_cv_nas.model_zoo import builder
from mobile_cv_nas.networks.build import build_model
from mobile_cv_nas.report.blocks import block_tables
from mobile_cv_nas.search.objective import _UNITS, forget_objective
from mobile_cv_nas.search.strategies import STRATEGIES

_TEXTS = [ROOT / "README.md", ROOT / "model_zoo/README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path for path in _TEXTS}
_FENCE = re.compile(r"(?P<mark><!-- not run: [^>]+ -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
# A line of sh that is not run: it needs what is not here, says so, or is about the environment. Tests run make's commands elsewhere.
_ELSEWHERE = re.compile(r"\bneeds |/data/|\b(CONFIG|FOLDER|IMAGENET|COCO|VOC2012|NAME)\b|^(make|pip|source|torchrun|\.ci) ?")
# Cuts every search and training short.
_TRAINED = ["TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "8", "RUNTIME.DEVICE", "cpu", "--overwrite"]
_SEARCHED = ["SEARCH.EPOCHS", "1", "SEARCH.WARMUP_FRACTION", "0", "SEARCH.DRAWS", "100", "SEARCH.CANDIDATES", "2"]
_SEARCHED += ["SEARCH.TOLERANCE", "0.9", "SEARCH.BATCH_SIZE", "8", "SEARCH.RECALIBRATION_IMAGES", "16", "SEARCH.ALPHA_LR", "0.3", *_TRAINED]
SHORT = {"search": [*_SEARCHED, "TRAIN.WARMUP_EPOCHS", "0"], "train": _TRAINED}
# "" is a command that takes no config.
PURPOSES = {"search": "search", "train": "train", "train-detector": "train", "train-segmenter": "train", "test": "test"}


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is written in, whether a page says that it is not run, and where it stands."""

    kind: str
    code: str
    run: bool
    where: str


def blocks(page: str) -> list[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    return [
        Block(m["kind"], m["code"], not m["mark"], f"{page}:{text[: m.start('code')].count(chr(10)) + 1}") for m in _FENCE.finditer(text)
    ]


def lines(block: Block) -> list[str]:
    """The commands of a block of sh, continued lines joined, without lines of comment."""
    joined = re.sub(r"\\\n\s*", "", block.code).splitlines()
    return [line.strip() for line in joined if line.strip() and not line.strip().startswith("#")]


def command(line: str) -> tuple[str, list[str]]:
    """What of `mobile-cv-nas` a line calls ("" for other programs), and its arguments."""
    words = shlex.split(line, comments=True)
    if words[0] == "mobile-cv-nas":
        return words[1], words[2:]
    if words[0] == "python" and words[1].startswith("tools/"):
        (name,) = [name for name, module in COMMANDS.items() if module == Path(words[1]).stem]
        return name, words[2:]
    return "", words


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages take for granted: a clone, some images, and the run of the demo, cut short."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("configs", "tools", "examples", "model_zoo", "docs"):
        (root / name).symlink_to(ROOT / name)
    image_folder(root / "photos", {"cats": 30, "dogs": 30}, size=40)
    for name, size in {"cat.jpg": (60, 50), "scene.png": (128, 128), "IMAGE": (20, 20)}.items():
        Image.effect_noise(size, 60).convert("RGB").save(root / name, format="PNG")
    done = run_tool("search_net", "configs/search/digits.yaml", *_SEARCHED, "SEARCH.BATCH_SIZE", "64", "TRAIN.BATCH_SIZE", "64", cwd=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that world as the current folder; published weights are not downloaded, and blocks that a page registers are forgotten."""
    folder = shutil.copytree(world, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["mobile-cv-nas"])
    read = builder.read_state

    def there(network: Any, card: Any, path: Any = None, *rest: Any) -> Any:
        published = path is None and card.weights.file is None
        return build_model(card.arch, card.classes, card.in_channels).state_dict() if published else read(network, card, path, *rest)

    monkeypatch.setattr(builder, "read_state", there)
    known = dict(nas.BLOCKS._obj_map)
    yield folder
    if "energy" in _UNITS:
        forget_objective("energy")
    nas.BLOCKS._obj_map.clear()
    nas.BLOCKS._obj_map.update(known)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages that a page may use
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.kind in ("python", "sh") for block in blocks(page))])
def test_the_blocks_of_a_page_run_from_top_to_bottom(page: str, here: Path) -> None:
    with Image.open("cat.jpg") as picture:
        names: dict[str, Any] = {"__name__": "__main__", "picture": picture.convert("RGB")}
    for block in blocks(page):
        if block.kind == "python" and block.run:
            exec(compile("\n" * int(block.where.split(":")[1]) + block.code, page, "exec"), names)
        elif block.kind == "sh" and block.run:
            for line in lines(block):
                if not _ELSEWHERE.search(line):
                    run_line(line, block.where)


def run_line(line: str, where: str) -> None:
    """Runs a command, searches and trainings cut short."""
    name, arguments = command(line)
    more = [*SHORT.get(name, []), *(["SEARCH.BATCH_SIZE", "64"] if name == "search" and "digits" in line else [])]
    assert name, f"{where}: {line}: not a command of this library; say <!-- not run: why -->"
    with contextlib.suppress(SystemExit):
        assert main([name, *arguments, *more]) == 0, f"{where}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_names_what_there_is(page: str) -> None:
    """Programs, files and keys of every line of sh; the code of every block of python."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for block in blocks(page):
        if block.kind == "python":
            compile(block.code, block.where, "exec")
        for line in lines(block) if block.kind == "sh" else []:
            name, words = command(line)
            if words[:1] == ["make"]:
                assert words[1] in targets, f"{block.where}: {line}"
            if name:
                assert name in COMMANDS, f"{block.where}: {line}"
            for word in words:
                if word.startswith(("configs/", "examples/", "tools/", "benchmarks/")) and word.endswith((".yaml", ".py")):
                    assert (ROOT / word).is_file() or "NAME" in word, f"{block.where}: {word}"
            if name in PURPOSES and "NAME" not in line and "CONFIG" not in line:
                cli._config(None, [word for word in words if word not in ("--resume", "--config-file")], PURPOSES[name])


def test_links_lead_somewhere() -> None:
    """Those of the site are MkDocs' business; these are of GitHub."""
    for page, path in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)):
            file, _, anchor = target.partition("#")
            if ":" in target:
                continue
            found = (path.parent / file).resolve() if file else path
            assert found.exists(), f"{page}: {target}"
            if anchor and found.suffix == ".md":
                assert anchor in anchors(found), f"{page}: {target}"


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


def test_the_tables_of_blocks_are_what_the_code_prints() -> None:
    text = (ROOT / "docs/spaces.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- blocks -->\n")[2].partition("<!-- end of blocks -->")[0]
    assert shown.strip() == block_tables("pipe"), "python tools/list_blocks.py --markdown prints it"


def test_every_strategy_is_explained() -> None:
    text = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    assert [name for name, _ in STRATEGIES if f"| `{name}` |" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = [path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert sorted(listed) == sorted(nas.__all__)


# -- numbers --------------------------------------------------------------------------------------------------------------------


def table_row(page: str, first: str) -> list[str]:
    """The cells of the row of a page's table that begins so."""
    (row,) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def result(name: str) -> Mapping[str, Any]:
    return json.loads((ROOT / f"docs/data/{name}.json").read_text(encoding="utf-8"))


def test_results_are_those_of_the_runs() -> None:
    digits, detect, segment = result("digits"), result("detect"), result("segment")
    found = ["top-1", f"{digits['top1']:.4f}", f"{digits['macs']:,}", f"{digits['params']:,}"]
    assert table_row("README.md", "`make search`") == found
    costs = [[f"{run['macs'] / 1e6:.1f}M", f"{run['params'] / 1e6:.2f}M"] for run in (detect, segment)]
    assert table_row("README.md", "`make detect`") == ["box AP50", f"{detect['ap50']:.3f}", *costs[0]]
    assert table_row("README.md", "`make segment`") == ["mean IoU", f"{segment['miou']:.3f}", *costs[1]]
    assert table_row("docs/dense.md", "`make detect`") == ["box AP50 (AP)", f"{detect['ap50']:.3f} ({detect['ap']:.3f})", *costs[0]]
    assert table_row("docs/dense.md", "`make segment`") == ["mean IoU", f"{segment['miou']:.3f}", *costs[1]]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs/data").glob("comparison_*.json")))
def test_studies_are_those_that_were_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from _comparison import table

    text = PAGES["docs/comparison.md"].read_text(encoding="utf-8")
    for part in table(json.loads((ROOT / f"docs/data/{name}.json").read_text(encoding="utf-8"))).split("\n\n"):
        assert part in text
    assert f"({name}.png)" in text


def test_networks_are_those_of_the_table() -> None:
    """That table is written by a command, and its test builds the networks."""
    text = (ROOT / "model_zoo/README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| FBNet")]
    zoo = {row[0]: row for row in reversed(rows)}  # the first table counts
    for name in re.findall(r"^\| (FBNet\w+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert table_row("README.md", name) == [zoo[name][i] for i in (1, 2, 3, 4, 7)]
