"""Calibration follows the stated formulas, and an error leaves the net unchanged."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Adc, CalibratedRange, Dac, FixedRange, LearnedRange
from phasegrad.hwa import Recipe, calibrate

IDEAL = pg.presets.ideal_inference()
LEARNED = replace(IDEAL, dac=Dac(bits=16, range=LearnedRange()))
CALIBRATED = replace(IDEAL, adc=Adc(bits=16, range=CalibratedRange(percentile=90.0)))


def batches(count: int = 4, scale: float = 1.0) -> list[Tensor]:
    return [scale * (i + 1) * torch.randn(32, 6, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def covered(x: Tensor, sd: float) -> Tensor:
    return torch.minimum(sd * x.square().mean().sqrt(), x.abs().max())


@pytest.mark.parametrize("sd", [2.0, 3.0])
def test_input_range_is_the_mean_over_batches_of_root_mean_squares(sd: float) -> None:
    layer, data = pg.nn.AnalogLinear(6, 3, hardware=LEARNED), batches()
    calibrate(layer, data, sd=sd)
    expected = torch.stack([covered(x, sd) for x in data]).mean()
    torch.testing.assert_close(layer.input_range.detach(), expected.view(1))


def test_input_range_is_no_more_than_the_largest_input() -> None:
    layer = pg.nn.AnalogLinear(6, 3, hardware=LEARNED)
    calibrate(layer, [torch.ones(4, 6), -3.0 * torch.ones(4, 6)])
    assert layer.input_range.item() == pytest.approx(2.0)


def test_inputs_of_zeros_do_not_close_the_range() -> None:
    layer = pg.nn.AnalogLinear(6, 3, hardware=LEARNED)
    with pytest.warns(pg.nn.UncalibratedWarning, match="the net received only zeros"):
        calibrate(layer, [torch.zeros(4, 6)])
    assert layer.input_range.item() == 3.0


def test_later_layers_see_the_outputs_of_calibrated_layers() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), LEARNED)
    x = batches(1)[0]
    calibrate(net, [x], recipe=None)
    inner = torch.relu(net[0].eval()(x))
    torch.testing.assert_close(net[2].input_range.detach(), covered(inner, 3.0).view(1).detach())


def test_batches_is_a_maximum() -> None:
    layer, data = pg.nn.AnalogLinear(6, 3, hardware=LEARNED), batches()
    calibrate(layer, iter(data), 2)
    expected = torch.stack([covered(x, 3.0) for x in data[:2]]).mean()
    torch.testing.assert_close(layer.input_range.detach(), expected.view(1))


def test_output_range_is_the_mean_percentile_in_units_of_weight_times_input() -> None:
    layer, data = pg.nn.AnalogLinear(6, 3, bias=False, hardware=CALIBRATED), batches(2)
    w, found = layer.weight.detach(), []
    for x in data:
        size = (x @ w.t()).abs() / (w.abs().amax(1) * x.abs().amax(1, keepdim=True))
        found.append(size.flatten().sort().values[round(0.9 * size.numel()) - 1])
    calibrate(layer, data, recipe=None)
    torch.testing.assert_close(layer.output_range, torch.stack(found).mean().view(1), rtol=1e-5, atol=1e-6)


def test_output_range_counts_every_tile_of_a_convolution() -> None:
    hardware = replace(CALIBRATED, rows=5, dac=Dac(bits=16, range=FixedRange(value=4.0)))
    conv = pg.nn.AnalogConv2d(2, 3, 2, bias=False, hardware=hardware)
    x = torch.randn(4, 2, 5, 5).clamp(-4, 4)
    w, sizes = conv.weight.detach().flatten(1), []
    for part in (slice(0, 5), slice(5, 8)):
        tile = torch.zeros_like(w)
        tile[:, part] = w[:, part]
        unit = 4.0 * tile.abs().amax(1).view(-1, 1, 1)
        sizes.append((nn.functional.conv2d(x, tile.view_as(conv.weight)).abs() / unit).flatten())
    size = torch.cat(sizes).sort().values
    calibrate(conv, [x], recipe=None)
    expected = size[round(0.9 * size.numel()) - 1].view(1)
    torch.testing.assert_close(conv.output_range, expected, rtol=1e-3, atol=1e-4)


def test_the_recipe_is_applied_to_the_layers_unless_it_is_none() -> None:
    layer = pg.nn.AnalogLinear(6, 3, hardware=LEARNED)
    calibrate(layer, batches(), recipe=None)
    assert layer.perturbation is None
    calibrate(layer, batches(), recipe=Recipe(clip_sigma=1.5))
    assert layer.perturbation == Recipe(clip_sigma=1.5).perturbation(LEARNED)


def test_calibration_runs_in_evaluation_mode_and_restores_each_modules_mode() -> None:
    class Probe(nn.Module):
        seen: bool | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.training
            return x

    net = pg.convert(nn.Sequential(Probe(), nn.Linear(6, 3), nn.Dropout()), LEARNED).train()
    net[2].eval()
    assert calibrate(net, batches()) is net
    assert net[0].seen is False
    assert [m.training for m in net.modules()] == [True, True, True, False]


def test_calibration_leaves_no_hook_and_no_gradient() -> None:
    layer = pg.nn.AnalogLinear(6, 3, hardware=LEARNED)
    calibrate(layer, batches())
    assert not layer._forward_pre_hooks
    assert layer.input_range.requires_grad
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("batch", ["tuple", "list", "tensor", "dictionary"])
def test_batches_of_any_form(batch: str) -> None:
    x, y = batches(1)[0], torch.zeros(32)
    form: Any = {"tuple": (x, y), "list": [x, y], "tensor": x, "dictionary": {"images": x}}[batch]
    forward = (lambda net, b: net(b["images"])) if batch == "dictionary" else None
    layer = pg.nn.AnalogLinear(6, 3, hardware=LEARNED)
    calibrate(layer, [form], forward=forward)
    torch.testing.assert_close(layer.input_range.detach(), covered(x, 3.0).view(1))


def state_of(net: nn.Module) -> dict[str, Any]:
    return {"modes": [m.training for m in net.modules()], **copy.deepcopy(net.state_dict())}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([*batches(2), torch.full((4, 6), float("nan"))], "the input of 0 is not finite"),
        ([*batches(2), torch.ones(4, 7)], "in_features = 6"),
        ([], "the loader yielded no batch"),
    ],
)
def test_an_error_restores_ranges_modes_and_hooks(data: list[Tensor], error: str) -> None:
    hardware = replace(LEARNED, adc=CALIBRATED.adc)
    net = pg.convert(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), hardware).train()
    before = state_of(net)
    with pytest.raises(ValueError, match=error):
        calibrate(net, data, recipe=None)
    after = state_of(net)
    assert after.keys() == before.keys()
    assert all(torch.equal(torch.as_tensor(after[k]), torch.as_tensor(v)) for k, v in before.items())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_an_error_restores_the_recipe() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 5)), LEARNED)
    with pytest.raises(ValueError, match="no batch"):
        calibrate(net, [], recipe=Recipe(clip_sigma=1.5))
    assert net[0].perturbation is None


@pytest.mark.parametrize("arguments", [{"batches": 0}, {"sd": 0.0}, {"sd": float("nan")}])
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        calibrate(pg.nn.AnalogLinear(6, 3, hardware=LEARNED), batches(), **arguments)


def test_nets_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no analog layer.*pg\.convert"):
        calibrate(nn.Linear(6, 3), batches())
    chip = pg.inference.program(pg.nn.AnalogLinear(6, 3, hardware=LEARNED), seed=0)
    with pytest.raises(ValueError, match="is programmed"):
        calibrate(chip, batches())


def test_inputs_of_zeros_do_not_count() -> None:
    """The first hidden state of every sequence is zero."""
    net = pg.convert(nn.Sequential(nn.Linear(6, 4)), pg.presets.pcm_inference())
    x = torch.full((8, 6), 0.5)
    calibrate(net, [torch.zeros(8, 6), x, torch.zeros(8, 6), x])
    assert net[0].input_range.item() == pytest.approx(0.5)
