"""Where downloads and made data are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from .file import WeightsError


def cache_folder() -> Path:
    """The folder of what is fetched or made once: `$MOBILE_CV_NAS_HOME`, else one in torch hub's."""
    home = os.environ.get("MOBILE_CV_NAS_HOME")
    return Path(home).expanduser() if home else Path(torch.hub.get_dir()) / "checkpoints" / "mobile_cv_nas"


def file_sha256(path: str | os.PathLike) -> str:
    """The sha256 of a file, in hex. Raises WeightsError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()
