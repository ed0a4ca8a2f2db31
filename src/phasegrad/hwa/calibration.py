"""Calibration of converter ranges on data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.conversion import BypassWarning, left_digital
from phasegrad.conversion.bypass_watch import uncompiled, watching_bypasses
from phasegrad.conversion.selection import chosen_by_user
from phasegrad.crossbar.bit_lines import tile_outputs
from phasegrad.crossbar.converters import CalibratedRange, LearnedRange
from phasegrad.crossbar.word_lines import drive
from phasegrad.deprecation import users_stack_level
from phasegrad.hwa.recipe import Recipe
from phasegrad.nn import AnalogLayer
from phasegrad.nn.chip_age import share_age
from phasegrad.nn.evaluation import evaluation_mode, forward_batch
from phasegrad.nn.layer import require_analog_layers
from phasegrad.nn.start_ranges import has_start_ranges, shown, warn_uncalibrated
from phasegrad.ops.profiling import observed
from phasegrad.stores import InMemory

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

    Batches in which a layer receives nothing, as an expert without tokens, or only zeros do not count. A layer that
    received no input in any batch keeps its ranges and is named in a warning, unless they are no longer the start
    values: a head that runs only in training, for example, which another call with ``forward`` can reach.

    Args:
        net: a converted net that is not programmed. Weights that are trained in the memory need ``recipe=None``.
        loader: batches; the first element of a tuple or list is the input, and a dictionary whose keys the net takes
            as keywords is passed as such.
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
        UncalibratedWarning: layers received no input, or only zeros, and their ranges are still start values.
        UserWarning: the recipe clips many weights; see ``Recipe.apply``.

    Raises:
        ValueError: the net has no analog layer or a programmed one, a recipe is given for weights that are trained in
            the memory, the loader is empty, or an input is not finite.

    References:
        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023).
        https://doi.org/10.1038/s41467-023-40770-4
    """
    eager: nn.Module = getattr(net, "_orig_mod", net)  # torch.compile cannot trace the hooks
    layers = require_unprogrammed(eager, "calibrate", in_memory=recipe is None)
    checks.loader("calibrate", "loader", loader)
    batches = checks.integer("calibrate", "batches", batches, 1)
    sd = checks.number("calibrate", "sd", sd, 0.0, above=True)
    if recipe is not None:
        checks.instance("calibrate", "recipe", recipe, Recipe)
    if forward is not None:
        checks.function("calibrate", "forward", forward, "(net, batch) -> anything")
    perturbations = {name: layer.perturbation for name, layer in layers.items()}
    if recipe is not None:
        recipe.apply(net)
    ranges = {name: _Ranges(name, layer, sd) for name, layer in layers.items() if layer.has_ranges}
    before = {name: (r.input.clone(), r.output.clone()) for name, r in ranges.items()}
    count, bypassed = 0, {}
    try:
        with evaluation_mode(net), _watched_inputs(ranges.values()), torch.no_grad(), uncompiled():
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
        share_age(eager)
        raise
    for r in ranges.values():
        if r.is_determined:
            r.layer.ranges_calibrated = True
    _warn_bypassed(eager, bypassed)
    _warn_unseen([r for r in ranges.values() if not any(name.startswith(f"{r.name}.") for name in bypassed)])
    return net


def _warn_unseen(ranges: Iterable[_Ranges]) -> None:
    """Warn about layers whose ranges are still start values, because they received no input, or only zeros."""
    left = [r for r in ranges if not r.layer.ranges_calibrated and has_start_ranges(r.layer)]
    unseen, zeros = [r.name for r in left if not r.seen], [r.name for r in left if r.seen]
    parts = [f"{shown(unseen)} received no input in any batch"] if unseen else []
    parts += [f"{shown(zeros)} received only zeros"] if zeros else []
    if parts:
        warn_uncalibrated(
            f"calibrate: {', and '.join(parts)}, so their converter ranges remain the start values. Calibration runs "
            "in evaluation mode: pass batches or forward=lambda net, batch: ... that run these layers, or set "
            "input_range and output_range"
        )


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
            stacklevel=users_stack_level(),
        )


class _Ranges:
    """Running means of one layer's ranges, written to the layer after each batch."""

    def __init__(self, name: str, layer: AnalogLayer, sd: float) -> None:
        self.name, self.layer, self.sd = name, layer, sd
        self.inputs = self.outputs = 0  # batches that are not all zero, as a first hidden state is
        self.seen = False
        hardware = layer.hardware
        self.learns_input = hardware.dac is not None and isinstance(hardware.dac.range, LearnedRange)
        adc_range = hardware.adc.range if hardware.adc else None
        self.percentile = adc_range.percentile if isinstance(adc_range, CalibratedRange) else None
        none = torch.zeros(0)
        self.input = layer.input_range.data if self.learns_input and layer.input_range is not None else none
        self.output = layer.output_range.data if self.percentile is not None else none

    @property
    def is_determined(self) -> bool:
        """Whether inputs determined the ranges."""
        return self.inputs > 0 if self.learns_input else self.outputs > 0

    def update(self, x: Tensor) -> None:
        """Count the input of one call; an empty one, as of an expert without tokens, says nothing."""
        if not isinstance(x, Tensor):  # the layer refuses it
            return
        if x.numel() == 0:
            return
        self.seen = True
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
def _watched_inputs(ranges: Iterable[_Ranges]) -> Iterator[None]:
    """Update the ranges of each layer with every input that it receives.

    ``forward`` itself is watched, because a call of ``layer.forward(x)`` passes by the hooks of the layer, and because
    hooks would keep torch from its fused paths, which have to show up here.
    """
    with ExitStack() as undo:
        for r in ranges:
            undo.callback(_watch(r))
        yield


def _watch(ranges: _Ranges) -> Callable[[], None]:
    """Watch the inputs of one layer; return a function that ends this."""
    layer, forward = ranges.layer, ranges.layer.forward
    own = vars(layer).get("forward")  # one that the user set on this object

    def watched(*inputs: Any, **named: Any) -> Any:
        ranges.update(inputs[0] if inputs else named["input"])
        return forward(*inputs, **named)

    def end() -> None:
        if own is None:
            del vars(layer)["forward"]
        else:
            vars(layer)["forward"] = own

    vars(layer)["forward"] = watched
    return end


def require_unprogrammed(net: nn.Module, caller: str, *, in_memory: bool = False) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name.

    Raises:
        ValueError: there is none, or one is programmed, noiseless or, unless ``in_memory``, trained in the memory.
    """
    layers = require_analog_layers(net, caller)
    for name, layer in layers.items():
        accepted = in_memory and layer.store.name == InMemory.name
        if layer.store.why_not_digital is not None and not accepted:
            raise ValueError(f"{caller}: {name or 'the net'} {layer.store.why_not_digital}")
    return layers
