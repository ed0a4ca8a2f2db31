"""Analog embeddings, which read single bit lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.conversion import register_counterpart
from phasegrad.crossbar import Adc, FullScaleRange, Wires
from phasegrad.nn import AnalogEmbedding

IDEAL = pg.presets.ideal_inference()
NOISY = pg.presets.pcm_inference()


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def analog(model: nn.Module, hardware: pg.Hardware) -> nn.Module:
    with register_counterpart(nn.Embedding, AnalogEmbedding.from_digital):
        return pg.convert(model, hardware)


@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}, {"padding_idx": -1}], ids=str
)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)], ids=str)
def test_outputs_and_gradients_equal_those_of_the_digital_counterpart(
    options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    digital = nn.Embedding(7, 5, **options)
    net, tokens = analog(digital, replace(IDEAL, rows=3)), torch.randint(7, shape)
    assert type(net) is AnalogEmbedding
    for module in (digital, net):
        module(tokens).square().sum().backward()
    torch.testing.assert_close(net(tokens), digital(tokens))
    torch.testing.assert_close(net.weight.grad, digital.weight.grad)
    back = pg.to_digital(net)
    assert type(back) is nn.Embedding
    assert repr(back) == repr(digital)
    assert list(back.state_dict()) == ["weight"]
    net.load_state_dict(digital.state_dict())


def test_embeddings_stay_digital_unless_registered() -> None:
    net = pg.convert(Language(), IDEAL)
    assert type(net.embedding) is nn.Embedding
    assert (
        pg.conversion.left_digital(net)["embedding"]
        == "a look-up of rows, not a product; register AnalogEmbedding to read tiles"
    )


def test_converter_range_and_output_noise_are_relative_to_one_device() -> None:
    layer = analog(nn.Embedding(50, 400), replace(IDEAL, output_noise=0.1))
    tokens = torch.arange(50)
    unit = layer.weight.detach().abs().amax(1, keepdim=True)
    z = (layer(tokens).detach() - layer.weight.detach()) / (0.1 * unit)
    assert abs(z.std().item() - 1) < 5 / (2 * z.numel()) ** 0.5
    coarse = analog(nn.Embedding(50, 40), replace(IDEAL, adc=Adc(bits=4, range=FullScaleRange())))
    y, weight = coarse(tokens).detach(), coarse.weight.detach()
    step = weight.abs().amax(1, keepdim=True) / 7
    assert ((y - weight).abs() <= 0.5001 * step).all()
    torch.testing.assert_close(y / step, (y / step).round(), rtol=0, atol=1e-4)


def test_training_noise_acts_on_embeddings() -> None:
    net = analog(nn.Embedding(50, 400), IDEAL)
    pg.hwa.Recipe(noise=pg.hwa.AdditiveNoise(sigma=0.1), clip_sigma=0.0).apply(net)
    z = (net(torch.arange(50)) - net.weight).detach() / (0.1 * net.weight.detach().abs().amax(1, keepdim=True))
    assert abs(z.std().item() - 1) < 5 / (2 * z.numel()) ** 0.5


def test_a_tied_decoder_shares_the_devices(tmp_path: Path) -> None:
    model, tokens = Language(), torch.arange(11)
    net = analog(model, NOISY)
    assert net.embedding.weight is net.head.weight
    pg.hwa.calibrate(net, [tokens])
    net(tokens).sum().backward()
    chip = pg.inference.compensate(pg.inference.age(pg.inference.program(net, seed=0), 1e6), seed=1)
    assert chip.embedding.devices is chip.head.devices
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    loaded = analog(model, NOISY).eval()
    loaded.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    y = []
    for module in (chip, loaded):
        torch.manual_seed(0)
        y.append(module(tokens))
    assert torch.equal(*y)
    back = pg.to_digital(chip)
    assert back.embedding.weight is back.head.weight


def test_the_compensation_gain_scales_the_embeddings() -> None:
    chip = pg.inference.program(analog(nn.Embedding(6, 4), IDEAL), seed=0)
    chip.devices.gain.mul_(2.0)
    tokens = torch.arange(6)
    torch.testing.assert_close(chip(tokens), 2 * chip.weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("digital", "hardware", "message"),
    [
        (nn.Embedding(4, 2, max_norm=1.0), IDEAL, r"max_norm = 1\.0.*leave the embedding digital"),
        (nn.Embedding(4, 2, sparse=True), IDEAL, "sparse = True"),
        (nn.Embedding(4, 2), pg.presets.soft_bounds_training(), r"hardware\.pulses = "),
        (nn.Embedding(4, 2), replace(IDEAL, wires=Wires(word_line=1.0, bit_line=1.0)), r"hardware\.wires = "),
    ],
)
def test_options_and_hardware_that_are_not_modelled_raise(
    digital: nn.Module, hardware: pg.Hardware, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        analog(digital, hardware)


def test_from_digital_does_not_change_the_digital_module() -> None:
    digital = nn.Embedding(5, 3)
    pg.nn.AnalogEmbedding.from_digital(digital, pg.presets.pcm_inference())
    assert list(digital._parameters) == ["weight"]
