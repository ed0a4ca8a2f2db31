"""Programming, ageing and reading ten million devices."""

from __future__ import annotations

import torch

from benchmarks.harness import Figure, median_time
from phasegrad.devices import DeviceState, joshi_2020

COUNT = 10_000_000


def figures() -> list[Figure]:
    """Measure each operation alone, and all three together."""
    device, seed = joshi_2020(), torch.tensor([0])
    target = torch.rand(COUNT) * device.g_max
    day = torch.tensor(86_400.0, dtype=torch.float64)
    state = device.program(target, seed, 0)

    def whole() -> DeviceState:
        fresh = device.program(target, seed, 0)
        device.drift(fresh, day)
        device.read(fresh, day, seed, 2)
        return fresh

    steps = {
        "program": lambda: device.program(target, seed, 0),
        "age": lambda: device.drift(state, day),
        "read": lambda: device.read(state, day, seed, 2),
    }
    parts = [_figure(f"{name} 10M devices", median_time(f, 5), "-") for name, f in steps.items()]
    return [*parts, _figure("program, age, read 10M devices", median_time(whole, 5), "at most 1")]


def _figure(name: str, seconds: float, target: str) -> Figure:
    return Figure(name, seconds, "s", None, None, None, target)
