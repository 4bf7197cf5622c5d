"""What a person sees who prints an arch, a space, a network or a supernet."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from spaces import TINY, parsed

import mobile_cv_nas as nas
from mobile_cv_nas.arch.layer import map_sizes
from mobile_cv_nas.arch.show import options_text
from mobile_cv_nas.nn.heads import HeadDef


def numbers(line: str) -> list[int]:
    return [int(word.replace(",", "")) for word in re.findall(r"(?<!\S)\d[\d,]*(?!\S)", line)]


def test_an_arch_prints_a_line_a_block_with_its_total() -> None:
    arch = nas.get_arch("FBNetV2_F4")
    lines = repr(arch).splitlines()
    assert lines[0] == "ArchDef FBNetV2_F4, input 224x224, without a head"
    assert len(lines) == 1 + 2 + len(arch.layers) + 1
    model = nas.build_model(arch)
    body = sum(p.numel() for p in model.blocks.parameters())
    assert numbers(lines[-1])[-1] == body
    assert sum(numbers(line)[-1] for line in lines[3:-1]) == body


def test_a_network_prints_a_line_a_block_and_what_fvcore_counts() -> None:
    model = nas.fbnet_builder("FBNetV2_F1", num_classes=7, in_channels=1)
    lines = repr(model).splitlines()
    assert lines[0] == "Network FBNetV2_F1, images 1x128x128"
    assert numbers(lines[-1]) == list(nas.count(model, 128, 1))
    head = HeadDef("classifier", 7).cost(0, model.classifier.in_features, [128, map_sizes(model.arch.layers, 128)[-1]])
    assert numbers(lines[-2]) == [7, *head]
    assert len(lines) == 1 + 2 + len(model.arch.layers) + 2


def test_a_supernet_prints_its_options_and_the_expected_child() -> None:
    supernet = nas.build_supernet(parsed(TINY), 5)
    lines = repr(supernet).splitlines()
    cost = supernet.expected_cost()
    assert numbers(lines[-2]) == [round(cost.macs.item()), round(cost.params.item())]
    assert numbers(lines[-1]) == [sum(p.numel() for p in supernet.weight_parameters())]
    for line, block in zip(lines[3:], supernet.mixed(), strict=False):
        assert numbers(line)[-1] == sum(p.numel() for p in block.parameters())
    assert re.search(r"s1b0 +ir_k3\|ir_k5_se_hs\|skip +8\|12 +8\|16 +8\|16", repr(supernet))


def test_a_space_prints_no_cost() -> None:
    assert "MACs" not in repr(parsed(TINY))
    assert repr(parsed(TINY)).startswith("SearchSpace tiny, input 16|24: 10 choices, 1.44e+03 archs\n")


def test_notebooks_get_the_same_cells() -> None:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_data(self, data: str) -> None:
            self.found.append(data)

    for thing in (nas.get_arch("Digits"), parsed(TINY), nas.fbnet_builder("Digits"), nas.build_supernet(parsed(TINY), 5)):
        cells = Cells()
        cells.feed(thing._repr_html_())
        title, *rows = repr(thing).splitlines()
        assert cells.found[0] == title
        assert " ".join(cells.found[1:]).split() == [word for row in rows if "---" not in row for word in row.split()]


def test_words_stand_left_and_numbers_right() -> None:
    rows = [line for line in repr(nas.get_arch("Digits")).splitlines()[1:] if "---" not in line]
    bars = repr(nas.get_arch("Digits")).splitlines()[2]
    columns = [match.span() for match in re.finditer("-+", bars)]
    cells = [[row.ljust(len(bars))[start:end] for start, end in columns] for row in rows]
    assert [name.strip() for name in cells[0]] == ["block", "type", "map", "channels", "hidden", "stride", "MACs", "parameters"]
    for row in cells:
        assert all(cell == cell.lstrip() or not cell.strip() for cell in row[:2])
        assert all(cell == cell.rstrip() or not cell.strip() for cell in row[2:])


def test_a_dilated_network_says_so() -> None:
    model = nas.fbnet_builder("FBNetV2_F1", num_classes=7)
    model.set_output_stride(16)
    assert repr(model).splitlines()[0].endswith("dilated to output stride 16 (maps and MACs: as before)")


def test_options_are_written_short() -> None:
    for options, text in (
        *(([0], ""), ([5], "5"), (["ir_k3"], "ir_k3"), ([8, 16], "8|16"), ([8, 16, 24], "8..24:8")),
        *(([8, 16, 25], "8|16|25"), ([4, 5, 6, 7], "4..7:1"), (["a", "b", "c"], "a|b|c"), ([1.5, 2.5, 3.5], "1.5|2.5|3.5")),
    ):
        assert options_text(options) == text
