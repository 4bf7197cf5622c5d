"""Whether norms can take statistics of a forward pass that has one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..config import ConfigError
from .runtime import Runtime

Norm = nn.modules.batchnorm._BatchNorm


def check_one_image(network: nn.Module, run: Callable[[], Any], runtime: Runtime, section: str, total: int) -> None:
    """Raises ConfigError where a forward pass would have one image, of which a norm sees one value a channel.

    Args:
        network: that is trained.
        run: passes one image through it.
        section: of the keys, TRAIN or SEARCH.
        total: images of a step.
    """
    options, world = runtime.options, runtime.world
    if total > world * options.accumulate or (options.sync_bn and world > 1):
        return
    network.train()
    norms = {name: module for name, module in network.named_modules() if isinstance(module, Norm) and module.training}
    single: list[str] = []
    hooks = [norm.register_forward_pre_hook(_note(name, single)) for name, norm in norms.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    if single:
        parts = " x ".join([f"{world} processes"] * (world > 1) + [f"RUNTIME.ACCUMULATE {options.accumulate}"] * (options.accumulate > 1))
        lower = " or lower RUNTIME.ACCUMULATE" if options.accumulate > 1 else ""
        raise ConfigError(
            f"{section}.BATCH_SIZE: {total} in {parts} is one image in a forward pass, of which {single[0]}, a norm over maps of 1x1, can "
            f"take no statistics; set {section}.BATCH_SIZE to {2 * total} or more{lower}"
        )


def _note(name: str, single: list[str]) -> Callable[[nn.Module, Any], None]:
    def hook(_: nn.Module, args: Any) -> None:
        if args[0].numel() == args[0].shape[1]:
            single.append(name)

    return hook
