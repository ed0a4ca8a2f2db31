"""What is drawn of pulse trains: conductance against pulse number, and steps against conductance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.fitting.measurements import Measurements
from phasegrad.devices.fitting.result import Panel
from phasegrad.devices.fitting.trains import PulseData
from phasegrad.devices.pcm import PCM

_SIMULATED = 1000
_BINS = 12


def step_panels(found: Measurements, data: PulseData, device: PCM) -> tuple[Panel, ...]:
    """Measured trains next to trains of the fitted device, and mean steps of both."""
    signs = torch.where(data.up, 1, -1)[0]
    trains = simulated_trains(device, data.trains.reads[:, 0] * 1e-6, signs[1:], data.two_sided) * 1e6
    middle, low, high = (torch.quantile(trains, q, dim=0).numpy() for q in (0.5, 0.05, 0.95))
    number = data.trains.number[0].numpy()
    seen = found["conductance"] * 1e6
    first = Panel("pulse trains", "pulse", "conductance (µS)", found["pulse"], seen, number, middle, (low, high))
    sides = (True, False)[: 2 if data.two_sided else 1]
    return (first, *(_steps(data, trains, signs, up) for up in sides))


def simulated_trains(device: PCM, first: Tensor, signs: Tensor, two_sided: bool) -> Tensor:
    """Conductances ``[devices, pulses + 1]`` [S] of new devices that start at measured conductances."""
    steps = device.steps
    assert steps is not None
    seed = torch.tensor([0])
    planes = (0, 0) if two_sided else (0, 1)
    shape = (planes[1] + 1, 1, _SIMULATED)
    parameters = steps.draw(shape, device.g_max, two_sided, seed, 0)
    start = first[torch.arange(_SIMULATED) % len(first)].float()
    conductance = start.expand(shape).clone()
    history = torch.ones(shape) if steps.has_history else None
    law = torch.tensor(steps.coefficients(device.g_max), dtype=torch.float32)
    seen = [conductance[0, 0].clone()]
    for i, sign in enumerate(signs.tolist()):
        counts = torch.full(shape[1:], sign, dtype=torch.int32)
        torch.ops.phasegrad.pulse_counts(
            conductance, history, None, None, None, [], parameters, counts, 0.0, planes, steps.family, law, seed, 10 + i
        )  # fmt: skip
        seen.append(conductance[0, 0].clone())
    return torch.stack(seen, 1)


def _steps(data: PulseData, trains: Tensor, signs: Tensor, up: bool) -> Panel:
    """Steps of all trains in one direction, as means of bins of conductance."""
    chosen, sign = data.sample.up == up, 1.0 if up else -1.0
    g, step = data.sample.g[chosen].numpy(), data.sample.step[chosen].numpy()
    here = signs[1:] == (1 if up else -1)
    before, after = trains[:, :-1][:, here].flatten().numpy(), trains[:, 1:][:, here].flatten().numpy()
    edges = np.unique(np.quantile(g, np.linspace(0.0, 1.0, _BINS + 1)))
    at = np.clip(np.digitize(before, edges[1:-1]), 0, len(edges) - 2)
    groups = [(before[at == i], sign * (after - before)[at == i]) for i in range(len(edges) - 1) if np.any(at == i)]
    x = np.array([b.mean() for b, _ in groups])
    low, middle, high = (np.array([q(s) for _, s in groups]) for q in (_quantile(0.05), np.mean, _quantile(0.95)))
    return Panel(f"steps {'up' if up else 'down'}", "conductance (µS)", "step (µS)", g, step, x, middle, (low, high))


def _quantile(q: float) -> Callable[[np.ndarray], np.floating]:
    return lambda values: np.quantile(values, q)
