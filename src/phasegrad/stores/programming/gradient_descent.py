"""Programming by gradient descent on the error of products, without reading single devices."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import check_integer, check_number
from phasegrad.crossbar import streams
from phasegrad.crossbar.converters import FixedRange
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.product import product
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import LinearTiling
from phasegrad.crossbar.wires import over_tiles
from phasegrad.crossbar.word_lines import Periphery
from phasegrad.stores.programming.base import ProgrammingMethod
from phasegrad.stores.programming.pulses import Pulses
from phasegrad.stores.programming.record import ProgrammingRecord
from phasegrad.stores.programming.schedule import Rows, Schedule
from phasegrad.stores.programming.strategies import AmplitudeSteps, require_amplitude
from phasegrad.stores.programming.writer import Writer

if TYPE_CHECKING:
    from phasegrad.stores.analog_weight import AnalogWeight
    from phasegrad.stores.device_array import DeviceArray


@final
@dataclass(frozen=True, kw_only=True)
class GradientDescent(ProgrammingMethod):
    """Programming by the error of products of random inputs (gradient-descent programming, Büchel et al. 2023).

    No device is read by itself. Products of the whole tile, through its converters, wires and noise, are compared with
    the wanted ones, and the gradient of the squared error says how wrong each weight is, *as the product sees it*. The
    estimates of a weight since its last pulse are averaged; a weight whose mean error is beyond the tolerance, and
    ``confidence`` times its standard error, receives another melting pulse, whose current is moved by ``gain`` times
    the error.

    Args:
        iterations: rounds of products and pulses.
        samples: random inputs of a round, uniform in the range of the DAC.
        tolerance: error of a weight that is left alone, relative to the largest weight.
        confidence: standard errors by which an error must be distinct from 0.
        pulses: currents, durations and gain of the pulses.
        product_time: duration of a product [s].
        schedule: order of the pulses.

    References:
        Büchel, J. et al. Programming weights to analog in-memory computing cores by direct minimization of the
        matrix-vector multiplication error. IEEE J. Emerg. Sel. Top. Circuits Syst. 13, 1052 (2023).
        https://doi.org/10.1109/JETCAS.2023.3329449
    """

    iterations: int = 60
    samples: int = 1024
    tolerance: float = 0.01
    confidence: float = 2.0
    pulses: AmplitudeSteps = dataclasses.field(default_factory=AmplitudeSteps)
    product_time: float = 130e-9
    schedule: Schedule = dataclasses.field(default_factory=Rows)

    def __post_init__(self) -> None:
        check_integer(self, "iterations", 1, 100_000)
        check_integer(self, "samples", 2, 1 << 24)
        check_number(self, "tolerance", 0.0)
        check_number(self, "confidence", 0.0)
        check_number(self, "product_time", 0.0)

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` unless a weight is a pair of devices with a response to the current of a pulse."""
        require_amplitude(self.pulses, cell)
        if len(cell.factors) != 2 or cell.slice_factors is not None or cell.has_reference:
            raise ValueError(
                f"GradientDescent: the cell, {type(cell).__name__}, is not a pair of devices, and the error of a "
                "product does not say which of its devices is wrong; use a DifferentialPair, or WriteVerify"
            )

    @torch.no_grad()
    def write(
        self, array: DeviceArray, relative: Tensor, now: Tensor, seed: Tensor, tile: tuple[int, int]
    ) -> ProgrammingRecord | None:
        """Program every cell; see [`ProgrammingMethod`][phasegrad.inference.ProgrammingMethod]."""
        self.check(array.cell)
        targets = array.targets(relative)
        writer = Writer(array, targets, seed, tile, self.schedule, 1, self.product_time)
        descent = _Descent(self, writer, targets, relative, cast("AnalogWeight", array).hardware, tile[1])
        for round_ in range(self.iterations):
            descent.measure(round_)
            if not descent.correct():
                break
        writer.finish(targets, now)
        return descent.record()


class _Descent:
    """The state of one descent: currents, and the mean error of every weight since its last pulse."""

    def __init__(
        self,
        method: GradientDescent,
        writer: Writer,
        targets: Tensor,
        relative: Tensor,
        hardware: Hardware,
        columns: int,
    ) -> None:
        self.method, self.writer, self.targets, self.relative = method, writer, targets, relative
        self.hardware, self.columns, self.cell = hardware, columns, hardware.cell
        self.cells = torch.arange(relative.numel(), device=relative.device)
        curve, rule = self.cell.device.amplitude, method.pulses
        assert curve is not None
        self.asked = (targets > self.cell.device.lowest + 1e-6 * self.cell.device.g_max).flatten(1)
        self.current = curve.current(targets).flatten(1).clamp_(*rule.start)
        everywhere = torch.full_like(self.current, rule.reset_current)
        writer.apply(Pulses(amplitude=everywhere, duration=rule.reset_duration), self.cells)
        writer.round += 1
        writer.apply(Pulses(amplitude=self.current * self.asked, duration=rule.duration), self.cells)
        self.sum, self.number = torch.zeros_like(relative), torch.zeros_like(relative)
        self.error, self.deviation, self.rounds = torch.zeros_like(relative), torch.ones_like(relative), 0

    def measure(self, round_: int) -> None:
        """Compare products of random inputs, and add the gradient to the errors of the weights."""
        method, writer = self.method, self.writer
        shape = (method.samples, self.relative.shape[1])
        x = torch.ops.phasegrad.uniform(writer.seed, streams.TRANSFER + 16 + round_, shape).mul_(2.0).sub_(1.0)
        difference = self._product(x) - x @ self.relative.t()
        square = 1.0 / 3.0  # mean square of the inputs
        estimate = difference.t() @ x / (method.samples * square)
        self.sum += estimate
        self.number += 1.0
        self.error = self.sum / self.number
        # Every other weight of the output, and the noise of the product, add to the estimate.
        spread = difference.square().mean(0, keepdim=True).t() / (method.samples * square)
        self.deviation = (spread / self.number).sqrt()
        writer.time += method.samples * method.product_time
        writer.reads += method.samples
        self.rounds = round_ + 1

    def _product(self, x: Tensor) -> Tensor:
        weight = self._read()
        ones = weight.new_ones(-(-weight.shape[1] // self.hardware.rows), len(weight))
        tiles = TileWeights(weight, ones, None, 0.0)
        periphery = Periphery(weight.new_ones(1), weight.new_full((1,), self._output_range()))
        seed = self.writer.seed + 7 + self.writer.round
        return product(x, tiles, LinearTiling(self.hardware.rows), periphery, self.hardware, seed)

    def _read(self) -> Tensor:
        """The weights ``[out, in]`` in [-1, 1] that one product sees, through the wires."""
        read = self.writer.read(self.cells).view(self.targets.shape)
        wires = self.hardware.linear_wires
        if wires is not None:
            read = over_tiles(read.double(), self.hardware.rows, self.columns, wires.effective_unchecked).float()
        return self.cell.weight(read)

    def _output_range(self) -> float:
        """Range of the ADC: that of the hardware if it is fixed, otherwise three standard deviations of products."""
        kind = self.hardware.adc.range if self.hardware.adc else None
        if isinstance(kind, FixedRange):
            return kind.value
        rows = min(self.hardware.rows, self.relative.shape[1])
        return max(3.0 * math.sqrt(rows / 3.0 * float(self.relative.square().mean())), 1e-3)

    def correct(self) -> bool:
        """Pulse the weights that are wrong; false if there is none."""
        method, rule, window = self.method, self.method.pulses, self.cell.device.window
        bound = (method.confidence * self.deviation).clamp(min=method.tolerance)
        wrong = (self.error.abs() > bound).flatten()
        pulsed = self.asked & wrong
        if not bool(pulsed.any()):
            return False
        signs = torch.tensor(self.cell.factors, device=wrong.device).sign().unsqueeze(1)
        self.current = torch.where(
            pulsed,
            (self.current + rule.gain * window * signs * self.error.flatten()).clamp_(*rule.currents),
            self.current,
        )
        self.writer.round += 1
        self.writer.apply(Pulses(amplitude=self.current * pulsed, duration=rule.duration), self.cells)
        again = pulsed.any(0).view_as(self.sum)
        self.sum.masked_fill_(again, 0.0)
        self.number.masked_fill_(again, 0.0)
        return True

    def record(self) -> ProgrammingRecord:
        """The process; the residual of a device is the error of its weight, as products see it."""
        writer, shape = self.writer, self.targets.shape
        signs = tuple(math.copysign(1.0, factor) for factor in self.cell.factors)
        sign = torch.tensor(signs, device=self.error.device).view(-1, 1, 1)
        residual = self.error * sign * self.cell.device.window * self.asked.view(shape)
        within = self.error.abs() <= (self.method.confidence * self.deviation).clamp(min=self.method.tolerance)
        time, energy, reads = (part.view(writer.grid) for part in (writer.time, writer.energy, writer.reads))
        return ProgrammingRecord(
            within.expand(shape).clone(), writer.pulses.view(shape), residual, self.targets, time, energy, reads,
            self.rounds, signs,
        )  # fmt: skip
