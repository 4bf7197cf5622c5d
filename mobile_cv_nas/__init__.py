"""FBNetV2 in PyTorch: differentiable search over block types, channels, expansion and input resolution, and a model zoo."""

from typing import Any

from .arch import ArchDef, ArchError, BlockDef, SearchSpace
from .networks.build import Network, build_model, build_supernet
from .networks.counting import count
from .networks.supernet import Supernet, inherit_weights
from .nn.blocks import BLOCKS
from .nn.choice import Choice
from .nn.shapes import Cost, subsample
from .timm_hook import register_with_timm

__version__ = "0.1.0"

__all__ = [
    "BLOCKS",
    "ArchDef",
    "ArchError",
    "BlockDef",
    "Choice",
    "Cost",
    "Network",
    "SearchSpace",
    "Supernet",
    "build_detector",
    "build_model",
    "build_segmenter",
    "build_supernet",
    "count",
    "fbnet_builder",
    "get_arch",
    "get_card",
    "inherit_weights",
    "list_models",
    "load_head",
    "subsample",
]

_HEADS = ("build_detector", "build_segmenter")
_ZOO = ("fbnet_builder", "get_arch", "get_card", "list_models")


def __getattr__(name: str) -> Any:
    # The zoo reads its cards when it is first used, not when the library is imported.
    if name in _ZOO:
        from . import model_zoo

        return getattr(model_zoo, name)
    if name in _HEADS:
        from .tasks import detectors as heads

        return getattr(heads, name)
    if name == "load_head":
        from .tasks.dense import load_head

        return load_head
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_with_timm()
