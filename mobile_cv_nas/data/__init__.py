"""Images for searching, training and testing: data sets, splits and loaders that can resume."""

from .data_set import Data, DataError, Split, build_data
from .loader import Loader, build_loader, derive_seed

__all__ = ["Data", "DataError", "Loader", "Split", "build_data", "build_loader", "derive_seed"]
