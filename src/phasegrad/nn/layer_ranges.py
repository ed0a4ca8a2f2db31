"""The converter ranges of a layer: parameters if they are learned, otherwise buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phasegrad.crossbar.converters import AbsMaxRange, CalibratedRange, FixedRange, FullScaleRange, LearnedRange
from phasegrad.ops.direct import in_transform

if TYPE_CHECKING:
    from phasegrad.nn.layer import AnalogLayer


def make_input_range(layer: AnalogLayer, factory: dict[str, Any]) -> None:
    """Register the range of the DAC, ``[1]``, or ``None`` if each input sets it."""
    kind = layer.hardware.dac.range if layer.hardware.dac else AbsMaxRange()
    if isinstance(kind, LearnedRange):
        layer.input_range = nn.Parameter(torch.full((1,), kind.start, **factory), _is_trainable(layer))
    elif isinstance(kind, FixedRange):
        layer.register_buffer("input_range", torch.full((1,), kind.value, **factory), persistent=False)
    else:
        layer.register_buffer("input_range", None)


def make_output_range(layer: AnalogLayer, start: float, factory: dict[str, Any]) -> None:
    """Register the range of the ADC, ``[1]``, with a start value."""
    kind = layer.hardware.adc.range if layer.hardware.adc else FullScaleRange()
    value = torch.full((1,), start, **factory)
    if isinstance(kind, LearnedRange):
        layer.output_range = nn.Parameter(value, _is_trainable(layer))
    else:
        layer.register_buffer("output_range", value, persistent=isinstance(kind, CalibratedRange))


def initial_output_range(layer: AnalogLayer) -> float:
    """The range of the ADC in a new layer."""
    kind = layer.hardware.adc.range if layer.hardware.adc else FullScaleRange()
    if isinstance(kind, FullScaleRange):
        return float(min(layer.in_features, layer.hardware.rows))
    return kind.value if isinstance(kind, FixedRange) else kind.start


def initial_input_range(layer: AnalogLayer) -> dict[str, float]:
    """The range of the DAC in a new layer by its name; empty if each input sets it."""
    kind = layer.hardware.dac.range if layer.hardware.dac else AbsMaxRange()
    if isinstance(kind, AbsMaxRange):
        return {}
    return {"input_range": kind.start if isinstance(kind, LearnedRange) else kind.value}


@torch.no_grad()
def widen_input_range(layer: AnalogLayer, x: Tensor) -> None:
    """Widen a learned input range for the first inputs of a new weight, by the rule of ``pg.hwa.calibrate``.

    The range was set for the inputs of the previous weight. A merged adapter, for example, had digital inputs.
    """
    if torch.compiler.is_compiling() or in_transform():
        return
    dac, size = layer.hardware.dac, x.detach().abs().float()
    if dac is not None and isinstance(dac.range, LearnedRange) and layer.input_range is not None and size.numel():
        covered = torch.minimum(3.0 * size.square().mean().sqrt(), size.max())
        if not bool(covered > 0.0):  # as a first hidden state, which says nothing about the others
            return
        if bool(covered.isfinite()):
            layer.input_range.clamp_(min=float(covered))
    layer.range_is_stale = False


def _is_trainable(layer: AnalogLayer) -> bool:
    """Whether a parameter is trainable; a layer whose parameters are all frozen gets no trainable range."""
    return any(p.requires_grad for p in layer.parameters(recurse=False))
