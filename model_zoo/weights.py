"""Weights: where they are, fetching them once, and reading a file into a network, strictly."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import tempfile
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from mobile_cv_nas.errors import InputError
from mobile_cv_nas.networks.build import Network, build_model
from mobile_cv_nas.weights.fetch import cache_folder, file_sha256
from mobile_cv_nas.weights.file import MAX_BYTES, WeightsError
from mobile_cv_nas.weights.file import load_weights as load_safetensors

from .card import Card
from .keymap import RELEASED_PREFIX, from_released, from_torchvision

State = dict[str, torch.Tensor]
_HEAD = "classifier."
_SHOWN = 3  # keys of each kind that an error names


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
        raise WeightsError(f"{card.name} has no pretrained weights; list_models(pretrained=True) names those that do")
    if info.file is not None:
        with resources.as_file(resources.files(__package__).joinpath(info.file)) as path:
            _check_hash(path, info.sha256)
            yield path
        return
    assert info.url is not None
    _check_url(info.url, card.name)
    target = cache_folder() / (card.name + (Path(urlsplit(info.url).path).suffix or ".pth"))
    converted = target.parent / f"{card.name}.safetensors"
    if os.path.lexists(target):
        _check_hash(target, info.sha256)
        yield target
    elif os.path.lexists(converted):
        yield converted
    else:
        _download(card, info.url, target, progress)
        yield target


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


def read_weights(path: str | os.PathLike, network: Network, card: Card | None = None) -> State:
    """A file's weights under our names, complete and of the network's shapes but for the head and the stem's input.

    Reads .safetensors and .pth; in the latter `model_ema` comes before `state_dict`, or the file is a state dict
    itself; names are ours, the released ones (with or without `module.`), or torchvision's. Raises WeightsError.
    """
    path = Path(path).expanduser()
    state = _unwrapped(_state_dict(_load_file(path), path))
    torchvision = card.weights.torchvision if card and card.weights else None
    if any(key.startswith((RELEASED_PREFIX, "head.conv.")) for key in state):
        state = from_released(state, network)
    elif torchvision and not any(key.startswith("blocks.") for key in state):
        with contextlib.suppress(KeyError):  # then the check below names the keys at fault
            state = from_torchvision(state, network, torchvision)
    _check_fit(state, network, path, card)
    return state


def _read_card(path: Path, card: Card) -> State:
    """As `read_weights` for the card's very network: nothing may differ."""
    with torch.device("meta"):
        network = build_model(card.arch, card.classes, card.in_channels)
    state = read_weights(path, network, card)
    for key, like in network.state_dict().items():
        if state[key].shape != like.shape:
            raise WeightsError(f"{path}: {key} is {_shape(state[key])}, in {card.name} {_shape(like)}{_note(card)}")
    return state


def _load_file(path: Path) -> Any:
    if not path.exists():
        raise WeightsError(f"{path}: no such file; check the path of the weights")
    if not path.is_file():
        raise WeightsError(f"{path}: not a file; give the file that holds the weights")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: empty; delete the file and fetch it again")
    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(f"{path}: larger than the limit of {MAX_BYTES:,} bytes for weights")
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path)[0]
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd pickles torch warns first, then fails
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):  # torch's word for anything that is no tensor, number, string, list or dict
            raise WeightsError(
                f"{path}: refused: it holds more than tensors, and loading that could run code; "
                "save its state dict alone, or take the file from its authors again"
            ) from None
        raise WeightsError(f"{path}: not a checkpoint, or damaged; fetch it again") from None
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(f"{path}: cannot be read, truncated or not a checkpoint ({reason}); fetch it again") from None


def _check_archive(path: Path) -> None:
    """Torch stores without compression: a zip file that has any may be a small one of gigabytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise WeightsError(f"{path}: refused: a compressed archive, which torch does not write; fetch it again")


def _state_dict(content: Any, path: Path) -> Mapping[str, torch.Tensor]:
    """The averaged weights where there are any, else the plain ones."""
    found = _search(content)
    if found is None:
        keys = ", ".join(map(str, content))[:100] if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"{path}: no state dict in it, found: {keys or 'nothing'}")
    return found


def _search(content: Any, depth: int = 3) -> Mapping[str, torch.Tensor] | None:
    if not isinstance(content, Mapping) or not content or not depth:
        return None
    if all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()):
        return content
    for key in ("model_ema", "ema", "state_dict", "model"):
        found = _search(content.get(key), depth - 1)
        if found is not None:
            return found
    return None


def _unwrapped(state: Mapping[str, torch.Tensor]) -> State:
    """Without the traces of wrappers: averaging counts its updates, and it and data parallelism prefix `module.`."""
    plain = {key: value for key, value in state.items() if key != "n_averaged"}
    while plain and all(key.startswith("module.") for key in plain):
        plain = {key.removeprefix("module."): value for key, value in plain.items()}
    return plain


def _stem(network: Network) -> str | None:
    """The key of the first convolution's weight, whose input channels may differ."""
    return next((f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)


def _check_fit(state: State, network: Network, path: Path, card: Card | None) -> None:
    """Raises WeightsError unless keys and shapes are the network's; classes and input channels may differ."""
    expected = network.state_dict()
    stem = _stem(network)
    faults = []
    for what, keys in (("missing", expected.keys() - state.keys()), ("unknown", state.keys() - expected.keys())):
        if keys:
            order = [key for key in (*expected, *state) if key in keys]
            faults.append(f"{len(keys)} {what} ({', '.join(order[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})")
    other = []
    for key in expected.keys() & state.keys():
        value, like = state[key], expected[key]
        free = 0 if key.startswith(_HEAD) else 1 if key == stem else None
        shapes = [[n for i, n in enumerate(tensor.shape) if i != free] for tensor in (value, like)]
        if value.ndim != like.ndim or shapes[0] != shapes[1]:
            other.append(f"{key} is {_shape(value)}, not {_shape(like)}")
        elif value.is_floating_point() != like.is_floating_point():
            other.append(f"{key} is {value.dtype}, not {like.dtype}")
    if other:
        faults.append(f"{len(other)} of another shape or kind ({'; '.join(sorted(other)[:_SHOWN])})")
    if not faults and state["classifier.weight"].shape[0] != state["classifier.bias"].shape[0]:
        faults.append("weight and bias of the head differ in length")
    if faults:
        name = network.arch.name or "this arch"
        raise WeightsError(f"{path}: not the weights of {name}: {', '.join(faults)}{_note(card)}")


def _note(card: Card | None) -> str:
    return f". {card.note}" if card and card.note else ""


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


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
        state = {key: own[key] if key.startswith(_HEAD) else value for key, value in state.items()}
    stem = _stem(network)
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
