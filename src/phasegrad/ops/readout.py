"""What planes of devices stand for, in plain torch: the definition that the kernels are tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops.philox import normal


def read_out(
    conductance: Tensor, others: Tensor | None, readout: Sequence[float], sd: Sequence[float], seed: Tensor, offset: int
) -> Tensor:
    """The weight ``[out, in]`` that planes of devices stand for, as a read finds it.

    Args:
        conductance: ``[planes, out, in]``, float32.
        others: ``[planes, out, in]``, devices beside them, read without noise; or ``None``.
        readout: an offset, then a factor for every plane and for every other plane.
        sd: coefficients of powers of the conductance from 0, three at most: standard deviation of a read, which stays
            at or above 0. Empty for no noise.
        seed: of the noise.
        offset: first of its streams, one a plane.
    """
    noisy = [_noisy_read(plane, sd, seed, offset + i) if sd else plane for i, plane in enumerate(conductance)]
    planes = (*noisy, *(() if others is None else others))
    total = planes[0] * readout[1]
    for plane, factor in zip(planes[1:], readout[2:], strict=True):
        total = total + plane * factor  # in two roundings, as the kernels do it
    return total + readout[0]


def _noisy_read(plane: Tensor, sd: Sequence[float], seed: Tensor, offset: int) -> Tensor:
    c0, c1, c2 = (*sd, 0.0, 0.0)[:3]
    z = normal(int(seed), offset, plane.numel(), plane.device).view(plane.shape)
    return torch.clamp(plane + (c0 + plane * (c1 + plane * c2)) * z, min=0.0)


def leak(
    conductance: Tensor, level: float, lost: float, weight: Tensor | None, others: Tensor | None,
    readout: Sequence[float],
) -> None:  # fmt: skip
    """Let all devices go the same part of the way to a level, in place: ``G += lost (level - G)``.

    Args:
        conductance: ``[planes, out, in]``, float32.
        level: conductance that they tend to.
        lost: part of the way, 0 to 1.
        weight: what the devices stand for, ``[out, in]``, kept in step with them; ``None`` where nobody asks.
        others: ``[planes, out, in]``, devices beside them that belong to the weight too.
        readout: an offset, then a factor for every plane and for every other plane.
    """
    conductance.add_((level - conductance) * lost)
    if weight is not None:
        nothing = torch.zeros(1, dtype=torch.int64, device=conductance.device)  # is drawn
        weight.copy_(read_out(conductance, others, readout, (), nothing, 0))
