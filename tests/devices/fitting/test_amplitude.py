"""PHYSICS: the curve of melt and quench, its spreads and the noise of reads are found again from single pulses."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.devices import AmplitudeResponse
from phasegrad.inference import AmplitudeSteps, WriteVerify, program, programming_record

CURVE = AmplitudeResponse(offset_sd=12e-6, set_sd=0.06, cycle_sd=4e-6, onset=80e-6, complete=450e-6, shape=1.6)
READ_SD = (0.05e-6, 0.02)
TRUTH = {
    "set_conductance": 30e-6, "reset_conductance": 0.1e-6, "onset": 80e-6, "complete": 450e-6, "shape": 1.6,
    "offset_sd": 12e-6, "set_sd": 0.06, "cycle_sd": 4e-6, "read_sd.0": 0.05e-6, "read_sd.1": 0.02,
}  # fmt: skip


def pulses(
    curve: AmplitudeResponse = CURVE, devices: int = 40, count: int = 20, low: float = 40e-6, high: float = 520e-6,
    read_sd: tuple[float, float] = READ_SD, seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Devices that get one pulse of each current, and are read after it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    current = torch.linspace(low, high, count, dtype=torch.float64).expand(devices, -1)
    true = curve.conductance(current.clone(), normal(devices, 1), normal(devices, 1), normal(devices, count))
    seen = true + (read_sd[0] + read_sd[1] * true) * normal(devices, count)
    device = torch.arange(devices).repeat_interleave(count)
    return {"device": device, "amplitude": current.flatten(), "conductance": seen.clamp(min=0.0).flatten()}


def assert_found(fit: pg.devices.Fit, truth: dict[str, float]) -> None:
    """Within twice the 95 % interval, which a coefficient that is right leaves once in 10,000 tests."""
    for name, value in truth.items():
        found = fit.coefficients[name]
        low, high = (found.value + 2.0 * (end - found.value) for end in (found.low, found.high))
        assert low <= value <= high, f"{name} = {value}: {found}"


@pytest.fixture(scope="module")
def fit() -> pg.devices.Fit:
    return pg.devices.fit(pulses(), resamples=300)


def test_curve_spreads_and_noise_are_found_again(fit: pg.devices.Fit) -> None:
    assert_found(fit, TRUTH)
    for name, found in fit.coefficients.items():
        assert found.high - found.low < found.value, f"{name} is hardly determined: {found}"


def test_spreads_are_those_of_the_devices_that_were_drawn(fit: pg.devices.Fit) -> None:
    """Reads give offsets within 1.5 uA and SET conductances within 1 %, so the spreads of 40 within 2 and 3 %."""
    generator = torch.Generator().manual_seed(0)  # the first draws of ``pulses``
    offset, strength = (torch.randn(40, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    assert fit.coefficients["offset_sd"].value == pytest.approx(12e-6 * float(offset.std(correction=0)), rel=0.06)
    assert fit.coefficients["set_sd"].value == pytest.approx(0.06 * float(strength.std(correction=0)), rel=0.09)


QUICK: dict[str, Any] = {"read_sd": READ_SD, "resamples": 100}
"""Known read noise, of which no laws are compared, and few resamples."""


def test_the_device_has_the_coefficients(fit: pg.devices.Fit) -> None:
    curve, found = fit.device.amplitude, {name: c.value for name, c in fit.coefficients.items()}
    assert curve is not None
    noise = tuple(found.pop(f"read_sd.{k}") for k in range(2))
    assert fit.device.read_sd == noise
    assert dataclasses.asdict(curve) == pytest.approx({**dataclasses.asdict(CURVE), **found})
    assert fit.device.g_max == pytest.approx(30e-6 * math.exp(-1.645 * 0.06), rel=0.03)
    assert not fit.device.drifts


def test_laws_are_compared_by_bic(fit: pg.devices.Fit) -> None:
    parts = {a.part: [b for b in fit.alternatives if b.part == a.part] for a in fit.alternatives}
    assert {part: [a.name for a in each] for part, each in parts.items()} == {
        "read noise": ["constant", "linear in the conductance"],
        "curve": ["free shape", "shape 2", "logistic"],
    }
    for each in parts.values():
        assert [a.name for a in each if a.chosen] == [min(each, key=lambda a: a.bic).name]
    assert {a.name for a in fit.alternatives if a.chosen} == {"linear in the conductance", "free shape"}
    assert "free shape" in str(fit)


def test_a_curve_of_shape_2_is_told_from_others() -> None:
    found = pg.devices.fit(pulses(dataclasses.replace(CURVE, shape=2.0), devices=12), **QUICK)
    assert [a.name for a in found.alternatives if a.chosen] == ["shape 2"]
    assert found.device.amplitude is not None
    assert found.device.amplitude.shape == 2.0


def test_a_curve_that_no_device_has_is_named() -> None:
    generator = torch.Generator().manual_seed(1)
    data = pulses(devices=12, count=15)
    offset = 12e-6 * torch.randn(12, generator=generator, dtype=torch.float64)[data["device"]]
    noise = torch.randn(len(offset), generator=generator, dtype=torch.float64)
    true = 0.1e-6 + 30e-6 * torch.sigmoid((260e-6 + offset - data["amplitude"]) / 40e-6)
    data["conductance"] = (true + (READ_SD[0] + READ_SD[1] * true) * noise).clamp(min=0.0)
    found = pg.devices.fit(data, **QUICK)
    assert any("a logistic curve is likelier" in note for note in found.notes)
    assert [a.name for a in found.alternatives if a.chosen] == ["free shape"]


def test_devices_may_have_other_numbers_of_pulses_in_any_order() -> None:
    data = pulses(seed=3)
    order = torch.randperm(len(data["device"]), generator=torch.Generator().manual_seed(0))[:500]
    found = pg.devices.fit({name: column[order] for name, column in data.items()}, "free shape", **QUICK)
    assert_found(found, {name: TRUTH[name] for name in found.coefficients})


def test_smaller_currents_and_conductances_give_the_same_fit() -> None:
    data = pulses(devices=10)
    amperes, siemens = 0.01, 0.003
    small = {**data, "amplitude": amperes * data["amplitude"], "conductance": siemens * data["conductance"]}
    expected = pg.devices.fit(data, "shape 2", **QUICK)
    found = pg.devices.fit(small, "shape 2", read_sd=(siemens * READ_SD[0], READ_SD[1]), resamples=100)
    for name, one in found.coefficients.items():
        factor = {"A": amperes, "S": siemens}.get(one.unit, 1.0)
        assert one.value == pytest.approx(factor * expected.coefficients[name].value, rel=1e-3), name
    assert found.device.g_max == pytest.approx(siemens * expected.device.g_max, rel=1e-2)


def test_noise_that_is_not_there_is_not_found() -> None:
    """Without noise of the current, only the read error of 1 % of the steepest slope, about 1 uA, could pass as it."""
    quiet = dataclasses.replace(CURVE, cycle_sd=0.0, shape=2.0)
    found = pg.devices.fit(pulses(quiet, devices=20, seed=2), "shape 2", **QUICK)
    assert found.coefficients["cycle_sd"].value < 1e-6
    assert any(note.startswith("cycle_sd: not told from 0") for note in found.notes)


def test_a_reset_conductance_that_was_not_measured_is_named() -> None:
    """Up to 300 uA, the curve of these devices extrapolates to -0.5 uS, within an error of 1 uS."""
    found = pg.devices.fit(pulses(devices=10, high=300e-6), "shape 2", **QUICK)
    assert found.coefficients["reset_conductance"].value < 0.0
    assert found.device.amplitude is not None
    assert found.device.amplitude.reset_conductance == 0.0
    assert any(note.startswith("reset_conductance is negative, and 0 in the device") for note in found.notes)


def test_a_csv_file_is_fitted_as_its_columns(tmp_path: Path) -> None:
    data, file = pulses(devices=10), tmp_path / "pulses.csv"
    rows = [f"{d},{a!r},{g!r}" for d, a, g in zip(*(column.tolist() for column in data.values()), strict=True)]
    file.write_text("\n".join(["device,amplitude,conductance", *rows]))
    from_file, direct = (pg.devices.fit(given, "shape 2", **QUICK) for given in (file, data))
    assert from_file.coefficients == direct.coefficients
    assert from_file.device == direct.device


@pytest.mark.parametrize("noisy", [True, False])
def test_other_laws_and_read_noise_of_a_base_are_kept(noisy: bool) -> None:
    base = pg.devices.joshi_2020() if noisy else pg.devices.ideal_device(g_max=20e-6)
    data = pulses(devices=10)
    found = pg.devices.fit(data, "shape 2", base=base, resamples=100)
    kept = dataclasses.replace(found.device, amplitude=None)
    noise = () if noisy else tuple(c.value for name, c in found.coefficients.items() if name.startswith("read_sd"))
    assert kept == dataclasses.replace(base, read_sd=noise)
    given = pg.devices.fit(data, "shape 2", base=base, **QUICK)
    assert given.device.read_sd == READ_SD


def test_a_g_max_that_devices_cannot_reach_is_named() -> None:
    found = pg.devices.fit(pulses(devices=10), "shape 2", g_max=30e-6, **QUICK)
    assert found.device.g_max == 30e-6
    assert any(re.search(r"\d\d % of devices have a SET conductance below g_max = 30 µS", note) for note in found.notes)
    assert not any("below g_max" in note for note in pg.devices.fit(pulses(devices=10), "shape 2", **QUICK).notes)


def changed(**columns: Tensor) -> dict[str, Tensor]:
    return {**pulses(devices=10), **columns}


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (pulses(devices=10, count=5), {}, "device 0 has 5 rows; the curve of a device needs 6 or more"),
        (pulses(devices=5), {}, "5 devices are too few"),
        (
            changed(amplitude=torch.full((200,), 1e-4)),
            {},
            "amplitude has 1 different values; the curve needs 6 or more",
        ),
        (changed(amplitude=torch.linspace(50.0, 500.0, 200)), {}, "in µA, multiply it by 1e-06"),
        (pulses(low=20e-6, high=150e-6), {}, "it must fall by 50 % or more, as from SET to RESET; measure from"),
        (changed(conductance=pulses(devices=10)["amplitude"] * 0.1), {}, "it must fall by 50 %"),
        ({n: torch.cat((c, c)) for n, c in changed().items()}, {}, "every row occurs 2 times"),
        (changed(), {"law": "soft bounds"}, "law = 'soft bounds'; it must be 'free shape' or 'shape 2'"),
        (changed(), {"g_max": 20.0}, "give g_max in siemens"),
    ],
)
def test_bad_measurements_are_refused_with_the_remedy(
    data: dict[str, Tensor], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pg.devices.fit(data, **options)


def test_the_fitted_device_is_programmed_by_pulses(fit: pg.devices.Fit) -> None:
    torch.manual_seed(0)
    hardware = pg.Hardware(cell=pg.cells.DifferentialPair(device=fit.device), rows=16, columns=8)
    net = pg.convert(nn.Sequential(nn.Linear(16, 8)), hardware)
    chip = program(net, seed=0, how=WriteVerify(strategy=AmplitudeSteps()))
    assert programming_record(chip)["0"].converged_fraction > 0.95


def test_a_fit_is_drawn_and_pickled(fit: pg.devices.Fit, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fit.plot(tmp_path / "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    assert str(pickle.loads(pickle.dumps(fit))) == str(fit)
    assert [panel.title for panel in fit.panels] == ["melt and quench", "devices aligned"]
