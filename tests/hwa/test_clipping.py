"""Clipping counts only nonzero weights, and a recipe that clips many of them says so once."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.hwa import Recipe, calibrate
from phasegrad.hwa.clipping import tolerated_share

EXACT = Recipe(noise=None)
IDEAL = pg.presets.ideal_inference()


def layer_with(weight: Tensor) -> pg.nn.AnalogLinear:
    layer = pg.nn.AnalogLinear(weight.shape[1], weight.shape[0], bias=False, hardware=IDEAL)
    layer.weight.data.copy_(weight)
    return layer


def pruned(left: float = 0.02) -> Tensor:
    """The largest weights of a normal distribution; the others are 0."""
    weight = torch.randn(200, 250)
    weight[weight.abs() < weight.abs().flatten().kthvalue(round((1 - left) * weight.numel())).values] = 0.0
    return weight


@pytest.mark.parametrize("clip_per", ["layer", "channel"])
def test_the_default_recipe_leaves_a_pruned_net_alone(clip_per: str) -> None:
    layer = layer_with(pruned())
    Recipe(noise=None, clip_per=clip_per).apply(layer)
    assert torch.equal(layer.clipped_weight(), layer.weight)
    assert torch.equal(pg.inference.program(layer, seed=0).weight != 0, layer.weight != 0)


@pytest.mark.parametrize("clip_per", ["layer", "channel"])
def test_what_is_programmed_read_and_converted_back_has_the_same_bound(clip_per: str) -> None:
    weight = torch.randn(40, 60) * (torch.rand(40, 60) < 0.2)
    layer = layer_with(weight)
    Recipe(noise=None, clip_sigma=1.5, clip_per=clip_per).apply(layer)
    dims = 1 if clip_per == "channel" else (0, 1)
    nonzero = (weight != 0).sum(dims, keepdim=True)
    bound = 1.5 * (weight.square().sum(dims, keepdim=True) / nonzero).sqrt()
    expected = weight.clamp(-bound, bound)
    seen = layer.eval()(torch.eye(60)).t()
    chip = pg.inference.program(layer, seed=0)
    for found in (seen, layer.clipped_weight(), chip.weight, pg.to_digital(layer).weight):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_dense_weights_have_the_bound_of_all_weights() -> None:
    weight = torch.randn(200, 250)
    layer = layer_with(weight)
    EXACT.apply(layer)
    bound = 2.5 * weight.square().mean().sqrt()
    torch.testing.assert_close(layer.clipped_weight(), weight.clamp(-bound, bound))


def test_a_recipe_that_clips_many_weights_names_the_layers_once() -> None:
    weight = torch.full((100, 100), 0.01)
    weight[:10] = 1.0  # a tenth of the weights is all of the root mean square of 0.32
    net = nn.Sequential(layer_with(weight), layer_with(torch.randn(100, 100)), layer_with(-weight))
    with pytest.warns(UserWarning, match=r"of 0 \(10%.*, 2 \(10%.*clip_sigma=0") as found:
        EXACT.apply(net)
    assert len(found) == 1
    assert found[0].filename == __file__


@pytest.mark.parametrize("through", [lambda net: calibrate(net, [torch.randn(4, 100)], recipe=EXACT), EXACT.apply])
def test_calibrate_says_it_too_at_the_users_line(through: object) -> None:
    weight = torch.full((100, 100), 0.01)
    weight[:10] = 1.0
    with pytest.warns(UserWarning, match="clips many of the nonzero weights of the net") as found:
        through(layer_with(weight))  # type: ignore[operator]
    assert [w.filename for w in found] == [__file__]


@pytest.mark.parametrize("sigma", [1.0, 1.2, 1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("kind", ["normal", "uniform", "Laplace"])
def test_ordinary_distributions_are_clipped_in_silence(kind: str, sigma: float) -> None:
    weight = {
        "normal": torch.randn(300, 300),
        "uniform": torch.rand(300, 300) - 0.5,
        "Laplace": torch.distributions.Laplace(0.0, 1.0).sample((300, 300)),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Recipe(noise=None, clip_sigma=sigma).apply(layer_with(weight))


def test_the_tolerated_share_is_as_stated() -> None:
    assert tolerated_share(2.5) == 0.05
    assert tolerated_share(1.2) == pytest.approx(2 * math.erfc(1.2 / 2**0.5))
    assert tolerated_share(0.3) == 0.5


def test_what_clips_nearly_everything_is_said() -> None:
    with pytest.warns(UserWarning, match=r"the net \(\d\d% at 0\.3 root mean squares\)"):
        Recipe(noise=None, clip_sigma=0.3).apply(layer_with(torch.randn(50, 50)))
