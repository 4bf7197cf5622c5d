"""Whether weights are those of a network, and loading them into it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from .file import WeightsError

_LOG = logging.getLogger(__name__)


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, new_classifier: bool = False) -> None:
    """Loads a state dict. With `new_classifier`, a classifier that it lacks, or has of other classes, keeps its random start.

    Raises WeightsError naming the first name or shape that does not fit.
    """
    own = model.state_dict()
    state = dict(state)
    if new_classifier:
        other = [n for n in own if n.startswith("classifier.") and (n not in state or state[n].shape != own[n].shape)]
        if any(name in state for name in other):
            _LOG.warning("%s: the classifier is of other classes and starts at random", source)
        state |= {name: own[name] for name in other}
    check_fit(model, state, source)
    model.load_state_dict(state)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raises WeightsError naming the first name or shape that does not fit."""
    own = model.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own:
            where = "misses" if name not in state else "has an unknown"
            raise WeightsError(f"{source}: {where} {name}: the weights of another arch; check MODEL.ARCH")
        if state[name].shape != own[name].shape:
            raise WeightsError(
                f"{source}: {name} is {tuple(state[name].shape)} and should be {tuple(own[name].shape)}; "
                "the weights of another arch or other classes"
            )
