"""Prints a network block by block: name, output shape, MACs and parameters; totals, checked by fvcore.

python tools/summarize_net.py MODEL.ARCH FBNetV2_F4
python tools/summarize_net.py MODEL.ARCH output/arch.yaml
python tools/summarize_net.py MODEL.WEIGHTS output/digits

Of a detector or a segmenter the totals alone.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from yacs.config import CfgNode

from .. import cli
from ..arch import ArchDef
from ..config import given_keys
from ..data.build import build_data
from ..model_zoo.builder import find_arch
from ..report.network import summarize
from ..report.tables import table
from ..tasks.build import make_task, task_class
from ..tasks.load import load
from ..tasks.task import Task
from ..weights.file import WeightsError
from .options import recipe_of


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and prints the network; returns the exit code: 0 done, 2 bad input, 1 anything else."""
    return cli.main(run, argv, __doc__ or "", resumable=False)


def run(cfg: CfgNode, args: Namespace) -> None:
    """What the tool does: the classes are those of the weights, if given; of a zoo name, those it was published with; else the data's."""
    kind, _, library = cfg.MODEL.WEIGHTS.partition(":")
    if kind and kind != "pretrained":
        model = load(cfg.MODEL.WEIGHTS, cfg.MODEL.ARCH)
        print(summary(model.arch, model.task))
        return
    if not cfg.MODEL.ARCH:
        raise WeightsError("MODEL.ARCH: empty; name an arch file or a network of the zoo")
    arch, card = find_arch(cfg.MODEL.ARCH, library or False)
    recipe = recipe_of(cfg)
    if card is not None and not recipe.head.name:
        own = given_keys(cfg) & {"DATA.IN_CHANNELS", "DATA.MEAN"}
        print(summarize(arch, card.classes, len(recipe.data.mean) if own else card.in_channels))
        return
    data = build_data(recipe.data, task_class(recipe.head.name).labels)
    print(summary(arch, make_task(data.classes, recipe.head, recipe.data.mean, recipe.data.std)))


def summary(arch: ArchDef, task: Task) -> str:
    """A classifier block by block; of a detector or a segmenter, whose backbone is built otherwise, the totals by fvcore."""
    if task.labels == "classes":
        return str(summarize(arch, len(task.classes), task.in_channels))
    cost, size = task.count(task.network(arch), arch), task.input_size(arch)
    name = f"{task.head.name} on {arch.name or 'network'}, input {size}x{size}, {len(task.classes)} classes"
    return table([("network", name), ("MACs", f"{cost.macs:,}"), ("parameters", f"{cost.params:,}")])
