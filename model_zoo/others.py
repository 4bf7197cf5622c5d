"""The same networks in other libraries: their checkpoints, known by their keys, brought to our names.

All list the same layers in the order in which they run, under names of their own. An entry of `ORIGINS` says how to know a library by its
keys and how to put its layers into that order; then layer stands beside layer. Which of its networks is ours, a card says (`elsewhere`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mobile_cv_nas.networks.build import Network, build_model
from mobile_cv_nas.weights.file import WeightsError

from .card import Card, Elsewhere, all_cards

State = dict[str, Tensor]
Layers = list[tuple[str, dict[str, Tensor]]]  # name and tensors of each convolution, norm and linear layer, in the order in which they run
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """A library's names.

    Args:
        name: as in `Card.elsewhere`.
        key: a key that its checkpoints have and no others: a pattern.
        order: what stands at the top of a network, in the order in which it runs: patterns. Below, numbers order the names.
        parts: of a block, whose names say no order: each kind of block's, in the order in which they run; the first kind that has all.
    """

    name: str
    key: str
    order: Sequence[str]
    parts: Sequence[Sequence[str]] = ()


_SE = ("se.conv_reduce", "se.conv_expand")
ORIGINS = (
    Origin(
        "timm",
        r"conv_stem\.weight",
        (r"conv_stem", r"bn1", r"blocks\.", r"conv_head", r"bn2", r"classifier"),
        (
            ("conv", "bn1"),
            ("conv_dw", "bn1", *_SE, "conv_pw", "bn2"),
            ("conv_pw", "bn1", "conv_dw", "bn2", *_SE, "conv_pwl", "bn3"),
        ),
    ),
    Origin("torchvision", r"features\.0\.0\.weight|layers\.0\.weight", (r"features\.|layers\.", r"classifier")),
    Origin(
        "efficientnet_pytorch",
        r"_conv_stem\.weight",
        (r"_conv_stem", r"_bn0", r"_blocks\.", r"_conv_head", r"_bn1", r"_fc"),
        (("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"),),
    ),
)
_MOST_BIASES = 64
_BLOCK = re.compile(r"_?blocks\.(?:\d+\.)+")


def origin_of(state: Iterable[str]) -> Origin | None:
    """The library whose keys these are; None for ours, the released ones, and what nobody knows."""
    keys = list(state)
    return next((origin for origin in ORIGINS if any(re.fullmatch(origin.key, key) for key in keys)), None)


def from_others(state: State, network: Network, card: Card | None, path: Any) -> State:
    """A state dict of another library under our names; one of ours, or of unknown keys, as it is.

    Raises:
        WeightsError: the card does not say that the network is that library's; names the card that fits.
    """
    origin = origin_of(state)
    if origin is None:
        return state
    card = card or _card_of(network)
    same = card.elsewhere.get(origin.name) if card else None
    found = None
    if same is not None and same.model:
        found = translated(layers(state, origin), network, same.norm_eps)
    if found is None:
        raise WeightsError(f"{path}: weights under {origin.name}'s names, {_advice(state, origin, card, network)}")
    assert same is not None
    if origin.name == "timm" and re.match("tf_", str(getattr(path, "name", path))) and not same.model.startswith("tf_"):
        raise WeightsError(f"{path}: by its name of TensorFlow's padding, which timm's {same.model} has not; rename it if that is wrong")
    _LOG.info("%s: read as %s's %s", path, origin.name, same.model)
    return found


def _card_of(network: Network) -> Card | None:
    """The card whose layers an arch has."""
    return next((card for card in all_cards() if card.table is not None and card.arch.stages == network.arch.stages), None)


def _advice(state: State, origin: Origin, card: Card | None, network: Network) -> str:
    name = card.name if card else network.arch.name or "this arch"
    fits = named(state)
    if fits:
        return f"which are not those of {name}: build {' or '.join(fits)}, whose they are by their shapes"
    return f"which fit neither {name} nor any other network of the zoo; check the file"


def named(state: State) -> list[str]:
    """The cards whose weights these are by keys and shapes, each with its network's name in that library; none for our own names."""
    origin = origin_of(state)
    return [f"{card.name} ({same.model})" for card, same in _fitting(state, origin)] if origin else []


def _fitting(state: State, origin: Origin) -> Iterator[tuple[Card, Elsewhere]]:
    theirs = layers(state, origin)
    for card in all_cards():
        same = card.elsewhere.get(origin.name)
        if same is None or not same.model or not _as_large(theirs, card):
            continue
        with torch.device("meta"):
            network = build_model(card.arch, card.classes, card.in_channels)
        if translated(theirs, network, None) is not None:
            yield card, same


def _as_large(theirs: Layers, card: Card) -> bool:
    """Whether a card has as many parameters, the classifier and one convolution's biases aside; if not, it need not be built."""
    total = 0
    for i, (_, tensors) in enumerate(theirs[:-1]):
        for leaf in tensors.keys() & {"weight", "bias"}:
            shape = tensors[leaf].shape
            total += shape.numel() // shape[1] * card.in_channels if i == 0 and len(shape) == 4 else shape.numel()
    head = theirs[-1][1].get("weight")
    features = head.shape[1] if head is not None and head.ndim == 2 else 0
    return card.params is not None and abs(card.params - card.classes * (features + 1) - total) <= _MOST_BIASES


def layers(state: Mapping[str, Tensor], origin: Origin | None = None) -> Layers:
    """The layers of a state dict: of ours as they stand, of others in the order in which they run."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, leaf = key.rpartition(".")
        grouped.setdefault(name, {})[leaf] = value
    if origin is None:
        return list(grouped.items())
    parts: dict[str, set[str]] = {}
    for name in grouped:
        block = _block(name, origin)
        parts.setdefault(block, set()).add(name.removeprefix(block))
    return sorted(grouped.items(), key=lambda item: _rank(item[0], origin, parts))


def _block(name: str, origin: Origin) -> str:
    match = _BLOCK.match(name) if origin.parts else None
    return match[0] if match else ""


def _rank(name: str, origin: Origin, parts: Mapping[str, set[str]]) -> tuple[Any, ...]:
    top = next((i for i, pattern in enumerate(origin.order) if re.match(pattern, name)), len(origin.order))
    block = _block(name, origin)
    rest: tuple[Any, ...] = tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in (block or name).split("."))
    if block:
        kind = next((kind for kind in origin.parts if parts[block] <= set(kind)), ())
        part = name.removeprefix(block)
        rest = (*rest, (0, kind.index(part) if part in kind else -1, part))
    return (top, rest)


def translated(theirs: Layers, network: Network, norm_eps: float | None) -> State | None:
    """Layers beside those of a network, under its names; None if they are of other kinds or shapes (classes and image channels aside).

    A bias that they lack is zero. Norms of another eps get running variances that differ by as much, so that both give the same outputs
    in eval mode; such a variance may be below zero, and with our eps it is not.
    """
    ours = layers(network.state_dict())
    if len(ours) != len(theirs):
        return None
    found: State = {}
    for i, ((name, own), (_, other)) in enumerate(zip(ours, theirs)):
        if ("running_mean" in own) != ("running_mean" in other) or other.keys() - own.keys():
            return None
        free = {0} if i == len(ours) - 1 else {1} if i == 0 else set()
        for leaf, like in own.items():
            value = _fitted(other.get(leaf), like, leaf, free)
            if value is None:
                return None
            if leaf == "running_var" and norm_eps is not None:
                norm: Any = network.get_submodule(name)
                value = (value.double() + (norm_eps - norm.eps)).to(value.dtype)
            found[f"{name}.{leaf}"] = value
    return found


def _fitted(value: Tensor | None, like: Tensor, leaf: str, free: set[int]) -> Tensor | None:
    """A tensor in the shape that it has here, `free` dimensions as they are; zeros for what may be missing; None if it does not fit."""
    if value is None:
        return torch.zeros(like.shape, dtype=like.dtype) if leaf in ("bias", "num_batches_tracked") else None
    if value.numel() == like.numel() and value.shape != like.shape and not free:
        squeezed = [[n for n in tensor.shape if n != 1] for tensor in (value, like)]
        return value.reshape(like.shape) if squeezed[0] == squeezed[1] else None
    if value.ndim != like.ndim:
        return None
    return value if all(a == b or i in free for i, (a, b) in enumerate(zip(value.shape, like.shape))) else None
