"""Access to matplotlib, an optional dependency that only pictures need."""

from __future__ import annotations

from typing import Any


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
