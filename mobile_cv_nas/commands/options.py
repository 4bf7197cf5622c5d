"""From a config to plain options: the one place where keys become fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from yacs.config import CfgNode

from ..config.keys import DENSE, DETECTORS
from ..data import Data, DataOptions, Loader, Split, build_data, build_loader

if TYPE_CHECKING:  # their rooms still import this file
    from ..search.options import SearchOptions
    from ..training.options import TrainOptions

_Options = TypeVar("_Options", bound="DataOptions | SearchOptions | TrainOptions")


def data_options(cfg: CfgNode) -> DataOptions:
    """The keys of DATA."""
    return _filled(DataOptions, cfg.DATA)


def train_options(cfg: CfgNode) -> TrainOptions:
    """The keys of TRAIN, and the batch size of TEST."""
    from ..training.options import TrainOptions

    return _filled(TrainOptions, cfg.TRAIN, eval_batch_size=cfg.TEST.BATCH_SIZE)


def search_options(cfg: CfgNode) -> SearchOptions:
    """The keys of SEARCH."""
    from ..search.options import SearchOptions

    tau = cfg.SEARCH.TEMPERATURE
    return _filled(SearchOptions, cfg.SEARCH, schedule=tau.SCHEDULE, tau_start=tau.START, tau_end=tau.END, tau_decay=tau.DECAY)


def data_labels(cfg: CfgNode) -> str:
    """What the labels of the data set are: classes | boxes | masks."""
    if cfg.DATA.DATASET not in DENSE:
        return "classes"
    return "boxes" if cfg.HEAD.NAME in DETECTORS else "masks"


def _filled(options: type[_Options], section: Mapping[str, Any], **renamed: Any) -> _Options:
    """Options whose fields are the keys of a section in lower case, but for those `renamed`. Lists become tuples."""
    values = {name.lower(): tuple(value) if isinstance(value, list) else value for name, value in section.items()}
    return options(**{field.name: values[field.name] for field in fields(options) if field.name in values} | renamed)


def data_from(cfg: CfgNode) -> Data:
    """`build_data` as a config says. Where there is no test split it is the validation's, as the tasks still expect."""
    data = build_data(data_options(cfg), data_labels(cfg))
    return data if data.test is not None else replace(data, test=data.val)


def loader_from(
    cfg: CfgNode,
    split: Split,
    input_size: int,
    batch_size: int,
    train: bool,
    shard: tuple[int, int] = (0, 1),
    seed: int | None = None,
    label_size: int | None = None,
) -> Loader:
    """`build_loader` as a config says; the seed is the config's unless one is given."""
    return build_loader(data_options(cfg), split, input_size, batch_size, train, shard, cfg.SEED if seed is None else seed, label_size)
