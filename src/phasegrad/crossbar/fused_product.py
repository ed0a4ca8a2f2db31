"""The product of tiles that share one read and one range of inputs, as the op ``tile_linear`` and its gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.word_lines import Periphery
from phasegrad.ops.direct import call, is_plain
from phasegrad.ops.gradients import bound_gradient
from phasegrad.ops.repeated_product import RepeatedProduct


class Settings(NamedTuple):
    """The numbers among the arguments of the op."""

    dac: tuple[float, float, float]
    """Largest code of the DAC, decay and keep; a largest code of 0 for inputs without converter."""
    rows: int
    output_noise: float
    read_noise: float
    adc: tuple[int, float]
    """Mode and largest code of the ADC."""


class FusedProduct(NamedTuple):
    """One read of tiles, for products that the op ``tile_linear`` computes; nothing here records a gradient."""

    tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
    """Weight ``[out, in]``, range of the DAC, range of the ADC, scale, and gain or ``None``."""
    settings: Settings

    @classmethod
    def of(cls, weights: TileWeights, periphery: Periphery, hardware: Hardware) -> FusedProduct | None:
        """The product of weights without perturbation; ``None`` if the op does not compute it, on plain tensors."""
        unfused = (weights.perturbation, weights.slice_factors, weights.variance, weights.column_range)
        single = all(part is None for part in unfused)
        converts = hardware.adc is not None or hardware.output_noise > 0.0 or weights.read_noise > 0.0
        if not (single and converts and hardware.fuses_inputs) or periphery.input_range is None:
            return None
        ranges = (periphery.input_range, periphery.output_range)
        tensors = (weights.weight, *ranges, weights.scale, weights.gain)
        if not all(t is None or is_plain(t) for t in tensors):
            return None
        noise = (hardware.output_noise, weights.read_noise)
        return cls(tensors, Settings(hardware.dac_settings, hardware.rows, *noise, hardware.adc_settings))

    def repeated(self) -> RepeatedProduct:
        """The product as a function of inputs ``[n, in]`` and a seed.

        It returns the outputs ``[n, out]`` and the clipped outputs of tiles ``[tiles, n, out]``.
        """
        weight, input_range, output_range, scale, gain = self.tensors
        dac, rows, output_noise, read_noise, adc = self.settings
        before = (weight, scale, None, None, gain, input_range, *dac, output_range)
        noise = ((0.0, 0.0, 0.0), 0.0, output_noise, read_noise)
        return RepeatedProduct(before, (streams.WEIGHTS, streams.OUTPUT, rows, *noise, *adc))

    def driven(self, x: Tensor) -> Tensor:
        """What inputs of any shape are after the DAC."""
        dac = self.settings.dac
        return call("dac", x, self.tensors[1], *dac) if dac[0] > 0.0 else x

    def input_gradient(self, d: Tensor, code: Tensor, x: Tensor, driven: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradients of inputs ``[n, in]`` and of their range, which is ``None`` without a DAC."""
        dac = self.settings.dac
        gradient = self._backward(d, code, driven, (True, False))[0]
        return call("dac_backward", gradient, x, self.tensors[1], *dac[1:]) if dac[0] > 0.0 else (gradient, None)

    def weight_gradient(self, d: Tensor, code: Tensor, driven: Tensor) -> Tensor:
        """The gradient ``[out, in]`` of the weight."""
        return self._backward(d, code, driven, (False, True))[1]

    def bound_gradient(self, d: Tensor, code: Tensor) -> Tensor | None:
        """The gradient of the range of the ADC, which is ``None`` without one."""
        _, input_range, output_range, scale, gain = self.tensors
        return bound_gradient(d, code, scale, gain, input_range, output_range) if len(code) else None

    def _backward(self, d: Tensor, code: Tensor, driven: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
        weight, *_, gain = self.tensors
        return call("tile_linear_backward", d, code, driven, weight, None, None, gain, self.settings.rows, wanted)
