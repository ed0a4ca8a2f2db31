"""Training noise, drop-connect and clipping follow the recipe's laws; evaluation uses clipping only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.hwa import AdditiveNoise, Distillation, MultiplicativeNoise, PCMNoise, Recipe, set_noise_level

IDEAL = pg.presets.ideal_inference()
PCM = pg.presets.pcm_inference()
EXACT_PCM = replace(IDEAL, cell=PCM.cell)  # the statistics of PCM, without other errors


def seen_by(layer: pg.nn.AnalogLinear, seed: int = 0) -> Tensor:
    """The weight that the layer computes with, from its response to one-hot inputs."""
    torch.manual_seed(seed)
    return layer(torch.eye(layer.in_features)).t().detach()


def layer_with(weight: Tensor, recipe: Recipe, hardware: pg.Hardware = IDEAL) -> pg.nn.AnalogLinear:
    layer = pg.nn.AnalogLinear(weight.shape[1], weight.shape[0], bias=False, hardware=hardware)
    layer.weight.data.copy_(weight)
    recipe.apply(layer)
    return layer.train()


def graded(g: float, scale: float = 0.5) -> Tensor:
    """Columns of scale ``scale`` whose other weights are ``g * scale``, of both signs."""
    weight = torch.full((100, 401), g * scale)
    weight[:, ::2] *= -1
    weight[:, 0] = scale
    return weight


def assert_sd(sample: Tensor, sd: float) -> None:
    n = sample.numel()
    assert abs(sample.mean().item()) < 5 * sd / n**0.5
    assert sample.std().item() == pytest.approx(sd, rel=5 / (2 * n) ** 0.5)


@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("noise", [AdditiveNoise(sigma=0.1), MultiplicativeNoise(sigma=0.1)])
def test_weight_noise_follows_its_law_times_the_scale_of_the_column(noise: pg.hwa.WeightNoise, g: float) -> None:
    c0, c1, c2 = noise.coefficients(EXACT_PCM)
    weight = graded(g)
    layer = layer_with(weight, Recipe(noise=noise, clip_sigma=0.0), EXACT_PCM)
    error = (seen_by(layer) - weight)[:, 1:]
    sd = 0.5 * (c0 + c1 * g + c2 * g * g)
    if sd == 0:
        assert torch.equal(error, torch.zeros_like(error))
    else:
        assert_sd(error, sd)


def test_additive_and_multiplicative_coefficients() -> None:
    assert AdditiveNoise(sigma=0.2).coefficients(PCM) == (0.2, 0.0, 0.0)
    assert MultiplicativeNoise(sigma=0.2).coefficients(PCM) == (0.0, 0.2, 0.0)


def test_pcm_noise_is_the_published_programming_sd_over_g_max() -> None:
    expected = (0.26348 / 25, 1.9650 / 25, -1.1731 / 25)
    assert PCMNoise().coefficients(PCM) == pytest.approx(expected)
    assert PCMNoise(strength=3.0).coefficients(PCM) == pytest.approx([3 * c for c in expected])
    assert PCMNoise().coefficients(pg.presets.pcm_inference(g_max=10e-6)) == pytest.approx(expected)


@pytest.mark.parametrize(("significances", "factor"), [((1.0,), 1.0), ((1.0, 1.0), 0.5**0.5), ((2.0, 1.0), 5**0.5 / 3)])
def test_pcm_noise_of_several_pairs_averages(significances: tuple[float, ...], factor: float) -> None:
    cell = pg.cells.SignificancePairs(device=pg.devices.joshi_2020(), significances=significances)
    single = PCMNoise().coefficients(PCM)
    assert PCMNoise().coefficients(replace(PCM, cell=cell)) == pytest.approx([c * factor for c in single])


@pytest.mark.parametrize("devices", [1, 2])
def test_pcm_noise_of_a_cubic_law_is_the_nearest_parabola(devices: int) -> None:
    hardware = pg.presets.hermes_inference(devices=devices)
    c0, c1, c2 = PCMNoise().coefficients(hardware)
    device = hardware.cell.device
    for g in torch.linspace(0, 1, 11).tolist():
        exact = sum(c * g**k for k, c in enumerate(device.programming_sd)) / device.g_max
        assert c0 + c1 * g + c2 * g * g == pytest.approx(exact, abs=0.013)


def test_a_recipe_is_applied_to_every_layer() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), PCM)
    Recipe(noise=PCMNoise(strength=1.5), drop_connect=0.1, clip_sigma=2.0, clip_per="channel").apply(net)
    for layer in net:
        assert layer.perturbation.profiles == PCMNoise(strength=1.5).profiles(PCM)
        assert layer.perturbation.drop_connect == 0.1
        assert (layer.perturbation.clip_sigma, layer.perturbation.clip_per) == (2.0, "channel")


@pytest.mark.parametrize("level", [0.0, 0.4, 2.0])
def test_noise_level_scales_the_noise(level: float) -> None:
    weight = graded(0.5)
    layer = layer_with(weight, Recipe(noise=AdditiveNoise(sigma=0.1), clip_sigma=0.0))
    set_noise_level(layer, level)
    error = (seen_by(layer) - weight)[:, 1:]
    if level == 0.0:
        assert torch.equal(error, torch.zeros_like(error))
    else:
        assert_sd(error, 0.5 * 0.1 * level)


@pytest.mark.parametrize("level", [-0.1, float("nan"), float("inf")])
def test_impossible_noise_levels_are_refused(level: float) -> None:
    layer = layer_with(torch.ones(2, 2), Recipe())
    with pytest.raises(ValueError, match=f"level = {level}"):
        set_noise_level(layer, level)
    assert layer.noise_level.item() == 1.0


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_weights_are_dropped_at_their_rate_and_the_rest_are_unchanged(rate: float) -> None:
    weight = graded(0.5)
    seen = seen_by(layer_with(weight, Recipe(noise=None, drop_connect=rate, clip_sigma=0.0)))
    dropped = seen == 0
    assert torch.equal(seen[~dropped], weight[~dropped])
    assert abs(dropped.float().mean().item() - rate) <= 5 * (rate * (1 - rate) / weight.numel()) ** 0.5


def test_dropped_weights_are_independent_of_the_noise() -> None:
    weight = graded(0.5)
    noise, drop = AdditiveNoise(sigma=0.1), 0.5
    whole = seen_by(layer_with(weight, Recipe(noise=noise, clip_sigma=0.0)))
    dropped = seen_by(layer_with(weight, Recipe(noise=noise, drop_connect=drop, clip_sigma=0.0))) == 0
    sample = (whole - weight)[dropped]
    assert abs(sample.mean().item()) < 5 * 0.05 / sample.numel() ** 0.5


def test_clipping_per_layer_is_at_sigmas_of_the_layer() -> None:
    weight = torch.randn(30, 40) + 0.5  # clipped about zero, the middle of the range of the devices, not about the mean
    layer = layer_with(weight, Recipe(clip_sigma=1.2)).eval()
    bound = 1.2 * weight.square().mean().sqrt().item()
    torch.testing.assert_close(seen_by(layer), weight.clamp(-bound, bound), rtol=1e-5, atol=1e-6)
    inside = weight.abs() < 0.999 * bound
    assert torch.equal(seen_by(layer)[inside], weight[inside])


def test_clipping_per_channel_is_at_sigmas_of_each_output() -> None:
    weight = torch.randn(30, 40) * torch.logspace(-1, 1, 30).unsqueeze(1)
    layer = layer_with(weight, Recipe(clip_sigma=1.2, clip_per="channel")).eval()
    bound = 1.2 * weight.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(seen_by(layer), weight.clamp(-bound, bound), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip_per", ["layer", "channel"])
def test_clipping_a_convolution_is_the_same_on_its_matrix(clip_per: str) -> None:
    conv = pg.nn.AnalogConv2d(3, 5, 3, bias=False, hardware=IDEAL).eval()
    Recipe(clip_sigma=1.2, clip_per=clip_per).apply(conv)
    matrix = conv.weight.detach().flatten(1)
    sd = matrix.square().mean(1, keepdim=True).sqrt() if clip_per == "channel" else matrix.square().mean().sqrt()
    x = torch.randn(2, 3, 6, 6)
    expected = nn.functional.conv2d(x, matrix.clamp(-1.2 * sd, 1.2 * sd).view_as(conv.weight))
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)


def test_evaluation_uses_clipping_only() -> None:
    weight = torch.randn(30, 40)
    noisy = layer_with(weight, Recipe(noise=AdditiveNoise(sigma=0.5), drop_connect=0.5, clip_sigma=1.2)).eval()
    clipped = layer_with(weight, Recipe(noise=None, clip_sigma=1.2)).eval()
    assert torch.equal(seen_by(noisy), seen_by(clipped))
    noisy.perturbation = replace(noisy.perturbation, clip_sigma=0.0)
    assert torch.equal(seen_by(noisy), weight)


def test_gradient_passes_except_where_a_step_would_push_a_clipped_weight_further_out() -> None:
    weight = torch.tensor([[-1.0, 1.0, -1.0, 1.0, 3.0, -3.0, 3.0, -3.0]])
    layer = layer_with(weight, Recipe(noise=AdditiveNoise(sigma=0.1), clip_sigma=1.0))
    grad = torch.tensor([[1.0, -1.0, -1.0, 1.0, 2.0, 2.0, -2.0, -2.0]])
    layer(torch.eye(8)).t().backward(grad)  # a step goes against the gradient
    expected = torch.tensor([[1.0, -1.0, -1.0, 1.0, 2.0, 0.0, 0.0, -2.0]])
    assert torch.equal(layer.weight.grad, expected)


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (Recipe, "ramp", 1.5),
        (Recipe, "drop_connect", -0.1),
        (Recipe, "clip_sigma", float("nan")),
        (Recipe, "clip_per", "tile"),
        (AdditiveNoise, "sigma", -1.0),
        (MultiplicativeNoise, "sigma", float("inf")),
        (PCMNoise, "strength", "1"),
        (Distillation, "weight", 2.0),
        (Distillation, "temperature", 0.0),
    ],
)
def test_impossible_recipes_raise_naming_field_and_value(make: Any, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{make.__name__}: {field} = {value!r}"):
        make(**{field: value})


def test_noise_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Recipe: noise = 0\.1"):
        Recipe(noise=0.1)  # type: ignore[arg-type]
