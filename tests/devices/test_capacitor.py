from __future__ import annotations

import math

import pytest
import torch

from phasegrad.devices import Capacitor, DeviceState, LinearSteps
from phasegrad.testing import SEED, DeviceContract, at_age


class TestLeakingToZero(DeviceContract):
    tau = 5e6

    def configuration(self) -> Capacitor:
        return Capacitor(g_max=20e-6, tau=self.tau, rest=0.0)

    def programmed(self, g: float) -> tuple[float, float]:
        return 20e-6 * g, 0.0

    def retained(self, g: float, seconds: float) -> tuple[float, float]:
        return math.exp(-seconds / self.tau), 0.0

    def read_sd(self, g: float, seconds: float) -> float:
        return 0.0


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_charge_leaks_to_rest_however_often_it_is_looked_at(parts: int) -> None:
    device = Capacitor(g_max=20e-6, tau=5e-3)
    start = torch.tensor([0.0, 5e-6, 10e-6, 20e-6])
    g = start
    for _ in range(parts):
        g = device.drift(DeviceState(g, torch.zeros_like(g)), at_age(7e-3 / parts))
    law = 10e-6 + (start.double() - 10e-6) * math.exp(-7.0 / 5.0)
    torch.testing.assert_close(g.double(), law, rtol=1e-6, atol=1e-12)


def test_a_capacitor_without_leak_keeps_its_charge() -> None:
    device = Capacitor(g_max=20e-6)
    state = device.program(torch.tensor([3e-6]), SEED, 0)
    assert not device.drifts
    assert not device.drifts_within(1e9)
    assert torch.equal(device.drift(state, at_age(1e9)), state.conductance)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": 0.0}, "tau = 0.0 s"),
        ({"tau": math.nan}, "tau = nan s"),
        ({"rest": 1.5}, r"rest = 1.5; it must be a number in \[0, 1\]"),
        ({"g_max": -1.0}, "g_max = -1.0"),
    ],
)
def test_refuses(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Capacitor(**{"g_max": 20e-6, "steps": LinearSteps(size=1e-8, slope_up=0.0, slope_down=0.0), **fields})
