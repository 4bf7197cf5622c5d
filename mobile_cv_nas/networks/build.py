"""From an arch to a network, from a space to a supernet: the same blocks, built of ints or of choices."""

from __future__ import annotations

from ..arch import ArchDef, SearchSpace
from ..errors import InputError, check_kind, positive_int, shown
from ..nn.heads import HeadDef
from .network import Network
from .supernet import Supernet


def build_model(arch: ArchDef, num_classes: int = 1000, in_channels: int = 3) -> Network:
    """The plain network of an arch, freshly initialised; it contains no mask, gate or choice.

    Raises:
        InputError: no arch, or num_classes or in_channels is not a positive int.
    """
    if isinstance(arch, SearchSpace):
        raise InputError("build_model: a space has many networks: give one, such as space.largest(), or take build_supernet(space)")
    check_kind(arch, ArchDef, "build_model: the arch", "fbnet_builder builds by name or from a file, and ArchDef.parse reads a mapping")
    return Network(arch, positive_int(num_classes, "num_classes"), positive_int(in_channels, "in_channels"))


def build_supernet(
    space: SearchSpace | ArchDef,
    num_classes: int = 1000,
    in_channels: int = 3,
    sharing: str = "none",
    recompute: bool = False,
    resolution: str = "all",
    head: HeadDef | None = None,
) -> Supernet:
    """The supernet of a space (DMaskingNAS).

    Args:
        space: what to search; an arch is a space with one member.
        num_classes: of the classifier.
        in_channels: of the images.
        sharing: "none": every block type has weights of its own, as in the paper. "full": one block for all inverted residuals.
        recompute: run candidates again in the backward pass instead of keeping their activations.
        resolution: with several input sizes, "all": every size each step, as in the paper. "sampled": one size a step, two where
            the alphas learn, with a straight-through estimate.
        head: in place of the classifier.

    Raises:
        InputError: an argument is not one of these.
    """
    if isinstance(space, ArchDef):
        space = SearchSpace.parse(space.to_dict(), space.name or "arch")
    check_kind(space, SearchSpace, "build_supernet: the space", "SearchSpace.load reads a file, and SearchSpace.parse a mapping")
    for what, value, known in (("sharing", sharing, ("none", "full")), ("resolution", resolution, ("all", "sampled"))):
        if value not in known:
            raise InputError(f"{what} must be {' or '.join(known)}, not {shown(value)}")
    classifier = HeadDef("classifier", positive_int(num_classes, "num_classes"))
    return Supernet(space, head or classifier, positive_int(in_channels, "in_channels"), sharing, recompute, resolution)
