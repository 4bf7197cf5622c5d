"""How a space is searched: one file a strategy, chosen by `SEARCH.STRATEGY`.

A strategy sets the gates for a step, says what the step updates and with which gradient, and proposes archs; batches, stopping, saving,
processes, precision, logs and the ranking of candidates are shared.
"""

from __future__ import annotations

from fvcore.common.registry import Registry

from .dmasking import DMasking

STRATEGIES = Registry("STRATEGIES")
STRATEGIES._do_register("dmasking", DMasking)
