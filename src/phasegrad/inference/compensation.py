"""Correcting a chip's outputs for the drift of its devices."""

from __future__ import annotations

import copy

from torch import nn

from phasegrad.deprecation import renamed_arguments
from phasegrad.inference.programming import Seeds, check_programmed
from phasegrad.nn import analog_layers


@renamed_arguments(per="compensation")
def compensate(chip: nn.Module, compensation: str = "tile", *, seed: int | None = None) -> nn.Module:
    """Correct a chip's outputs for its mean drift (global drift compensation, Joshi et al. 2020).

    Every column is read with its rows driven one at a time, noisy as any read; the digital gain becomes the sum of
    sizes found right after programming over the sum found now. Noise adds to a size, and to a small one most, so the
    gain falls short where the output noise is not small against the weights (by 2 % for the preset after a year).

    Args:
        chip: a programmed net; left as it is.
        compensation: ``"tile"``, ``"column"`` or ``"layer"``: which columns share a gain.
        seed: seed of the calibration read; ``None`` draws from torch's generator.

    Returns:
        A compensated copy. Its gain stays as it is when it ages further.

    Raises:
        ValueError: the chip was never programmed, or ``compensation`` is something else.
    """
    check_compensation("compensate", compensation)
    check_programmed(chip, "compensate")
    corrected = copy.deepcopy(chip)
    apply_compensation(corrected, compensation, Seeds(seed))
    return corrected


def apply_compensation(chip: nn.Module, compensation: str, seeds: Seeds) -> None:
    """Compensate a chip in place; see :func:`compensate`."""
    done: set[int] = set()
    for layer in analog_layers(chip).values():
        if layer.devices is not None and id(layer.devices) not in done:
            done.add(id(layer.devices))
            seed, errors = seeds.next(layer.weight.device), layer.periphery.output_errors
            layer.devices.compensate(layer.output_range, seed, compensation, errors)
        layer.store.sync()


def check_compensation(what: str, compensation: str) -> None:
    """Raise unless a compensation is known."""
    if compensation not in ("tile", "column", "layer"):
        raise ValueError(f"{what}: compensation = {compensation!r}; it must be 'tile', 'column' or 'layer'")
