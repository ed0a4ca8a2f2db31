"""Global drift compensation of a chip."""

from __future__ import annotations

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.deprecation import renamed_arguments
from phasegrad.inference.programming import Seeds, check_programmed
from phasegrad.nn import analog_layers
from phasegrad.nn.copying import shared_copy
from phasegrad.nn.layer import take_writes_of_net


@renamed_arguments(per="compensation")
def compensate(chip: nn.Module, compensation: str = "tile", *, seed: int | None = None) -> nn.Module:
    """Correct a chip's outputs for its mean drift (global drift compensation, Joshi et al. 2020).

    A calibration read, noisy like any other, drives the rows of every column one at a time. The digital gain becomes
    the sum of output magnitudes right after programming divided by the present sum. After training in the memory, the
    reference is the end of the training: the sum at the first ageing or compensation since. Noise increases magnitudes,
    small ones most, so the gain is too low unless the output noise is small compared with the weights (by 1.5 to 3 %
    for the preset after a year).

    Args:
        chip: a programmed net; it is not modified.
        compensation: columns that share a gain: those of a ``"tile"``, a ``"layer"``, or each ``"column"`` alone.
        seed: seed of the calibration read; ``None`` draws from torch's generator.

    Returns:
        A compensated copy, which keeps this gain as it ages further.

    Raises:
        ValueError: the chip was never programmed, or ``compensation`` is none of these.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """
    check_compensation("compensate", compensation)
    seed = None if seed is None else checks.seed("compensate", seed)
    check_programmed(chip, "compensate")
    take_writes_of_net(chip)
    corrected = shared_copy(chip, rewritten=True)
    apply_compensation(corrected, compensation, Seeds(seed))
    return corrected


def apply_compensation(chip: nn.Module, compensation: str, seeds: Seeds) -> None:
    """Compensate a chip in place; see [`compensate`][phasegrad.inference.compensate]."""
    take_writes_of_net(chip)
    done: set[int] = set()
    for layer in analog_layers(chip).values():
        if layer.devices is not None and id(layer.devices) not in done:
            done.add(id(layer.devices))
            seed, errors = seeds.next(layer.weight.device), layer.periphery.output_errors
            layer.devices.compensate(layer.output_range, seed, compensation, errors)
        layer.store.sync()


def check_compensation(caller: str, compensation: str) -> None:
    """Raise ``ValueError`` or ``TypeError`` unless ``compensation`` is valid."""
    checks.choice(caller, "compensation", compensation, ("tile", "column", "layer"))
