"""Analog convolutions on ideal hardware equal those of torch: options, gradients and errors."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

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
PAIRS = {
    1: (nn.Conv1d, pg.nn.AnalogConv1d),
    2: (nn.Conv2d, pg.nn.AnalogConv2d),
    3: (nn.Conv3d, pg.nn.AnalogConv3d),
}
# With an even kernel and padding="same" torch warns that it copies the input, in both layers.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def counterparts(
    space: int, hardware: pg.Hardware, *options: Any, **keywords: Any
) -> tuple[nn.Module, pg.nn.AnalogLayer]:
    digital_type, analog_type = PAIRS[space]
    digital = digital_type(*options, **keywords)
    analog = analog_type(*options, **keywords, hardware=hardware)
    analog.load_state_dict(digital.state_dict())
    return digital, analog


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input, the weight and the bias."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    parameters = [p.grad for n, p in layer.named_parameters() if n in ("weight", "bias")]
    return [y.detach(), *[g for g in (x.grad, *parameters) if g is not None]]


def assert_equal_to_counterpart(space: int, hardware: pg.Hardware, x: Tensor, *options: Any, **keywords: Any) -> None:
    digital, analog = counterparts(space, hardware, *options, **keywords)
    tolerance = 1e-5 if hardware.adc is None else 3e-3
    found, wanted = results(analog, x), results(digital, x)
    # In the bias gradient the terms from -1 to 1 nearly cancel, so a different summation order leaves rounding errors.
    rounding = 4.0 * torch.finfo(torch.float32).eps * wanted[0].numel() / 2.0
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance + rounding)


Convolution: TypeAlias = tuple[int, int, tuple[int, int], dict[str, Any], tuple[int, ...]]
"""Number of spatial dimensions, rows per tile, channels, options, shape of the input."""


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    space = draw(st.integers(1, 3))
    groups, wide = draw(st.integers(1, 3)), draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    sizes = {
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(space)),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(space)),
    }
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    stride = tuple(draw(st.integers(1, 2)) if padding != "same" else 1 for _ in range(space))
    numbers = tuple(draw(st.integers(0, 2)) for _ in range(space))
    options = sizes | {
        "stride": stride,
        "padding": padding if padding != "numbers" else numbers,
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    }
    leading = draw(st.sampled_from([(), (1,), (2,)]))
    size = (*leading, groups * wide[0], *(draw(st.integers(5, 6)) for _ in range(space)))
    return space, draw(st.integers(1, 30)), (groups * wide[0], groups * wide[1]), options, size


@settings(max_examples=40, deadline=None)
@given(convolution=convolutions())
def test_ideal_layer_equals_its_counterpart(convolution: Convolution) -> None:
    torch.manual_seed(0)
    space, rows, channels, options, size = convolution
    assert_equal_to_counterpart(space, replace(IDEAL, rows=rows), torch.randn(size), *channels, **options)


@pytest.mark.parametrize("space", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_every_padding_mode_equals_the_counterpart(space: int, mode: str, padding: str | int) -> None:
    x = torch.randn(2, 4, *(6, 5, 4)[:space])
    options = {"kernel_size": 3, "padding": padding, "padding_mode": mode, "groups": 2}
    assert_equal_to_counterpart(space, replace(FINE, rows=5), x, 4, 6, **options)


@pytest.mark.parametrize("rows", [1, 4, 9, 10, 512])
@pytest.mark.parametrize("groups", [1, 2])
def test_row_tiles_may_end_anywhere_in_a_kernel(rows: int, groups: int) -> None:
    x = torch.randn(2, 4, 6, 6)
    assert_equal_to_counterpart(
        2, replace(IDEAL, rows=rows), x, 4, 8, kernel_size=3, groups=groups, stride=2, dilation=2
    )
    assert_equal_to_counterpart(2, replace(FINE, rows=rows), x, 4, 8, kernel_size=3, groups=groups, padding=1)


@pytest.mark.parametrize("space", [1, 2, 3])
def test_unbatched_input_returns_unbatched_output(space: int) -> None:
    for hardware in (IDEAL, FINE):
        assert_equal_to_counterpart(space, hardware, torch.randn(3, *(6, 5, 4)[:space]), 3, 2, kernel_size=2)


@pytest.mark.parametrize("space", [1, 2, 3])
def test_empty_batch_returns_empty_output_on_noisy_hardware(space: int) -> None:
    for dac in (pg.presets.pcm_inference().dac, Dac(range=AbsMaxRange()), None):
        layer = PAIRS[space][1](3, 2, 2, hardware=replace(pg.presets.pcm_inference(), dac=dac, rows=5))
        assert layer(torch.empty(0, 3, *(6, 5, 4)[:space])).shape == (0, 2, *(5, 4, 3)[:space])


def test_channels_last_inputs_and_weights_do_not_change_the_output() -> None:
    digital, analog = counterparts(2, replace(FINE, rows=7), 3, 4, 3)
    x = torch.randn(2, 3, 6, 6)
    analog.to(memory_format=torch.channels_last)
    y = analog(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, digital(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("space", [1, 2, 3])
def test_constructor_has_the_arguments_of_the_counterpart_and_hardware(space: int) -> None:
    digital, analog = PAIRS[space]
    mine = dict(inspect.signature(analog).parameters)
    hardware = mine.pop("hardware")
    assert hardware.kind is inspect.Parameter.KEYWORD_ONLY
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in inspect.signature(digital).parameters.values()
    ]


@pytest.mark.parametrize("space", [1, 2, 3])
def test_initial_weights_equal_those_of_the_counterpart(space: int) -> None:
    torch.manual_seed(3)
    digital = PAIRS[space][0](4, 2, 3, groups=2)
    torch.manual_seed(3)
    analog = PAIRS[space][1](4, 2, 3, groups=2, hardware=IDEAL)
    assert torch.equal(analog.weight, digital.weight)
    assert torch.equal(analog.bias, digital.bias)


def test_repr_shows_options_tiles_and_store() -> None:
    layer = pg.nn.AnalogConv2d(4, 6, (3, 2), padding="same", groups=2, hardware=replace(IDEAL, rows=5))
    assert isinstance(layer, pg.nn.AnalogLayer)
    assert repr(layer) == (
        "AnalogConv2d(in_channels=4, out_channels=6, kernel_size=(3, 2), stride=(1, 1), padding=same, "
        "dilation=(1, 1), groups=2, padding_mode=zeros, bias=True, tiles=6, weight=digital)"
    )


def test_groups_have_separate_tiles_and_scales() -> None:
    conv = pg.nn.AnalogConv1d(4, 4, 1, groups=2, bias=False, hardware=replace(IDEAL, scale="tile"))
    conv.weight.data[:2], conv.weight.data[2:] = 1.0, 100.0
    assert conv.tiles == 2
    assert torch.equal(pg.inference.program(conv, seed=0).devices.scale, torch.tensor([[1.0, 1.0, 100.0, 100.0]]))


@pytest.mark.parametrize("space", [1, 2, 3])
def test_wrong_shape_raises_with_the_shape_and_the_channels(space: int) -> None:
    layer = PAIRS[space][1](3, 2, 1, hardware=IDEAL)
    size = (6, 5, 4)[:space]
    for shape in [(2, 4, *size), (4, *size), (2, 3, *size, 1), (1, 1, 3, *size), size]:
        with pytest.raises(ValueError, match=rf"shape \[{', '.join(map(str, shape))}\].*\[batch, 3, .*{space} spatial"):
            layer(torch.randn(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "in_channels must be divisible by groups"),
        ({"padding": "full"}, "Invalid padding string"),
        ({"padding": "same", "stride": 2}, "not supported for strided"),
        ({"padding_mode": "none"}, "padding_mode must be one of"),
    ],
)
def test_options_that_the_counterpart_refuses_raise_the_same_error(options: dict[str, Any], message: str) -> None:
    for make in (nn.Conv2d, partial(pg.nn.AnalogConv2d, hardware=IDEAL)):
        with pytest.raises(ValueError, match=message):
            make(4, 2, 3, **options)
