"""Transfer curves of DAC and ADC against closed forms, and the meaning of their ranges."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.crossbar import (
    AbsMaxRange,
    Adc,
    CalibratedRange,
    Dac,
    FixedRange,
    FullScaleRange,
    LearnedRange,
)

IDEAL = pg.presets.ideal_inference()


def layer_of(weight: Tensor, **options: object) -> pg.nn.AnalogLinear:
    """A layer without bias with a given weight, ideal except for ``options``."""
    layer = pg.nn.AnalogLinear(*reversed(weight.shape), bias=False, hardware=replace(IDEAL, **options))
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def through_dac(x: Tensor, dac: Dac) -> Tensor:
    """Signal of a word line for each input value."""
    return layer_of(torch.ones(1, 1), dac=dac)(x.unsqueeze(1)).squeeze(1).detach()


def through_adc(y: Tensor, adc: Adc) -> Tensor:
    """Converted tile outputs for inputs in [-1, 1], in units of ``max|w| max|x|``."""
    x = torch.stack((torch.ones_like(y), y), dim=1)  # the first input sets max|x| and has a weight of 0
    return layer_of(torch.tensor([[0.0, 1.0]]), adc=adc)(x).squeeze(1).detach()


def away_from_ties(level: np.ndarray, tie: float) -> np.ndarray:
    """Inputs at which float32 errors, about 1e-7 of the largest level, cannot cross a rounding boundary."""
    return np.abs((level - tie + 0.5) % 1.0 - 0.5) > 1e-6 * np.abs(level).max()


@pytest.mark.parametrize("bits", [2, 3, 8, 11])
def test_dac_takes_two_to_the_bits_less_two_steps_over_the_range(bits: int) -> None:
    levels = through_dac(torch.linspace(-3.0, 3.0, 20_001), Dac(bits=bits, range=FixedRange(value=2.5))).unique()
    half = 2 ** (bits - 1) - 1
    expected = torch.arange(-half, half + 1, dtype=torch.float64) * (2.5 / half)
    assert len(levels) == 2**bits - 1
    torch.testing.assert_close(levels.double(), expected, rtol=1e-6, atol=1e-7)


def test_eight_bit_dac_has_254_steps() -> None:
    assert Dac(bits=8).max_code == 127.0
    assert len(through_dac(torch.linspace(-1, 1, 9_999), Dac(range=FixedRange(value=1.0))).unique()) == 255


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_dac_is_clip_and_round_to_nearest(bits: int) -> None:
    x = torch.linspace(-4.0, 4.0, 7_919)
    half, full = 2.0 ** (bits - 1) - 1.0, 3.0
    level = np.clip(x.double().numpy() * half / full, -half, half)
    expected = np.round(level) * full / half
    found = through_dac(x, Dac(bits=bits, range=FixedRange(value=full))).numpy()
    sure = away_from_ties(level, 0.5)
    assert sure.mean() > 0.9
    np.testing.assert_allclose(found[sure], expected[sure], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("range_", [FixedRange(value=0.7), LearnedRange(start=0.7), AbsMaxRange()])
def test_dac_is_odd(range_: FixedRange | LearnedRange | AbsMaxRange) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    dac = Dac(bits=5, range=range_)
    assert torch.equal(through_dac(-x, dac), -through_dac(x, dac))


def test_dac_clips_at_the_learned_range_that_the_layer_holds_now() -> None:
    layer = layer_of(torch.ones(1, 1), dac=Dac(range=LearnedRange(start=3.0)))
    assert isinstance(layer.input_range, torch.nn.Parameter)
    assert layer(torch.tensor([[100.0]])).item() == pytest.approx(3.0)
    with torch.no_grad():
        layer.input_range.fill_(0.25)
    assert layer(torch.tensor([[-100.0]])).item() == pytest.approx(-0.25)


def test_abs_max_range_is_each_vectors_own() -> None:
    x = torch.tensor([[1.0, 0.4], [-10.0, 4.0], [0.0, 0.0]])
    y = layer_of(torch.eye(2), dac=Dac(bits=3, range=AbsMaxRange()))(x)
    thirds = torch.tensor([[1.0, 1 / 3], [-10.0, 10 / 3], [0.0, 0.0]])
    torch.testing.assert_close(y, thirds)


def test_abs_max_range_of_a_convolution_is_each_images_own() -> None:
    hardware = replace(IDEAL, dac=Dac(bits=3, range=AbsMaxRange()))
    layer = pg.nn.AnalogConv2d(1, 1, 1, bias=False, hardware=hardware)
    torch.nn.init.ones_(layer.weight)
    images = torch.tensor([[1.0, 0.4], [-10.0, 4.0]]).view(2, 1, 1, 2)
    thirds = torch.tensor([[1.0, 1 / 3], [-10.0, 10 / 3]]).view(2, 1, 1, 2)
    torch.testing.assert_close(layer(images), thirds)


def test_dac_passes_gradients_inside_and_gives_the_clipped_ones_to_the_range() -> None:
    decay = 0.01
    layer = layer_of(torch.ones(1, 1), dac=Dac(range=LearnedRange(start=2.0, decay=decay, keep=0.5)))
    x = torch.tensor([[-5.0], [-1.0], [0.5], [2.0], [3.0]], requires_grad=True)
    grad = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    layer(x).backward(grad)
    assert x.grad is not None
    assert torch.equal(x.grad, torch.tensor([[0.0], [2.0], [4.0], [8.0], [0.0]]))
    assert layer.input_range.grad.item() == pytest.approx(16.0 - 1.0 + decay * 2.0)


@pytest.mark.parametrize(("keep", "pulled"), [(0.8, True), (0.81, False)])
def test_learned_range_is_pulled_inwards_when_enough_inputs_lie_inside(keep: float, pulled: bool) -> None:
    layer = layer_of(torch.ones(1, 1), dac=Dac(range=LearnedRange(start=2.0, decay=0.5, keep=keep)))
    layer(torch.tensor([[-5.0], [-1.0], [0.0], [1.0], [2.0]])).sum().backward()
    assert layer.input_range.grad.item() == pytest.approx(-1.0 + (0.5 * 2.0 if pulled else 0.0))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mid_tread_adc_has_levels_at_zero_and_at_both_ends(bits: int) -> None:
    levels = through_adc(torch.linspace(-1, 1, 20_001), Adc(bits=bits, range=FixedRange(value=0.5))).unique()
    half = 2 ** (bits - 1) - 1
    expected = torch.arange(-half, half + 1, dtype=torch.float64) * (0.5 / half)
    assert len(levels) == 2**bits - 1
    torch.testing.assert_close(levels.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mid_rise_adc_has_levels_half_a_step_from_zero_and_from_both_ends(bits: int) -> None:
    adc = Adc(bits=bits, range=FixedRange(value=0.5), convention="mid-rise")
    levels = through_adc(torch.linspace(-1, 1, 20_001), adc).unique()
    half = 2 ** (bits - 1)
    expected = (torch.arange(-half, half, dtype=torch.float64) + 0.5) * (0.5 / half)
    assert len(levels) == 2**bits
    torch.testing.assert_close(levels.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("convention", ["mid-tread", "mid-rise"])
def test_adc_is_its_closed_form(convention: str) -> None:
    y = torch.linspace(-1, 1, 7_919)
    adc = Adc(bits=6, range=FixedRange(value=0.8), convention=convention)
    found = through_adc(y, adc).numpy()
    level = np.clip(y.double().numpy() * adc.max_code / 0.8, -adc.max_code, adc.max_code)
    if convention == "mid-tread":
        expected, sure = np.round(level), away_from_ties(level, 0.5)
    else:
        expected, sure = np.minimum(np.floor(level), adc.max_code - 1) + 0.5, away_from_ties(level, 0.0)
        sure |= np.abs(level) == adc.max_code  # clipped, with no boundary nearby
    assert sure.mean() > 0.98
    np.testing.assert_allclose(found[sure], (expected * 0.8 / adc.max_code)[sure], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("convention", ["mid-tread", "mid-rise"])
def test_adc_is_odd(convention: str) -> None:
    y = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    adc = Adc(bits=5, range=FixedRange(value=0.7), convention=convention)
    assert torch.equal(through_adc(-y, adc), -through_adc(y, adc))


@pytest.mark.parametrize("convention", ["mid-tread", "mid-rise"])
def test_adc_errs_by_half_a_step_inside_its_range(convention: str) -> None:
    y = torch.linspace(-0.7, 0.7, 5_001)
    adc = Adc(bits=5, range=FixedRange(value=0.7), convention=convention)
    assert (through_adc(y, adc) - y).abs().max() <= 0.5 * 0.7 / adc.max_code * (1 + 1e-4)


def test_adc_range_is_in_units_of_largest_weight_times_input_range() -> None:
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(5, 7, generator=generator), torch.randn(11, 7, generator=generator)
    options = {"adc": Adc(bits=5, range=FixedRange(value=1.5)), "dac": Dac(range=FixedRange(value=2.0))}
    larger = options | {"dac": Dac(range=FixedRange(value=16.0))}
    assert torch.equal(layer_of(4.0 * w, **larger)(8.0 * x), 32.0 * layer_of(w, **options)(x))


@pytest.mark.parametrize(("rows", "full"), [(512, 6.0), (4, 4.0)])
def test_full_scale_is_the_number_of_driven_rows(rows: int, full: float) -> None:
    layer = layer_of(torch.ones(1, 6), rows=rows, adc=Adc(bits=8, range=FullScaleRange()))
    assert layer.output_range.item() == full
    assert layer(torch.ones(1, 6)).item() == pytest.approx(6.0, abs=0.5 * full / 127 * (rows < 6) + 1e-5)


def test_full_scale_outputs_are_never_clipped() -> None:
    for n in range(1, 100):
        layer = layer_of(torch.ones(1, n), adc=Adc(bits=8, range=FullScaleRange()))
        x = torch.full((1, n), 3.0, requires_grad=True)  # every product and sum is exact
        layer(x).sum().backward()
        assert torch.equal(x.grad, torch.ones(1, n)), f"{n} rows"


def test_calibrated_range_is_saved_and_fixed_range_is_configuration() -> None:
    calibrated = layer_of(torch.ones(1, 2), adc=Adc(range=CalibratedRange(start=4.0)))
    fixed = layer_of(torch.ones(1, 2), adc=Adc(range=FixedRange(value=4.0)))
    assert calibrated.output_range.item() == fixed.output_range.item() == 4.0
    assert "output_range" in calibrated.state_dict()
    assert "output_range" not in fixed.state_dict()
    assert "output_range" not in dict(calibrated.named_parameters())


@pytest.mark.parametrize("convention", ["mid-tread", "mid-rise"])
def test_learned_adc_range_takes_the_gradients_of_clipped_outputs(convention: str) -> None:
    adc = Adc(bits=8, range=LearnedRange(start=0.5), convention=convention)
    layer = layer_of(torch.tensor([[0.0, 2.0]]), adc=adc)
    x = torch.tensor([[1.0, 1.0], [1.0, 0.2], [1.0, -0.9], [4.0, 0.0], [4.0, 4.0]], requires_grad=True)
    grad = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    layer(x).backward(grad)
    # Rows 0, 2 and 4 are clipped; their unit is max|w| = 2 times the row's largest input.
    assert layer.output_range.grad.item() == pytest.approx(1.0 * 2 - 4.0 * 2 + 16.0 * 8)
    assert torch.equal(x.grad[:, 1], torch.tensor([0.0, 4.0, 0.0, 16.0, 0.0]))


def test_twelve_bit_converters_equal_none_to_half_a_step_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(20, 30, generator=generator), torch.randn(64, 30, generator=generator).clamp(-3, 3)
    dac, adc = Dac(bits=12, range=FixedRange(value=3.0)), Adc(bits=12, range=FullScaleRange())
    error = (layer_of(w, dac=dac, adc=adc)(x) - x @ w.t()).abs()
    from_dac = w.abs().sum(1) * 0.5 * 3.0 / dac.max_code
    from_adc = w.abs().amax(1) * 3.0 * 30 * 0.5 / adc.max_code
    assert (error <= (from_dac + from_adc) * (1 + 1e-4)).all()
    assert error.max() > 0.05 * from_adc.max()


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (Dac, "bits", 1),
        (Dac, "bits", 17),
        (Dac, "bits", 8.0),
        (Adc, "bits", True),
        (Adc, "convention", "two-step"),
        (FixedRange, "value", 0.0),
        (FixedRange, "value", float("nan")),
        (LearnedRange, "start", -1.0),
        (LearnedRange, "decay", -1e-3),
        (LearnedRange, "keep", 1.1),
        (CalibratedRange, "percentile", 100.1),
        (CalibratedRange, "start", float("inf")),
    ],
)
def test_impossible_converters_raise_naming_field_and_value(make: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{make.__name__}: {field} = {value!r}"):
        make(**{field: value})


@pytest.mark.parametrize(("make", "range_"), [(Dac, FullScaleRange()), (Adc, AbsMaxRange()), (Dac, 3.0)])
def test_ranges_of_the_wrong_converter_are_refused(make: type, range_: object) -> None:
    with pytest.raises(TypeError, match="range = "):
        make(range=range_)


def end_point(**fields: object) -> Adc:
    with pytest.warns(DeprecationWarning, match="without 0 since phasegrad 0.2.0"):
        return Adc(convention="end-point", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_end_point_adc_has_levels_at_both_ends_and_none_at_zero(bits: int) -> None:
    adc = end_point(bits=bits, range=FixedRange(value=0.5))
    levels = through_adc(torch.linspace(-1, 1, 20_001), adc).unique()
    expected = torch.linspace(-0.5, 0.5, 2**bits, dtype=torch.float64)
    torch.testing.assert_close(levels.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("errors", [{}, {"offset": 0.25}, {"gain_mismatch": 1e-3}], ids=str)
def test_end_point_adc_errs_by_half_a_step_at_most_inside_its_range(errors: dict[str, float]) -> None:
    torch.manual_seed(0)
    adc = end_point(bits=5, range=FixedRange(value=0.7), **errors)
    y = torch.linspace(-0.69, 0.69, 5_001)
    worst = 0.5 + errors.get("offset", 0.0) + 16.0 * 5.0 * errors.get("gain_mismatch", 0.0)
    assert (through_adc(y, adc) - y).abs().max() <= worst * 0.7 / adc.max_code * (1 + 1e-4)


def test_a_copy_or_file_of_an_end_point_adc_does_not_warn() -> None:
    adc = end_point(bits=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_json(adc.to_json()) == copy.deepcopy(adc) == pickle.loads(pickle.dumps(adc)) == adc


@pytest.mark.parametrize(
    ("before", "now"), [("end-point", "mid-tread"), ("sign-magnitude", "counter"), ("mid-rise",) * 2]
)
def test_files_of_the_release_before_keep_what_they_compute(before: str, now: str) -> None:
    text = Adc(bits=6).to_json().replace('"version": 2', '"version": 1').replace('"mid-tread"', f'"{before}"')
    old = Adc.__new__(Adc)
    state = {"bits": 6, "range": FixedRange(value=10.0), "convention": before}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_json(text) == Adc(bits=6, convention=now)
        old.__setstate__(state)  # a pickle
        assert old == Adc(bits=6, convention=now)


def test_the_name_of_the_counter_in_the_release_before_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="counter"):
        assert Adc(convention="sign-magnitude") == Adc(convention="counter")
