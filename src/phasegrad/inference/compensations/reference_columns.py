"""Reference columns that are read with every product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.inference.compensations.base import Compensation, correct_gains
from phasegrad.inference.programming import Seeds
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.stores import AnalogWeight
from phasegrad.stores.drift_reference import track_drift


@final
@dataclass(frozen=True, kw_only=True)
class ReferenceColumns(Compensation):
    """Columns of known cells in every tile, read with every product (Antolini et al. 2024).

    They are programmed when the weights are, with the same devices, evenly over their window. The gain of a tile is the
    first read of its columns over the present one. Both are noisy, and the gain is found anew in each product, so it
    follows drift and temperature without any calibration, also as the chip ages further. It knows the mean drift of
    ``count * rows`` cells, not that of the weights, whose conductances are distributed differently.

    The columns have wires and faults like the weights: their devices are stuck as often as the others of their row, and
    are read through wires of their own, next to the drivers.

    Each product converts ``count`` more columns per tile. Their converters have ranges of their own, which are
    not exceeded; they add the hardware's output noise. The devices that a chip is given at the first compensation
    are those that it would have been given when it was programmed, because devices are independent.

    Args:
        count: columns per tile.

    References:
        Antolini, A. et al. A readout scheme for PCM-based analog in-memory computing with drift compensation through
        reference conductance tracking. IEEE Open J. Solid-State Circuits Soc. 4, 69 (2024).
        https://doi.org/10.1109/OJSSCS.2024.3432468
    """

    sets_gain: ClassVar[bool] = True
    count: int = 1

    def __post_init__(self) -> None:
        checks.integer("ReferenceColumns", "count", self.count, 1, 1 << 16)

    def check(self, chip: nn.Module, caller: str) -> None:
        """Raise ``ValueError`` if the columns of a layer cannot be read as its products are."""
        for name, layer in analog_layers(chip).items():
            parts = {"wires": layer.hardware.ir_drop, "integrator": layer.hardware.integrator}
            found = [f"{field} = {value}" for field, value in parts.items() if value is not None]
            if found:
                raise ValueError(
                    f"{caller}: ReferenceColumns: {name or 'the net'} has {' and '.join(found)}, whose effect on "
                    "columns whose rows are all driven is not modelled; correct the drift with 'tile' or "
                    "SlopeCorrection(), or use Wires for wires and integrator=None"
                )

    def apply(self, chip: nn.Module, seeds: Seeds) -> None:
        """Correct the drift of every tile by its columns from now on."""

        def correct(layer: AnalogLayer, devices: AnalogWeight, seed: Tensor) -> None:
            errors = layer.periphery.output_errors
            stale = not bool(devices.baseline.any())  # pulsed since: the columns are programmed after training
            track_drift(devices, self.count, seed, renew=stale)
            devices.renew_baseline(layer.output_range, lambda: seed, errors)

        correct_gains(chip, correct, seeds)

    def reads(self, chip: nn.Module) -> int:
        """No tile read besides those of the products."""
        return 0
