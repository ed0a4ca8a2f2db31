"""Weights that live on devices: programmed, or trained there. Digital ones are in :mod:`phasegrad.crossbar.masters`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.arrays import UNREAD, DeviceArray, Found
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import divisor, row_tiles, spread_scale, sum_over_tiles
from phasegrad.crossbar.product import Conversion, Matrix, convert_outputs
from phasegrad.crossbar.transfer import move
from phasegrad.crossbar.wires import check_conductances, over_tiles
from phasegrad.ops.arguments import TrackedWeight
from phasegrad.ops.direct import call
from phasegrad.ops.profiling import profiled, sized


@final
class Devices(DeviceArray):
    """The devices of one weight: the truth of which the layer's ``weight`` is a copy.

    Attributes:
        fast: cells that take the update first, if the hardware has them.
        reference: the reference column of every tile, ``[column tiles, in]``, if the hardware's cell has one.
        polarity: sign with which these count, 0-d, or ``None``.
        samples: samples that have been updated by, or ``None``.
        clock: the present [s since the chip was programmed first], float64.
        scale: ``[row tiles, out]``, weight of a fully programmed cell.
        gain: ``[row tiles, out]``, digital drift compensation; 1 until compensated.
        baseline: ``[row tiles, out]``, sums of the calibration read at programming.
        solved: ``[devices, out, in]``, drifted conductances for which the wires were solved [S]; ``None`` where they
            are ideal. This and the next two are found from the devices and are not in the state dict.
        reached: ``[devices, out, in]``, what a small change of each conductance counts behind the wires, or ``None``.
        rest: ``[devices, out, in]``: ``reached * solved + rest`` is what the devices come to with the wires [S], so
            that a read, with its noise, takes one pass; or ``None``.
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
        full = None if isinstance(hardware.scale, str) else float(hardware.scale)
        shape, fast = (out_features, in_features), hardware.fast
        super().__init__(hardware.cell, hardware.update, full, shape, device)
        self.hardware = hardware
        self._gain_seen: tuple[Tensor, int, bool] | None = None
        second = DeviceArray(fast.cell, hardware.update, fast.scale, shape, device) if fast else None
        self.register_module("fast", second)
        lines = (-(-out_features // columns), in_features)
        offset = DeviceArray(hardware.cell, None, full, lines, device) if hardware.cell.has_reference else None
        self.register_module("reference", offset)
        self._factors_by_polarity = {} if full is None else {p: self._factors_with(p) for p in (1.0, -1.0)}
        self._sample_time = hardware.update.sample_time if hardware.update else 0.0
        self._leaks = self._sample_time > 0.0 and (second or self).leaks
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
        full = spread_scale(divisor(scale).float(), weight.shape[1], self.hardware)
        self.program(weight.float() / full, self.clock, seed)
        if self.fast is not None:
            self.fast.program(torch.zeros_like(weight, dtype=torch.float32), self.clock, seed + streams.FAST)
        if self.reference is not None:
            zero = torch.zeros_like(self.reference.conductance[0])
            self.reference.program(zero, self.clock, seed + streams.REFERENCE)
        self.scale.copy_(scale)
        self.gain.fill_(1.0)
        self.solve_wires()
        self.baseline.copy_(self.calibration_read(output_range, seed + (1 << 40), errors))

    def advance(self, until: float, temperature: float | None = None) -> None:
        """Move the clock on to a time [s], at a temperature [K] or the present one; see :meth:`grow_older`."""
        self.grow_older(self.clock, until, temperature)
        if self.reference is not None:
            self.reference.grow_older(self.clock, until, temperature)
        self.clock.fill_(until)

    @profiled(sized("update pulses"))
    def update(self, samples: Iterable[tuple[Tensor, Tensor]], lr: float, seed: Tensor, weight: Tensor) -> None:
        """Send pulses for ``weight -= lr d^T x``, sample after sample.

        Args:
            samples: inputs ``[samples, in]`` and gradients of the outputs ``[samples, out]``, part after part.
            lr: learning rate.
            seed: seed of trains and steps.
            weight: the layer's copy ``[out, in]``, which follows.

        Raises:
            ValueError: an input or gradient is not finite; the devices were not touched by its part.
        """
        target, offset, count = self.fast or self, streams.UPDATE, 0
        target.settle(self.clock)
        readout = self._readout(weight)
        for x, d in samples:
            directed = d if self.polarity is None else d * self.polarity
            target.coincide(x, directed, lr, self.clock, seed, offset, readout)
            offset += streams.of_update(len(x))
            count += len(x)
        self._finish_update(seed, weight, readout, count)

    @profiled(sized("update pulses"))
    def send_counts(self, counts: Tensor, seed: Tensor, weight: Tensor) -> None:
        """Send every cell pulses of its own number: int32 ``[out, in]``, above 0 to grow; ``weight`` follows."""
        target = self.fast or self
        target.settle(self.clock)
        readout = self._readout(weight)
        directed = counts if self.polarity is None else counts * self.polarity.to(torch.int32)
        target.send(directed, self.clock, seed, streams.UPDATE, readout)
        self._finish_update(seed, weight, readout, 1)

    @profiled(sized("read fast array"))
    def read_fast(self, lines: Tensor, seed: Tensor) -> Tensor:
        """What one read of some input lines finds on the fast cells: ``[out, lines]``, before gain and polarity."""
        assert self.fast is not None
        return self.fast.read_lines(lines, self.clock, seed, streams.TRANSFER)

    @profiled(sized("pulse slow array"))
    @torch.no_grad()
    def send_to_slow(self, counts: Tensor, lines: Tensor, seed: Tensor, weight: Tensor) -> None:
        """Send the slow cells of some input lines counted pulses; see :meth:`send_to_lines`; ``weight`` follows."""
        self.settle(self.clock)
        self.send_to_lines(counts, lines, self.clock, seed)
        self._finish_slow(lines, seed, weight)

    @profiled(sized("pulse slow array"))
    @torch.no_grad()
    def coincide_on_slow(self, d: Tensor, lr: float, lines: Tensor, seed: Tensor, weight: Tensor) -> None:
        """Send the slow cells of some input lines trains; see :meth:`coincide_on_lines`; ``weight`` follows."""
        self.settle(self.clock)
        self.coincide_on_lines(d, lr, lines, self.clock, seed)
        self._finish_slow(lines, seed, weight)

    def _finish_slow(self, lines: Tensor, seed: Tensor, weight: Tensor) -> None:
        assert self.fast is not None
        readout, written = self._readout(weight), self.count_update(self.clock, seed)
        if written or readout.weight is None:
            weight.copy_(self.logical_weight())
            return
        fast, slow = (a.conductance.index_select(-1, lines) for a in (self.fast, self))
        weight.index_copy_(1, lines, self._sum(fast, slow, readout.factors))

    def _finish_update(self, seed: Tensor, weight: Tensor, readout: TrackedWeight, count: int) -> None:
        target, in_step = self.fast or self, readout.weight is not None
        if self._sample_time:
            self.clock.add_(count * self._sample_time)
            if self._leaks:
                readout = self._readout_now(weight)
                in_step = target.settle(self.clock, readout) and readout.weight is not None
        written = target.count_update(self.clock, seed)
        if self._count_samples(count):
            self.transfer(seed)
            written = True
        if written or not in_step:
            weight.copy_(self.logical_weight())

    def _count_samples(self, count: int) -> bool:
        """Count what was updated by; whether that makes a transfer due."""
        if self.samples is None or self.hardware.fast is None:
            return False
        before = int(self.samples)
        self.samples.add_(count)
        rule = self.hardware.fast.transfer
        return rule is not None and before // rule.every != (before + count) // rule.every

    @profiled(sized("transfer"))
    @torch.no_grad()
    def transfer(self, seed: Tensor) -> None:
        """Move what the fast devices hold to the slow ones now; see :class:`phasegrad.crossbar.Transfer`."""
        assert self.hardware.fast is not None
        assert self.hardware.fast.transfer is not None
        assert self.fast is not None
        assert self.polarity is not None
        move(self, self.fast, self.polarity, self.hardware.fast.transfer, self.clock, seed)

    @property
    def pulse_size(self) -> float:
        """Change of the weight that a nominal pulse of an update makes."""
        return (self.fast or self).granularity

    def _readout(self, weight: Tensor) -> TrackedWeight:
        """The weight as the pulses of an update can keep it in step themselves: where nothing else moves it."""
        return UNREAD if self._leaks else self._readout_now(weight)

    def _readout_now(self, weight: Tensor) -> TrackedWeight:
        """The weight as an op can keep it in step: where conductances are what was written, and no gain counts."""
        plain = weight.dtype == torch.float32 and weight.is_contiguous()
        drifted = not self._leaks and (self.fast or self).drifted(self.clock)
        if not plain or drifted or self._compensated or (self.fast is not None and self.drifted(self.clock)):
            return UNREAD
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

    def mean_weight(self) -> Tensor:
        """The drifted weights ``[out, in]``, without read noise and without gain."""
        if self.cell.slice_factors is not None:
            reference = None if self.reference is None else self.reference.present(self.clock)
            return self._joined(self._slices(self.present(self.clock), reference))
        return self._weight(self.present(self.clock))

    def _slices(self, conductance: Tensor, reference: Tensor | None) -> Tensor:
        """The slices ``[slices, out, in]`` in units of the weight, each column's reference taken off."""
        slices = self.cell.read_slices(conductance)
        if reference is not None:
            zero = self.cell.read_slices(reference).repeat_interleave(self.columns, dim=1)
            slices = slices - zero[:, : slices.shape[1]]
        return slices * spread_scale(self.scale, slices.shape[-1], self.hardware)

    def read_slices(self, seed: Tensor) -> Tensor:
        """The slices ``[slices, out, in]`` in units of the weight, as one read sees them."""
        reference = None
        if self.reference is not None:
            reference = self.reference.read(self.clock, seed + streams.REFERENCE)
        return self._slices(self._through_wires(self.read(self.clock, seed)), reference)

    def _joined(self, slices: Tensor) -> Tensor:
        assert self.cell.slice_factors is not None
        return torch.tensordot(slices.new_tensor(self.cell.slice_factors), slices, dims=1)

    @property
    def reads_are_noisy(self) -> bool:
        """Whether two reads differ."""
        fast = self.fast is not None and self.fast.cell.device.reads_are_noisy
        return self.cell.device.reads_are_noisy or fast

    def _weight(self, conductance: Tensor, fast: Tensor | None = None) -> Tensor:
        if self.fast is not None:
            fast = self.fast.present(self.clock) if fast is None else fast
            return self._sum(fast, conductance, self._factors)
        if self.full is not None:
            return self._sum(conductance, None, self.factors)
        relative = self.cell.weight(conductance)
        return relative * spread_scale(self.scale, relative.shape[1], self.hardware)

    def _sum(self, planes: Tensor, others: Tensor | None, factors: Sequence[float]) -> Tensor:
        nothing = torch.zeros(1, dtype=torch.int64, device=planes.device)  # is drawn
        return call("weighted_sum", planes, others, factors, (), nothing, 0)

    def logical_weight(self) -> Tensor:
        """The drifted weights ``[out, in]``, corrected by the gain."""
        return self._corrected(self.mean_weight())

    def read_logical_weight(self, seed: Tensor) -> Tensor:
        """The weights ``[out, in]`` as one read sees them, corrected by the gain."""
        return self._corrected(self.read_weight(seed))

    def _corrected(self, weight: Tensor) -> Tensor:
        return weight * spread_scale(self.gain, weight.shape[1], self.hardware) if self._compensated else weight

    def read_weight(self, seed: Tensor) -> Tensor:
        """The weights ``[out, in]`` as one read sees them."""
        if self.cell.slice_factors is not None:
            return self._joined(self.read_slices(seed))
        sd = self.cell.device.read_sd_alone
        exact = self.fast is None or not self.fast.cell.device.reads_are_noisy
        if self.full is not None and exact and sd is not None and not self.drifted(self.clock):
            return self._read_in_one_pass(sd, seed)
        fast = None if self.fast is None else self.fast.read(self.clock, seed + streams.FAST)
        return self._weight(self._through_wires(self.read(self.clock, seed)), fast)

    def _through_wires(self, read: Tensor) -> Tensor:
        """Conductances ``[devices, out, in]`` [S] of one read, with the wires.

        What a read's noise adds to a conductance counts by the voltage that reaches the device, less what it loses.
        """
        if self.rest is None or self.reached is None:
            return read
        return torch.addcmul(self.rest, read, self.reached)

    @torch.no_grad()
    def solve_wires(self) -> None:
        """Find what the devices come to with their wires at the present time, if they have changed.

        Raises:
            ValueError: a conductance is negative or not finite; what was found before stays.
        """
        wires, present = self.hardware.linear_wires, self.present(self.clock)
        if wires is None or self.solved is None or self.reached is None or self.rest is None:
            return
        if torch.equal(present, self.solved):
            return
        check_conductances("wires", present, wires if wires.solve == "exact" else None)
        effective = self._over_tiles(present, wires.effective_unchecked)
        self.reached.copy_(self._over_tiles(present, wires.sensitivity))
        self.rest.copy_(effective - self.reached.double() * present.double())
        self.solved.copy_(present)

    def _over_tiles(self, planes: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        return over_tiles(planes.double(), self.hardware.rows, self.columns, act)

    def _load_from_state_dict(self, state_dict: dict[str, Any], *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(state_dict, *arguments, **named)
        self.solve_wires()

    def _read_in_one_pass(self, sd: Sequence[float], seed: Tensor) -> Tensor:
        offset, *factors = self._factors
        beside = 0 if self.fast is None else len(self.fast.conductance)
        others = None if self.fast is None else self.fast.present(self.clock)
        readout = (offset, *factors[beside:], *factors[:beside])
        return call("weighted_sum", self.conductance, others, readout, sd, seed, streams.DEVICES)

    def matrix(self, seed: Tensor, dtype: torch.dtype) -> Matrix:
        """What the hardware computes with at this moment."""
        noise = 0.0 if self.cell.device.reads_are_noisy else self.hardware.read_noise
        factors = self.cell.slice_factors
        weight = self.read_weight(seed) if factors is None else self.read_slices(seed)
        return Matrix(weight.to(dtype), self.scale, self.gain, noise, factors=factors)

    def mean_matrix(self, dtype: torch.dtype) -> Matrix:
        """What the hardware computes with, but for the noise of reads: the drifted devices with their wires."""
        present, factors = self._through_wires(self.present(self.clock)), self.cell.slice_factors
        if factors is None:
            weight = self._weight(present)
        else:
            weight = self._slices(present, None if self.reference is None else self.reference.present(self.clock))
        return Matrix(weight.to(dtype), self.scale, self.gain, 0.0, factors=factors)

    @torch.no_grad()
    def calibration_read(self, output_range: Tensor, seed: Tensor, errors: Tensor | None = None) -> Tensor:
        """Sum of the sizes of what each column gives when its rows are driven fully, one at a time.

        Read through devices, output noise and ADC like any product.

        Args:
            output_range: range of the ADC.
            seed: seed of the reads.
            errors: of the ADCs ``[errors, tiles, out]``, or ``None``.

        Returns:
            ``[row tiles, out]``, in units of the weights.
        """
        matrix = self.matrix(seed, torch.float32)._replace(gain=None)
        one = torch.ones(1, dtype=torch.float32, device=matrix.weight.device)
        count = len(matrix.scale)
        reads: list[list[Tensor]] = [[] for _ in range(count)]
        for s, (factor, part) in enumerate(matrix.slices()):
            for t, rows in enumerate(part.weight.split(self.hardware.rows, dim=1)):
                outputs, tile = rows.t().contiguous(), part._replace(scale=matrix.scale[t : t + 1])
                spread = [outputs.abs()] if matrix.read_noise > 0 else []
                outputs = self._alone(outputs, matrix.scale[t])
                own = None if errors is None else errors[:, s * count + t : s * count + t + 1]
                conversion = Conversion(one, output_range.float(), self.hardware, seed + t, errors=own)
                conversion = conversion._replace(offset=conversion.offset + s * streams.PART)
                reads[t].append(factor * convert_outputs([outputs], spread, tile, conversion))
        return torch.stack([torch.stack(slices).sum(0).abs().sum(0) for slices in reads])

    def _alone(self, outputs: Tensor, scale: Tensor) -> Tensor:
        """What columns give ``[rows, out]`` to converters when each row is driven alone."""
        drop, integrator, rows = self.hardware.drop, self.hardware.integrator, len(outputs)
        if integrator is not None:
            relative = outputs / divisor(scale) * integrator.charge_of(torch.ones_like(scale))
            return relative.clamp(-integrator.saturation, integrator.saturation) * scale
        if drop is None:
            return outputs
        ramped = outputs * drop.ramp(rows, outputs).unsqueeze(1)
        return outputs - drop.lost(outputs.abs() / divisor(scale), ramped, rows, self.cell.device.g_max)

    @torch.no_grad()
    def compensate(self, output_range: Tensor, seed: Tensor, per: str, errors: Tensor | None = None) -> None:
        """Set the gain to the baseline over what a calibration read finds now, per column, tile or layer."""
        before = sum_over_tiles(self.baseline, self.columns, per)
        # A read at another time has other noise, under the same seed too.
        present = self.calibration_read(output_range, seed + self.clock.view(torch.int64), errors)
        now = sum_over_tiles(present, self.columns, per)
        usable = (before > 0) & (now > 0)
        self.gain.copy_(torch.where(usable, before / now, torch.ones_like(now)))
