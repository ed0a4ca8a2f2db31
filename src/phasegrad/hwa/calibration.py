"""Calibration of converter ranges on data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from phasegrad.conversion import BypassWarning, left_digital
from phasegrad.conversion.bypass_watch import uncompiled, watching_bypasses
from phasegrad.conversion.selection import chosen_by_user
from phasegrad.crossbar.bit_lines import tile_outputs
from phasegrad.crossbar.converters import CalibratedRange, LearnedRange
from phasegrad.crossbar.word_lines import drive
from phasegrad.hwa.recipe import Recipe
from phasegrad.nn import AnalogLayer
from phasegrad.nn.evaluation import evaluation_mode, forward_batch
from phasegrad.nn.layer import require_analog_layers
from phasegrad.ops.profiling import observed

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
    """Prepare a converted net for hardware-aware training, in place: apply a recipe and set the converter ranges.

    Every learned input range becomes ``sd`` times the root mean square of the layer's input, limited to the largest
    input and averaged over batches (Rasch et al. 2023: 3 standard deviations, 100 batches). Every calibrated ADC
    range becomes its percentile of the tile outputs, averaged over batches. A layer's inputs come from the preceding
    layers with their ranges so far. After calibration, any training loop is hardware-aware.

    Args:
        net: a converted net that is not programmed.
        loader: batches; the first element of a tuple or list is the input.
        batches: maximum number of batches.
        recipe: noise and clipping to apply to the layers; ``None`` leaves the layers unchanged, for a net that
            will not be trained.
        sd: input range in root mean squares of the input.
        forward: ``(net, batch) -> anything``, which runs the net on batches of another form.

    Returns:
        The net.

    Warns:
        BypassWarning: products with parameters of the net bypass its tiles; see ``phasegrad.conversion.bypasses``.
            Modules that ``only`` or ``skip`` kept digital are not reported.

    Raises:
        ValueError: the net has no analog layer or a programmed one, the loader is empty, or an input is not finite.

    References:
        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023).
        https://doi.org/10.1038/s41467-023-40770-4
    """
    eager: nn.Module = getattr(net, "_orig_mod", net)  # torch.compile cannot trace the hooks
    layers = require_unprogrammed(eager, "calibrate")
    if batches < 1 or not sd > 0:
        raise ValueError(f"calibrate: batches = {batches} and sd = {sd}; both must be above 0")
    perturbations = {name: layer.perturbation for name, layer in layers.items()}
    if recipe is not None:
        recipe.apply(net)
    ranges = {name: _Ranges(name, layer, sd) for name, layer in layers.items() if layer.has_ranges}
    before = {name: (r.input.clone(), r.output.clone()) for name, r in ranges.items()}
    count, bypassed = 0, {}
    try:
        with evaluation_mode(net), _input_hooks(ranges.values()), torch.no_grad(), uncompiled():
            for batch in itertools.islice(loader, batches):
                with watching_bypasses(eager) if count == 0 else nullcontext() as watch:
                    (forward or forward_batch)(eager, batch)
                bypassed = watch.found if watch is not None else bypassed
                count += 1
        if count == 0:
            raise ValueError("calibrate: the loader yielded no batch; pass one with at least one batch")
    except BaseException:
        for name, r in ranges.items():  # leave no layer half-calibrated
            r.layer.perturbation = perturbations[name]
            r.input.copy_(before[name][0])
            r.output.copy_(before[name][1])
        raise
    _warn_bypassed(eager, bypassed)
    return net


def _warn_bypassed(net: nn.Module, bypassed: dict[str, str]) -> None:
    """Warn about products that bypass the tiles, except in modules that the user kept digital."""
    chosen = {n for n, why in left_digital(net).items() if chosen_by_user(why)}
    unexpected = {name: why for name, why in bypassed.items() if name.rpartition(".")[0] not in chosen}
    if unexpected:
        warnings.warn(
            f"calibrate: {'; '.join(f'{name}: {why}' for name, why in unexpected.items())}. These products are not "
            "simulated on the hardware. Change the model, register a counterpart with "
            "phasegrad.conversion.register_counterpart, or pass skip to convert if this is intended",
            BypassWarning,
            stacklevel=3,
        )


class _Ranges:
    """Running means of one layer's ranges, written to the layer after each batch."""

    def __init__(self, name: str, layer: AnalogLayer, sd: float) -> None:
        self.name, self.layer, self.sd = name, layer, sd
        self.inputs = self.outputs = 0  # batches that are not all zero, as a first hidden state is
        hardware = layer.hardware
        self.learns_input = hardware.dac is not None and isinstance(hardware.dac.range, LearnedRange)
        adc_range = hardware.adc.range if hardware.adc else None
        self.percentile = adc_range.percentile if isinstance(adc_range, CalibratedRange) else None
        none = torch.zeros(0)
        self.input = layer.input_range.data if self.learns_input and layer.input_range is not None else none
        self.output = layer.output_range.data if self.percentile is not None else none

    def update(self, x: Tensor) -> None:
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"calibrate: the input of {self.name or 'the layer'} is not finite; check the data")
        if self.learns_input:
            size = x.detach().abs().float()
            covered = torch.minimum(self.sd * size.square().mean().sqrt(), size.max())
            if covered > 0:
                self.inputs += 1
                self.input += (covered.to(self.input) - self.input) / self.inputs
        if self.percentile is not None:
            with observed(self.layer):  # products of the tiles, not past them
                largest = self._output_size(x)
            if largest > 0:
                self.outputs += 1
                self.output += (largest.to(self.output) - self.output) / self.outputs

    def _output_size(self, x: Tensor) -> Tensor:
        """The percentile of the tile outputs, in units of ``max|w| max|x|``."""
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


@contextmanager
def _input_hooks(ranges: Iterable[_Ranges]) -> Iterator[None]:
    """Update the ranges of each layer with every input that it receives."""

    def hook(ranges: _Ranges) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, inputs, named: ranges.update(inputs[0] if inputs else named["input"])

    with ExitStack() as hooks:
        for r in ranges:
            hooks.callback(r.layer.register_forward_pre_hook(hook(r), with_kwargs=True).remove)
        yield


def require_unprogrammed(net: nn.Module, caller: str) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name; raise ``ValueError`` if there is none or one stores no digital weight."""
    layers = require_analog_layers(net, caller)
    for name, layer in layers.items():
        if layer.store.why_not_digital is not None:
            raise ValueError(f"{caller}: {name or 'the net'} {layer.store.why_not_digital}")
    return layers
