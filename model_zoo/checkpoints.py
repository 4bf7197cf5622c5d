"""Checkpoints of any accepted form, read strictly under our names."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mobile_cv_nas.errors import InputError
from mobile_cv_nas.networks.build import Network
from mobile_cv_nas.weights.file import MAX_BYTES, WeightsError
from mobile_cv_nas.weights.file import load_weights as load_safetensors
from mobile_cv_nas.weights.fit import check_arch

from .card import Card
from .keymap import RELEASED_PREFIX, from_released
from .others import State, from_others, named, origin_of

HEAD = "classifier."
_LOG = logging.getLogger(__name__)
_AVERAGED, _PLAIN = ("model_ema", "state_dict_ema", "ema"), ("state_dict", "model")
_SHOWN = 3  # keys of each kind that an error names


def read_weights(path: str | os.PathLike, network: Network, card: Card | None = None) -> State:
    """A file's weights under our names, complete and of the network's shapes but for the head and the stem's input.

    Reads .safetensors and .pth as they come: a state dict, or one under `state_dict` or `model`; an averaged one beside it (`model_ema`,
    `state_dict_ema`, `ema`) comes first, and the log says so. Prefixes of wrappers are taken off: `module.`, `_orig_mod.`, `model.`.
    Names are ours, the released ones, or those of a library of `others.ORIGINS` where the network is one of theirs. Raises WeightsError,
    also where the file brings an arch, and it is another than the network's.
    """
    path = Path(path).expanduser()
    state, content = _read(path)
    if any(key.startswith((RELEASED_PREFIX, "head.conv.")) for key in state):
        state = from_released(state, network)
    else:
        state = from_others(state, network, card, path)
    state = _completed(state, network)
    check_fit(state, network, path, card)
    check_arch(state, content, network.arch, str(path))
    return state


def names_for(path: str | os.PathLike) -> list[str]:
    """The networks of the zoo whose weights a file of another library has, by keys and shapes. Raises WeightsError."""
    return named(_read(Path(path).expanduser())[0])


def library_of(path: str | os.PathLike) -> str | None:
    """The library whose names a file has, as in `Card.elsewhere`; None for ours and the released ones. Raises WeightsError."""
    origin = origin_of(_read(Path(path).expanduser())[0])
    return origin.name if origin else None


def _read(path: Path) -> tuple[State, Mapping[str, Any]]:
    """The state dict of a file, and what else a .safetensors file of ours says."""
    content, about = _load_file(path)
    plain = _state_dict(content, path)
    return _unwrapped(plain, path, "pytorch-lightning_version" in content), about


def _load_file(path: Path) -> tuple[Any, Mapping[str, Any]]:
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
            return load_safetensors(path)
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd pickles torch warns first, then fails
            return torch.load(path, map_location="cpu", weights_only=True), {}
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
    found = _search(content, path)
    if found is None:
        keys = ", ".join(map(str, content))[:100] if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"{path}: no state dict in it, found: {keys or 'nothing'}")
    return found


def _search(content: Any, path: Path, depth: int = 3) -> Mapping[str, torch.Tensor] | None:
    if not isinstance(content, Mapping) or not content or not depth:
        return None
    if all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()):
        return content
    for key in (*_AVERAGED, *_PLAIN):
        found = _search(content.get(key), path, depth - 1)
        if found is None:
            continue
        if key in _AVERAGED and any(isinstance(content.get(other), Mapping) and content[other] for other in _PLAIN):
            _LOG.warning("%s: the averaged weights are taken (%s), not those beside them", path, key)
        return found
    return None


def _unwrapped(state: Mapping[str, torch.Tensor], path: Path, lightning: bool) -> State:
    """Without the traces of wrappers: averaging counts its updates; it, data parallelism, compilation and Lightning prefix the names."""
    plain = {key.replace("_orig_mod.", ""): value for key, value in state.items() if key != "n_averaged"}
    if lightning:  # a module of Lightning keeps its losses and scores beside the network
        inside = {key: value for key, value in plain.items() if key.startswith("model.")}
        if inside and len(inside) < len(plain):
            _LOG.warning("%s: %d tensors that are not of its model are left out", path, len(plain) - len(inside))
        plain = inside or plain
    for prefix in ("module.", "model.", "module."):
        while plain and all(key.startswith(prefix) for key in plain):
            plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _completed(state: State, network: Network) -> State:
    """With the counters of norms, where they were left out (they start again), and as scalars, where they were saved as rows of one."""
    state = dict(state)
    for key, like in network.state_dict().items():
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=like.dtype)
        elif like.ndim == 0 and key in state and state[key].numel() == 1:
            state[key] = state[key].reshape(())
    return state


def stem_key(network: Network) -> str | None:
    """The key of the first convolution's weight, whose input channels may differ."""
    return next((f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)


def check_fit(state: State, network: Network, path: Path, card: Card | None) -> None:
    """Raises WeightsError unless keys and shapes are the network's; classes and input channels may differ."""
    expected = network.state_dict()
    stem = stem_key(network)
    faults = []
    for what, keys in (("missing", expected.keys() - state.keys()), ("unknown", state.keys() - expected.keys())):
        if keys:
            order = [key for key in (*expected, *state) if key in keys]
            faults.append(f"{len(keys)} {what} ({', '.join(order[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})")
    other = []
    for key in expected.keys() & state.keys():
        value, like = state[key], expected[key]
        free = 0 if key.startswith(HEAD) else 1 if key == stem else None
        shapes = [[n for i, n in enumerate(tensor.shape) if i != free] for tensor in (value, like)]
        if value.ndim != like.ndim or shapes[0] != shapes[1]:
            other.append(f"{key} is {shown_shape(value)}, not {shown_shape(like)}")
        elif value.is_floating_point() != like.is_floating_point():
            other.append(f"{key} is {value.dtype}, not {like.dtype}")
    if other:
        faults.append(f"{len(other)} of another shape or kind ({'; '.join(sorted(other)[:_SHOWN])})")
    if not faults and state["classifier.weight"].shape[0] != state["classifier.bias"].shape[0]:
        faults.append("weight and bias of the head differ in length")
    if faults:
        name = network.arch.name or "this arch"
        raise WeightsError(f"{path}: not the weights of {name}: {', '.join(faults)}{card_note(card)}")


def card_note(card: Card | None) -> str:
    return f". {card.note}" if card and card.note else ""


def shown_shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
