"""Compensation of a chip for its age."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.deprecation import renamed_arguments
from phasegrad.inference.compensations.base import Compensation
from phasegrad.inference.compensations.global_drift import GlobalDrift
from phasegrad.inference.programming import Seeds, check_programmed
from phasegrad.nn.copying import shared_copy
from phasegrad.nn.layer import take_writes_of_net

Compensations: TypeAlias = "str | Compensation | Sequence[str | Compensation]"

_NAMES = ("tile", "column", "layer")


@renamed_arguments(per="compensation")
def compensate(chip: nn.Module, compensation: Compensations = "tile", *, seed: int | None = None) -> nn.Module:
    """Correct a chip for its age.

    ``"tile"``, ``"column"`` and ``"layer"`` are global drift compensation (Joshi et al. 2020). A calibration read,
    noisy like any other, drives the rows of every column one at a time. The digital gain becomes the sum of output
    magnitudes right after programming divided by the present sum. After training in the memory, the reference is the
    end of the training: the sum at the first ageing or compensation since. Noise increases magnitudes, small ones most,
    so the gain is too low unless the output noise is small compared with the weights (by 1.5 to 3 % for the preset
    after a year).

    Args:
        chip: a programmed net; it is not modified.
        compensation: columns that share a gain: those of a ``"tile"``, a ``"layer"``, or each ``"column"`` alone; or
            another [`Compensation`][phasegrad.inference.Compensation], such as
            [`SlopeCorrection`][phasegrad.inference.SlopeCorrection]; or a tuple of them, which are applied in order.
        seed: seed of the calibration reads; ``None`` draws from torch's generator.

    Returns:
        A compensated copy, which keeps its correction as it ages further.

    Raises:
        TypeError: ``compensation`` is none of these.
        ValueError: the chip was never programmed, the compensation cannot correct it, or two of a tuple correct the
            mean drift.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """
    check_compensation("compensate", compensation)
    seed = None if seed is None else checks.seed("compensate", seed)
    check_programmed(chip, "compensate")
    take_writes_of_net(chip)
    corrected = shared_copy(chip)
    apply_compensation(corrected, compensation, Seeds(seed))
    return corrected


def apply_compensation(chip: nn.Module, compensation: Any, seeds: Seeds) -> None:
    """Compensate a chip in place; see [`compensate`][phasegrad.inference.compensate]."""
    parts = resolved("compensate", compensation)
    for part in parts:
        part.check(chip, "compensate")
    take_writes_of_net(chip)
    for part in parts:
        part.apply(chip, seeds)


def check_compensation(caller: str, compensation: Any) -> None:
    """Raise ``ValueError`` or ``TypeError`` unless ``compensation`` is valid."""
    resolved(caller, compensation)


def resolved(caller: str, compensation: Any) -> tuple[Compensation, ...]:
    """The compensations to be applied in order.

    Raises:
        TypeError: one is neither a name nor a ``Compensation``.
        ValueError: a name is unknown, there is none, or two correct the mean drift.
    """
    several = isinstance(compensation, (tuple, list))
    parts = tuple(_one(caller, part) for part in (compensation if several else (compensation,)))
    if not parts:
        raise ValueError(f"{caller}: compensation = {compensation}; pass at least one, or None for no compensation")
    gains = [part for part in parts if part.sets_gain]
    if len(gains) > 1:
        raise ValueError(
            f"{caller}: compensation = {compensation}; {' and '.join(map(str, gains))} each correct the mean drift by "
            "the gain of every tile, and the last would replace the others: pass one of them"
        )
    return parts


def _one(caller: str, part: Any) -> Compensation:
    if isinstance(part, Compensation):
        return part
    if isinstance(part, type) or not isinstance(part, str):
        raise TypeError(
            f"{caller}: compensation = {checks.shown(part)}; it must be one of {', '.join(map(repr, _NAMES))}, or a "
            "Compensation such as pg.inference.SlopeCorrection(), or a tuple of them"
        )
    return GlobalDrift(per=checks.choice(caller, "compensation", part, _NAMES))
