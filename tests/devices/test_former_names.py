"""Names of release 0.1.0 still work, and warn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

import phasegrad as pg
from phasegrad.devices import (
    ConstantSteps,
    CorrelatedNoise,
    Steps,
    joshi_2020,
    nandakumar_2018,
    nandakumar_2018_device,
)

CASES: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "noise": (lambda: ConstantSteps(size=1e-8, noise=0.3), ConstantSteps(size=1e-8, c2c=0.3), "c2c="),  # type: ignore[call-arg]
    "spread": (lambda: ConstantSteps(size=1e-8, spread=0.3), ConstantSteps(size=1e-8, d2d=0.3), "d2d="),  # type: ignore[call-arg]
    "bound_spread": (
        lambda: ConstantSteps(size=1e-8, bound_spread=0.1),  # type: ignore[call-arg]
        ConstantSteps(size=1e-8, bounds_d2d=0.1),
        "bounds_d2d=",
    ),
    "the field noise": (lambda: ConstantSteps(size=1e-8, c2c=0.3).noise, 0.3, "c2c"),
    "nandakumar_2018": (
        lambda: nandakumar_2018(spread=0.2),  # type: ignore[call-arg]
        nandakumar_2018(device_variation=0.2),
        "device_variation=",
    ),
    "nandakumar_2018_device": (
        lambda: nandakumar_2018_device(spread=0.2),  # type: ignore[call-arg]
        nandakumar_2018_device(device_variation=0.2),
        "device_variation=",
    ),
    "PCM.memory": (
        lambda: dataclasses.replace(joshi_2020(), memory=CorrelatedNoise()),
        dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise()),
        "correlated_noise=",
    ),
    "SetPulses.memory": (lambda: nandakumar_2018().memory, 2.6, "history_length"),
    "Steps.remembers": (lambda: nandakumar_2018().remembers, True, "has_history"),
    "Device.remembers": (lambda: joshi_2020().remembers, (), "stateful_fields"),
    "pcm_capacitor_training": (
        lambda: pg.presets.pcm_capacitor_training(spread=0.2),  # type: ignore[call-arg]
        pg.presets.pcm_capacitor_training(device_variation=0.2),
        "device_variation=",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_former_name_warns_and_works(case: str) -> None:
    use, wanted, new = CASES[case]
    with pytest.warns(DeprecationWarning, match=f"renamed to {new} in phasegrad 0.2.0"):
        found = use()
    assert found == wanted


def test_former_name_in_a_custom_law_warns_and_works() -> None:
    with pytest.warns(DeprecationWarning, match="Forgetful.remembers was renamed to has_history"):

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Forgetful(Steps):
            @property
            def remembers(self) -> bool:
                return True

            def coefficients(self, g_max: float) -> tuple[float, ...]:
                return (self.c2c, 0.0, 0.0, g_max / 2.0)

    assert Forgetful(size=1e-8).has_history
