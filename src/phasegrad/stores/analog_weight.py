"""The devices of one weight, whose value the parameter ``weight`` of a layer copies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Set
from typing import Any, final

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import expand_scale, nonzero, row_tiles
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.ops.arguments import TrackedWeight
from phasegrad.stores import weight_reads, wired_devices
from phasegrad.stores.compensation import calibration_read, drift_gain
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.drift_reference import DriftReference, expect_columns
from phasegrad.stores.known_numbers import number
from phasegrad.stores.programming.base import ProgrammingMethod, Statistical
from phasegrad.stores.programming.record import ProgrammingRecord
from phasegrad.stores.pulsed_array import UNTRACKED
from phasegrad.stores.registered import Registered
from phasegrad.stores.row_moments import row_moments
from phasegrad.stores.stuck_devices import drawn, set_map


def relative_weight(weight: Tensor, scale: Tensor, rows: int) -> Tensor:
    """Weights ``[out, in]`` over the scales ``[row tiles, out]``, without expanding these to a matrix."""
    relative = torch.empty_like(weight)
    for part, of_tile, to in zip(weight.split(rows, dim=1), scale, relative.split(rows, dim=1), strict=True):
        torch.div(part, of_tile.unsqueeze(1), out=to)
    return relative


@final
class AnalogWeight(DeviceArray):
    """The devices of one weight: slow devices and, if the hardware has them, fast ones and reference columns.

    Attributes:
        hardware: the hardware.
        columns: outputs per tile.
        fast: devices that receive the updates first, if the hardware has them.
        reference: the reference column of every tile, ``[column tiles, in]``, if the hardware's cell has one.
        drift_reference: columns that track the drift of every tile; ``None`` without them, and then not in the state
            dict.
        polarity: sign of the fast devices in the weight, 0-d, or ``None``.
        samples: number of samples of all updates so far, or ``None``.
        mask: bool ``[out, in]``, true for cells that optimizers may pulse; ``None`` for all, and then not in the state
            dict.
        column_order: int64 ``[row tiles, out]``, the physical column of each output, or ``None`` if outputs are not
            swapped. Everything else is in the order of the outputs.
        column_range: ``[slices * row tiles, out]``, range of the ADC at each column in units of ``max|w| max|x|``, or
            ``None`` if all columns have that of the layer, as after programming.
        clock: present time [s since the chip was first programmed], float64.
        scale: ``[row tiles, out]``, weight of a fully programmed cell.
        gain: ``[row tiles, out]``, digital drift compensation; 1 until compensated.
        baseline: ``[row tiles, out]``, sums of the calibration read at programming, or at the first ageing or
            compensation after pulses; 0 if devices were pulsed since.
        solved: ``[devices, out, in]``, drifted conductances for which the wires were solved [S]; ``None`` for ideal
            wires. It and the next two are computed from the devices and are not in the state dict.
        wire_sensitivity: ``[devices, out, in]``, derivative of each effective conductance by the conductance, or
            ``None``.
        wire_offset: ``[devices, out, in]``: ``wire_sensitivity * solved + wire_offset`` is the effective conductance of
            the devices with their wires [S], so that a noisy read needs one pass; or ``None``.
    """

    _version = 2
    optional = (*DeviceArray.optional, "column_order", "column_range")
    weight_was_trainable: bool = True
    """Whether the digital weight required a gradient before it was programmed, and will again."""

    record: ProgrammingRecord | None = None
    """The process by which the devices were programmed; ``None`` without one, and after loading a state dict."""

    fast = Registered["DeviceArray | None"]("_modules")
    reference = Registered["DeviceArray | None"]("_modules")
    drift_reference = Registered[DriftReference | None]("_modules")
    polarity = Registered["Tensor | None"]()
    samples = Registered["Tensor | None"]()
    mask = Registered["Tensor | None"]()
    column_order = Registered["Tensor | None"]()
    column_range = Registered["Tensor | None"]()
    clock = Registered[Tensor]()
    scale = Registered[Tensor]()
    gain = Registered[Tensor]()
    baseline = Registered[Tensor]()
    solved = Registered["Tensor | None"]()
    wire_sensitivity = Registered["Tensor | None"]()
    wire_offset = Registered["Tensor | None"]()

    def __init__(
        self, hardware: Hardware, out_features: int, in_features: int, columns: int, device: Any = None,
        zeroed: bool = True,
    ) -> None:  # fmt: skip
        max_weight = None if isinstance(hardware.scale, str) else float(hardware.scale)
        shape, fast = (out_features, in_features), hardware.fast
        super().__init__(hardware.cell, hardware.pulses, max_weight, shape, device, zeroed)
        self.hardware = hardware
        self._checked_gain: tuple[Tensor, int, bool] | None = None
        fast_array = DeviceArray(fast.cell, hardware.pulses, fast.scale, shape, device) if fast else None
        self.register_module("fast", fast_array)
        cells = (-(-out_features // columns), in_features)
        reference_array = (
            DeviceArray(hardware.cell, None, max_weight, cells, device) if hardware.cell.has_reference else None
        )
        self.register_module("reference", reference_array)
        self.register_module("drift_reference", None)
        self._factors_by_polarity = {} if max_weight is None else {p: self._factors_with(p) for p in (1.0, -1.0)}
        self.sample_time = hardware.pulses.sample_time if hardware.pulses else 0.0
        self.leaks_in_training = self.sample_time > 0.0 and (fast_array or self).leaks
        self.register_buffer("polarity", torch.ones((), dtype=torch.float32, device=device) if fast else None)
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64, device=device) if fast else None)
        self.register_buffer("mask", None)
        self.columns = columns
        self.register_buffer("clock", torch.zeros((), dtype=torch.float64, device=device))
        tile_columns = (row_tiles(in_features, hardware), out_features)
        for name in ("scale", "gain", "baseline"):
            self.register_buffer(name, torch.ones(tile_columns, dtype=torch.float32, device=device))
        wired_devices.make_buffers(self)

    @torch.no_grad()
    def clear(self) -> None:
        """Set the state to that of unprogrammed devices, with NaN for conductances that must be loaded."""
        super().clear()
        for buffer in (self.scale, self.gain, self.baseline, self.polarity):
            if buffer is not None:
                buffer.fill_(1.0)
        if self.mask is not None:
            self.mask.fill_(True)

    @torch.no_grad()
    def program_weight(
        self, weight: Tensor, scale: Tensor, output_range: Tensor, seed: Tensor, errors: Tensor | None = None,
        method: ProgrammingMethod | None = None,
    ) -> None:  # fmt: skip
        """Program every cell at the present time, and measure the baseline of drift compensation.

        Args:
            weight: finite targets ``[out, in]``.
            scale: ``[row tiles, out]``.
            output_range: range of the ADC, for the baseline read.
            seed: seed of the draws.
            errors: errors of the ADCs ``[errors, tiles, out]``, for the baseline read, or ``None``.
            method: how the devices are programmed; ``None`` for one statistical draw.
        """
        method = method or Statistical()
        if self.stuck is None and self.hardware.faults is not None:
            set_map(self, drawn(self, self.hardware.faults, seed), corrects=False)
        relative = relative_weight(weight.float(), nonzero(scale).float(), self.hardware.rows)
        self.record = method.write(self, relative, self.clock, seed, (self.hardware.rows, self.columns))
        if self.record is not None:
            self.record.column_order, self.record.rows = self.column_order, self.hardware.rows
        if self.fast is not None:
            self.fast.program(torch.zeros_like(weight, dtype=torch.float32), self.clock, seed + streams.FAST)
        if self.reference is not None:
            zero = torch.zeros_like(self.reference.conductance[0])
            tile = (self.hardware.rows, 1)
            method.write(self.reference, zero, self.clock, seed + streams.REFERENCE, tile)
        if self.drift_reference is not None:
            self.drift_reference.program_beside(self, seed)
        self.scale.copy_(scale)
        self.gain.fill_(1.0)
        self.register_buffer("column_range", None)
        self.solve_wires()
        self.baseline.copy_(self._calibration_read(output_range, seed + (1 << 40), errors))

    def discard_baseline(self) -> None:
        """Mark the baseline as that of other weights, after pulses."""
        self.baseline.zero_()

    @torch.no_grad()
    def renew_baseline(
        self, output_range: Tensor, draw_seed: Callable[[], Tensor], errors: Tensor | None = None
    ) -> None:
        """Measure the baseline at the present time, if the devices were pulsed since it was measured.

        Args:
            output_range: range of the ADC.
            draw_seed: the seed of the read, drawn only if there is a read.
            errors: errors of the ADCs ``[errors, tiles, out]``, or ``None``.
        """
        if bool(self.baseline.any()):
            return
        read = self._calibration_read(output_range, draw_seed() + (1 << 40), errors)
        self.baseline.copy_(read * self.gain)

    def _calibration_read(self, output_range: Tensor, seed: Tensor, errors: Tensor | None) -> Tensor:
        weights = self.tile_weights(seed, torch.float32)
        return calibration_read(weights, self.hardware, output_range, seed, errors)

    def advance_clock(self, until: float, temperature: float | None = None) -> None:
        """Advance the clock to a time [s], at a temperature [K] or the present one; see ``advance``."""
        self.advance(self.clock, until, temperature)
        if self.reference is not None:
            self.reference.advance(self.clock, until, temperature)
        if self.drift_reference is not None:
            self.drift_reference.advance(self.clock, until, temperature)
        self.clock.fill_(until)

    @property
    def pulse_size(self) -> float:
        """Change of the weight per nominal pulse of an update."""
        return (self.fast or self).dw_min

    def tracked(self, weight: Tensor) -> TrackedWeight:
        """The weight for the op of an update to track, or ``UNTRACKED`` if the devices also leak between samples."""
        return UNTRACKED if self.leaks_in_training else self.tracked_now(weight)

    def tracked_now(self, weight: Tensor) -> TrackedWeight:
        """The weight for an op to track.

        ``UNTRACKED`` if the weight is not float32 or contiguous, has a gain, or the devices have drifted, or if they
        leak and some are stuck.
        """
        plain = weight.dtype == torch.float32 and weight.is_contiguous()
        array = self.fast or self
        if array.leaks and array.stuck is not None:  # the op of the leak would let stuck devices leak too
            return UNTRACKED
        drifted = not self.leaks_in_training and array.drifted(self.clock)
        if not plain or drifted or self._compensated or (self.fast is not None and self.drifted(self.clock)):
            return UNTRACKED
        return TrackedWeight(weight, None if self.fast is None else self.conductance, self.factors_of_planes)

    @property
    def factors_of_planes(self) -> list[float]:
        """Offset, then the factors of the pulsed planes, then those of the other planes."""
        return self._factors_by_polarity[1.0 if self.polarity is None else number(self.polarity)]

    def _factors_with(self, polarity: float) -> list[float]:
        slow, fast = self.factors, self.hardware.fast
        if fast is None or self.fast is None:
            return slow
        offset, *factors = (polarity * fast.gain * f for f in self.fast.factors)
        return [slow[0] + offset, *factors, *slow[1:]]

    @property
    def _compensated(self) -> bool:
        """Whether a gain is not 1; checked again only after the gains were changed."""
        if self.drift_reference is not None:
            return True
        gain, checked = self.gain, self._checked_gain
        version = -1 if gain.is_inference() else gain._version  # inference mode does not count versions
        if checked is None or checked[0] is not gain or version != checked[1] or version < 0:
            checked = self._checked_gain = (gain, version, not bool((gain == 1.0).all()))
        return checked[2]

    @property
    def age(self) -> Tensor:
        """Time since programming [s], or since each device's last pulse."""
        return self.drift_time(self.clock)

    @property
    def reads_are_noisy(self) -> bool:
        """Whether two reads at the same time differ."""
        fast = self.fast is not None and self.fast.cell.device.reads_are_noisy
        return self.cell.device.reads_are_noisy or fast

    @property
    def stuck_count(self) -> int:
        """Number of devices in all arrays that are known to be stuck."""
        arrays = (self, self.fast, self.reference)
        return sum(int((~a.stuck.isnan()).sum()) for a in arrays if a is not None and a.stuck is not None)

    def logical_weight(self) -> Tensor:
        """The drifted weights ``[out, in]`` with their gain, without read noise and wires."""
        return self._with_gain(weight_reads.mean(self), None)

    def read_weight(self, seed: Tensor) -> Tensor:
        """The weights ``[out, in]`` with their gain, as one read sees them through the wires."""
        return self._with_gain(weight_reads.sample(self, seed), seed)

    def tile_weights(self, seed: Tensor, dtype: torch.dtype) -> TileWeights:
        """The weights that the tiles multiply with now, as one read sees them."""
        noise = 0.0 if self.cell.device.reads_are_noisy else self.hardware.read_noise
        whole = self.cell.slice_factors is None
        weight = weight_reads.sample(self, seed) if whole else weight_reads.sampled_slices(self, seed)
        return self._on_tiles(weight.to(dtype), self.present_gain(seed), noise)

    def mean_tile_weights(self, dtype: torch.dtype) -> TileWeights:
        """The weights that the tiles multiply with now, without read noise: the drifted devices with their wires."""
        present, whole = wired_devices.through_wires(self, self.present(self.clock)), self.cell.slice_factors is None
        weight = weight_reads.of_conductances(self, present) if whole else weight_reads.mean_slices(self, present)
        return self._on_tiles(weight.to(dtype), self.present_gain(None), 0.0)

    def row_weights(self) -> TileWeights | None:
        """The mean and variance of the weights in reads at the present time; ``None`` if reads have other laws."""
        if not self._keeps_reads(self.clock) or self.drift_reference is not None:  # whose noise all outputs share
            return None
        tensors = (*self._read_state(self.clock), self.scale)
        kept = self.kept_reads.get("rows", tensors, functools.partial(row_moments, self), at_once=True)
        if kept is None:
            return None
        return self._on_tiles(kept[0], self.gain, 1.0)._replace(variance=kept[1])

    def _on_tiles(self, weight: Tensor, gain: Tensor, read_noise: float) -> TileWeights:
        settings = {"slice_factors": self.cell.slice_factors, "column_range": self.column_range}
        return TileWeights(weight, self.scale, gain, read_noise, **settings)

    def _with_gain(self, weight: Tensor, seed: Tensor | None) -> Tensor:
        if not self._compensated:
            return weight
        return weight * expand_scale(self.present_gain(seed), weight.shape[1], self.hardware)

    def present_gain(self, seed: Tensor | None) -> Tensor:
        """The gain ``[row tiles, out]`` of one read; ``None`` as a seed for its mean.

        It is ``gain``, times that of the columns that track drift, which are read with every product.
        """
        if self.drift_reference is None:
            return self.gain
        return self.gain * self.drift_reference.gain(self.clock, self.columns, self.gain.shape[1], seed)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._modules.setdefault("drift_reference", None)  # files of releases before have none

    def stop_tracking(self) -> None:
        """Remove the columns that track drift, whose gain another compensation replaces."""
        self.drift_reference = None

    @torch.no_grad()
    def solve_wires(self) -> None:
        """Solve the wires for the devices at the present time, if there are wires and the devices have changed.

        Raises:
            ValueError: a conductance is negative or not finite; the previous solution is kept.
        """
        wired_devices.solve(self, self.clock)

    @torch.no_grad()
    def compensate(self, output_range: Tensor, seed: Tensor, per: str, errors: Tensor | None = None) -> None:
        """Set the gain to the baseline divided by a calibration read at the present time.

        Args:
            output_range: range of the ADC.
            seed: seed of the read.
            per: ``"column"``, ``"tile"`` or ``"layer"``: which columns share a gain.
            errors: errors of the ADCs ``[errors, tiles, out]``, or ``None``.
        """
        self.renew_baseline(output_range, lambda: seed, errors)
        # Reads at different times have different noise, even with the same seed.
        present = self._calibration_read(output_range, seed + self.clock.view(torch.int64), errors)
        self.gain.copy_(drift_gain(self.baseline, present, self.columns, per))

    def expect(self, keys: Set[str]) -> None:
        """Have those optional buffers that are about to be loaded, in all arrays, and no others."""
        super().expect(keys)
        for name, array in (("fast.", self.fast), ("reference.", self.reference)):
            if array is not None:
                array.expect({key.removeprefix(name) for key in keys if key.startswith(name)})

    def blank(self, name: str) -> Tensor:
        """An optional buffer before it is loaded."""
        if name == "column_range":
            return self.scale.repeat(len(self.cell.slice_factors or (1.0,)), 1)
        return torch.zeros_like(self.scale, dtype=torch.int64) if name == "column_order" else super().blank(name)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *arguments: Any, **named: Any
    ) -> None:
        key = f"{prefix}mask"
        if key in state_dict and self.mask is None:
            self.mask = torch.ones_like(self.conductance[0], dtype=torch.bool)
        elif self.mask is not None:  # a state dict saved without a mask does not remove it
            state_dict.setdefault(key, self.mask)
        expect_columns(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments, **named)
        if local_metadata.get("version", self._version) < 2 and self._updates_so_far:
            self.discard_baseline()  # release 0.1.0 kept that of before training
        self.solve_wires()

    @property
    def _updates_so_far(self) -> int:
        updates = (self.fast or self).updates
        return 0 if updates is None else int(updates)
