"""How a space is searched: one file a strategy, chosen by `SEARCH.STRATEGY`.

A strategy sets the gates for a step, says what the step updates and with which gradient, and proposes archs; batches, stopping, saving,
processes, precision, logs and the measuring of archs are shared. See `base.Strategy`.
"""

from __future__ import annotations

from fvcore.common.registry import Registry

from ...errors import InputError, did_you_mean
from .base import Strategy
from .darts import Darts
from .dmasking import DMasking
from .dnas import Dnas
from .one_shot import OneShot
from .predictor import Predictor
from .proxyless import Proxyless
from .random import RandomSearch
from .reinforce import Reinforce
from .single import Single
from .single_path import SinglePath
from .slimming import Slimming

STRATEGIES = Registry("STRATEGIES")
for _name, _kind in {
    "dmasking": DMasking,
    "dnas": Dnas,
    "darts": Darts,
    "proxyless": Proxyless,
    "reinforce": Reinforce,
    "single_path": SinglePath,
    "one_shot": OneShot,
    "slimming": Slimming,
    "predictor": Predictor,
    "random": RandomSearch,
    "single": Single,
}.items():
    STRATEGIES._do_register(_name, _kind)

NO_SUPERNET = ("predictor", "random", "single")  # these train archs alone


def find_strategy(name: str) -> type[Strategy]:
    """A strategy by its name. Raises InputError, with the nearest name, if there is none."""
    if name not in STRATEGIES:
        raise InputError(f"SEARCH.STRATEGY: {name!r} does not exist{did_you_mean(name, [known for known, _ in STRATEGIES], few=16)}")
    return STRATEGIES.get(name)
