"""How often the 95 % intervals of ``fit`` contain the coefficients of the device that was simulated.

Each repeat simulates new devices of a known law, as a measurement would see them, and fits them. The forms of the laws
are given, so that the intervals are tested and not the choice of a form.

    python examples/reproductions/fit_coverage.py --out docs/results/fit-coverage
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import phasegrad as pg
from phasegrad.devices import PCM, Steps

JOSHI = pg.devices.joshi_2020()
NANDAKUMAR = pg.devices.nandakumar_2018()
READ_SD = (0.13e-6, 0.03)
"""Read noise of the device of Nandakumar et al. [S]."""
DRIFT_FORMS = {
    "read_noise": "power", "nu_mean": "clipped logarithm", "nu_sd": "clipped logarithm", "programming_sd": "degree 2",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A simulated measurement, how it is fitted, and the truth."""

    name: str
    measure: Callable[[int], dict[str, Tensor]]
    truth: Mapping[str, float]
    law: Any
    options: Mapping[str, Any] = field(default_factory=dict)


def reads(device: PCM, seed: int, levels: int = 10, each: int = 80, count: int = 10) -> dict[str, Tensor]:
    """Devices at logarithmically spaced targets, read from programming to a day later."""
    target = torch.logspace(math.log10(1.8e-6), math.log10(25e-6), levels).repeat_interleave(each)
    key = torch.tensor([seed])
    ages = torch.cat((torch.zeros(1), torch.logspace(1.0, 5.0, count - 1))).double()
    seen = pg.devices.trace(device, device.program(target, key, 0), ages, key, 100)
    devices = torch.arange(len(target)).repeat_interleave(count)
    times = (ages + device.t0).repeat(len(target))
    return {
        "device": devices,
        "time": times,
        "target": target.repeat_interleave(count),
        "conductance": seen.t().flatten(),
    }


def targets(seed: int) -> dict[str, Tensor]:
    """Devices programmed to targets from 0, where half of them are clipped."""
    target = torch.linspace(0.0, 25e-6, 16).repeat_interleave(25)
    state = JOSHI.program(target, torch.tensor([seed]), 0)
    return {"device": torch.arange(len(target)), "target": target, "conductance": state.conductance}


def trains(
    law: Steps, g_max: float, seed: int, devices: int = 40, signs: tuple[int, ...] = (1,) * 12,
    read_sd: tuple[float, ...] = (),
) -> dict[str, Tensor]:  # fmt: skip
    """Devices pulsed from RESET, or from the lowest conductance, and read after each pulse."""
    two_sided, key = -1 in signs, torch.tensor([seed])
    planes = (0, 0) if two_sided else (0, 1)
    parameters = law.draw((planes[1] + 1, 1, devices), g_max, two_sided, key, 0)
    conductance = law.after_reset(parameters[2].clone(), key, 10)
    history = torch.ones_like(conductance) if law.has_history else None
    coefficients = torch.tensor(law.coefficients(g_max), dtype=torch.float32)
    seen = [conductance[0, 0].clone()]
    for i, sign in enumerate(signs):
        counts = torch.full((1, devices), sign, dtype=torch.int32)
        torch.ops.phasegrad.pulse_counts(
            conductance, history, None, None, None, [], parameters, counts, 0.0, planes, law.family, coefficients, key,
            100 + i,
        )  # fmt: skip
        seen.append(conductance[0, 0].clone())
    true = torch.stack(seen, 1).double()
    sd = sum((c * true**k for k, c in enumerate(read_sd)), torch.zeros_like(true))
    noise = sd * torch.ops.phasegrad.normal(key, 20, list(true.shape))
    count = len(signs) + 1
    return {
        "device": torch.arange(devices).repeat_interleave(count),
        "pulse": torch.arange(count).repeat(devices),
        "direction": torch.tensor([1, *signs]).repeat(devices),
        "conductance": (true + noise).clamp(min=0.0).flatten(),
    }


SET_TRUTH = {
    "m_G": -0.084, "m_0": 0.880e-6, "m_P": 1.40e-6, "history_length": 2.6, "s_G": 0.091, "s_0": 0.260e-6,
    "s_P": 2.15e-6, "reset": 0.1e-6,
}  # fmt: skip
DRIFT_TRUTH = {
    "read_noise.factor": 0.0088, "read_noise.exponent": -0.65, "nu_mean.log_slope": -0.0155, "nu_mean.constant": 0.0244,
    "nu_mean.low": 0.049, "nu_sd.log_slope": -0.0125, "nu_sd.constant": -0.0059, "nu_sd.low": 0.008,
    "programming_sd.0": 0.26348e-6, "programming_sd.1": 1.9650e-6, "programming_sd.2": -1.1731e-6,
}  # fmt: skip


UP, LONG, BOTH = (1,) * 12, (1,) * 16, (1,) * 8 + (-1,) * 6
"""Directions of the pulses of a train."""
VARIED = {"c2c": 0.3, "d2d": 0.2}
CURVE = (1.0, 0.9, 0.6, 0.5, 0.4)
WINDOW = {"g_max": 20e-6}


def step_case(
    name: str, law: Steps, truth: Mapping[str, float], signs: tuple[int, ...] = UP, options: Mapping[str, Any] = WINDOW
) -> Case:
    """A case of 40 devices with pulses from 0 to 20 uS, whose step varies from device to device."""
    return Case(name, lambda seed: trains(law, 20e-6, seed, signs=signs), {**truth, **VARIED}, name, options)


def step_cases() -> list[Case]:
    """Cases of the step families."""
    d, size = pg.devices, 2e-6
    slopes = {"slope_up": 0.5, "slope_down": 0.3}
    return [
        step_case("constant", d.ConstantSteps(size=1e-6, **VARIED), {"size": 1e-6}, options={}),
        step_case(
            "soft bounds", d.SoftBoundsSteps(size=size, from_zero=True, **VARIED), {"size": size, "g_max": 20e-6},
            options={},
        ),
        step_case("linear", d.LinearSteps(size=1e-6, **slopes, **VARIED), {"size": 1e-6, **slopes}, BOTH),
        step_case(
            "power", d.PowerSteps(size=size, gamma_up=2.0, gamma_down=2.0, **VARIED), {"size": size, "gamma_up": 2.0}
        ),
        step_case(
            "exponential", d.ExponentialSteps(size=size, a_up=0.2, gamma_up=1.5, scale=1.0, shift=0.0, **VARIED),
            {"size": size, "a_up": 0.2, "gamma_up": 1.5}, LONG,
        ),
        step_case(
            "piecewise", d.PiecewiseSteps(size=size, up=CURVE, down=CURVE, **VARIED),
            {f"up.{k}": size * v for k, v in enumerate(CURVE[:4])}, LONG,
        ),
    ]  # fmt: skip


def set_case(name: str, devices: int, pulses: int, read_sd: tuple[float, ...]) -> Case:
    """SET pulses on PCM, read with or without noise."""
    truth = SET_TRUTH if read_sd else {**SET_TRUTH, "reset_deviation": 0.1}
    return Case(
        name, lambda seed: trains(NANDAKUMAR, 20e-6, seed, devices, (1,) * pulses, read_sd), truth, "set pulses",
        {"read_sd": read_sd},
    )  # fmt: skip


AMPLITUDE = pg.devices.AmplitudeResponse(onset=80e-6, complete=450e-6)
AMPLITUDE_TRUTH = {
    **{name: getattr(AMPLITUDE, name) for name in (
        "set_conductance", "reset_conductance", "onset", "complete", "shape", "offset_sd", "set_sd", "cycle_sd",
    )},
    "read_sd.0": 0.05e-6, "read_sd.1": 0.02,
}  # fmt: skip


def amplitudes(seed: int, devices: int = 60, count: int = 20) -> dict[str, Tensor]:
    """Devices that get one pulse of each current from 40 to 520 uA, and are read after each."""
    key, current = torch.tensor([seed]), torch.linspace(40e-6, 520e-6, count).expand(devices, -1)
    own = (torch.ops.phasegrad.normal(key, stream, [devices, 1]) for stream in (0, 1))
    pulse, noise = (torch.ops.phasegrad.normal(key, stream, [devices, count]) for stream in (2, 3))
    true = AMPLITUDE.conductance(current.clone(), *own, pulse)
    sd = AMPLITUDE_TRUTH["read_sd.0"] + AMPLITUDE_TRUTH["read_sd.1"] * true
    return {
        "device": torch.arange(devices).repeat_interleave(count),
        "amplitude": current.flatten(),
        "conductance": (true + sd * noise).clamp(min=0.0).flatten(),
    }


def cases() -> list[Case]:
    """All cases."""
    correlated = replace(JOSHI, correlated_noise=pg.devices.CorrelatedNoise())
    full = {"g_max": 25e-6}
    programming = {name: value for name, value in DRIFT_TRUTH.items() if name.startswith("programming")}
    return [
        Case("programming", targets, programming, {"programming_sd": "degree 2"}, full),
        *step_cases(),
        set_case("set pulses", 60, 20, ()),
        Case("reads", lambda seed: reads(JOSHI, seed), DRIFT_TRUTH, DRIFT_FORMS, full),
        Case("correlated reads", lambda seed: reads(correlated, seed), DRIFT_TRUTH, DRIFT_FORMS, full),
        set_case("set pulses, noisy reads", 40, 14, READ_SD),
        Case("amplitude", amplitudes, AMPLITUDE_TRUTH, "free shape"),
    ]


def coverage(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Coverage, bias and spread of each coefficient."""
    inside: dict[str, list[bool]] = {name: [] for name in case.truth}
    values: dict[str, list[float]] = {name: [] for name in case.truth}
    refused = 0
    for seed in range(repeats):
        try:
            found = pg.devices.fit(case.measure(seed), case.law, resamples=1000, **case.options).coefficients
        except ValueError:
            refused += 1
            continue
        for name, truth in case.truth.items():
            if name in found:
                inside[name].append(truth in found[name])
                values[name].append(found[name].value)
    return [
        {
            "method": f"{case.name}: {name}", "mean": statistics.mean(inside[name]), "fits": len(inside[name]),
            "refused": refused, "seeds": [0, repeats - 1], "truth": truth, "estimate": statistics.mean(values[name]),
            "sd": statistics.stdev(values[name]),
            "bias_in_sd": (statistics.mean(values[name]) - truth) / statistics.stdev(values[name]),
        }
        for name, truth in case.truth.items()
        if len(inside[name]) > 1
    ]  # fmt: skip


def main() -> None:
    """Run the cases, and keep the result of each as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/fit-coverage"), help="folder of the result")
    parser.add_argument("--repeats", type=int, default=400, help="simulated measurements per case")
    parser.add_argument("--only", nargs="*", help="names of cases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "result.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for case in cases():
        if arguments.only and case.name not in arguments.only:
            continue
        started = time.perf_counter()
        new = coverage(case, arguments.repeats)
        rows = [row for row in rows if not row["method"].startswith(f"{case.name}: ")] + new
        result = {
            "experiment": "coverage of the 95 % intervals of fit", "published": "none: 0.95 is the nominal coverage",
            "rows": rows,
            "command": "python examples/reproductions/fit_coverage.py --out docs/results/fit-coverage",
        }  # fmt: skip
        file.write_text(json.dumps(result, indent=1) + "\n")
        for row in new:
            print(f"{row['method']:<40}{100 * row['mean']:6.1f} %  bias {row['bias_in_sd']:+.2f} sd  n {row['fits']}")
        print(f"{case.name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
