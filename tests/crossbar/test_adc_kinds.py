"""Converters against their textbook forms: transfer curve, DNL, INL, and the effect of each error."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from phasegrad.configuration import Configuration
from phasegrad.crossbar import (
    Adc,
    BitSerialDac,
    CyclicAdc,
    Dac,
    FixedRange,
    OscillatorAdc,
    OutputConverter,
    PipelineAdc,
    RampAdc,
    SarAdc,
    linearity,
)
from phasegrad.testing import ConfigurationContract, ConverterContract

KINDS: tuple[type[OutputConverter], ...] = (RampAdc, SarAdc, PipelineAdc, CyclicAdc)
BOUND = 5.0


def quiet(_: int) -> Tensor:
    raise AssertionError("a converter without noise asked for some")


def levels(adc: OutputConverter, v: Tensor, **own: float | Tensor) -> Tensor:
    """Levels [steps] of inputs [steps]; gain, offset, and further errors by index."""
    errors = [torch.as_tensor(own.get(f"e{i}", mean)) for i, (mean, _) in enumerate(adc.errors)]
    return adc.convert(v / adc.max_code, torch.ones(1), errors, quiet) * adc.max_code


def off_ties(half: float, count: int = 20_001) -> Tensor:
    """Inputs [steps] beyond both ends, none within a thousandth of a transition."""
    v = torch.linspace(-1.2 * half, 1.2 * half, count)
    fraction = (2.0 * v) % 1.0
    return v[(fraction > 2e-3) & (fraction < 1.0 - 2e-3)]


class TestRamp(ConverterContract):
    def configuration(self) -> OutputConverter:
        return RampAdc(curvature=0.5, gain_mismatch=0.01)


class TestSar(ConverterContract):
    def configuration(self) -> OutputConverter:
        return SarAdc(capacitor_mismatch=0.02, comparator_noise=0.3, range=FixedRange(value=4.0))


class TestOscillator(ConverterContract):
    def configuration(self) -> OutputConverter:
        return OscillatorAdc(bits=6, nonlinearity=0.05, nonlinearity_mismatch=0.01, gain_mismatch=0.02)


class TestPipeline(ConverterContract):
    def configuration(self) -> OutputConverter:
        return PipelineAdc(bits=7, residue_gain_mismatch=0.01, threshold_mismatch=0.02)


class TestCyclic(ConverterContract):
    def configuration(self) -> OutputConverter:
        return CyclicAdc(residue_gain_error=-0.005, residue_gain_mismatch=0.002, offset_mismatch=0.5)


class TestMidRise(ConverterContract):
    def configuration(self) -> OutputConverter:
        return Adc(bits=4, convention="mid-rise", gain_error=0.02, offset=0.3)


class TestCounter(ConverterContract):
    def configuration(self) -> OutputConverter:
        return Adc(bits=5, convention="counter", offset_mismatch=0.2)


class TestBitSerial(ConfigurationContract):
    def configuration(self) -> Configuration:
        return BitSerialDac(accumulation="analog")


@pytest.mark.parametrize("bits", [2, 3, 8, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_without_errors_every_kind_is_the_ideal_converter(kind: type[OutputConverter], bits: int) -> None:
    adc = kind(bits=bits)
    v = off_ties(adc.max_code)
    assert torch.equal(levels(adc, v).round(), v.round().clamp(-adc.max_code, adc.max_code))


@pytest.mark.parametrize("bits", [2, 3, 8, 12])
def test_an_oscillator_without_errors_is_the_counter(bits: int) -> None:
    v = off_ties(2.0 ** (bits - 1))
    top = 2.0 ** (bits - 1) - 1.0
    wanted = v.trunc().clamp(-top, top)
    assert torch.equal(levels(OscillatorAdc(bits=bits), v).round(), wanted)
    errors = [torch.zeros(1)] * 2
    ideal = Adc(bits=bits, convention="counter")
    assert torch.equal(
        (ideal.convert(v / ideal.max_code, torch.ones(1), errors, quiet) * ideal.max_code).round(), wanted
    )


@pytest.mark.parametrize("adc", [Adc(bits=6), RampAdc(bits=6), SarAdc(bits=6), PipelineAdc(bits=6), CyclicAdc(bits=6)])
def test_ideal_transfer_has_no_dnl_and_no_inl(adc: OutputConverter) -> None:
    measured = linearity(adc)
    assert measured.levels.tolist() == list(range(-30, 31))
    assert measured.dnl.abs().max() < 2 / 64  # one of 64 inputs per step, at either end
    assert measured.inl.abs().max() < 2 / 64


@pytest.mark.parametrize("adc", [Adc, RampAdc, SarAdc, PipelineAdc, CyclicAdc])
def test_gain_and_offset_move_transitions(adc: Any) -> None:
    converter = adc(bits=8, gain_error=0.02, offset=-0.3)
    v = off_ties(converter.max_code)
    shifted = 1.02 * v - 0.3
    clear = ((shifted - 0.5) % 1.0 - 0.5).abs() < 0.498
    wanted = shifted.round().clamp(-127, 127)
    assert torch.equal(levels(converter, v).round()[clear], wanted[clear])


def test_ramp_bends_by_its_curvature() -> None:
    adc = RampAdc(bits=8, curvature=3.0)
    inl = linearity(adc, oversampling=128).inl[0, :-1]
    t = (torch.arange(-126, 126) + 0.5) / 254 + 0.5  # position of the ramp at the end of a level
    wanted = 4 * 3.0 * t * (1 - t)
    ends = 4 * 3.0 * (0.5 / 254 + 1 / 254)  # the fit is through the first inner transition, not the end
    torch.testing.assert_close(inl, wanted, rtol=0.0, atol=ends)
    assert inl.max().item() == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("bits", [6, 8])
def test_dnl_of_sar_at_the_middle_is_that_of_all_its_capacitors(bits: int) -> None:
    n, sigma = 5000, 0.004
    adc = SarAdc(bits=bits, capacitor_mismatch=sigma)
    draws = torch.randn(bits + 1, n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = torch.tensor([sd for _, sd in adc.own_errors], dtype=torch.float64).view(-1, 1, 1)
    errors = (draws * spread).float()
    v = torch.linspace(-3.0, 3.0, 6 * 128 + 1) + 1e-4
    got = levels(adc, v.expand(n, -1), **{f"e{i + 2}": e for i, e in enumerate(errors)}).round()
    below, above = ((got <= level).sum(1) / 128.0 for level in (-1, 0))  # code 128 is level 0
    middle = below - 3.0 + 0.5  # the transition into level 0, where the largest capacitor replaces all others
    width_before = ((got == -1).sum(1)) / 128.0
    assert above.mean() > below.mean()
    expected = sigma * math.sqrt(2**bits - 1)
    assert width_before.std().item() == pytest.approx(expected, rel=BOUND / math.sqrt(2 * n))
    assert middle.std().item() == pytest.approx(expected / 2, rel=BOUND / math.sqrt(2 * n))


def test_unit_capacitors_average_in_a_capacitor_of_many() -> None:
    spreads = SarAdc(bits=5, capacitor_mismatch=0.02).own_errors
    assert [sd for _, sd in spreads] == pytest.approx([0.02 / math.sqrt(1 << i) for i in range(5)] + [0.02])


def test_comparator_noise_of_sar_blurs_a_transition_by_its_sd() -> None:
    n, sigma, beyond = 400_000, 0.2, 0.1
    adc, generator = SarAdc(bits=8, comparator_noise=sigma), torch.Generator().manual_seed(0)
    # The transition to level 1 is one of the last bit alone; every other is five standard deviations away.
    y, errors = torch.full((n,), (0.5 + beyond) / 127), [torch.zeros(1)] * len(adc.errors)
    out = adc.convert(y, torch.ones(1), errors, lambda _: torch.randn(n, generator=generator))
    above = (out * 127 > 0.5).double().mean().item()
    wanted = 0.5 * (1.0 + math.erf(beyond / sigma / math.sqrt(2.0)))
    assert above == pytest.approx(wanted, abs=BOUND * math.sqrt(wanted * (1 - wanted) / n))


def digits(v: Tensor, bits: int, gains: list[float], upper: list[float], lower: list[float]) -> Tensor:
    """An independent pipeline in float64: the weighted sum of its digits."""
    x, code = v.double() / 2 ** (bits - 1), torch.zeros_like(v, dtype=torch.float64)
    for i in range(bits - 1):
        d = torch.where(x > 0.25 + upper[i], 1.0, torch.where(x < -0.25 + lower[i], -1.0, 0.0)).double()
        code += d * 2 ** (bits - 2 - i)
        x = (1 + gains[i]) * (2 * x - d)
    return (code + x.round().clamp(-1, 1)).clamp(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)


def test_stages_give_the_sum_of_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    gains, upper, lower = (0.03 * torch.randn(3, 7, generator=generator)).double().tolist()
    v = off_ties(127.0)
    wanted = digits(v, 8, gains, upper, lower)
    each = [e for stage in zip(gains, upper, lower, strict=True) for e in stage]
    got = levels(PipelineAdc(bits=8), v, **{f"e{i + 2}": e for i, e in enumerate(each)}).round()
    assert (got.double() != wanted).float().mean() < 1e-3  # float32 at a transition
    wanted = digits(v, 8, gains[:1] * 7, upper[:1] * 7, lower[:1] * 7)
    got = levels(CyclicAdc(bits=8), v, e2=gains[0], e3=upper[0], e4=lower[0]).round()
    assert (got.double() != wanted).float().mean() < 1e-3
    assert (wanted != v.round().clamp(-127, 127)).float().mean() > 0.1  # the errors have an effect


@pytest.mark.parametrize(("kind", "stages"), [(PipelineAdc, 7), (CyclicAdc, 1)])
def test_thresholds_are_corrected_up_to_a_quarter_of_the_reference(kind: Any, stages: int) -> None:
    adc, v = kind(bits=8), off_ties(127.0)
    for size, corrected in ((0.249, True), (0.3, False)):
        off = {f"e{3 + 3 * s}": size for s in range(stages)} | {f"e{4 + 3 * s}": -size for s in range(stages)}
        same = torch.equal(levels(adc, v, **off).round(), v.round().clamp(-127, 127))
        assert same == corrected


@pytest.mark.parametrize("gain", [-0.02, 0.02])
def test_a_residue_gain_error_makes_the_code_jump_where_the_digit_changes(gain: float) -> None:
    adc = PipelineAdc(bits=10)
    at = torch.tensor([0.25 - 1e-5, 0.25 + 1e-5]) * 512
    before, after = levels(adc, at, e2=gain)  # gain error of the first stage only
    assert (after - before).item() == pytest.approx(-gain * 2**8, abs=1.0)


def test_an_oscillator_counts_whole_periods_of_a_rate_that_saturates() -> None:
    adc = OscillatorAdc(bits=8, nonlinearity=0.1)
    v = off_ties(128.0)
    m = (v.abs() / 128).clamp(max=1.0).double()
    wanted = (v.sign() * (v.abs().double() * (1 - 0.1 * m)).floor().clamp(max=127)).float()
    assert (levels(adc, v).round() != wanted).float().mean() < 1e-3
    inputs = torch.tensor([64.0, 127.9])
    middle, end = inputs * (1 - 0.1 * inputs / 128)
    bow = middle - end * inputs[0] / inputs[1]
    assert bow.item() == pytest.approx(0.1 * 0.25 * 128, rel=0.02)  # nonlinearity m (1 - m) max_code


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (RampAdc, "curvature", 64.0),
        (SarAdc, "capacitor_mismatch", -0.1),
        (SarAdc, "bits", 17),
        (PipelineAdc, "threshold_mismatch", 0.6),
        (CyclicAdc, "residue_gain_error", 0.7),
        (OscillatorAdc, "nonlinearity", 0.7),
        (Adc, "gain_error", -1.0),
        (Adc, "columns_per_converter", 0),
        (Dac, "gain_mismatch", -0.1),
        (Dac, "offset_mismatch", -0.1),
        (BitSerialDac, "accumulation", "optical"),
    ],
)
def test_impossible_errors_raise_naming_field_and_value(make: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{make.__name__}: {field} = {value!r}"):
        make(**{field: value})


def test_a_range_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"FixedRange: value = 0\.0; it must be a number in"):
        SarAdc(range=FixedRange(value=0.0))
