"""Read traces: many reads of few devices, as a measurement records them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phasegrad import argument_checks as checks
from phasegrad.devices.base import Device, DeviceState
from phasegrad.devices.noise import CorrelatedNoise, Telegraph
from phasegrad.devices.pcm import PCM

_LANES = 256  # blocks of time times devices that are scanned in parallel
_LENGTH = 256  # reads per block
_CHUNK = 1 << 22  # numbers in memory at a time
_NEGLIGIBLE = 1e-20  # smaller remainders of a mode are set to 0, because denormal arithmetic is slow


@torch.no_grad()
def trace(device: Device, state: DeviceState, ages: Tensor, seed: Tensor, offset: int = 0) -> Tensor:
    """Read devices at many ages, at any distances.

    Correlated noise is advanced exactly from read to read and starts at the programming of the devices. Each call is a
    new realisation of it and uses only the conductance and the drift exponent of the state. Heat is that of the state
    in all reads. A million reads of one device take a fraction of a second.

    Args:
        device: kind of device.
        state: state of the devices after programming, ``[*shape]``.
        ages: ages of the reads ``[reads]``, float64, in increasing order [s since programming].
        seed: seed of the draws.
        offset: first stream.

    Returns:
        Conductances ``[reads, *shape]`` [S].

    Raises:
        ValueError: ``ages`` is not a one-dimensional float64 tensor of finite numbers that increase from 0 or above.
        TypeError: ``ages`` is not a tensor.

    Examples:
        >>> from dataclasses import replace
        >>> from phasegrad.devices import joshi_2020
        >>> device = replace(joshi_2020(), correlated_noise=CorrelatedNoise())
        >>> seed = torch.tensor([0])
        >>> state = device.program(torch.full((3,), 10e-6), seed, 0)
        >>> trace(device, state, torch.arange(1000, dtype=torch.float64) * 1e-6, seed).shape
        torch.Size([1000, 3])
    """
    checks.instance("trace", "device", device, Device)
    checks.instance("trace", "state", state, DeviceState, of="the DeviceState that device.program returned")
    checks.tensor("trace", "seed", seed, "[1] of dtype int64")
    offset = checks.integer("trace", "offset", offset, 0, 2**62)
    _check(ages)
    shape = state.conductance.shape
    if not len(ages) or not shape.numel():
        return state.conductance.new_empty(len(ages), *shape)
    flat = DeviceState(state.conductance.flatten(), state.nu.flatten(), None, state.heat)
    noise = None
    if isinstance(device, PCM) and device.planes:
        noise = _deviations(device, flat, ages, seed, offset + 2).unsqueeze(0)
    reads = flat.conductance.expand(len(ages), -1)
    all_reads = DeviceState(reads.contiguous(), flat.nu.expand_as(reads).contiguous(), noise, state.heat)
    return device.read(all_reads, ages.unsqueeze(1), seed, offset).view(-1, *shape)


def _check(ages: Tensor) -> None:
    if not isinstance(ages, Tensor):
        raise TypeError(f"trace: ages has type {type(ages).__name__}; give a float64 tensor [reads]")
    if ages.is_meta or ages.dim() != 1 or ages.dtype != torch.float64:
        raise ValueError(
            f"trace: ages has shape {list(ages.shape)} and dtype {ages.dtype}; give a float64 tensor [reads]"
        )
    if not bool(ages.isfinite().all()) or bool((ages < 0.0).any()) or bool((ages.diff() < 0.0).any()):
        raise ValueError("trace: ages must be finite, at least 0 s, and in increasing order; sort them")


def _deviations(device: PCM, state: DeviceState, ages: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Relative deviations ``[reads, devices]`` of newly programmed devices at given ages."""
    since = ages + device.t0 if device.t_min is None else ages.clamp(min=device.t_min)
    total = torch.zeros(len(ages), state.conductance.numel(), device=ages.device)
    if device.correlated_noise is not None and device.read_noise is not None:
        _add_modes(total, device.correlated_noise, device.t_read, since, seed, offset + (1 << 20))
        total.mul_(device.read_noise(state.conductance / device.g_max))
    if device.telegraph is not None:
        total.add_(_switching(device.telegraph, since, total, seed, offset))
    return total


def _add_modes(total: Tensor, noise: CorrelatedNoise, t_read: float, since: Tensor, seed: Tensor, offset: int) -> None:
    """Add the sum of all modes at times ``[reads]`` since programming to ``[reads, devices]``, chunk by chunk."""
    modes = noise.modes(t_read)
    rate, sd = (
        torch.tensor(v, device=since.device).view(-1, 1)
        for v in ([m.rate for m in modes], [math.sqrt(m.variance) for m in modes])
    )
    devices = total.shape[1]
    blocks = max(1, _LANES // devices)
    length = max(1, min(_LENGTH, len(since) // blocks, _CHUNK // (len(modes) * blocks * devices)))
    last, at = total.new_zeros(len(modes), devices), since.new_zeros(())
    for i, times in enumerate(since.split(blocks * length)):
        size = -(-len(times) // blocks)  # reads per block; the last chunk may have fewer
        padded = torch.cat((times, times[-1:].expand(blocks * size - len(times)))).view(blocks, size)
        x = _scan(last, at, padded, rate, sd, seed, offset + i)
        first = i * blocks * length
        total[first : first + len(times)] = x.sum(1).transpose(0, 1).flatten(0, 1)[: len(times)]
        last, at = x[-1, :, -1], times[-1]


def _scan(
    last: Tensor, at: Tensor, times: Tensor, rate: Tensor, sd: Tensor, seed: Tensor, offset: int
) -> Tensor:  # fmt: skip
    """Modes ``[length, modes, blocks, devices]`` at times ``[blocks, length]``, from ``[modes, devices]`` at one time.

    All blocks start from 0 in parallel; then the final value of the previous block, decayed, is added to each.
    """
    starts = torch.cat((at.view(1), times[:-1, -1]))
    passed = times.diff(dim=1, prepend=starts.unsqueeze(1)).t().contiguous()
    left, x = _steps(passed, rate, sd, last.shape[1], seed, offset)
    for j in range(1, len(x)):
        x[j].addcmul_(left[j], x[j - 1])
        torch.threshold_(left[j].mul_(left[j - 1]), _NEGLIGIBLE, 0.0)
    begins = torch.empty_like(x[0])
    for b in range(times.shape[0]):
        begins[:, b] = last
        last = x[-1, :, b] + left[-1, :, b] * last
    return x.addcmul_(left, begins)


def _steps(
    passed: Tensor, rate: Tensor, sd: Tensor, devices: int, seed: Tensor, offset: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Remainder of each mode after times ``[length, blocks]``, and the noise added to it in that time."""
    lost = (passed.float().unsqueeze(1) * -rate).expm1_()
    drawn = torch.ops.phasegrad.normal(seed, offset, [*lost.shape, devices])
    left = torch.threshold_(lost + 1.0, _NEGLIGIBLE, 0.0)
    gained = lost.mul_(left + 1.0).neg_().sqrt_().mul_(sd)  # sqrt(1 - left^2), accurate for slow modes
    return left.unsqueeze(-1), drawn.mul_(gained.unsqueeze(-1))


def _switching(telegraph: Telegraph, since: Tensor, like: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Deviations ``[reads, devices]`` of telegraph noise, each set at the last return to equilibrium."""
    held = like.new_zeros(2, like.shape[1])
    telegraph.start(held, seed, offset)
    rate, first = held
    passed = since.diff(prepend=since[:1]).unsqueeze(1)
    event, drawn = (torch.ops.phasegrad.uniform(seed, offset + 3 + i, like.shape) for i in range(2))
    fresh = telegraph.equilibrium(drawn)
    fresh[0] = first
    number = torch.arange(len(since), device=since.device).unsqueeze(1)
    latest = torch.where(telegraph.relaxes(rate, passed, event), number, 0).cummax(0).values
    return fresh.gather(0, latest).mul_(telegraph.amplitude)
