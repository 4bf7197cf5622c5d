"""What is left of a search for people: the derived network is what is marked, with its cost, its blocks' MACs and how sure it is."""

import contextlib
import random

import pytest
from helpers import read_metrics
from matplotlib.figure import Figure
from searches import search_and_train, tiny_cfg
from spaces import DEEP, parsed

import mobile_cv_nas as nas
from mobile_cv_nas.engine.progress import short
from mobile_cv_nas.nn.choice import Choice
from mobile_cv_nas.report import network, search
from mobile_cv_nas.report.choices import choices_page, entropy
from mobile_cv_nas.report.network import block_macs, draw_arch, summarize
from mobile_cv_nas.report.search import draw_curves, marked


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been written."""
    figures = []

    @contextlib.contextmanager
    def catch(path, size, **_):
        figures.append(Figure(figsize=size))
        yield figures[-1]

    for module in (network, search):
        monkeypatch.setattr(module, "figure_file", catch)
    return figures


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


def test_the_macs_of_blocks_are_those_of_the_summary(drawn):
    space = parsed(DEEP)
    for seed in range(5):
        arch = space.sample(random.Random(seed))
        rows = summarize(arch, 10).rows[:-1]
        assert block_macs(arch) == [row.cost.macs for row in rows]
    draw_arch(arch, "x.png", "Found", "1.2M MACs, test top-1 0.9")
    found = words(drawn[-1])
    assert {"Found", "1.2M MACs, test top-1 0.9"} <= set(found)
    assert all(short(row.cost.macs) in found for row in rows if row.cost.macs)
    assert block_macs(arch, in_channels=1)[0] * 3 == block_macs(arch)[0]


def test_the_derived_option_is_marked_not_the_most_probable():
    choice = Choice("s0b0.channels", (4, 8, 12))
    assert marked(choice, [0.1, 0.7, 0.2], None) == 1
    assert marked(choice, [0.1, 0.7, 0.2], {"s0b0.channels": 2}) == 2
    assert marked(choice, [0.1, 0.7, 0.2], {}) is None  # of a layer that is skipped


def test_the_cost_of_the_derived_network_is_on_the_curves(drawn):
    record = {"epoch": 0, "tau": 1.0, "weight_loss": 1.0, "alpha_loss": 1.0, "entropy": 0.5, "probabilities": {}}
    record |= {"cost_sampled": 3.0, "cost_expected": 2.0, "cost_argmax": 5.0}
    draw_curves([record, {**record, "epoch": 1}], "x.png", 4.0, derived=4.1)
    (line,) = [line for axes in drawn[-1].axes for line in axes.lines if line.get_label() == "derived network"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([2], [4.1])


def test_a_page_of_choices():
    space = nas.SearchSpace.parse(
        {"input_size": 8, "stages": [[["conv_k3", 8, 1]], [[["ir_k3", "ir_k5", "skip"], [8, 16, 8], 1, 2, {"hidden": [8, 16, 8]}]]]}
    )
    sure, half = [0.98, 0.01, 0.01], [0.5, 0.5]
    tables = {c.name: sure if len(c.options) == 3 else half for c in space.choices}
    arch = space.decode({**dict.fromkeys(tables, 0), "s1b1.block": 2})
    lines = {line.split()[0]: line for line in choices_page(space, arch, tables).splitlines()[2:]}
    assert lines["s0b0"].split() == ["s0b0", "=", "conv_k3", "=", "8"]
    mean = (entropy(sure) + 2) / 3
    assert lines["s1b0"].split() == ["s1b0", "ir_k3", "0.98", "8", "0.50", "8", "0.50", f"{mean:.2f}", "?"]
    assert lines["s1b1"].split() == ["s1b1", "skip", "0.01", f"{mean:.2f}", "?"]
    assert entropy(half) == pytest.approx(1)
    assert entropy([1.0, 0.0]) == 0
    wide = nas.SearchSpace.load("configs/spaces/fbnetv2_l.yaml")
    table = {c.name: [1 / len(c.options)] * len(c.options) for c in wide.choices}
    page = choices_page(wide, wide.sample(0), table).splitlines()
    assert len(page) <= len(wide.layers) + 3 < 60
    assert max(map(len, page)) <= 80


def test_a_search_leaves_them(tmp_path):
    result = search_and_train(tiny_cfg(tmp_path, "SEARCH.EPOCHS", 2))
    assert result["finished"]
    space, arch = nas.SearchSpace.load(tmp_path / "tiny.yaml"), nas.ArchDef.load(tmp_path / "run/arch.yaml")
    last = read_metrics(tmp_path / "run")[-1]["probabilities"]
    assert (tmp_path / "run/choices.txt").read_text() == choices_page(space, arch, last)
