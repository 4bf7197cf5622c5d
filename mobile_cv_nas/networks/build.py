"""From an arch to a network, from a space to a supernet: the same blocks, built of ints or of choices."""

from __future__ import annotations

from ..arch import ArchDef, SearchSpace
from ..nn.heads import HeadDef
from .network import Network
from .supernet import Supernet


def build_model(arch: ArchDef, num_classes: int = 1000, in_channels: int = 3) -> Network:
    """The plain network of an arch, freshly initialised; it contains no mask, gate or choice.

    Raises:
        ValueError: num_classes or in_channels is not a positive int.
    """
    _check(num_classes, in_channels)
    return Network(arch, num_classes, in_channels)


def build_supernet(
    space: SearchSpace,
    num_classes: int = 1000,
    in_channels: int = 3,
    sharing: str = "none",
    recompute: bool = False,
    resolution: str = "all",
    head: HeadDef | None = None,
) -> Supernet:
    """The supernet of a space (DMaskingNAS).

    Args:
        space: what to search.
        num_classes: of the classifier.
        in_channels: of the images.
        sharing: "none": every block type has weights of its own, as in the paper. "full": one block for all inverted residuals.
        recompute: run candidates again in the backward pass instead of keeping their activations.
        resolution: with several input sizes, "all": every size each step, as in the paper. "sampled": one size a step, two where
            the alphas learn, with a straight-through estimate.
        head: in place of the classifier.

    Raises:
        ValueError: an argument is not one of these.
    """
    _check(num_classes, in_channels)
    for what, value, known in (("sharing", sharing, ("none", "full")), ("resolution", resolution, ("all", "sampled"))):
        if value not in known:
            raise ValueError(f"{what} must be {' or '.join(known)}, not {value!r}")
    return Supernet(space, head or HeadDef("classifier", num_classes), in_channels, sharing, recompute, resolution)


def _check(num_classes: int, in_channels: int) -> None:
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{what} must be a positive int, not {value!r}")
