"""Global drift compensation: one calibration read of every tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.inference.compensations.base import Compensation, correct_gains, devices_of, row_reads_of
from phasegrad.inference.programming import Seeds
from phasegrad.nn import AnalogLayer
from phasegrad.stores import AnalogWeight


@final
@dataclass(frozen=True, kw_only=True)
class GlobalDrift(Compensation):
    """The gain that restores the sum of a calibration read; see [`compensate`][phasegrad.inference.compensate].

    Args:
        per: columns that share a gain: those of a ``"tile"``, a ``"layer"``, or each ``"column"`` alone. These names
            alone mean the same.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """

    sets_gain: ClassVar[bool] = True
    per: str = "tile"

    def __post_init__(self) -> None:
        checks.choice("GlobalDrift", "per", self.per, ("tile", "column", "layer"))

    def apply(self, chip: nn.Module, seeds: Seeds) -> None:
        """Read every row of every tile, and set the gains."""

        def correct(layer: AnalogLayer, devices: AnalogWeight, seed: Tensor) -> None:
            devices.stop_tracking()
            devices.compensate(layer.output_range, seed, self.per, layer.periphery.output_errors)

        correct_gains(chip, correct, seeds)

    def reads(self, chip: nn.Module) -> int:
        """Tile reads: one per row of every tile."""
        return sum(row_reads_of(layer) for layer, _ in devices_of(chip))
