"""Prints a network block by block: name, output shape, MACs and parameters; totals, checked by fvcore.

python tools/summarize_net.py MODEL.ARCH FBNetV2_F4
python tools/summarize_net.py MODEL.ARCH output/arch.yaml
python tools/summarize_net.py MODEL.WEIGHTS output/digits
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from yacs.config import CfgNode

from .. import cli
from ..data.build import build_data
from ..model_zoo.builder import find_arch
from ..report.network import summarize
from ..tasks.model import load
from ..weights.file import WeightsError
from .options import data_options


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and prints the network; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    return cli.main(run, argv, __doc__ or "", resumable=False)


def run(cfg: CfgNode, args: Namespace) -> None:
    """What the tool does: the classes are those of the weights, if given; of a zoo name, those it was published with; else the data's."""
    if cfg.MODEL.WEIGHTS and cfg.MODEL.WEIGHTS.partition(":")[0] != "pretrained":
        model = load(cfg.MODEL.WEIGHTS, cfg.MODEL.ARCH)
        print(summarize(model.arch, len(model.classes), model.task.in_channels))
        return
    if not cfg.MODEL.ARCH:
        raise WeightsError("MODEL.ARCH: empty; name an arch file or a network of the zoo")
    arch, card = find_arch(cfg.MODEL.ARCH)
    if card is not None:
        print(summarize(arch, card.classes, card.in_channels))
    else:
        print(summarize(arch, build_data(data_options(cfg)).num_classes))
