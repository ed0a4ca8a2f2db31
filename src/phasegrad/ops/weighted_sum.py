"""The weight that planes of devices represent, in plain torch: the definition that the kernels are tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops.arguments import TrackedWeight
from phasegrad.ops.philox import normal


def weighted_sum(
    conductance: Tensor,
    other_planes: Tensor | None,
    factors: Sequence[float],
    sd: Sequence[float],
    seed: Tensor,
    offset: int,
) -> Tensor:
    """The weight ``[out, in]`` that planes of devices represent, as one read measures it.

    Args:
        conductance: ``[planes, out, in]``, float32.
        other_planes: ``[planes, out, in]``, devices that are read without noise; or ``None``.
        factors: an offset, then a factor for every plane and for every other plane.
        sd: coefficients of powers of the conductance from 0, three at most: standard deviation of a read, whose
            result is clamped at 0. Empty for no noise.
        seed: of the noise.
        offset: first of its streams, one per plane.
    """
    noisy = [_noisy_read(plane, sd, seed, offset + i) if sd else plane for i, plane in enumerate(conductance)]
    planes = (*noisy, *(() if other_planes is None else other_planes))
    total = planes[0] * factors[1]
    for plane, factor in zip(planes[1:], factors[2:], strict=True):
        total = total + plane * factor  # in two roundings, as in the kernels
    return total + factors[0]


def _noisy_read(plane: Tensor, sd: Sequence[float], seed: Tensor, offset: int) -> Tensor:
    c0, c1, c2 = (*sd, 0.0, 0.0)[:3]
    z = normal(int(seed), offset, plane.numel(), plane.device).view(plane.shape)
    return torch.clamp(plane + (c0 + plane * (c1 + plane * c2)) * z, min=0.0)


def leak(conductance: Tensor, level: float, lost: float, tracked: TrackedWeight) -> None:
    """Relax all devices by the same fraction towards a level, in place: ``G += lost (level - G)``.

    Args:
        conductance: ``[planes, out, in]``, float32.
        level: conductance that the devices relax to.
        lost: fraction of the distance to ``level``, 0 to 1.
        tracked: the weight that the devices represent, updated with them.
    """
    conductance.add_((level - conductance) * lost)
    if tracked.weight is not None:
        nothing = torch.zeros(1, dtype=torch.int64, device=conductance.device)  # is drawn
        tracked.weight.copy_(weighted_sum(conductance, *tracked[1:], (), nothing, 0))
