"""Converter ranges from data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from phasegrad.conversion import BypassWarning, left_digital
from phasegrad.conversion.bypass_watch import watching_bypasses
from phasegrad.crossbar.bit_lines import tile_outputs
from phasegrad.crossbar.converters import CalibratedRange, LearnedRange
from phasegrad.crossbar.word_lines import drive
from phasegrad.hwa.recipe import Recipe
from phasegrad.nn import AnalogLayer, analog_layers

_DEFAULT_RECIPE = Recipe()


def calibrate(
    net: nn.Module,
    loader: Iterable[Any],
    batches: int = 100,
    *,
    recipe: Recipe | None = _DEFAULT_RECIPE,
    sd: float = 3.0,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> nn.Module:
    """Prepare a converted net for hardware-aware training, in place: recipe and converter ranges.

    Every learned input range becomes the mean over batches of ``sd`` root-mean-squares of the layer's input, but no
    more than its largest value (Rasch et al. 2023: 3 standard deviations over 100 batches). Every calibrated ADC
    range becomes the mean over batches of its percentile of the tiles' outputs. Layers see inputs that passed the
    layers before them, as calibrated so far. Afterwards any training loop trains for the hardware.

    Args:
        net: a converted net that is not programmed.
        loader: batches; a tuple's or list's first element is the input.
        batches: how many batches to use at most.
        recipe: noise and clipping to put on the layers; ``None`` leaves them as they are, which is right for a net
            that will not be trained.
        sd: root-mean-squares that an input range covers.
        forward: ``(net, batch) -> anything``, for batches that are something else.

    Returns:
        The net.

    Warns:
        BypassWarning: products with parameters of the net bypass its tiles; see :func:`phasegrad.conversion.bypasses`.
            Modules that ``only`` or ``skip`` left digital are not named.

    Raises:
        ValueError: no analog layer, a programmed layer, no batch, or an input that is not finite.
    """
    eager: nn.Module = getattr(net, "_orig_mod", net)  # of a compiled net, which could not trace the observers
    layers = _unprogrammed(eager, "calibrate")
    if batches < 1 or not sd > 0:
        raise ValueError(f"calibrate: batches = {batches} and sd = {sd}; both must be above 0")
    perturbations = {name: layer.perturbation for name, layer in layers.items()}
    if recipe is not None:
        recipe.apply(net)
    ranges = {name: _Ranges(name, layer, sd) for name, layer in layers.items() if layer.has_ranges}
    before = {name: (r.input.clone(), r.output.clone()) for name, r in ranges.items()}
    count, passed_by = 0, {}
    try:
        with _evaluating(net), _watching(ranges.values()), torch.no_grad():
            for batch in itertools.islice(loader, batches):
                with watching_bypasses(eager) if count == 0 else nullcontext() as found:
                    (forward or _forward)(eager, batch)
                passed_by = passed_by or found or {}
                count += 1
        if count == 0:
            raise ValueError("calibrate: the loader gave no batch")
    except BaseException:
        for name, r in ranges.items():  # nothing half-calibrated after an error
            r.layer.perturbation = perturbations[name]
            r.input.copy_(before[name][0])
            r.output.copy_(before[name][1])
        raise
    _warn(eager, passed_by)
    return net


def _warn(net: nn.Module, passed_by: dict[str, str]) -> None:
    """Of products that pass by the tiles, unless the user left their module digital."""
    asked = {n for n, why in left_digital(net).items() if why.startswith("named in") or why.startswith("not named in")}
    surprising = {name: why for name, why in passed_by.items() if name.rpartition(".")[0] not in asked}
    if surprising:
        warnings.warn(
            f"calibrate: {'; '.join(f'{name}: {why}' for name, why in surprising.items())}. The hardware is not "
            "simulated there. Change the model, register a counterpart with "
            "phasegrad.conversion.register_counterpart, or convert with skip to say that it is meant",
            BypassWarning,
            stacklevel=3,
        )


class _Ranges:
    """Running means of one layer's ranges, written into the layer at each batch."""

    def __init__(self, name: str, layer: AnalogLayer, sd: float) -> None:
        self.name, self.layer, self.sd = name, layer, sd
        self.inputs = self.outputs = 0  # how many there were that say something: a first hidden state is all zero
        hardware = layer.hardware
        self.learns_input = hardware.dac is not None and isinstance(hardware.dac.range, LearnedRange)
        adc_range = hardware.adc.range if hardware.adc else None
        self.percentile = adc_range.percentile if isinstance(adc_range, CalibratedRange) else None
        none = torch.zeros(0)
        self.input = layer.input_range.data if self.learns_input and layer.input_range is not None else none
        self.output = layer.output_range.data if self.percentile is not None else none

    def see(self, x: Tensor) -> None:
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"calibrate: the input of {self.name or 'the layer'} is not finite; look at the data")
        if self.learns_input:
            size = x.detach().abs().float()
            covered = torch.minimum(self.sd * size.square().mean().sqrt(), size.max())
            if covered > 0:
                self.inputs += 1
                self.input += (covered.to(self.input) - self.input) / self.inputs
        if self.percentile is not None:
            largest = self._output_size(x)
            if largest > 0:
                self.outputs += 1
                self.output += (largest.to(self.output) - self.output) / self.outputs

    def _output_size(self, x: Tensor) -> Tensor:
        """The percentile of the tiles' outputs, in units of ``max|w| max|x|``."""
        layer = self.layer
        slices, input_range = drive(layer.to_rows(x), layer.periphery, layer.hardware)
        seed = torch.zeros(1, dtype=torch.int64, device=x.device)
        weights = layer.store.matrix(seed).read_once(seed, layer.hardware.rows)._replace(read_noise=0.0)
        sizes = []
        for _, part in weights.slices():
            for driven in slices:
                outputs = tile_outputs(driven, part, input_range, layer.tiling, layer.hardware, seed)
                for y, scale in zip(outputs.values, part.scale, strict=True):
                    unit = scale.view(-1, *[1] * (y.dim() - 2)) * input_range.view(-1, *[1] * (y.dim() - 1))
                    size = y.abs() / torch.where(unit > 0, unit, torch.ones_like(unit))
                    sizes.append(size.flatten().float())
        size = torch.cat(sizes)
        rank = max(1, min(size.numel(), round(size.numel() * self.percentile / 100.0)))  # type: ignore[operator]
        return torch.kthvalue(size, rank).values


def _forward(net: nn.Module, batch: Any) -> Any:
    return net(batch[0] if isinstance(batch, (tuple, list)) else batch)


@contextmanager
def _watching(ranges: Iterable[_Ranges]) -> Iterator[None]:
    def hook(ranges: _Ranges) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, inputs, named: ranges.see(inputs[0] if inputs else named["input"])

    handles = [r.layer.register_forward_pre_hook(hook(r), with_kwargs=True) for r in ranges]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _unprogrammed(net: nn.Module, what: str) -> dict[str, AnalogLayer]:
    layers = analog_layers(net)
    if not layers:
        raise ValueError(f"{what}: the net has no analog layer; convert it first with pg.convert(model, hardware)")
    for name, layer in layers.items():
        if layer.store.why_not_digital is not None:
            raise ValueError(f"{what}: {name or 'the net'} {layer.store.why_not_digital}")
    return layers
