"""Images for searching, training and testing: data sets, splits and loaders that can resume."""

from .build import build_data, build_loader, data_of
from .data_set import Data, DataError, Source, Split
from .loader import Loader, derive_seed
from .options import DataOptions
from .transforms import Preprocess

__all__ = [
    "Data",
    "DataError",
    "DataOptions",
    "Loader",
    "Preprocess",
    "Source",
    "Split",
    "build_data",
    "build_loader",
    "data_of",
    "derive_seed",
]
