"""Where downloads and made data are kept."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def cache_folder() -> Path:
    """The folder of what is fetched or made once: `$MOBILE_CV_NAS_HOME`, else one in torch hub's."""
    home = os.environ.get("MOBILE_CV_NAS_HOME")
    return Path(home).expanduser() if home else Path(torch.hub.get_dir()) / "checkpoints" / "mobile_cv_nas"
