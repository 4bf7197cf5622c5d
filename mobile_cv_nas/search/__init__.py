"""Differentiable architecture search: train a supernet's weights and alphas, derive an arch near the target.

`mobile_cv_nas.search` is this package and, called, its function `run.search`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from .run import search

        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
