"""The definition language: concrete networks (`ArchDef`) and search spaces (`SearchSpace`), from and to YAML."""

from .definition import ArchDef, BlockDef
from .fields import ArchError
from .layer import Layer
from .space import SearchSpace

__all__ = ["ArchDef", "ArchError", "BlockDef", "Layer", "SearchSpace"]
