"""The devices of one weight: the conductances that a layer's ``weight`` is a copy of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import expand_scale, nonzero, row_tiles
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.wires import check_conductances, over_tiles
from phasegrad.ops.arguments import TrackedWeight
from phasegrad.ops.direct import call
from phasegrad.stores.compensation import calibration_read, drift_gain
from phasegrad.stores.device_array import UNTRACKED, DeviceArray, Found


@final
class AnalogWeight(DeviceArray):
    """The devices of one weight, the slow and, if the hardware has them, the fast and the reference ones.

    Attributes:
        hardware: the hardware.
        columns: outputs that share a tile.
        fast: devices that receive the updates first, if the hardware has them.
        reference: the reference column of every tile, ``[column tiles, in]``, if the hardware's cell has one.
        polarity: sign of the fast devices' part of the weight, 0-d, or ``None``.
        samples: number of samples of all updates so far, or ``None``.
        clock: the present [s since the chip was first programmed], float64.
        scale: ``[row tiles, out]``, weight of a fully programmed cell.
        gain: ``[row tiles, out]``, digital drift compensation; 1 until compensated.
        baseline: ``[row tiles, out]``, sums of the calibration read at programming.
        solved: ``[devices, out, in]``, drifted conductances for which the wires were solved [S]; ``None`` for ideal
            wires. This and the next two follow from the devices and are not in the state dict.
        reached: ``[devices, out, in]``, how much a small change of each conductance counts behind the wires, or
            ``None``.
        rest: ``[devices, out, in]``: ``reached * solved + rest`` is the effective conductance of the devices with their
            wires [S], so that a noisy read takes one pass; or ``None``.
    """

    fast = Found["DeviceArray | None"]("_modules")
    reference = Found["DeviceArray | None"]("_modules")
    polarity = Found["Tensor | None"]()
    samples = Found["Tensor | None"]()
    clock = Found[Tensor]()
    scale = Found[Tensor]()
    gain = Found[Tensor]()
    baseline = Found[Tensor]()
    solved = Found["Tensor | None"]()
    reached = Found["Tensor | None"]()
    rest = Found["Tensor | None"]()

    def __init__(
        self, hardware: Hardware, out_features: int, in_features: int, columns: int, device: Any = None
    ) -> None:
        max_weight = None if isinstance(hardware.scale, str) else float(hardware.scale)
        shape, fast = (out_features, in_features), hardware.fast
        super().__init__(hardware.cell, hardware.pulses, max_weight, shape, device)
        self.hardware = hardware
        self._gain_seen: tuple[Tensor, int, bool] | None = None
        second = DeviceArray(fast.cell, hardware.pulses, fast.scale, shape, device) if fast else None
        self.register_module("fast", second)
        cells = (-(-out_features // columns), in_features)
        offset = DeviceArray(hardware.cell, None, max_weight, cells, device) if hardware.cell.has_reference else None
        self.register_module("reference", offset)
        self._factors_by_polarity = {} if max_weight is None else {p: self._factors_with(p) for p in (1.0, -1.0)}
        self.sample_time = hardware.pulses.sample_time if hardware.pulses else 0.0
        self.leaks_in_training = self.sample_time > 0.0 and (second or self).leaks
        self.register_buffer("polarity", torch.ones((), dtype=torch.float32, device=device) if fast else None)
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64, device=device) if fast else None)
        self.columns = columns
        self.register_buffer("clock", torch.zeros((), dtype=torch.float64, device=device))
        tile_columns = (row_tiles(in_features, hardware), out_features)
        for name in ("scale", "gain", "baseline"):
            self.register_buffer(name, torch.ones(tile_columns, dtype=torch.float32, device=device))
        for name in ("solved", "reached", "rest"):
            wired = None if hardware.linear_wires is None else torch.zeros_like(self.conductance)
            self.register_buffer(name, wired, persistent=False)

    @torch.no_grad()
    def program_weight(
        self, weight: Tensor, scale: Tensor, output_range: Tensor, seed: Tensor, errors: Tensor | None = None
    ) -> None:
        """Program every cell at the present time, and take the baseline of drift compensation.

        Args:
            weight: finite targets ``[out, in]``.
            scale: ``[row tiles, out]``.
            output_range: range of the ADC, for the baseline read.
            seed: seed of the draws.
            errors: of the ADCs ``[errors, tiles, out]``, for the baseline read, or ``None``.
        """
        max_weight = expand_scale(nonzero(scale).float(), weight.shape[1], self.hardware)
        self.program(weight.float() / max_weight, self.clock, seed)
        if self.fast is not None:
            self.fast.program(torch.zeros_like(weight, dtype=torch.float32), self.clock, seed + streams.FAST)
        if self.reference is not None:
            zero = torch.zeros_like(self.reference.conductance[0])
            self.reference.program(zero, self.clock, seed + streams.REFERENCE)
        self.scale.copy_(scale)
        self.gain.fill_(1.0)
        self.solve_wires()
        read_seed = seed + (1 << 40)
        weights = self.tile_weights(read_seed, torch.float32)
        self.baseline.copy_(calibration_read(weights, self.hardware, output_range, read_seed, errors))

    def advance_clock(self, until: float, temperature: float | None = None) -> None:
        """Move the clock to a time [s], at a temperature [K] or the present one; see :meth:`advance`."""
        self.advance(self.clock, until, temperature)
        if self.reference is not None:
            self.reference.advance(self.clock, until, temperature)
        self.clock.fill_(until)

    @property
    def pulse_size(self) -> float:
        """Change of the weight that a nominal pulse of an update makes."""
        return (self.fast or self).dw_min

    def tracked(self, weight: Tensor) -> TrackedWeight:
        """The weight as the pulses of an update can keep it in step themselves: where nothing else moves it."""
        return UNTRACKED if self.leaks_in_training else self.tracked_now(weight)

    def tracked_now(self, weight: Tensor) -> TrackedWeight:
        """The weight as an op can keep it in step: where conductances are what was written, and no gain counts."""
        plain = weight.dtype == torch.float32 and weight.is_contiguous()
        drifted = not self.leaks_in_training and (self.fast or self).drifted(self.clock)
        if not plain or drifted or self._compensated or (self.fast is not None and self.drifted(self.clock)):
            return UNTRACKED
        return TrackedWeight(weight, None if self.fast is None else self.conductance, self._factors)

    @property
    def _factors(self) -> list[float]:
        """Offset, and the factors of the pulsed planes and of those beside them."""
        return self._factors_by_polarity[1.0 if self.polarity is None else float(self.polarity)]

    def _factors_with(self, polarity: float) -> list[float]:
        slow, fast = self.factors, self.hardware.fast
        if fast is None or self.fast is None:
            return slow
        offset, *factors = (polarity * fast.gain * f for f in self.fast.factors)
        return [slow[0] + offset, *factors, *slow[1:]]

    @property
    def _compensated(self) -> bool:
        """Whether a gain is not 1; looked at again only when the gains were written to."""
        gain, seen = self.gain, self._gain_seen
        version = -1 if gain.is_inference() else gain._version  # which inference mode does not count
        if seen is None or seen[0] is not gain or version != seen[1] or version < 0:
            seen = self._gain_seen = (gain, version, not bool((gain == 1.0).all()))
        return seen[2]

    @property
    def age(self) -> Tensor:
        """Time since programming [s], or since each device's last pulse."""
        return self.since_written(self.clock)

    @property
    def reads_are_noisy(self) -> bool:
        """Whether two reads differ."""
        fast = self.fast is not None and self.fast.cell.device.reads_are_noisy
        return self.cell.device.reads_are_noisy or fast

    # --- the four readers -------------------------------------------------------------------------------------

    def logical_weight(self) -> Tensor:
        """The drifted weights ``[out, in]`` with their gain, without read noise and wires."""
        return self._with_gain(self._mean_weight())

    def read_weight(self, seed: Tensor) -> Tensor:
        """The weights ``[out, in]`` with their gain, as one read sees them through the wires."""
        return self._with_gain(self._read_weight(seed))

    def tile_weights(self, seed: Tensor, dtype: torch.dtype) -> TileWeights:
        """The weights that the tiles multiply with now, as one read sees them."""
        noise = 0.0 if self.cell.device.reads_are_noisy else self.hardware.read_noise
        factors = self.cell.slice_factors
        weight = self._read_weight(seed) if factors is None else self._read_slices(seed)
        return TileWeights(weight.to(dtype), self.scale, self.gain, noise, slice_factors=factors)

    def mean_tile_weights(self, dtype: torch.dtype) -> TileWeights:
        """The weights that the tiles multiply with now, without read noise: the drifted devices with their wires."""
        present, factors = self._through_wires(self.present(self.clock)), self.cell.slice_factors
        if factors is None:
            weight = self._weight(present)
        else:
            weight = self._slices(present, None if self.reference is None else self.reference.present(self.clock))
        return TileWeights(weight.to(dtype), self.scale, self.gain, 0.0, slice_factors=factors)

    def _mean_weight(self) -> Tensor:
        if self.cell.slice_factors is not None:
            reference = None if self.reference is None else self.reference.present(self.clock)
            return self._joined(self._slices(self.present(self.clock), reference))
        return self._weight(self.present(self.clock))

    def _read_weight(self, seed: Tensor) -> Tensor:
        if self.cell.slice_factors is not None:
            return self._joined(self._read_slices(seed))
        sd = self.cell.device.read_sd_alone
        exact = self.fast is None or not self.fast.cell.device.reads_are_noisy
        if self.max_weight is not None and exact and sd is not None and not self.drifted(self.clock):
            return self._read_in_one_pass(sd, seed)
        fast = None if self.fast is None else self.fast.read(self.clock, seed + streams.FAST)
        return self._weight(self._through_wires(self.read(self.clock, seed)), fast)

    def _read_in_one_pass(self, sd: Sequence[float], seed: Tensor) -> Tensor:
        offset, *factors = self._factors
        fast_planes = 0 if self.fast is None else len(self.fast.conductance)
        other_planes = None if self.fast is None else self.fast.present(self.clock)
        planes = (offset, *factors[fast_planes:], *factors[:fast_planes])
        return call("weighted_sum", self.conductance, other_planes, planes, sd, seed, streams.DEVICES)

    def _read_slices(self, seed: Tensor) -> Tensor:
        """The slices ``[slices, out, in]`` in units of the weight, as one read sees them through the wires."""
        reference = None
        if self.reference is not None:
            reference = self.reference.read(self.clock, seed + streams.REFERENCE)
        return self._slices(self._through_wires(self.read(self.clock, seed)), reference)

    def _slices(self, conductance: Tensor, reference: Tensor | None) -> Tensor:
        """The slices ``[slices, out, in]`` in units of the weight, less the reference of each column."""
        slices = self.cell.read_slices(conductance)
        if reference is not None:
            zero = self.cell.read_slices(reference).repeat_interleave(self.columns, dim=1)
            slices = slices - zero[:, : slices.shape[1]]
        return slices * expand_scale(self.scale, slices.shape[-1], self.hardware)

    def _joined(self, slices: Tensor) -> Tensor:
        assert self.cell.slice_factors is not None
        return torch.tensordot(slices.new_tensor(self.cell.slice_factors), slices, dims=1)

    def _weight(self, conductance: Tensor, fast: Tensor | None = None) -> Tensor:
        if self.fast is not None:
            fast = self.fast.present(self.clock) if fast is None else fast
            return self.sum_of_planes(fast, conductance, self._factors)
        if self.max_weight is not None:
            return self.sum_of_planes(conductance, None, self.factors)
        relative = self.cell.weight(conductance)
        return relative * expand_scale(self.scale, relative.shape[1], self.hardware)

    def sum_of_planes(self, planes: Tensor, other_planes: Tensor | None, factors: Sequence[float]) -> Tensor:
        """The weight ``[out, in]`` of planes of conductances and of other planes, without noise."""
        nothing = torch.zeros(1, dtype=torch.int64, device=planes.device)  # is drawn
        return call("weighted_sum", planes, other_planes, factors, (), nothing, 0)

    def _with_gain(self, weight: Tensor) -> Tensor:
        return weight * expand_scale(self.gain, weight.shape[1], self.hardware) if self._compensated else weight

    # --- wires ------------------------------------------------------------------------------------------------

    def _through_wires(self, read: Tensor) -> Tensor:
        """Conductances ``[devices, out, in]`` [S] of one read, with the wires.

        The noise of a read counts by the voltage that reaches the device, less what its current loses on the bit line.
        """
        if self.rest is None or self.reached is None:
            return read
        return torch.addcmul(self.rest, read, self.reached)

    @torch.no_grad()
    def solve_wires(self) -> None:
        """Solve the wires for the devices at the present time, if there are wires and the devices have changed.

        Raises:
            ValueError: a conductance is negative or not finite; the previous solution stays.
        """
        wires = self.hardware.linear_wires
        if wires is None or self.solved is None or self.reached is None or self.rest is None:
            return
        present = self.present(self.clock)
        if torch.equal(present, self.solved):
            return
        check_conductances("wires", present, wires if wires.solve == "exact" else None)
        effective = self._over_tiles(present, wires.effective_unchecked)
        self.reached.copy_(self._over_tiles(present, wires.sensitivity))
        self.rest.copy_(effective - self.reached.double() * present.double())
        self.solved.copy_(present)

    def _over_tiles(self, planes: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        return over_tiles(planes.double(), self.hardware.rows, self.columns, act)

    # --- compensation -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def compensate(self, output_range: Tensor, seed: Tensor, per: str, errors: Tensor | None = None) -> None:
        """Set the gain to the baseline over a calibration read at the present time.

        Args:
            output_range: range of the ADC.
            seed: seed of the read.
            per: ``"column"``, ``"tile"`` or ``"layer"``: which columns share a gain.
            errors: errors of the ADCs ``[errors, tiles, out]``, or ``None``.
        """
        # A read at another time has other noise, under the same seed too.
        read_seed = seed + self.clock.view(torch.int64)
        weights = self.tile_weights(read_seed, torch.float32)
        present = calibration_read(weights, self.hardware, output_range, read_seed, errors)
        self.gain.copy_(drift_gain(self.baseline, present, self.columns, per))

    def _load_from_state_dict(self, state_dict: dict[str, Any], *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(state_dict, *arguments, **named)
        self.solve_wires()
