"""From a configuration to the plain options that the library takes: the only place that knows both."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar, cast

from yacs.config import CfgNode

from ..config import given_keys
from ..data.build import build_data
from ..data.data_set import Data
from ..data.options import DataOptions
from ..deploy.options import ExportOptions
from ..engine.runtime import RuntimeOptions
from ..search.options import SearchOptions
from ..tasks.model import Model
from ..tasks.options import HeadOptions
from ..training.options import Recipe, TrainOptions
from ..training.start import check_channels, in_order, prepared_as

Options = TypeVar("Options")


def options_of(kind: type[Options], cfg: CfgNode, section: str) -> Options:
    """The options of a section: a field has the name of its key in lower case, or says in its metadata which key it is."""
    values, plain = {}, cast(Any, kind)
    for one in fields(plain):
        node: Any = cfg
        for part in one.metadata.get("key", f"{section}.{one.name.upper()}").split("."):
            node = node[part]
        values[one.name] = tuple(node) if isinstance(node, list) else node
    return kind(**values)


def data_options(cfg: CfgNode) -> DataOptions:
    return options_of(DataOptions, cfg, "DATA")


def train_options(cfg: CfgNode) -> TrainOptions:
    return options_of(TrainOptions, cfg, "TRAIN")


def search_options(cfg: CfgNode) -> SearchOptions:
    return options_of(SearchOptions, cfg, "SEARCH")


def export_options(cfg: CfgNode) -> ExportOptions:
    return options_of(ExportOptions, cfg, "EXPORT")


def recipe_of(cfg: CfgNode) -> Recipe:
    """Everything of a configuration beside the search, the network and the folder."""
    head, runtime = options_of(HeadOptions, cfg, "HEAD"), options_of(RuntimeOptions, cfg, "RUNTIME")
    return Recipe(train_options(cfg), data_options(cfg), head, runtime, cfg.SEED)


def adopted(cfg: CfgNode, model: Model, source: str) -> DataOptions:
    """The options of the data set, prepared as a model was trained with, but for the keys that were set; `cfg` says the same afterwards."""
    given = [key.partition(".")[2].lower() for key in given_keys(cfg) if key.startswith("DATA.")]
    options = prepared_as(model, data_options(cfg), given, source)
    for one in fields(options):
        value = getattr(options, one.name)
        cfg.DATA[one.name.upper()] = list(value) if isinstance(value, tuple) else value
    return options


def data_for(cfg: CfgNode, model: Model, source: str) -> tuple[DataOptions, Data]:
    """The data set of a configuration as a model takes it. Raises WeightsError where its classes are not the model's."""
    options = adopted(cfg, model, source)
    check_channels(options, model, source)
    return options, in_order(build_data(options, model.task.labels), model, source)
