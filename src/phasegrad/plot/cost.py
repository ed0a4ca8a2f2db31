"""Where the energy, the time or the area of a chip goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from phasegrad import argument_checks as checks
from phasegrad.drawing import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#E69F00", "#009E73", "#F0E442", "#BBBBBB")
_UNITS = {"energy": ("J", 1.0), "latency": ("s", 1.0), "area": ("mm²", 1e6)}
_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


class Breakdown(Protocol):
    """Costs by layer and component, such as [`Estimate`][phasegrad.cost.Estimate]."""

    def breakdown(self, quantity: str) -> Mapping[str, Mapping[str, float]]:
        """The cost of each component in SI units, by the name of the layer."""
        ...


def cost_breakdown(
    estimate: Breakdown,
    path: str | os.PathLike[str] | None = None,
    *,
    quantity: str = "energy",
    title: str | None = None,
    ax: Axes | None = None,
) -> Any:
    """Draw a bar for each layer, stacked by component; the legend has the share of each component in the total.

    Args:
        estimate: the estimate.
        path: path of the image file, whose suffix selects the format; ``None`` to write none.
        quantity: ``"energy"``, ``"latency"`` or ``"area"``.
        title: title, or ``None``.
        ax: axes to draw into; ``None`` for a new figure.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: the quantity is unknown, or needs a constant that is missing.
    """
    checks.choice("cost_breakdown", "quantity", quantity, tuple(_UNITS))
    bars = {name: parts for name, parts in estimate.breakdown(quantity).items() if any(parts.values())}
    figure: Any = ax.figure if ax is not None else new_figure(6.4, max(1.8, 0.9 + 0.26 * len(bars)))
    axes: Any = ax if ax is not None else figure.subplots()
    unit, factor = _UNITS[quantity]
    largest = max((sum(parts.values()) for parts in bars.values()), default=0.0) * factor
    size, prefix = next((p for p in _PREFIXES if largest >= p[0]), _PREFIXES[-1]) if quantity != "area" else (1.0, "")
    left, whole = dict.fromkeys(bars, 0.0), sum(sum(parts.values()) for parts in bars.values())
    components = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    for i, component in enumerate(components):
        widths = [parts.get(component, 0.0) * factor / size for parts in bars.values()]
        if any(widths):
            share = sum(parts.get(component, 0.0) for parts in bars.values()) / whole
            style = {"color": _COLOURS[i % len(_COLOURS)], "label": f"{component}, {100 * share:.2g} %", "height": 0.7}
            axes.barh(list(bars), widths, left=list(left.values()), **style)
        left = {name: start + width for (name, start), width in zip(left.items(), widths, strict=True)}
    _label_axes(axes, f"{quantity} ({prefix}{unit})", title)
    if path is not None:
        save_figure(figure, path)
    return figure


def _label_axes(axes: Any, xlabel: str, title: str | None) -> None:
    axes.set_xlim(left=0.0)
    axes.invert_yaxis()  # the first layer on top
    axes.set_xlabel(xlabel)
    if title:
        axes.set_title(title, fontsize=10)
    axes.grid(axis="x", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
