"""Pulses on an array of devices: updates of all rows or of some, leaks, RESET, and refresh of saturated cells.

Every function accepts the array first and changes its devices in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.direct import call
from phasegrad.stores import known_numbers
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.known_numbers import number

UNTRACKED = TrackedWeight(None, None, ())


def apply_leak(array: DeviceArray, now: Tensor, tracked: TrackedWeight = UNTRACKED) -> bool:
    """Apply the leak up to now to the stored conductances and to the tracked weight.

    Returns:
        Whether the devices leak and time has passed.
    """
    device = array.cell.device
    elapsed = number(now) - number(array.programmed_at) if device.drifts else 0.0
    leak = device.leak(elapsed) if elapsed > 0.0 else None
    if leak is None:
        return False
    call("leak", array.conductance, *leak, tracked)
    array.hold_stuck()
    known_numbers.copy(array.programmed_at, now)
    return True


def pulse(
    array: DeviceArray, x: Tensor, d: Tensor, lr: float, now: Tensor, seed: Tensor, offset: int = streams.UPDATE,
    tracked: TrackedWeight = UNTRACKED,
) -> None:  # fmt: skip
    """Send pulse trains for ``weight -= lr d^T x``, sample after sample.

    Raises:
        ValueError: ``x`` or ``d`` is not finite; no device was pulsed.
    """
    array.repeated_update(
        *_pulsed(array, tracked), x.float(), d.float(), _train_rule(array, lr), _stamp(array, now),
        _step_law(array), seed, offset,
    )  # fmt: skip


def send_counts(
    array: DeviceArray, counts: Tensor, now: Tensor, seed: Tensor, offset: int = streams.UPDATE,
    tracked: TrackedWeight = UNTRACKED,
) -> None:  # fmt: skip
    """Send a given number of pulses per cell, int32 ``[out, in]``; a positive count increases the weight."""
    call("pulse_counts", *_pulsed(array, tracked), counts, _stamp(array, now), _step_law(array), seed, offset)


def send_counts_to_rows(array: DeviceArray, counts: Tensor, rows: Tensor, now: Tensor, seed: Tensor) -> None:
    """Send a given number of pulses per cell to the rows with these indices, int32 ``[out, rows]``; positive: up."""
    state, parameters = _select_rows(array, rows)
    law, stamp = _step_law(array), _stamp(array, now)
    call("pulse_counts", state, UNTRACKED, parameters, counts, stamp, law, seed, streams.UPDATE)
    _store_rows(array, rows, state)


def pulse_rows(array: DeviceArray, d: Tensor, lr: float, rows: Tensor, now: Tensor, seed: Tensor) -> None:
    """Drive some rows fully, one after another, and the columns with ``d`` ``[rows, out]``: ``w -= lr d^T``."""
    state, parameters = _select_rows(array, rows)
    call(
        "pulsed_update", state, UNTRACKED, parameters, torch.eye(len(rows), device=d.device), d,
        _train_rule(array, lr), _stamp(array, now), _step_law(array), seed, streams.UPDATE,
    )  # fmt: skip
    _store_rows(array, rows, state)


def reset(array: DeviceArray, where: Tensor, now: Tensor, seed: Tensor, offset: int = streams.RESET) -> None:
    """RESET devices ``[devices, out, in]``; draws from one stream."""
    steps = array.cell.device.steps
    assert steps is not None
    assert array.step_parameters is not None
    conductance = steps.after_reset(array.step_parameters[2], seed, offset)
    array.conductance.copy_(torch.where(where, conductance, array.conductance))
    if array.pulsed_at is not None:
        array.pulsed_at.masked_fill_(where, number(now))
    if array.history is not None:
        array.history.masked_fill_(where, 1.0)
    array.hold_stuck()


def reset_and_rewrite(array: DeviceArray, where: Tensor, now: Tensor, seed: Tensor) -> None:
    """RESET cells ``[out, in]`` or devices ``[devices, out, in]``, and program the present weights of their cells."""
    assert array.step_parameters is not None
    cells = (where if where.dim() == 2 else where.any(0)).flatten().nonzero().squeeze(1)  # a small part of the array

    def select(buffer: Tensor) -> Tensor:
        return buffer.flatten(-2)[..., cells]

    before, chosen = select(array.present(now)), None if where.dim() == 2 else select(where)
    targets = array.cell.rewrite_targets(before)
    if array.stuck is not None:
        targets = array.correct(targets, array.cell.weight(before), select(array.stuck))
    state, history = array.write(targets, select(array.step_parameters), seed)
    for buffer, value in (
        (array.conductance, state.conductance), (array.nu, state.nu), (array.history, history),
        (array.pulsed_at, now.expand_as(before)),
    ):  # fmt: skip
        if buffer is not None:
            value = value if chosen is None else torch.where(chosen, value, select(buffer))
            buffer.flatten(-2)[..., cells] = value
    array.hold_stuck()


def count_and_refresh(array: DeviceArray, now: Tensor, seed: Tensor) -> bool:
    """Count an update and, at the intervals that the cell sets, rewrite saturated cells.

    Returns:
        Whether cells were rewritten.
    """
    assert array.updates is not None
    every = array.cell.refresh_every
    known_numbers.add(array.updates, 1)
    if not every or int(number(array.updates)) % every:
        return False
    where = array.cell.saturated(array.present(now))
    if not bool(where.any()):
        return False
    reset_and_rewrite(array, where, now, seed)
    return True


def _select_rows(array: DeviceArray, rows: Tensor) -> tuple[PulsedState, Tensor]:
    """Copies of the state and step parameters of some rows, so that the cost is that of these rows alone."""
    assert array.step_parameters is not None
    history, pulsed_at = (
        None if buffer is None else buffer.index_select(-1, rows) for buffer in (array.history, array.pulsed_at)
    )
    state = PulsedState(array.conductance.index_select(-1, rows), history, pulsed_at)
    return state, array.step_parameters.index_select(-1, rows)


def _store_rows(array: DeviceArray, rows: Tensor, state: PulsedState) -> None:
    for buffer, part in zip((array.conductance, array.history, array.pulsed_at), state, strict=True):
        if buffer is not None and part is not None:
            buffer.index_copy_(-1, rows, part)


def _pulsed(array: DeviceArray, tracked: TrackedWeight) -> tuple[PulsedState, TrackedWeight, Tensor]:
    """State, tracked weight and step parameters, in the order of the ops' arguments."""
    assert array.step_parameters is not None
    return PulsedState(array.conductance, array.history, array.pulsed_at), tracked, array.step_parameters


def _stamp(array: DeviceArray, now: Tensor) -> float:
    """The time to note in devices whose drift a pulse restarts."""
    return 0.0 if array.pulsed_at is None else number(now)


def _train_rule(array: DeviceArray, lr: float) -> TrainRule:
    """The rule by which the ops convert gradients to pulse trains."""
    return TrainRule(lr, *array.train_rule)


def _step_law(array: DeviceArray) -> StepLaw:
    """The pulsed planes and the step law of their devices, as arguments of the ops."""
    coefficients, place = array.step_coefficients, array.conductance.device
    if coefficients.device != place:
        coefficients = array.step_coefficients = coefficients.to(place)
    return StepLaw(array.pulsed_planes, array.step_family, coefficients)
