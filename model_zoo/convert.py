"""Weights of any accepted form, written as safetensors under our names."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mobile_cv_nas.networks.build import build_model
from mobile_cv_nas.weights.fetch import file_sha256
from mobile_cv_nas.weights.file import WeightsError, save_weights

from .builder import find_arch
from .checkpoints import library_of, read_weights


def convert(weights: str | os.PathLike, model: str | os.PathLike, output: str | os.PathLike) -> dict[str, Any]:
    """Reads weights of a network (a name or an arch file), writes them as safetensors, returns the metadata.

    Beside the arch, the file gets model (its name, by whose card images are prepared), library (whose weights these are, if not the
    card's own), source_sha256, and what the card says: published, licence, url.
    Raises WeightsError if the weights are not that network's, FileError if the output cannot be written.
    """
    if Path(output).suffix != ".safetensors":
        raise WeightsError(f"{output}: the output is a safetensors file: let its name end in .safetensors")
    arch, card = find_arch(model)
    with torch.device("meta"):
        network = build_model(arch)
    state = read_weights(weights, network, card)
    metadata: dict[str, Any] = {
        "model": card.name if card else arch.name or Path(model).stem,
        "source_sha256": file_sha256(weights),
    }
    library = library_of(weights)
    if library is not None and (card is None or card.weights is None or card.weights.format != library):
        card = card.source(library) if card is not None and library in card.sources else None  # whose figures and licence these are
        metadata |= {"library": library} if card is not None else {}
    if card is not None and card.published is not None:
        metadata["published"] = {key: value for key, value in asdict(card.published).items() if value is not None}
    if card is not None and card.weights is not None:
        metadata |= {"licence": card.weights.license, "url": card.weights.url}
    save_weights(output, state, arch, **metadata)
    return metadata
