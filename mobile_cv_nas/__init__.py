"""FBNetV2 in PyTorch: differentiable search over block types, channels, expansion and input resolution, and a model zoo."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from .arch import ArchDef, ArchError, BlockDef, SearchSpace
from .networks.build import Network, build_model, build_supernet
from .networks.counting import count
from .networks.inherit import inherit_weights
from .networks.recalibrate import recalibrate_batchnorm
from .networks.supernet import Supernet
from .nn.blocks import BLOCKS, Block
from .nn.choice import Choice
from .nn.register import register_block
from .nn.shapes import Cost, subsample
from .timm_hook import register_with_timm

if TYPE_CHECKING:  # what _LAZY names, for type checkers and editors; a test compares the two
    from .deploy.export import export as export
    from .deploy.fold import fold as fold
    from .deploy.latency.table import LatencyTable as LatencyTable
    from .model_zoo import fbnet_builder as fbnet_builder
    from .model_zoo import get_arch as get_arch
    from .model_zoo import get_card as get_card
    from .model_zoo import list_models as list_models
    from .search.again import derive_networks as derive_networks
    from .search.objective import register_objective as register_objective
    from .search.result import SearchResult as SearchResult
    from .search.run import search as search
    from .search.saved import load_supernet as load_supernet
    from .tasks.detectors import build_detector as build_detector
    from .tasks.load import load as load
    from .tasks.model import Model as Model
    from .tasks.prediction import Prediction as Prediction
    from .tasks.segmenters import build_segmenter as build_segmenter
    from .training.trainer import TrainResult as TrainResult
    from .training.trainer import train as train

__version__ = "0.1.0"

# A checkout whose links became text files (Windows, some archives): the linked folders stand beside the package.
if not os.path.isdir(os.path.join(__path__[0], "model_zoo")):
    __path__.append(os.path.dirname(__path__[0]))

# Imported when first used, so that `import mobile_cv_nas` stays cheap: {name: module}.
_LAZY = {
    "LatencyTable": "deploy.latency.table",
    "Model": "tasks.model",
    "Prediction": "tasks.prediction",
    "SearchResult": "search.result",
    "TrainResult": "training.trainer",
    "build_detector": "tasks.detectors",
    "build_segmenter": "tasks.segmenters",
    "derive_networks": "search.again",
    "export": "deploy.export",
    "fbnet_builder": "model_zoo",
    "fold": "deploy.fold",
    "get_arch": "model_zoo",
    "get_card": "model_zoo",
    "list_models": "model_zoo",
    "load": "tasks.load",
    "load_supernet": "search.saved",
    "register_objective": "search.objective",
    "search": "search.run",
    "train": "training.trainer",
}
__all__ = [
    "BLOCKS",
    "ArchDef",
    "ArchError",
    "Block",
    "BlockDef",
    "Choice",
    "Cost",
    "Network",
    "SearchSpace",
    "Supernet",
    "build_model",
    "build_supernet",
    "count",
    "inherit_weights",
    "recalibrate_batchnorm",
    "register_block",
    "subsample",
]
__all__ += list(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


register_with_timm()
