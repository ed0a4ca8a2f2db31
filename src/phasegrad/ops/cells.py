"""The weights of cells, read from their devices: the definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops import philox
from phasegrad.ops.weighted_sum import weighted_sum


def sum_of_devices(devices: Tensor, factors: Sequence[float], scale: Tensor | None, rows: int) -> Tensor:
    """The weights ``[out, in]`` of devices ``[planes, out, in]``.

    Args:
        devices: conductances as one read sees them.
        factors: an offset, then a factor per plane.
        scale: factor of the sum for each row tile and output, ``[row tiles, out]``; ``None`` for no factor.
        rows: inputs per tile.
    """
    if scale is None:
        no_seed = torch.zeros(1, dtype=torch.int64, device=devices.device)
        return weighted_sum(devices, None, factors, (), no_seed, 0)
    total = devices[0] * factors[1]
    for factor, plane in zip(factors[2:], devices[1:], strict=True):
        total = torch.add(total, plane, alpha=factor)
    total = total + factors[0] if factors[0] else total
    return total * scale.t().repeat_interleave(rows, dim=1)[:, : total.shape[1]]


def noisy_cells(
    mean: Tensor, sd: Tensor | None, seed: Tensor, offset: int, factors: Sequence[float], scale: Tensor | None,
    rows: int,
) -> Tensor:  # fmt: skip
    """The weights of devices whose read is ``max(mean + sd z, 0)``; without ``sd``, the mean."""
    devices = mean
    if sd is not None:
        z = philox.normal(int(seed), offset, mean.numel(), mean.device).view(mean.shape).to(mean.dtype)
        devices = torch.clamp(mean + sd * z, min=0.0)
    return sum_of_devices(devices, factors, scale, rows).contiguous()


def rectified_cells(
    mean: Tensor, sd: Tensor, factors: Sequence[float], scale: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    """The moments of the weights of devices whose read is ``max(mean + sd z, 0)``.

    With ``u = mean / sd``, the normal distribution ``P`` and its density ``p``, a read has the mean ``sd (u P + p)``
    and the variance ``sd^2 ((u^2 + 1) P + u p - (u P + p)^2)``.

    Returns:
        The mean of the weights ``[out, in]``, and their variance over the scale of their column.
    """
    exact, deviation = mean.double(), sd.double()
    noisy = deviation > 0
    u = exact / torch.where(noisy, deviation, torch.ones_like(deviation))
    below, density = torch.special.ndtr(u), torch.exp(-0.5 * u.square()) / math.sqrt(2.0 * math.pi)
    clipped = u * below + density
    left = ((u.square() + 1.0) * below + u * density - clipped.square()).clamp(min=0.0)
    whole = u > 6.0
    first = torch.where(noisy, torch.where(whole, u, clipped) * deviation, exact.clamp(min=0.0))
    second = torch.where(noisy, torch.where(whole, torch.ones_like(left), left) * deviation.square(), 0.0)
    of_planes = torch.tensor(factors[1:], dtype=torch.float64, device=mean.device)
    expanded = scale.t().repeat_interleave(rows, dim=1)[:, : mean.shape[2]]
    weight = (torch.tensordot(of_planes, first, dims=1) + factors[0]) * expanded
    variance = torch.tensordot(of_planes.square(), second, dims=1) * expanded
    return weight.to(mean.dtype).contiguous(), variance.to(mean.dtype).contiguous()


def row_products(x: Tensor, mean: Tensor, variance: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The products ``[row tiles, out]`` of one row of inputs with weights, and of its squares with variances.

    Args:
        x: inputs ``[in]``.
        mean: weights ``[out, in]``.
        variance: of the same shape, and of the same dtype or bfloat16.
        rows: inputs per tile.
    """
    of_tiles = [
        (torch.mv(a, u), torch.mv(b.to(u.dtype), u.square()))
        for a, b, u in zip(mean.split(rows, 1), variance.split(rows, 1), x.split(rows), strict=True)
    ]
    y, v = zip(*of_tiles, strict=True)
    return torch.stack(y), torch.stack(v)
