"""Mean and variance of the outputs of a chain of layers over chips, computed instead of sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.inference.accuracy import require_digital
from phasegrad.inference.gaussian_moments import MeanVariance, clipped, probability_largest
from phasegrad.inference.module_moments import PROPAGATED, through_module
from phasegrad.inference.weight_moments import DeviceMoments, LayerMoments, layer_moments, output_variance
from phasegrad.nn import AnalogConv1d, AnalogConv2d, AnalogConv3d, AnalogLayer, AnalogLinear, AnalogTransposedLinear
from phasegrad.nn.start_ranges import warn_start_ranges

_CALLER = "estimate_moments"
_LAYERS = (AnalogLinear, AnalogTransposedLinear, AnalogConv1d, AnalogConv2d, AnalogConv3d)


@dataclass(frozen=True)
class OutputMoments:
    """Result of [`estimate_moments`][phasegrad.inference.estimate_moments].

    Attributes:
        mean: mean of each output over chips and reads, ``[n, ...]``.
        variance: variance of each output, of the same shape.
        time: time since programming [s].
    """

    mean: Tensor
    variance: Tensor
    time: float

    def sd(self) -> Tensor:
        """Standard deviation of each output."""
        return self.variance.sqrt()

    def accuracy(self, labels: Tensor) -> float:
        """The expected fraction of samples whose largest output is at their label.

        The outputs of a sample count as independent normal variables.

        Args:
            labels: class of each sample, ``[n]`` integers.

        Raises:
            ValueError: the outputs are not ``[n, classes]`` with one label each.
        """
        labels = checks.tensor("OutputMoments.accuracy", "labels", labels, "[n] of classes")
        if self.mean.dim() != 2 or labels.shape != self.mean.shape[:1] or labels.dtype.is_floating_point:
            raise ValueError(
                f"OutputMoments.accuracy: labels = {checks.shown(labels)} for outputs {list(self.mean.shape)}; both "
                "must have one row per sample, outputs [n, classes] and integer labels [n]"
            )
        return float(probability_largest(MeanVariance(self.mean, self.variance), labels).mean())


@torch.no_grad()
def estimate_moments(
    net: nn.Module,
    inputs: Tensor,
    *,
    time: float = 86_400.0,
    compensation: str | None = "tile",
    temperature: float | None = None,
) -> OutputMoments:
    """Estimate the mean and the variance of a net's outputs over all chips, without programming one.

    The weights have the mean and the variance of devices with their targets at this age: programming, drift and read
    noise. Layer by layer, products of independent variables have known moments, and a rectifier turns those of a normal
    variable into known ones. The estimate takes the time of a few forward passes, where sampling takes one per chip and
    needs hundreds of chips for a variance.

    It assumes that outputs of a layer are normal and independent of each other. They are for the first layer with many
    inputs; later, outputs share their inputs, pixels of a convolution share weights, and neighbours in a pool are
    alike, so variances are too low where correlations add up. Rounding counts as uniform noise, and the gain of drift
    compensation as its expected value. Compare with
    [`accuracy_over_time`][phasegrad.inference.accuracy_over_time] before you rely on it for a new kind of net.

    Args:
        net: an analog layer, or ``nn.Sequential`` (also nested) of analog and digital linear layers and convolutions,
            pointwise activations, batch norm, pooling, flattening and dropout; they count as in evaluation mode.
        inputs: inputs of the net ``[n, ...]``.
        time: time since programming [s].
        compensation: drift compensation, per ``"tile"``, ``"column"`` or ``"layer"``, or ``None``.
        temperature: temperature from programming on [K], for devices with laws for it.

    Returns:
        The moments of the outputs.

    Warns:
        UncalibratedWarning: layers were never calibrated, so their converter ranges are start values.

    Raises:
        ValueError: a module of the net cannot be propagated through, the hardware of a layer has wires, slices,
            reference columns or converters that are not covered, or a layer is programmed already.

    References:
        Frey, B. J. and Hinton, G. E. Variational learning in nonlinear Gaussian belief networks. Neural Comput. 11,
        193-213 (1999): moments of rectified normal variables. https://doi.org/10.1162/089976699300016872

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)), pg.presets.pcm_inference())
        >>> x = torch.randn(8, 64)
        >>> moments = estimate_moments(pg.hwa.calibrate(net, [x], recipe=None), x, time=86_400.0)
        >>> moments.mean.shape, moments.sd().shape
        (torch.Size([8, 4]), torch.Size([8, 4]))
    """
    time = checks.number(_CALLER, "time", time, 0.0, unit="s")
    inputs = checks.tensor(_CALLER, "inputs", inputs, "[n, ...]")
    if compensation is not None:
        checks.choice(_CALLER, "compensation", compensation, ("tile", "column", "layer"))
    for name, layer in require_digital(net, _CALLER).items():
        _check_hardware(name, layer)
    chain = _chain(net, "")
    warn_start_ranges(net, _CALLER)
    known: dict[Any, dict[float, DeviceMoments]] = {}
    x = MeanVariance(inputs, torch.zeros_like(inputs))
    for module in chain:
        if isinstance(module, AnalogLayer):
            device = module.hardware.cell.device
            if device not in known:
                known[device] = {t: DeviceMoments.sampled(device, t, temperature) for t in {0.0, time}}
            x = _through_layer(module, layer_moments(module, known[device], time, compensation), x)
        else:
            x = through_module(module, x)
    return OutputMoments(x.mean, x.variance, time)


def _chain(module: nn.Module, name: str) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [part for key, child in module.named_children() for part in _chain(child, f"{name}.{key}".strip("."))]
    if type(module) not in _LAYERS and type(module) not in PROPAGATED:
        raise ValueError(
            f"{_CALLER}: {name or 'the net'} is a {type(module).__name__}, through which no moments can be propagated; "
            "pass an nn.Sequential of the layers that its forward calls, or sample with accuracy_over_time"
        )
    return [module]


def _check_hardware(name: str, layer: AnalogLayer) -> None:
    """Raise unless the estimate covers the hardware of a layer."""
    hardware = layer.hardware
    refused = {
        "wires": hardware.wires is not None,
        "integrator": hardware.integrator is not None,
        "cell (slices)": hardware.cell.slice_factors is not None,
        "cell (reference columns)": hardware.cell.has_reference,
        "faults": hardware.faults is not None,
        "dac or adc (errors, or inputs bit by bit)": not hardware.fuses_inputs,
    }
    found = [field for field, present in refused.items() if present]
    if found:
        raise ValueError(
            f"{_CALLER}: the hardware of {name or 'the net'} has {', '.join(found)}, which the estimate does not "
            "cover; sample with accuracy_over_time"
        )


def _through_layer(layer: AnalogLayer, moments: LayerMoments, x: MeanVariance) -> MeanVariance:
    """The outputs of an analog layer: DAC, product, noise, ADC, gain, digital sum over row tiles, bias."""
    rows = layer.to_rows
    mean, variance = _driven(layer, MeanVariance(rows(x.mean), rows(x.variance)))
    weight, square = moments.weight, mean.square() + variance
    product: Callable[[Tensor, Tensor], Any] = layer.tiling.partial_products
    means = product(mean, weight.mean)
    variances = [
        a + b for a, b in zip(product(square, weight.variance), product(variance, weight.mean.square()), strict=True)
    ]
    if not layer.hardware.cell.device.reads_are_noisy and layer.hardware.read_noise:
        sizes = product(square, weight.mean.abs())
        reads = [layer.hardware.read_noise**2 * _along(s, y) * y for s, y in zip(moments.scale, sizes, strict=True)]
        variances = [v + read for v, read in zip(variances, reads, strict=True)]
    total = MeanVariance(torch.zeros_like(means[0]), torch.zeros_like(means[0]))
    for t, tile in enumerate(map(MeanVariance, means, variances)):
        read = _converted(layer, tile, _along(moments.scale[t], tile.mean) * _range(layer, mean))
        gain = _along(moments.gain[t], tile.mean)
        total = MeanVariance(total.mean + gain * read.mean, total.variance + gain.square() * read.variance)
    bias = 0.0 if layer.bias is None else _along(layer.bias, total.mean)
    return MeanVariance(total.mean + bias, total.variance)


def _driven(layer: AnalogLayer, x: MeanVariance) -> MeanVariance:
    """Inputs after the DAC: known ones are rounded, others get the noise of rounding."""
    codes = layer.hardware.dac_settings[0]
    if not codes:
        return x
    bound = _range(layer, x.mean)
    step = bound / codes
    mean, variance = clipped(x, -bound, bound)
    exact = variance == 0.0
    rounded = torch.round(mean / step) * step
    return MeanVariance(torch.where(exact, rounded, mean), torch.where(exact, 0.0, variance + step * step / 12.0))


def _range(layer: AnalogLayer, mean: Tensor) -> Tensor:
    """The range of the inputs, one element, or one per sample if each input sets it."""
    if layer.input_range is not None:
        return layer.input_range.abs()
    return mean.abs().flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (mean.dim() - 1))


def _converted(layer: AnalogLayer, y: MeanVariance, unit: Tensor) -> MeanVariance:
    variance = y.variance + output_variance(layer, unit)
    if layer.hardware.adc is None:
        return MeanVariance(y.mean, variance)
    full = (layer.output_range.abs() * unit).expand_as(y.mean)
    return clipped(MeanVariance(y.mean, variance), -full, full)


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Values ``[channels]`` that broadcast over ``[samples, channels, ...]``."""
    return values.view(-1, *[1] * (like.dim() - 2))
