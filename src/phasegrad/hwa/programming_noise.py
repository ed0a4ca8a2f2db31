"""The programming error of a cell as training noise: its standard deviation as a function of the weight.

A weight is spread over several devices, each programmed to its own target. The profile is computed from the cell's
mapping and from the error of its devices, so it holds for every cell.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.crossbar.perturbation import MOST_PARABOLAS, NoiseProfile

_TOLERANCE = 0.003
"""Largest relative error of a profile."""


@functools.lru_cache(maxsize=64)
def programming_profiles(cell: Cell, strength: float) -> tuple[NoiseProfile, ...]:
    """The standard deviation of programmed weights over their scale, for each slice of the cell.

    The errors of the devices of a cell add in quadrature: those at RESET, whose conductance cannot be below the lowest
    one, and those of a reference column are included.

    Args:
        cell: unit cell.
        strength: factor of the standard deviation.

    Raises:
        TypeError: the programming error of the cell's devices is not known.
    """
    weight = _weights()
    error = cell.device.programming_deviation(cell.targets(weight))
    if error is None:
        raise TypeError(
            f"PCMNoise: the device of the cell is a {type(cell.device).__name__}, which has no "
            "programming_deviation; define that method, or use AdditiveNoise or MultiplicativeNoise"
        )
    contribution = _contributions(cell).square()
    variance = contribution @ error.square()
    if cell.has_reference:
        of_zero = cell.device.programming_deviation(cell.targets(weight.new_zeros(1)))
        assert of_zero is not None
        variance = variance + contribution @ of_zero.square()
    sd = variance.sqrt() * strength
    slices = weight.unsqueeze(0) if cell.slice_factors is None else cell.bit_slice(weight)
    return tuple(_profile(*_by_value(g, s)) for g, s in zip(slices, sd, strict=True))


def _weights() -> Tensor:
    """Weights in [-1, 1], dense everywhere, and more so where a device is close to one of its bounds."""
    near = torch.logspace(-6.0, -1.0, 301, dtype=torch.float64)
    positive = torch.cat((torch.linspace(0.0, 1.0, 4097, dtype=torch.float64), near, 1.0 - near))
    return torch.cat((positive, -positive)).unique()


def _contributions(cell: Cell) -> Tensor:
    """Contribution of each device to each slice per conductance, ``[slices, devices]`` [1/S]."""
    devices = len(cell.factors)
    if cell.slice_factors is None:
        return torch.tensor([cell.factors], dtype=torch.float64) / cell.device.window
    unit = torch.eye(devices, dtype=torch.float64) * cell.device.window
    none = torch.zeros(devices, 1, dtype=torch.float64)
    return (cell.read_slices(unit) - cell.read_slices(none)) / cell.device.window


def _by_value(g: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values of a slice in increasing order, and the standard deviation of each."""
    distinct, which = g.unique(return_inverse=True)
    square = torch.zeros_like(distinct).scatter_reduce_(0, which, sd.square(), "mean", include_self=False)
    return distinct, square.sqrt()


def _profile(g: Tensor, sd: Tensor) -> NoiseProfile:
    """Parabolas through standard deviations, as few as needed, each as far as it is close."""
    by_sign = not (torch.equal(g, -g.flip(0)) and torch.allclose(sd, sd.flip(0), rtol=1e-9, atol=0.0))
    if not by_sign:
        g, sd = g[g >= 0.0], sd[g >= 0.0]
    tolerance, parabolas, starts = _TOLERANCE, [], []
    while True:
        parabolas, starts = _pieces(g, sd, tolerance)
        if len(parabolas) <= MOST_PARABOLAS:
            return NoiseProfile(parabolas=tuple(parabolas), starts=tuple(starts[1:]), by_sign=by_sign)
        tolerance *= 2.0


def _pieces(g: Tensor, sd: Tensor, tolerance: float) -> tuple[list[tuple[float, float, float]], list[float]]:
    """Parabolas within a relative tolerance of ``sd``, and the value where each starts."""
    parabolas: list[tuple[float, float, float]] = []
    starts: list[float] = []
    first = 0
    while first < len(g):
        last, step = first + 1, 1  # one point is always met
        best = _fit(g[first:last], sd[first:last])
        while step:
            more = min(last + step, len(g))
            parabola = _fit(g[first:more], sd[first:more])
            if more > last and _close(parabola, g[first:more], sd[first:more], tolerance):
                last, best, step = more, parabola, 2 * step
            else:
                step //= 2
        parabolas.append(best)
        starts.append(float(g[first]) if not first else 0.5 * float(g[first - 1] + g[first]))
        first = last
    return parabolas, starts


def _fit(g: Tensor, sd: Tensor) -> tuple[float, float, float]:
    """Least-squares parabola of relative errors, in powers of ``g``."""
    middle, width = (g[0] + g[-1]) / 2.0, ((g[-1] - g[0]) / 2.0).clamp(min=1e-12)
    u, scale = (g - middle) / width, sd.clamp(min=1e-30)
    powers = torch.stack([u**k / scale for k in range(min(3, len(g)))], dim=1)
    found = torch.linalg.lstsq(powers, (sd / scale).unsqueeze(1), driver="gelsd").solution.flatten().tolist()
    c0, c1, c2 = (*found, 0.0, 0.0)[:3]
    m, w = float(middle), float(width)
    return (c0 - c1 * m / w + c2 * (m / w) ** 2, c1 / w - 2.0 * c2 * m / w**2, c2 / w**2)


def _close(parabola: tuple[float, float, float], g: Tensor, sd: Tensor, tolerance: float) -> bool:
    c0, c1, c2 = parabola
    return bool(((c0 + g * (c1 + g * c2) - sd).abs() <= tolerance * sd).all())
