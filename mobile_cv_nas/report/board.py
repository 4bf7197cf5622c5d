"""What TensorBoard shows of a finished run beside its curves: figures, config and arch as text, options with their scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import require
from ..files import write_error

BOARD = "tensorboard"  # the folder in that of a run


def write_board(folder: Path, step: int, texts: Mapping[str, str], options: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Adds to the run's TensorBoard files.

    Args:
        folder: of the run, whose PNG figures are shown.
        step: to show figures and texts at.
        texts: by name; each is shown as it is.
        options: shown as hyperparameters: numbers, words and switches; others as text.
        scores: the metrics beside them.

    Raises FileError if they cannot be written.
    """
    require("tensorboard", "search")
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    plain = {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in options.items()}
    try:
        with SummaryWriter(str(folder / BOARD)) as board:
            for path in sorted(folder.glob("*.png")):
                board.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")
            for name, text in texts.items():
                board.add_text(name, f"```\n{text}\n```", step)
            board.add_hparams(plain, {f"result/{name}": value for name, value in scores.items()}, run_name=".")
    except OSError as error:
        raise write_error(folder / BOARD, error) from None
