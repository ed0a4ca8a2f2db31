"""Which devices of a cell stay fully SET, which one is programmed between, and which are RESET."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.cells import Cell


class Selection(NamedTuple):
    """Roles of devices that share a target; a device without a role is RESET."""

    stays: Tensor
    """Whether a device stays fully SET, ``[devices, *shape]``."""
    programmed: Tensor
    """Whether a device is programmed between RESET and SET, of the same shape."""


def parallel_devices(cell: Cell) -> list[list[int]]:
    """Indices of the devices of a cell that add to its weight with the same factor, group by group."""
    groups: dict[float, list[int]] = {}
    for index, factor in enumerate(cell.factors):
        groups.setdefault(factor, []).append(index)
    return list(groups.values())


def select_by_reads(target: Tensor, full: Tensor) -> Selection:
    """Choose by the conductances that the devices were read to have when fully SET.

    Of the devices, the strongest first, each stays SET as long as the rest of the target exceeds it; the next one is
    programmed to that rest, and the others are RESET. If the target exceeds the sum, all but the weakest stay SET, and
    the weakest is programmed to as much as it has.

    Args:
        target: sum of the conductances that the devices shall have [S], ``[*shape]``; 0 for all devices at RESET.
        full: conductances of the devices when fully SET, as read [S], ``[devices, *shape]``.

    Examples:
        Two devices of 8 and 10: 6 is programmed on the stronger one, 14 is the stronger one and 4 on the weaker one.

        >>> chosen = select_by_reads(torch.tensor([6.0, 14.0]), torch.tensor([[8.0, 8.0], [10.0, 10.0]]))
        >>> chosen.stays.long(), chosen.programmed.long()
        (tensor([[0, 0],
                [0, 1]]), tensor([[0, 1],
                [1, 0]]))
    """
    strength, order = full.sort(dim=0, descending=True, stable=True)
    rest = target - (strength.cumsum(dim=0) - strength)  # what is left when all stronger devices stay SET
    needed = rest > 0.0
    stays = needed & (rest > strength)
    stays[-1] = False
    programmed = needed & ~stays  # one device: after it, nothing is left
    back = order.argsort(dim=0)
    return Selection(stays.gather(0, back), programmed.gather(0, back))


def fill_up_to(target: Tensor, most: float, devices: int) -> Tensor:
    """Targets ``[devices, *shape]`` [S]: each device up to ``most`` before the next one, and the rest on the last used.

    Examples:
        >>> fill_up_to(torch.tensor([6.0, 14.0]), 10.0, 2)
        tensor([[ 6., 10.],
                [ 0.,  4.]])
    """
    before = torch.arange(devices, dtype=target.dtype, device=target.device).view(-1, *[1] * target.dim()) * most
    return (target - before).clamp(0.0, most)
