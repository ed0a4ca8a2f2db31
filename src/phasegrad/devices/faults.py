"""Devices that no longer respond: rates of faults, and maps of the devices that have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number

_KINDS = ("stuck_at_reset", "stuck_at_set", "stuck_at_random")
STREAMS = 4
"""Streams that ``Faults.draw`` uses for one array: its word lines, its devices, their conductances, its bit lines."""


class ArrayGeometry(NamedTuple):
    """An array of devices, as far as faults depend on it."""

    shape: tuple[int, int, int]
    """Devices per cell, outputs, inputs."""
    rows: int
    """Inputs per tile."""
    columns: int
    """Outputs per tile."""
    reset: float
    """Conductance of a device at RESET [S]."""
    set: float
    """Conductance of a device at full SET [S]."""
    undriven: float
    """Conductance [S] at which a device contributes what one contributes that no voltage reaches."""


@final
@dataclass(frozen=True, kw_only=True)
class Faults(Configuration):
    """Rates of devices that programming and pulses cannot change any more.

    Each device is stuck at RESET, at SET (``g_max``), or at a conductance between the two, drawn uniformly; it neither
    drifts nor responds, but its reads keep their noise. A dead row is a word line of one tile that drives no device, a
    dead column is a bit line of one tile that carries no current: all devices on it contribute nothing. Every device of
    a cell has a bit line of its own and shares the word line of the cell.

    The devices that are stuck are a function of the seed. At the same seed, a higher rate adds devices to those of a
    lower rate of the same kind.

    Args:
        stuck_at_reset: fraction of devices that are stuck at RESET.
        stuck_at_set: fraction of devices that are stuck at SET.
        stuck_at_random: fraction of devices that are stuck in between.
        dead_rows: fraction of word lines, per tile, that are dead.
        dead_columns: fraction of bit lines, per tile, that are dead.

    Raises:
        ValueError: a rate is not in [0, 1], or devices are stuck with a probability above 1.

    Examples:
        >>> Faults(stuck_at_reset=1e-3, dead_columns=1e-4).stuck_at_set
        0.0
    """

    stuck_at_reset: float = 0.0
    stuck_at_set: float = 0.0
    stuck_at_random: float = 0.0
    dead_rows: float = 0.0
    dead_columns: float = 0.0

    def __post_init__(self) -> None:
        for name in (*_KINDS, "dead_rows", "dead_columns"):
            check_number(self, name, 0.0, 1.0)
        if sum(self._rates) > 1.0:
            raise ValueError(
                f"Faults: {', '.join(f'{name} = {getattr(self, name)}' for name in _KINDS)}; a device is stuck in one "
                "way only, so their sum must be at most 1"
            )

    @property
    def _rates(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in _KINDS)

    def draw(self, array: ArrayGeometry, seed: Tensor, offset: int, of_word_lines: int) -> Tensor:
        """Draw the stuck devices of one array.

        Args:
            array: the array.
            seed: seed of the draws.
            offset: first of the streams of this array; see ``STREAMS``.
            of_word_lines: stream of the word lines, which arrays in the same tiles share.

        Returns:
            Conductances ``[devices, out, in]`` [S]; NaN for devices that respond.
        """
        kind = torch.ops.phasegrad.uniform(seed, offset + 1, array.shape)
        between = torch.ops.phasegrad.uniform(seed, offset + 2, array.shape)
        stuck = torch.full(array.shape, torch.nan, dtype=torch.float32, device=seed.device)
        at_random = torch.lerp(torch.full_like(stuck, array.reset), torch.full_like(stuck, array.set), between.float())
        past = 0.0
        for rate, conductance in zip(self._rates, (array.reset, array.set, at_random), strict=True):
            stuck = torch.where((kind >= past) & (kind < past + rate), conductance, stuck)
            past += rate
        dead = self._dead_rows(array, seed, of_word_lines) | self._dead_columns(array, seed, offset + 3)
        return stuck.masked_fill_(dead, array.undriven)

    def _dead_rows(self, array: ArrayGeometry, seed: Tensor, offset: int) -> Tensor:
        _, outputs, inputs = array.shape
        lines = torch.ops.phasegrad.uniform(seed, offset, (-(-outputs // array.columns), inputs))
        return (lines < self.dead_rows).repeat_interleave(array.columns, dim=0)[:outputs]

    def _dead_columns(self, array: ArrayGeometry, seed: Tensor, offset: int) -> Tensor:
        devices, outputs, inputs = array.shape
        lines = torch.ops.phasegrad.uniform(seed, offset, (devices, outputs, -(-inputs // array.rows)))
        return (lines < self.dead_columns).repeat_interleave(array.rows, dim=2)[..., :inputs]


@final
@dataclass(frozen=True, eq=False)
class FaultMap:
    """The stuck devices of one layer, in the order of its physical columns.

    Attributes:
        stuck: conductances ``[devices, out, in]`` [S] at which devices are stuck; NaN for devices that respond.
        fast: the same for the second array of cells that receives updates first, or ``None`` if none of its devices is
            stuck or there is no such array.
        reference: ``[devices, column tiles, in]``, the same for the reference column of every tile, or ``None``.

    Examples:
        >>> map = FaultMap(torch.full((2, 4, 16), torch.nan))
        >>> map.stuck[0, 3, 5] = 25e-6  # the first device of the cell of input 5 and output 3 is stuck at 25 uS
        >>> map.count
        1
    """

    stuck: Tensor
    fast: Tensor | None = None
    reference: Tensor | None = None

    @property
    def arrays(self) -> dict[str, Tensor | None]:
        """The maps of the arrays by name."""
        return {"stuck": self.stuck, "fast": self.fast, "reference": self.reference}

    @property
    def count(self) -> int:
        """Number of stuck devices."""
        return sum(int((~array.isnan()).sum()) for array in self.arrays.values() if array is not None)

    def entries(self) -> Iterator[tuple[str, int, int, int, float]]:
        """Array, device, column (output), row (input) and conductance [S] of each stuck device."""
        for name, array in self.arrays.items():
            if array is None:
                continue
            places = (~array.isnan()).nonzero()
            values = array[tuple(places.t())].double().tolist()
            for (device, column, row), value in zip(places.tolist(), values, strict=True):
                yield name, device, column, row, value
