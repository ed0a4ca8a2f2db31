"""AnalogLinear on ideal hardware equals nn.Linear: shapes, gradients, options and errors."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange

IDEAL = pg.presets.ideal_inference()
FINE = replace(
    IDEAL, dac=Dac(bits=16, range=AbsMaxRange()), adc=Adc(bits=16, range=FullScaleRange())
)  # converters that are active but have negligible errors


def counterparts(hardware: pg.Hardware, *options: Any, **keywords: Any) -> tuple[nn.Linear, pg.nn.AnalogLinear]:
    digital = nn.Linear(*options, **keywords)
    analog = pg.nn.AnalogLinear(*options, **keywords, hardware=hardware)
    analog.load_state_dict(digital.state_dict())
    return digital, analog


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input, the weight and the bias."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    parameters = [p.grad for n, p in layer.named_parameters() if n in ("weight", "bias")]
    return [y.detach(), *[g for g in (x.grad, *parameters) if g is not None]]


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@settings(max_examples=50, deadline=None)
@given(
    leading=st.lists(st.integers(0, 4), max_size=3),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 12)),
    rows=st.integers(1, 25),
    bias=st.booleans(),
    converters=st.booleans(),
)
def test_ideal_layer_equals_its_counterpart(
    leading: list[int], sizes: tuple[int, int], rows: int, bias: bool, converters: bool
) -> None:
    torch.manual_seed(0)
    hardware = replace(FINE if converters else IDEAL, rows=rows, columns=3)
    digital, analog = counterparts(hardware, *sizes, bias=bias)
    x = torch.randn(*leading, sizes[0])
    assert_equal(results(analog, x), results(digital, x), 1e-5 if not converters else 3e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layer_computes_in_the_dtype_of_its_constructor(dtype: torch.dtype) -> None:
    digital, analog = counterparts(replace(FINE, rows=3), 7, 4, dtype=dtype)
    x = torch.randn(5, 7, dtype=dtype)
    assert analog(x).dtype == dtype
    torch.testing.assert_close(analog(x), digital(x), rtol=1e-3, atol=1e-3)


def test_input_need_not_be_contiguous() -> None:
    digital, analog = counterparts(replace(FINE, rows=3), 7, 4)
    x = torch.randn(3, 7, 5).transpose(1, 2)
    torch.testing.assert_close(analog(x), digital(x), rtol=1e-3, atol=1e-3)


def test_empty_batch_returns_empty_output_on_noisy_hardware() -> None:
    for dac in (pg.presets.pcm_inference().dac, Dac(range=AbsMaxRange()), None):
        layer = pg.nn.AnalogLinear(7, 4, hardware=replace(pg.presets.pcm_inference(), dac=dac))
        assert layer(torch.empty(0, 7)).shape == (0, 4)
        assert layer(torch.empty(3, 0, 7)).shape == (3, 0, 4)


def test_constructor_has_the_arguments_of_the_counterpart_and_hardware() -> None:
    mine = dict(inspect.signature(pg.nn.AnalogLinear).parameters)
    hardware = mine.pop("hardware")
    counterpart = inspect.signature(nn.Linear).parameters
    assert hardware.kind is inspect.Parameter.KEYWORD_ONLY
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in counterpart.values()
    ]


def test_initial_weights_equal_those_of_the_counterpart() -> None:
    torch.manual_seed(3)
    digital = nn.Linear(5, 4)
    torch.manual_seed(3)
    analog = pg.nn.AnalogLinear(5, 4, hardware=IDEAL)
    assert torch.equal(analog.weight, digital.weight)
    assert torch.equal(analog.bias, digital.bias)


def test_repr_shows_options_tiles_and_store() -> None:
    layer = pg.nn.AnalogLinear(5, 4, bias=False, hardware=replace(IDEAL, rows=2))
    assert isinstance(layer, pg.nn.AnalogLayer)
    assert repr(layer) == "AnalogLinear(in_features=5, out_features=4, bias=False, tiles=3, weight=digital)"
    assert "weight=programmed" in repr(pg.inference.program(layer, seed=0))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 0), ()])
def test_wrong_shape_raises_with_the_shape_and_the_size(shape: tuple[int, ...]) -> None:
    layer = pg.nn.AnalogLinear(4, 2, hardware=IDEAL)
    message = rf"input has shape \[{', '.join(map(str, shape))}\].*in_features = 4"
    with pytest.raises(ValueError, match=message):
        layer(torch.empty(shape))


def test_hardware_of_the_wrong_type_raises() -> None:
    with pytest.raises(TypeError, match="AnalogLinear: hardware = 'pcm'"):
        pg.nn.AnalogLinear(4, 2, hardware="pcm")  # type: ignore[arg-type]
