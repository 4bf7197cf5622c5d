"""Makes the zoo known to timm, whichever of the two is imported first, and imports timm for nobody."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_BRIDGE = "mobile_cv_nas.model_zoo.timm_bridge"


def register_with_timm() -> None:
    """Registers the zoo's networks in timm: now if timm is imported, else right after it will be."""
    if "timm" in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


def _register() -> None:
    try:
        importlib.import_module(_BRIDGE)
    except ImportError as error:  # a timm of another version must not fail for our sake
        logging.getLogger(__name__).warning("the zoo is not in timm's registry: %s", error)


class _AfterTimm(MetaPathFinder):
    """Finds timm by the other finders and has its loader followed by the registration; it stays until then: to look is not to import."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Followed(spec.loader)
        return spec


class _Followed(Loader):
    """A loader that registers the zoo when it is done; it gives the module back its own loader first."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AfterTimm)]
        _register()
