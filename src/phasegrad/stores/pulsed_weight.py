"""Pulses on the devices of a weight.

These are updates of the fast devices (or of the only array), and transfers to the slow ones. Functions passed to
``phasegrad.nn.InMemoryWeight.apply_pulses`` accept the devices first and the weight ``[out, in]`` that follows them
last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.ops.arguments import TrackedWeight
from phasegrad.ops.profiling import profiled, sized
from phasegrad.stores import known_numbers, pulsed_array, weight_reads
from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.closed_loop_transfer import closed_loop_transfer
from phasegrad.stores.fixed_cells import restored_on_error
from phasegrad.stores.known_numbers import number


def _nothing() -> None:
    pass


@profiled(sized("update pulses"))
def update(
    devices: AnalogWeight, samples: Iterable[tuple[Tensor, Tensor]], lr: float, seed: Tensor, weight: Tensor
) -> None:
    """Send pulse trains for ``weight -= lr d^T x``, sample after sample.

    Args:
        devices: the devices; if there are fast ones, they receive the pulses.
        samples: inputs ``[samples, in]`` and gradients of the outputs ``[samples, out]``, or of those of one group,
            block after block; see ``InMemoryWeight.staged``.
        lr: learning rate.
        seed: seed of trains and steps.
        weight: the copy ``[out, in]`` of the devices' weight.

    Raises:
        ValueError: an input or gradient is not finite; its block pulsed no device.
    """
    target, offset, count = devices.fast or devices, streams.UPDATE, 0
    pulsed_array.apply_leak(target, devices.clock)
    tracked = devices.tracked(weight)
    for x, d in samples:
        directed = d if devices.polarity is None else d * devices.polarity
        pulsed_array.pulse(target, x, directed, lr, devices.clock, seed, offset, tracked)
        offset += streams.of_update(len(x))
        count += len(x)
    _finish_update(devices, seed, weight, tracked, count)


@profiled(sized("update pulses"))
def send_counts(
    devices: AnalogWeight, counts: Tensor, seed: Tensor, weight: Tensor, sent: Callable[[], None] = _nothing
) -> None:
    """Send a given number of pulses per cell, as one sample.

    Args:
        devices: the devices; if there are fast ones, they receive the pulses.
        counts: int32 ``[out, in]``; a positive count increases the weight.
        seed: seed of the steps.
        weight: the copy ``[out, in]`` of the devices' weight.
        sent: called once the pulses were sent, before what is due after them.
    """
    target = devices.fast or devices
    pulsed_array.apply_leak(target, devices.clock)
    tracked = devices.tracked(weight)
    directed = counts if devices.polarity is None else counts * devices.polarity.to(torch.int32)
    pulsed_array.send_counts(target, directed, devices.clock, seed, streams.UPDATE, tracked)
    sent()
    _finish_update(devices, seed, weight, tracked, 1)


@profiled(sized("read fast array"))
def read_fast(devices: AnalogWeight, rows: Tensor, seed: Tensor) -> Tensor:
    """Read the rows with these indices on the fast devices once ``[out, rows]``, before gain and polarity.

    Args:
        devices: the devices.
        rows: indices of the rows (inputs).
        seed: seed of the read.
    """
    assert devices.fast is not None
    return devices.fast.read_rows(rows, devices.clock, seed, streams.TRANSFER)


@profiled(sized("pulse slow array"))
@torch.no_grad()
def send_counts_to_slow(
    devices: AnalogWeight, counts: Tensor, rows: Tensor, seed: Tensor, weight: Tensor,
    sent: Callable[[], None] = _nothing,
) -> None:  # fmt: skip
    """Send a given number of pulses per slow cell to some rows, int32 ``[out, rows]``; then call ``sent``."""
    pulsed_array.apply_leak(devices, devices.clock)
    pulsed_array.send_counts_to_rows(devices, counts, rows, devices.clock, seed)
    sent()
    _finish_slow(devices, rows, seed, weight)


@profiled(sized("pulse slow array"))
@torch.no_grad()
def pulse_slow(devices: AnalogWeight, d: Tensor, lr: float, rows: Tensor, seed: Tensor, weight: Tensor) -> None:
    """Send pulse trains to the slow cells of some rows, for ``slow -= lr d^T`` with ``d`` ``[rows, out]``."""
    pulsed_array.apply_leak(devices, devices.clock)
    pulsed_array.pulse_rows(devices, d, lr, rows, devices.clock, seed)
    _finish_slow(devices, rows, seed, weight)


def _finish_slow(devices: AnalogWeight, rows: Tensor, seed: Tensor, weight: Tensor) -> None:
    """Refresh saturated slow cells, and update the weight in the rows that were pulsed."""
    assert devices.fast is not None
    devices.discard_baseline()
    tracked, rewritten = devices.tracked(weight), pulsed_array.count_and_refresh(devices, devices.clock, seed)
    if rewritten or tracked.weight is None:
        weight.copy_(devices.logical_weight())
        return
    fast, slow = (a.conductance.index_select(-1, rows) for a in (devices.fast, devices))
    weight.index_copy_(1, rows, weight_reads.sum_of_planes(fast, slow, tracked.factors))


def _finish_update(devices: AnalogWeight, seed: Tensor, weight: Tensor, tracked: TrackedWeight, count: int) -> None:
    """Advance the clock, refresh saturated cells, make a due transfer, and update the weight."""
    devices.discard_baseline()
    target, up_to_date = devices.fast or devices, tracked.weight is not None
    if devices.sample_time:
        known_numbers.add(devices.clock, count * devices.sample_time)
        if devices.leaks_in_training:
            tracked = devices.tracked_now(weight)
            up_to_date = pulsed_array.apply_leak(target, devices.clock, tracked) and tracked.weight is not None
    rewritten = pulsed_array.count_and_refresh(target, devices.clock, seed)
    if _transfer_is_due(devices, count):
        with restored_on_error(devices):  # a transfer erases the slow devices first
            transfer(devices, seed)
        rewritten = True
    if devices.samples is not None:
        known_numbers.add(devices.samples, count)
    if rewritten or not up_to_date:
        weight.copy_(devices.logical_weight())


def _transfer_is_due(devices: AnalogWeight, count: int) -> bool:
    """Whether the memory itself makes a transfer after an update of ``count`` samples, which are not counted yet."""
    if devices.samples is None or devices.hardware.fast is None:
        return False
    rule, before = devices.hardware.fast.transfer, int(number(devices.samples))
    return rule is not None and before // rule.every != (before + count) // rule.every


@profiled(sized("transfer"))
@torch.no_grad()
def transfer(devices: AnalogWeight, seed: Tensor) -> None:
    """Transfer the content of the fast devices to the slow ones now; see [`Transfer`][phasegrad.crossbar.Transfer]."""
    fast = devices.hardware.fast
    assert fast is not None
    assert fast.transfer is not None
    assert devices.fast is not None
    assert devices.polarity is not None
    devices.discard_baseline()
    closed_loop_transfer(devices, devices.fast, devices.polarity, fast.transfer, devices.clock, seed)
