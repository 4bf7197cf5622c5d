"""What TensorBoard shows of a finished run beside its curves: figures, config and arch as text, options with their scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import require
from ..files import write_error

BOARD = "tensorboard"  # the folder in that of a run


def write_board(
    folder: Path,
    step: int,
    figures: Mapping[str, Path],
    texts: Mapping[str, str],
    options: Mapping[str, Any],
    scores: Mapping[str, float],
) -> None:
    """Adds to the run's TensorBoard files.

    Args:
        folder: of the run.
        step: to show figures and texts at.
        figures: PNG files by name; those that are not there are left out.
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
            for name, path in figures.items():
                if path.is_file():
                    with Image.open(path) as image:
                        board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            for name, text in texts.items():
                board.add_text(name, f"```\n{text}\n```", step)
            board.add_hparams(plain, {f"result/{name}": value for name, value in scores.items()}, run_name=".")
    except OSError as error:
        raise write_error(folder / BOARD, error) from None
