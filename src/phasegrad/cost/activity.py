"""How strongly inputs drive the word lines, averaged over inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.crossbar import Hardware
from phasegrad.crossbar.word_lines import convert_inputs
from phasegrad.nn import AnalogLayer
from phasegrad.nn.layer import require_analog_layers


@dataclass(frozen=True)
class Activity:
    """The mean drive of the word lines of each layer, between 0 and 1.

    Attributes:
        mean_absolute: mean of ``|x|`` over the range of the inputs, by the name of the layer: the drive where an input
            is the length of a pulse.
        mean_square: mean of ``x^2`` over the square of the range: the drive where an input is a voltage.
        mean_bits: mean fraction of the bits of an input that are set: the drive where the bits are applied one after
            another.
        source: where the means are from.
        upper_bound: whether the means are upper bounds, so that the array's energy is one.
    """

    mean_absolute: Mapping[str, float]
    mean_square: Mapping[str, float]
    mean_bits: Mapping[str, float]
    source: str
    upper_bound: bool = False

    def of(self, name: str, hardware: Hardware, coding: str) -> float | None:
        """The mean drive of a layer; ``None`` if it is not known."""
        if hardware.dac is not None and hardware.dac.drives_per_product > 1:
            return self.mean_bits.get(name)
        durations = coding == "duration" or hardware.integrator is not None
        return (self.mean_absolute if durations else self.mean_square).get(name)


class _Sums:
    """Sums over the inputs of one layer."""

    def __init__(self) -> None:
        self.count, self.absolute, self.square, self.bits = 0, 0.0, 0.0, 0.0

    def add(self, x: Tensor, layer: AnalogLayer) -> None:
        driven, full = convert_inputs(x, layer.periphery.input_range, layer.hardware)
        full = full.detach().abs().float().reshape(-1, *[1] * (driven.dim() - 1))
        z = (driven.float() / torch.where(full > 0, full, torch.ones_like(full))).abs().clamp(max=1.0)
        self.count += z.numel()
        self.absolute += float(z.sum(dtype=torch.float64))
        self.square += float(z.square().sum(dtype=torch.float64))
        dac = layer.hardware.dac
        if dac is not None:
            code, bits = torch.round(z * dac.max_code).to(torch.int32), dac.bits - 1
            self.bits += sum(int((code >> k & 1).sum()) for k in range(bits)) / bits


@torch.no_grad()
def measure_activity(net: nn.Module, inputs: Iterable[Any]) -> Activity:
    """Measure the mean drive of the word lines by running a net on batches of inputs.

    The net is run in evaluation mode, with the noise of its hardware, and left unchanged. Padding of convolutions is
    not counted as inputs.

    Args:
        net: a converted net, calibrated, so that its input ranges are those of use.
        inputs: batches: tensors, tuples of positional inputs, or mappings of keyword inputs.

    Raises:
        ValueError: the net has no analog layer, or there is no batch.
        TypeError: ``inputs`` is a single tensor.
    """
    layers = require_analog_layers(net, "measure_activity")
    batches = checks.loader("measure_activity", "inputs", inputs)
    sums = {name: _Sums() for name, layer in layers.items() if not layer.tiling.senses_rows}
    modes, count = {module: module.training for module in net.modules()}, 0
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(lambda: [setattr(module, "training", mode) for module, mode in modes.items()])
        for name, found in sums.items():
            stack.enter_context(_watched(layers[name], found))
        net.eval()
        for batch in batches:
            count += 1
            _run(net, batch)
    if count == 0:
        raise ValueError("measure_activity: inputs has no batch; pass at least one, as in [x]")
    known = {name: s for name, s in sums.items() if s.count}
    looked_up = {name: 1.0 for name, layer in layers.items() if layer.tiling.senses_rows}
    return Activity(
        {name: s.absolute / s.count for name, s in known.items()} | looked_up,
        {name: s.square / s.count for name, s in known.items()} | looked_up,
        {name: s.bits / s.count for name, s in known.items()} | looked_up,
        f"measured on {count} batch{'es' if count > 1 else ''}",
    )


def _run(net: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        net(**batch)
    else:
        net(*(batch if type(batch) in (tuple, list) else (batch,)))


def _watched(layer: AnalogLayer, sums: _Sums) -> Any:
    """A context in which the inputs of a layer are added up."""

    def note(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = arguments[0] if arguments else named["input"]
        sums.add(layer.to_rows(x), layer)

    return layer.register_forward_pre_hook(note, with_kwargs=True)


def as_activity(caller: str, activity: Activity | float | None, names: Iterable[str]) -> Activity:
    """An activity from a number, which is that of all layers; from ``None``, the upper bound."""
    if isinstance(activity, Activity):
        return activity
    if activity is None:
        full = dict.fromkeys(names, 1.0)
        return Activity(full, full, full, "every input at full range", upper_bound=True)
    mean = checks.number(caller, "activity", activity, 0.0, 1.0)
    means = dict.fromkeys(names, mean)
    return Activity(means, means, means, f"given: an average of {mean:g} for all layers")
