"""Whether weights are those of a network, by names, shapes and the arch saved with them, and loading them into it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..arch import ArchDef
from ..arch.layer import Layer
from .file import WeightsError

_LOG = logging.getLogger(__name__)
_BLOCK = re.compile(r"\bblocks\.(s\d+b\d+)\.")


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


def check_arch(state: Mapping[str, Tensor], content: Mapping[str, Any], arch: ArchDef, source: str) -> None:
    """Raises WeightsError naming the first block that the arch saved with weights, if any, has otherwise than this one.

    Names and shapes do not show an activation, a stride, a padding or an eps. Input sizes may differ, and so may initial values.
    """
    if not content.get("arch"):
        return
    theirs = {layer.key: _function(layer) for layer in ArchDef.parse(content["arch"], source).layers}
    weighted = {match[1] for name in state if (match := _BLOCK.search(name))}
    for layer in arch.layers:
        if layer.key not in theirs or layer.key not in weighted:
            continue  # without weights of its own, or with names that do not fit
        own, other = _function(layer), theirs[layer.key]
        for what in dict.fromkeys([*own, *other]):
            if own.get(what) != other.get(what):
                raise WeightsError(
                    f"{source}: the weights of another arch: {what} of block {layer.key} is {other.get(what)} in the arch saved with them, "
                    f"not {own.get(what)} as in {arch.name or 'this arch'}; build that arch"
                )


def _function(layer: Layer) -> dict[str, Any]:
    """What decides the function of an arch's block, beside its weights."""
    one = layer.arguments[layer.names[0]]
    found = {"type": one.kind.__name__, "stride": layer.stride, **vars(one.args)}
    found.pop("zero_gamma", None)
    if "padding" in found and found["padding"] is None and "kernel" in found:  # what is not said is what could be
        found["padding"] = found["kernel"] // 2
    if "se_activation" in found:
        found["se_activation"] = (found["se_activation"] or found["activation"]) if found.get("se") else None
    return found
