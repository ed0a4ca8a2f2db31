"""Splits of weights over devices that are optimised for a device and for the weights of a layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.cells import SignificancePairs, SplitTable
from phasegrad.crossbar import Hardware
from phasegrad.crossbar.mapping import expand_scale, nonzero
from phasegrad.inference.split_search import Candidates, Search, starts
from phasegrad.inference.weight_errors import TIMES, check_times, density_of, tabulate, weight_error
from phasegrad.nn import AnalogLayer
from phasegrad.nn.copying import copy_net
from phasegrad.nn.layer import require_analog_layers
from phasegrad.stores import Digital
from phasegrad.stores.digital import programming_target

_DIGITS = 5
"""Decimals of the fractions of a table."""


@dataclass(frozen=True)
class OptimisedSplit:
    """Result of [`optimise_split`][phasegrad.inference.optimise_split].

    Attributes:
        cell: the cell with the best split and significances.
        times: times since programming [s].
        errors: its root mean square error at each time, relative to the largest weight.
        errors_before: that of the cell that was passed.
        start_errors: the error averaged over times that the descent reached from each start.
    """

    cell: SignificancePairs
    times: tuple[float, ...]
    errors: tuple[float, ...]
    errors_before: tuple[float, ...]
    start_errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """Root mean square error, averaged over the times."""
        return _average(self.errors)

    @property
    def error_before(self) -> float:
        """That of the cell that was passed."""
        return _average(self.errors_before)

    @property
    def significance(self) -> float:
        """The largest significance over the smallest, F."""
        return max(self.cell.significances) / min(self.cell.significances)


def optimise_split(
    cell: SignificancePairs | Hardware,
    density: Tensor,
    *,
    times: Sequence[float] = TIMES,
    points: int = 6,
    full_weight: float | None = None,
    iterations: int = 300,
    seed: int = 0,
) -> OptimisedSplit:
    """Find the targets of all devices, and the significances, with which weights have the least error over time.

    The mean square error of the weights after global drift compensation, weighted by their density and averaged over
    the times, is minimised by gradient descent on the analytic moments of the devices, from several starts at once. The
    reference minimises the same error, sampled, by differential evolution.

    Args:
        cell: the cell, or the hardware that it belongs to. Its significances and split are one of the starts.
        density: weights of any shape, relative to the largest weight of a cell; the error is averaged over them.
        times: times since programming [s]; all count the same.
        points: weights from 0 to 1 at which the targets are free.
        full_weight: the weight of a full cell, see [`SplitTable`][phasegrad.cells.SplitTable]; ``None`` to find it:
            below 1, rare large weights are clipped, and the others use more of the window. 1.0 clips no weight.
        iterations: steps of the descent.
        seed: seed of the random starts.

    Returns:
        The cell, and its errors before and after.

    Raises:
        TypeError: the cell is not ``SignificancePairs``.
        ValueError: a weight is outside of [-1, 1], a time is negative, or the moments of the device are unknown.

    References:
        Mackin, C. et al. Optimised weight programming for analogue memory-based deep neural networks. Nat. Commun. 13,
        3765 (2022). https://doi.org/10.1038/s41467-022-31405-1

    Examples:
        >>> import phasegrad as pg
        >>> cell = pg.cells.SignificancePairs(device=pg.devices.joshi_2020(), significances=(2.0, 1.0))
        >>> weights = 0.25 * torch.randn(1000, generator=torch.Generator().manual_seed(0)).clamp(-4.0, 4.0)
        >>> found = optimise_split(cell, weights, times=(0.0, 86_400.0), iterations=20)
        >>> found.error < 0.9 * found.error_before
        True
    """
    own = cell.cell if isinstance(cell, Hardware) else cell
    own = checks.instance("optimise_split", "cell", own, SignificancePairs, of="a cell of SignificancePairs")
    times = check_times("optimise_split", times)
    points = checks.integer("optimise_split", "points", points, 2, 64)
    iterations = checks.integer("optimise_split", "iterations", iterations, 1)
    candidates = starts(own, points, checks.seed("optimise_split", seed))
    if full_weight is not None:
        full_weight = checks.number("optimise_split", "full_weight", full_weight, 0.0, 16.0, above=True)
        candidates.log_full_weight.fill_(math.log(full_weight))
    table = tabulate("optimise_split", own, (0.0, *times))
    search = Search(table, density_of("optimise_split", density, signed=False), points, full_weight is None)
    found = search.run(candidates, iterations)
    with torch.no_grad():
        errors = search.errors(found).sqrt()
    best = _cell(own, found, int(errors.argmin()))
    after, before = (weight_error(c, density, times=times) for c in (best, own))
    if _average(before) <= _average(after) and full_weight is None:  # its own split cannot be a table, or was best
        best, after = own, before
    return OptimisedSplit(best, times, after, before, tuple(errors.tolist()))


def optimise_splits(
    net: nn.Module, *, times: Sequence[float] = TIMES, points: int = 6, full_weight: float | None = None,
    iterations: int = 300, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """Optimise the split of every layer of a converted net for the layer's own weights.

    Layers that share a weight share the split. See [`optimise_split`][phasegrad.inference.optimise_split].

    Args:
        net: a converted net with digital weights; it is not modified.
        times: times since programming [s].
        points: weights from 0 to 1 at which the targets are free.
        full_weight: as for ``optimise_split``.
        iterations: steps of the descent.
        seed: seed of the random starts.

    Returns:
        A copy of the net whose layers have the optimised cells in their ``hardware``, to be programmed or fine-tuned.

    Raises:
        ValueError: the net has no analog layer, or a layer is programmed, or has weights that are not finite.
        TypeError: the cell of a layer is not ``SignificancePairs``.

    Examples:
        >>> import phasegrad as pg
        >>> cell = pg.cells.SignificancePairs(device=pg.devices.joshi_2020(), significances=(2.0, 1.0))
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), pg.Hardware(cell=cell))
        >>> optimised = optimise_splits(net, times=(0.0, 86_400.0), iterations=20)
        >>> type(optimised[0].hardware.cell.split).__name__
        'SplitTable'
    """
    layers = require_analog_layers(net, "optimise_splits")
    for name, layer in layers.items():
        _check_layer(name, layer)
    cells: dict[int, SignificancePairs] = {}
    for layer in layers.values():
        if id(layer.weight) not in cells:
            found = optimise_split(
                layer.hardware, relative_weights(layer), times=times, points=points, full_weight=full_weight,
                iterations=iterations, seed=seed,
            )  # fmt: skip
            cells[id(layer.weight)] = found.cell
    copied = copy_net(net)
    for name, layer in require_analog_layers(copied, "optimise_splits").items():
        layer.hardware = dataclasses.replace(layer.hardware, cell=cells[id(layers[name].weight)])
    return copied


def relative_weights(layer: AnalogLayer) -> Tensor:
    """The weights ``[out, in]`` that cells are programmed to, in [-1, 1]."""
    target = programming_target(layer)
    scale = expand_scale(nonzero(target.scale), target.weight.shape[1], layer.hardware)
    return (target.weight.detach().double() / scale.double()).clamp(-1.0, 1.0)


def _check_layer(name: str, layer: AnalogLayer) -> None:
    where = name or "the net"
    if layer.store.name != Digital.name:
        raise ValueError(
            f"optimise_splits: the weights of {where} are {layer.store.name}, not digital; optimise the splits before "
            "programming"
        )
    checks.instance(
        "optimise_splits", f"the cell of {where}", layer.hardware.cell, SignificancePairs,
        of="a cell of SignificancePairs, whose pairs a weight is split over",
    )  # fmt: skip
    if not bool(torch.isfinite(layer.weight).all()):
        raise ValueError(f"optimise_splits: {where} has weights that are not finite; check whether training diverged")


def _cell(own: SignificancePairs, found: Candidates, k: int) -> SignificancePairs:
    """The cell of a candidate, with its most significant pair first and the least significance 1."""
    significances = found.log_significances[k].exp()
    order = significances.argsort(descending=True, stable=True)
    fractions = found.all_fractions[k][:, order].flatten(1).t()
    rounded = tuple(tuple(round(f, _DIGITS) for f in row) for row in fractions.tolist())
    weights = torch.linspace(0.0, 1.0, fractions.shape[1], dtype=torch.float64).tolist()
    table = SplitTable(
        weights=tuple(weights), device_fractions=rounded, full_weight=round(float(found.log_full_weight[k].exp()), 6)
    )
    significances = tuple(round(f, _DIGITS) for f in (significances[order] / significances.min()).tolist())
    return dataclasses.replace(own, significances=significances, split=table)


def _average(errors: Sequence[float]) -> float:
    return math.sqrt(math.fsum(e * e for e in errors) / len(errors))
