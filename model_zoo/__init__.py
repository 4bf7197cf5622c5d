"""The model zoo: published networks by name, with their figures and weights."""

from mobile_cv_nas.weights.file import WeightsError

from .builder import fbnet_builder
from .card import Card, ZooError, get_arch, get_card, list_models

__all__ = ["Card", "WeightsError", "ZooError", "fbnet_builder", "get_arch", "get_card", "list_models"]
