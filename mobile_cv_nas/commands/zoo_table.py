"""Builds every network of the zoo, alone and with each head, and prints its figures beside the published ones.

python tools/zoo_table.py [--output zoo.md]
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from importlib import resources
from typing import Any

from tabulate import tabulate
from torch import nn

from ..cli import Parser, guarded
from ..files import atomic_write, parse_yaml
from ..model_zoo.card import Card, all_cards, get_card
from ..networks.backbone import FeatureBackbone
from ..networks.build import build_model
from ..networks.counting import count, count_detector
from ..tasks.detectors import build_detector
from ..tasks.segmenters import build_segmenter

ZOO_HEADERS = [
    "Network",
    "Input",
    "MACs, M",
    "published",
    "Params, M",
    "of convs",
    "published",
    "Top-1",
    "Weights",
    "Licence",
]
ZOO_SHORT = (0, 1, 2, 3, 4, 7)  # the columns for 80 characters
FULL_WIDTH = 116
TABLE4_HEADERS = ["Network", "MACs, M", "counted", "Params, M", "Top-1", "Counted from"]
DETECTORS, SEGMENTERS = ("ssdlite", "retinanet", "faster_rcnn"), ("lraspp", "deeplabv3")
HEADS_HEADERS = ["Network", "backbone", *DETECTORS, *SEGMENTERS]
HEADS_SHORT = range(6)  # the columns for 80 characters
HEADS_TITLES = ("Parameters, M", "MACs, M")
HEADS_SIZE = 320  # pixels
BOX_CLASSES, PIXEL_CLASSES = 80, 21  # COCO's, and Pascal VOC's with the background
LEFT = ("Network", "Weights", "Licence", "Counted from")  # columns of words
NONE = "-"
Rows = Sequence[Sequence[str]]

INTRO = """# The model zoo

```python
import mobile_cv_nas as nas

model = nas.fbnet_builder("FBNetV2_F4", pretrained=True).eval()  # logits (N, 1000)
image = nas.get_card("FBNetV2_F4").transform()(picture)  # a PIL image, resized, cropped and normalised
features = nas.fbnet_builder("FBNetV2_F4", features_only=True)  # maps at strides 2 to 32, see features.feature_info
nas.list_models("FBNetV3*", pretrained=True)  # names
```

From the command line: `python tools/predict.py IMAGE --model NAME` prints the five most probable classes, and
`python tools/test_net.py --config-file configs/zoo/NAME.yaml DATA.ROOT FOLDER` evaluates on ImageNet's validation images.
After `import mobile_cv_nas`, `timm.create_model("fbnetv2_f4")` builds the FBNet families too (names that timm has already stay its
own), and `torch.hub.load(REPO, "fbnetv2_f4")` all of them.

Every network has timm's methods (`forward_features`, `forward_head`, `forward_intermediates`, `reset_classifier`,
`set_grad_checkpointing`, ...); those that timm builds take its options too (`features_only` with any `feature_cls`,
`global_pool`, `drop_rate`, `drop_path_rate`, `output_stride`, `in_chans`) and have a `pretrained_cfg`, the released weights
under the tag `fb_in1k`. `torch.jit.script`, `torch.export` and torch.fx take networks and backbones.

Weights are looked for in the file of `weights=`, then in the cache (`$MOBILE_CV_NAS_HOME`, else torch hub's folder), and
are then downloaded into it. Without a connection the error names the URL and the path where the file is to be put.
`weights=`, `nas.load(FILE, NAME)` and `MODEL.WEIGHTS` take the checkpoints of timm, torchvision and efficientnet_lite_pytorch
as they come, for every network here that is theirs; where it is another one, the error names the network that fits.
`tools/convert_weights.py` writes any of them as safetensors. Features end before the head: the classifier, an `ir_pool`
and a last 1x1 convolution are left out, as timm does for such networks.

Written by `python tools/zoo_table.py`: MACs are what the papers call FLOPs, fvcore's total less its norm entries. Params
count everything trainable; the released tables count the weights of convolutions alone (the classifier is one there),
which is the column beside it. Published figures stand with the digits their authors give. Top-1 is the published accuracy
on ImageNet, in percent, unless the notes say otherwise.
"""
SOURCES_INTRO = """
## Weights of a second source

`fbnet_builder(NAME, pretrained="timm")` and `nas.load("pretrained:timm", NAME)` take the weights on timm's hub, with the transform that
they are tested with (`get_card(NAME).source("timm")`); where timm's network of that name is another one of ours, that is built. Top-1 is as
timm gives it. In the same way `pretrained="torchvision"`.
"""
TABLE4_INTRO = """
## Table 4 of the FBNetV2 paper

MACs and top-1 as printed in the paper, beside what we count. Networks that are not built of this library's blocks are
counted from torchvision's own models; of the cited rows no block table was published, or it has other blocks. The
released `fbnet_b` is a later network than the paper's row, and MobileNetV3's own paper gives 56 M for Small.
"""

HEADS_INTRO = f"""
## As backbones

Backbones without their classifier, and whole detectors (`build_detector`, {BOX_CLASSES} classes) and segmenters (`build_segmenter`,
{PIXEL_CLASSES} classes) with the heads' own defaults. MACs are of one image of {HEADS_SIZE}x{HEADS_SIZE} pixels; the box head of
`faster_rcnn` counts for the 200 proposals that it keeps, and interpolation by its output, as fvcore has it. At output stride 16 the
segmenters run the last stage dilated, on four times the pixels.
"""


def main(argv: Sequence[str] | None = None, output: str | os.PathLike | None = None) -> int:
    """Prints the tables, and writes them to --output, `output` by default; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "none" if output is None else "model_zoo/README.md"
    parser.add_argument("--output", default=output, metavar="FILE", help=f"Markdown file to write ({where})")
    args = parser.parse_args(argv)
    return guarded(lambda: _write(args.output))


def _write(output: str | os.PathLike | None) -> None:
    zoo, table4, heads = zoo_rows(), table4_rows(), heads_rows()
    print(render(zoo, table4, heads, shutil.get_terminal_size((120, 24)).columns))
    if output is not None:
        atomic_write(output, markdown(zoo, table4, heads))
        print(f"\nwritten to {output}")


def zoo_rows() -> list[list[str]]:
    """One row a card, in the columns of ZOO_HEADERS. Builds every network and counts it by fvcore."""
    return [_zoo_row(card) for card in all_cards()]


def _zoo_row(card: Card) -> list[str]:
    macs = params = convs = NONE
    if card.table is not None:
        network = build_model(card.arch, card.classes, card.in_channels)
        cost = count(network, card.input_size, card.in_channels)
        macs, params, convs = _exact(cost.macs), _exact(cost.params), _exact(conv_weights(network))
    figures = card.published
    weights = card.weights
    return [
        card.name,
        str(card.input_size),
        macs,
        _published(figures.macs) if figures else NONE,
        params,
        convs,
        _published(figures.conv_weights or figures.params) if figures else NONE,
        f"{figures.top1:.1f}" if figures and figures.top1 else NONE,
        "no" if weights is None else "yes" if weights.url else "package" if weights.package else "shipped",
        weights.license if weights else NONE,
    ]


def source_lines() -> list[str]:
    """One line a card with weights on timm's hub: whose they are, top-1, input, licence."""
    lines = []
    for card in all_cards():
        if "timm" in card.sources:
            found = card.source("timm")
            assert found.published is not None
            assert found.weights is not None
            other = "" if found.name == card.name else f", as {found.name}"
            figures = f"{found.published.top1:.1f} at {found.input_size} x {found.input_size}, {found.weights.license}"
            lines.append(f"- **{card.name}**: {found.elsewhere['timm'].hub}, {figures}{other}")
    return lines


def table4_rows() -> list[list[str]]:
    """One row of the paper's Table 4 each, in the columns of TABLE4_HEADERS."""
    text = (resources.files("mobile_cv_nas.model_zoo") / "table4.yaml").read_text(encoding="utf-8")
    return [_table4_row(row) for row in parse_yaml(text, "model_zoo/table4.yaml")]


def _table4_row(row: dict[str, Any]) -> list[str]:
    head, top1 = [row["name"], str(row["macs"])], f"{row['top1']:.1f}"
    if "cited" in row:
        return [*head, NONE, NONE, top1, f"cited: {row['cited']}"]
    if "card" in row:
        card = get_card(row["card"])
        network, size, source = build_model(card.arch, card.classes), card.input_size, card.name
    else:
        from torchvision.models import get_model

        network, size, source = get_model(row["torchvision"]), 224, f"torchvision {row['torchvision']}"
    cost = count(network, size)
    return [*head, f"{cost.macs / 1e6:.1f}", f"{cost.params / 1e6:.2f}", top1, source]


def heads_rows(cards: Sequence[Card] | None = None) -> tuple[list[list[str]], list[list[str]]]:
    """Parameters and MACs, both in millions, in the columns of HEADS_HEADERS: a row for each card of a backbone with strides 2 to 32."""
    params, macs = [], []
    for card in all_cards() if cards is None else cards:
        features = FeatureBackbone(build_model(card.arch)) if card.table is not None else None
        if features is None or features.feature_info.strides != [2, 4, 8, 16, 32]:
            continue
        costs = [count(features, HEADS_SIZE)]
        costs += [count_detector(build_detector(head, card.name, BOX_CLASSES, HEADS_SIZE), HEADS_SIZE) for head in DETECTORS]
        costs += [count(build_segmenter(head, card.name, PIXEL_CLASSES), HEADS_SIZE) for head in SEGMENTERS]
        params.append([card.name, *[f"{cost.params / 1e6:.2f}" for cost in costs]])
        macs.append([card.name, *[f"{cost.macs / 1e6:.1f}" for cost in costs]])
    return params, macs


def conv_weights(network: nn.Module) -> int:
    """What the released tables call parameters: weights of convolutions and classifier, no biases, no norms."""
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def _exact(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e6:.6f}"


def _published(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e6:.10g}"


def render(zoo: Rows, table4: Rows, heads: Sequence[Rows], width: int) -> str:
    """The tables as text for a terminal of that width: fewer columns where it is narrow."""
    full = width >= FULL_WIDTH
    parts = [_text(zoo, ZOO_HEADERS, None if full else ZOO_SHORT), _text(table4, TABLE4_HEADERS)]
    for title, rows in zip(HEADS_TITLES, heads, strict=True):
        parts.append(f"{title}\n\n{_text(rows, HEADS_HEADERS, None if full else HEADS_SHORT)}")
    return "\n\n".join(parts)


def _text(rows: Rows, headers: Sequence[str], columns: Sequence[int] | None = None) -> str:
    if columns is not None:
        headers, *rows = [[line[i] for i in columns] for line in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [headers, ["-" * width for width in widths], *rows]
    cells = [[c.ljust(w) if h in LEFT else c.rjust(w) for c, w, h in zip(line, widths, headers, strict=True)] for line in lines]
    return "\n".join(" ".join(line).rstrip() for line in cells)


def markdown(zoo: Rows, table4: Rows, heads: Sequence[Rows]) -> str:
    """The text of model_zoo/README.md."""
    notes = [f"- **{card.name}**: {card.note}" for card in all_cards() if card.note]
    parts = [INTRO, _pipes(zoo, ZOO_HEADERS), "\n## Notes\n", *notes]
    parts += [SOURCES_INTRO, *source_lines()]
    parts += [TABLE4_INTRO, _pipes(table4, TABLE4_HEADERS), HEADS_INTRO]
    parts += [f"{title}:\n\n{_pipes(rows, HEADS_HEADERS)}\n" for title, rows in zip(HEADS_TITLES, heads, strict=True)]
    return "\n".join(parts).rstrip() + "\n"


def _pipes(rows: Rows, headers: Sequence[str]) -> str:
    align = ["left" if header in LEFT else "right" for header in headers]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
