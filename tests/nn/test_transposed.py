"""Transposed convolutions and linear layers with transposed weights equal their counterparts in every store."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.nn import AnalogConvTranspose2d, AnalogTransposedLinear
from phasegrad.nn.linear import TransposedLinear
from phasegrad.ops.pulses import of_all_groups

IDEAL = pg.presets.ideal_inference()
NOISY = pg.presets.pcm_inference()
KINDS = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": 3, "output_padding": 2, "bias": False},
    {"stride": 3, "padding": 1, "output_padding": 2, "dilation": 2},
    {"groups": 2, "stride": 2},
    {"groups": 4, "padding": 2},
]
each = pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, options) for kind in KINDS for options in OPTIONS],
    ids=lambda v: v.__name__ if isinstance(v, type) else " ".join(map(str, v.items())),
)


class Conv1D(nn.Module):
    """A copy of Hugging Face's layer, because transformers may not be installed."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


Conv1D.__module__ = "transformers.pytorch_utils"


def image(kind: type[nn.Module], *batch: int) -> Tensor:
    return torch.randn(*batch, 4, *(5, 4, 3)[: KINDS.index(kind) + 1])


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@each
@pytest.mark.parametrize("rows", [512, 3])
def test_outputs_and_gradients_equal_those_of_the_digital_counterpart(
    kind: Any, options: dict[str, Any], rows: int
) -> None:
    digital = kind(4, 8, 3, **options)
    analog = pg.convert(digital, replace(IDEAL, rows=rows))
    x, found = image(kind, 2), []
    for module in (digital, analog):
        z = x.clone().requires_grad_()
        y = module(z)
        y.square().sum().backward()
        found.append((y, z.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(analog.weight.grad, digital.weight.grad, rtol=1e-4, atol=1e-3)
    close(analog(x[0]), digital(x[0]))
    assert analog.in_features == 4 // digital.groups
    assert analog.out_features == 8 * 3 ** (KINDS.index(kind) + 1)


@each
def test_a_chip_survives_saving_and_loading_and_converts_back(
    kind: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    digital = kind(4, 8, 3, **options)
    chip = pg.inference.program(pg.convert(digital, IDEAL), seed=0)
    x = image(kind, 2)
    close(chip(x), digital(x))  # ideal devices are programmed exactly
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    loaded = pg.convert(digital, IDEAL).eval()
    loaded.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    assert torch.equal(loaded(x), chip(x))
    back = pg.to_digital(chip)
    assert type(back) is kind
    assert repr(back) == repr(digital)
    close(back(x), digital(x))


@pytest.mark.parametrize("kind", KINDS)
def test_output_size_selects_among_the_possible_sizes(kind: Any) -> None:
    digital = kind(4, 2, 3, stride=3, padding=1)
    analog, x = pg.convert(digital, IDEAL), image(kind, 2)
    smallest = list(digital(x).shape[2:])
    for more in range(3):
        size = [n + more for n in smallest]
        close(analog(x, output_size=size), digital(x, output_size=size))
    with pytest.raises(ValueError, match="requested an output size"):
        analog(x, output_size=[n + 3 for n in smallest])


@pytest.mark.parametrize("groups", [1, 2])
def test_in_memory_training_stages_the_gradient(groups: int) -> None:
    hardware = replace(pg.presets.soft_bounds_training(), dac=None, adc=None, output_noise=0.0, read_noise=0.0)
    digital = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups)
    analog = pg.convert(digital, hardware)
    with torch.no_grad():
        digital.weight.copy_(analog.weight)
    x = image(nn.ConvTranspose2d, 2)
    for module in (digital, analog):
        module(x).square().sum().backward()
    gradient = sum(of_all_groups(d, groups).t() @ rows for rows, d in analog.weight.staged())
    wanted = analog.weight.matrix_layout.matrix(digital.weight.grad)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)
    before = analog.weight.detach().clone()
    pg.optim.AnalogSGD(analog.parameters(), lr=0.01).step()
    change = analog.weight.detach() - before
    assert (change * digital.weight.grad).sum() < 0  # the update descends the gradient
    close(analog.weight.matrix_layout.matrix(analog.weight.detach()), analog.devices.logical_weight())
    other = copy.deepcopy(analog)
    assert other.weight.matrix_layout == analog.weight.matrix_layout


def test_output_noise_is_drawn_per_column_before_overlaps_are_added() -> None:
    layer = nn.ConvTranspose2d(4, 64, 4, stride=2, bias=False)
    analog = pg.convert(layer, replace(IDEAL, output_noise=0.1, scale="tile"))
    x = torch.randn(4, 4, 12, 12)
    noise = (analog(x) - layer(x))[:, :, 2:-2, 2:-2].detach()  # away from the edges, four positions overlap
    unit = 0.1 * layer.weight.abs().max() * x.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    sd = (noise / unit).std().item()
    assert abs(sd / 2.0 - 1) < 5 / noise.numel() ** 0.5


def test_wrong_shapes_raise() -> None:
    with pytest.raises(ValueError, match=r"input has shape \[2, 3, 5, 5\]; it must be \[batch, 4, \.\.\.\]"):
        AnalogConvTranspose2d(4, 2, 3, hardware=IDEAL)(torch.zeros(2, 3, 5, 5))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_it_is_traced_without_graph_breaks() -> None:
    torch.compiler.reset()
    net = pg.convert(nn.ConvTranspose2d(4, 2, 3, stride=2), NOISY)
    x = torch.randn(2, 4, 3, 3)
    traced = torch.compile(net, fullgraph=True, backend="aot_eager_decomp_partition")
    y = []
    for module in (net, traced):
        torch.manual_seed(2)
        y.append(module(x))
    close(y[1], y[0])


@pytest.mark.parametrize("kind", [Conv1D, TransposedLinear])
def test_the_layer_of_hugging_face_is_recognised_by_name(kind: Any) -> None:
    digital = nn.Sequential(kind(6, 4))
    net, x = pg.convert(digital, IDEAL), torch.randn(2, 3, 4)
    assert type(net[0]) is AnalogTransposedLinear
    assert (net[0].out_features, net[0].in_features) == (6, 4)
    assert net[0].weight.shape == (4, 6)
    close(net(x), digital(x))
    net.load_state_dict((other := nn.Sequential(kind(6, 4))).state_dict())
    close(net(x), other(x))
    assert type(pg.to_digital(net)[0]) is kind
    chip = pg.inference.program(net, seed=0)
    close(chip(x), other(x))
    close(pg.to_digital(chip)(x), other(x))


def test_the_layer_of_transformers_converts_both_ways() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    digital = pytorch_utils.Conv1D(6, 4)
    x = torch.randn(2, 4)
    net = pg.convert(digital, IDEAL)
    close(net(x), digital(x))
    assert type(pg.to_digital(net)) is pytorch_utils.Conv1D


def test_in_memory_training_stages_the_gradient_of_a_transposed_weight() -> None:
    hardware = replace(pg.presets.soft_bounds_training(), dac=None, adc=None, output_noise=0.0, read_noise=0.0)
    net, x = pg.convert(TransposedLinear(6, 4), hardware), torch.randn(5, 4)
    net(x).square().sum().backward()
    before = net.weight.detach().clone()
    d = 2 * (x @ before + net.bias.detach())
    torch.testing.assert_close(sum(d.t() @ rows for rows, d in net.weight.staged()), d.t() @ x, rtol=1e-4, atol=1e-4)
    pg.optim.AnalogSGD(net.parameters(), lr=0.01).step()
    assert ((net.weight.detach() - before) * (x.t() @ d)).sum() < 0


class TiedTranspose(nn.Module):
    """Two layers with one parameter, which the second uses transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), TransposedLinear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_a_tied_transpose_has_separate_devices_on_a_chip_and_raises_in_memory() -> None:
    digital, x = TiedTranspose(), torch.randn(3, 4)
    net = pg.convert(digital, IDEAL)
    assert net.a.weight is net.b.weight
    close(net(x), digital(x))
    chip = pg.inference.program(net, seed=0)
    assert chip.a.devices is not chip.b.devices
    close(chip(x), digital(x))
    close(pg.to_digital(chip)(x), digital(x))
    loaded = pg.convert(digital, IDEAL).eval()
    loaded.load_state_dict(chip.state_dict())
    close(loaded(x), digital(x))
    with pytest.raises(ValueError, match="tied to a weight with another order of inputs and outputs"):
        pg.convert(digital, pg.presets.soft_bounds_training())


def test_output_size_may_include_the_channels() -> None:
    digital = nn.ConvTranspose2d(2, 3, 3, stride=2)
    net, x = pg.convert(digital, pg.presets.ideal_inference()), torch.randn(2, 4, 4)
    torch.testing.assert_close(net(x, output_size=[3, 10, 10]), digital(x, output_size=[3, 10, 10]))
