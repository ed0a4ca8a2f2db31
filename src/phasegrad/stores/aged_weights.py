"""Digital weights as a chip of some age would read them, in training that is aware of drift.

Each read programs a chip, with the programming error and the drift exponent of every device, ages it, and compensates
it, with the code that programs and reads real chips. The alternative is a table of the moments of a weight. In torch it
would cost about the same (26 to 30 ns per weight of a pair on one core, against 32 to 40 ns, both without
compensation), it would hold for one kind of device and of cell, and it could not follow the compensation of a column,
whose gain depends on its own devices.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.crossbar import streams
from phasegrad.crossbar.chip_age import share_of
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import expand_scale, nonzero
from phasegrad.crossbar.perturbation import Perturbation
from phasegrad.crossbar.straight_through import straight_through
from phasegrad.crossbar.tile_weights import TileWeights, WeightPerturbation
from phasegrad.crossbar.wires import over_tiles
from phasegrad.devices import CellSum, Device, DeviceState
from phasegrad.stores.base import StoredLayer
from phasegrad.stores.compensation import calibration_read, drift_gain

_BASELINE, _PRESENT = 1 << 40, 1 << 41  # added to the seed, for calibration reads


def aged_weights(
    layer: StoredLayer, perturbation: Perturbation, target: Tensor, clean: TileWeights, level: Tensor, seed: Tensor
) -> TileWeights:
    """The weights of a chip of a random age, with its drift compensation as their gain.

    The gradient treats the deviation of the compensated weights from the clean ones as a constant, as that of training
    noise: a clean weight receives the gradient of the compensated weight. Through the drift itself it would be smaller
    by the factor by which a chip has drifted, so that old chips would count less than young ones.

    Args:
        layer: the layer.
        perturbation: the distribution of the age, the compensation, and noise to be added.
        target: clipped weights ``[out, in]``.
        clean: the same weights as evaluation reads them: sliced, and through the wires.
        level: factor of all deviations from the clean weights.
        seed: seed of all draws.
    """
    with torch.no_grad():
        chip = _program(target.detach(), clean.scale.detach(), layer, seed)
        assert perturbation.age is not None
        age = perturbation.age.quantile(share_of(layer.age_draw, seed))
        read = chip.read(age, seed).to(clean.weight.dtype)
        gain = None
        if perturbation.compensation is not None:
            gain = torch.lerp(torch.ones_like(chip.scale), _gain(chip, age, layer, perturbation, seed), level.float())
        read = torch.lerp(clean.weight.detach(), read, level.to(read.dtype))
    like = clean.weight if gain is None else clean.weight / _expanded(gain, clean.weight, layer.hardware)
    return clean._replace(
        weight=straight_through(read, like),
        gain=gain,
        read_noise=_referred_noise(layer.hardware),
        perturbation=_added_noise(perturbation, level, target),
    )


def _expanded(gain: Tensor, weight: Tensor, hardware: Hardware) -> Tensor:
    return expand_scale(gain, weight.shape[-1], hardware).to(weight.dtype)


def _added_noise(perturbation: Perturbation, level: Tensor, weight: Tensor) -> WeightPerturbation | None:
    """Noise and dropped weights in addition to what devices do; the weights are clipped already."""
    if not perturbation.perturbs:
        return None
    unclipped = weight.new_full(weight.shape[:1], torch.inf)
    return WeightPerturbation(unclipped, level, perturbation.slice_noise, perturbation.drop_connect)


def _referred_noise(hardware: Hardware) -> float:
    """Read noise referred to the output, which stands for that of devices only if these have none."""
    return 0.0 if hardware.cell.device.reads_are_noisy else hardware.read_noise


class _Chip(NamedTuple):
    """Devices of a layer that exist for one step."""

    hardware: Hardware
    device: Device
    state: DeviceState
    reference: DeviceState | None
    scale: Tensor
    columns: int

    def read(self, age: Tensor, seed: Tensor) -> Tensor:
        """One read of the weights ``[out, in]`` or ``[slices, out, in]`` at an age [s], without gain."""
        cell, wires = self.hardware.cell, self.hardware.linear_wires
        if wires is None and type(cell).weight is Cell.weight and cell.slice_factors is None:
            factors = [cell.offset, *(factor / cell.device.window for factor in cell.factors)]
            cells = CellSum(factors, self.scale, self.hardware.rows)
            read = self.device.read_cells(self.state, age, seed, streams.DEVICES, cells, True)
            if read is not None:
                return read
        planes = self.device.read(self.state, age, seed, streams.DEVICES)
        if wires is not None:
            solve = wires.effective_unchecked
            planes = over_tiles(planes.double(), self.hardware.rows, self.columns, solve).to(planes.dtype)
        read = cell.weight(planes) if cell.slice_factors is None else cell.read_slices(planes)
        if self.reference is not None:
            zero = cell.read_slices(self.device.read(self.reference, age, seed + streams.REFERENCE, streams.DEVICES))
            read = read - zero.repeat_interleave(self.columns, dim=1)[:, : read.shape[1]]
        return read * expand_scale(self.scale, read.shape[-1], self.hardware)


def _program(target: Tensor, scale: Tensor, layer: StoredLayer, seed: Tensor) -> _Chip:
    """Program the devices of a layer to weights ``[out, in]``."""
    hardware, cell = layer.hardware, layer.hardware.cell
    device = cell.device.redrawn if cell.device.stateful_fields else cell.device
    program = functools.partial(device.program, offset=streams.PROGRAMMING)
    parts = zip(target.float().split(hardware.rows, dim=1), nonzero(scale).float(), strict=True)
    relative = torch.cat([part / of_tile.unsqueeze(1) for part, of_tile in parts], dim=1)
    state, reference = program(cell.targets(relative), seed), None
    if cell.has_reference:
        blank = relative.new_zeros(-(-len(target) // layer.columns), target.shape[1])
        reference = program(cell.targets(blank), seed + streams.REFERENCE)
    return _Chip(hardware, device, state, reference, scale.float(), layer.columns)


def _gain(chip: _Chip, age: Tensor, layer: StoredLayer, perturbation: Perturbation, seed: Tensor) -> Tensor:
    """The gain from calibration reads after programming and now, noisy as those of a real chip."""
    sums = []
    for moment, offset in ((torch.zeros_like(age), _BASELINE), (age, _PRESENT)):
        of_read, noise = seed + offset, _referred_noise(chip.hardware)
        factors = chip.hardware.slice_factors
        weights = TileWeights(chip.read(moment, of_read), chip.scale, None, noise, slice_factors=factors)
        errors = layer.periphery.output_errors
        sums.append(calibration_read(weights, chip.hardware, layer.output_range, of_read, errors))
    assert perturbation.compensation is not None
    return drift_gain(sums[0], sums[1], layer.columns, perturbation.compensation)
