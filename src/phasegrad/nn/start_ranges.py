"""Layers whose converter ranges are still the values that they start with."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from phasegrad.crossbar.converters import CalibratedRange, LearnedRange
from phasegrad.deprecation import users_stack_level
from phasegrad.nn.layer import AnalogLayer, analog_layers


class UncalibratedWarning(UserWarning):
    """The converter ranges of a layer are start values, which no data have determined."""


def has_start_ranges(layer: AnalogLayer) -> bool:
    """Whether a range that ``hwa.calibrate`` would set still has its start value; one set by hand has another."""
    if not layer.has_ranges:
        return False
    dac, adc = layer.hardware.dac, layer.hardware.adc
    if dac is not None and isinstance(dac.range, LearnedRange) and _is(layer.input_range, dac.range.start):
        return True
    return adc is not None and isinstance(adc.range, CalibratedRange) and _is(layer.output_range, adc.range.start)


def _is(value: Tensor | None, start: float) -> bool:
    return value is not None and not value.is_meta and bool((value == value.new_full((), start)).all())


def warn_start_ranges(net: nn.Module, caller: str) -> None:
    """Warn once, with the names of the layers that were never calibrated, as far as is known."""
    names = [n for n, m in analog_layers(net).items() if m.ranges_calibrated is False and has_start_ranges(m)]
    if names:
        warn_uncalibrated(
            f"{caller}: {shown(names)} {'were' if len(names) > 1 else 'was'} never calibrated, so converter ranges are "
            "start values, whatever the size of the inputs. Call pg.hwa.calibrate(net, loader) first, with recipe=None "
            "for a net that is not trained or trained in the memory; or set input_range and output_range, and "
            "ranges_calibrated = True where the start values are right"
        )


def warn_uncalibrated(message: str) -> None:
    """Warn at the user's line."""
    warnings.warn(message, UncalibratedWarning, stacklevel=users_stack_level())


def shown(names: list[str]) -> str:
    """The names of layers for a message."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(name or "the net" for name in names[:20]) + more
