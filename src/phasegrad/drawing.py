"""Access to matplotlib, an optional dependency that only pictures need."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from phasegrad.writing import checked_path, write_whole


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure, off-screen; matplotlib is imported on first use.

    Args:
        width: width [inch].
        height: height [inch].

    Raises:
        ImportError: if matplotlib is not installed; the message names the extra that installs it.
    """
    try:
        from matplotlib.figure import Figure  # an optional dependency
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install phasegrad[plot]") from error
    return Figure(figsize=(width, height), layout="constrained", dpi=200)


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as an image, completely or not at all.

    Args:
        figure: the figure.
        path: path of the image file, whose ending is its format; ``.png`` is added if there is none.

    Raises:
        TypeError: ``path`` is no path, or empty.
        ValueError: its ending names no format that matplotlib writes.
        OSError: ``path`` is a folder, its folder does not exist, or the file could not be written.
    """
    file = checked_path(path, "the picture")
    if not file.suffix:
        file = Path(f"{file}.png")
    image = io.BytesIO()
    figure.savefig(image, format=file.suffix[1:].lower(), dpi=200)
    write_whole(file, image.getvalue())
