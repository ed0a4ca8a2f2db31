"""Sensitivity finds the layer that costs the accuracy, and maps of device properties follow the device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair
from phasegrad.devices import hermes_one, joshi_2020, nandakumar_2018_device, scaled
from phasegrad.inference import design_map, sensitivity

EXACT = pg.presets.ideal_inference()
X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """A net with tied layers, a composite, and one more layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.again.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, 4]``."""
        return self.last(self.rnn(torch.tanh(self.again(torch.tanh(self.first(x)))).unsqueeze(1))[0][:, 0])


def noisy(factor: float) -> pg.Hardware:
    device = scaled(joshi_2020(), noise=factor)
    return dataclasses.replace(EXACT, cell=DifferentialPair(device=device))


def closeness(exact: Tensor) -> Callable[[nn.Module], float]:
    """A value that is 1 for the digital net and falls with the error of outputs."""

    @torch.no_grad()
    def evaluate(net: nn.Module) -> float:
        return 1.0 - float((net(X) - exact).square().mean() / exact.square().mean())

    return evaluate


def fragile() -> tuple[nn.Module, Callable[[nn.Module], float]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8)).eval()
    with torch.no_grad():
        exact = model(X)
    return pg.convert(model, {"0": noisy(0.2), "2": noisy(3.0), "4": noisy(0.2)}), closeness(exact)


def test_the_fragile_layer_costs_most_and_is_kept_digital() -> None:
    net, evaluate = fragile()
    found = sensitivity(net, evaluate, chips=4, target=0.97, progress=False)
    assert found.names[found.order[0]] == "2"
    assert found.keep_digital == ("2",)
    assert found.reference == pytest.approx(1.0)
    assert found.cost().argmax() == 1
    low, high = found.cost_interval()
    assert (low <= found.cost()).all()
    assert (found.cost() <= high).all()
    assert low[1] > max(high[0], high[2])
    assert found.path.mean(1)[-1] >= 0.97 > found.path.mean(1)[0]
    hybrid = pg.to_digital(net, only=found.keep_digital)
    assert [type(m).__name__ for m in hybrid if hasattr(m, "weight")] == ["AnalogLinear", "Linear", "AnalogLinear"]


def test_a_layer_alone_has_the_devices_of_the_whole_chip() -> None:
    """With one layer, alone and together are the same measurement: same devices, same reads."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8)).eval()
    with torch.no_grad():
        evaluate = closeness(model(X))
    found = sensitivity(pg.convert(model, pg.presets.pcm_inference()), evaluate, chips=2, progress=False)
    np.testing.assert_array_equal(found.alone[0], found.analog)


def test_tied_layers_and_composites_count_as_one() -> None:
    torch.manual_seed(0)
    model = Shared().eval()
    with torch.no_grad():
        evaluate = closeness(model(X))
    found = sensitivity(pg.convert(model, noisy(1.0)), evaluate, chips=2, target=1.0, progress=False)
    assert sorted(found.layers) == [("first", "again"), ("last",), ("rnn",)]
    assert found.weights[found.names.index("first")] == 256
    assert len(found.path) == 4  # only the digital net reaches its own value
    assert found.path[-1] == pytest.approx(1.0)
    assert set(found.keep_digital) == {"first", "again", "last", "rnn"}


def test_a_sensitivity_prints_and_writes_its_rows(tmp_path: Path) -> None:
    net, evaluate = fragile()
    found = sensitivity(net, evaluate, chips=2, target=0.97, progress=False)
    assert str(found).splitlines()[-1] == "keep digital for the target: 2"
    found.to_csv(tmp_path / "layers.csv")
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == 4
    pytest.importorskip("matplotlib")
    assert found.plot().axes[0].get_yticklabels()[0].get_text() == "2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chips": 0}, "chips = 0"),
        ({"time": -1.0}, "time = -1.0 s"),
        ({"target": 2.0}, "target = 2 is above 1, the value of the digital net"),
        ({"compensation": "row"}, "compensation = 'row'"),
    ],
)
def test_impossible_sensitivities_raise(options: dict[str, object], message: str) -> None:
    net, evaluate = fragile()
    with pytest.raises(ValueError, match=message):
        sensitivity(net, evaluate, progress=False, **options)


def test_a_loss_needs_a_target_of_its_own() -> None:
    net, _ = fragile()
    with pytest.raises(ValueError, match="returned -1 for the digital net, of which 99 % is no target; pass target"):
        sensitivity(net, lambda chip: -1.0, progress=False)


def test_part_of_a_net_becomes_digital() -> None:
    net, _ = fragile()
    hybrid = pg.to_digital(net, only=["0"])
    assert type(hybrid[0]) is nn.Linear
    assert pg.conversion.left_digital(hybrid) == {"0": "named in only of to_digital"}
    assert type(net[0]).__name__ == "AnalogLinear"
    assert len(pg.nn.analog_layers(pg.to_digital(net, only=()))) == 3
    with pytest.raises(ValueError, match="names no analog layer"):
        pg.to_digital(net, only=["1"])
    with pytest.raises(ValueError, match="share a weight; name both in only, or neither"):
        pg.to_digital(pg.convert(Shared(), EXACT), only=["first"])


def test_maps_are_monotone_in_noise_drift_and_age(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8)).eval()
    with torch.no_grad():
        evaluate = closeness(model(X))
    net = pg.convert(model, dataclasses.replace(EXACT, cell=DifferentialPair(device=joshi_2020())))
    found = design_map(
        net, evaluate, windows=(4.0, math.inf), noise=(0.0, 1.0, 3.0), drift=(0.0, 1.0, 2.0), times=(1.0, 3.15e7),
        chips=3, compensation=None, progress=False,
    )  # fmt: skip
    means = found.mean()
    assert (np.diff(means[..., 0, :], axis=1) < 0).all()  # noise, without drift
    assert (np.diff(means[:, 0, :, 1], axis=1) < 0).all()  # drift of a year, without noise
    assert (np.diff(means[:, 0, 1:], axis=-1) < 0).all()  # age
    np.testing.assert_allclose(means[:, 0, 0], 1.0, atol=1e-9)  # neither noise nor drift
    assert (means[0, 1, 0] < means[1, 1, 0]).all()  # the same noise in a smaller window
    found.to_csv(tmp_path / "map.csv")
    rows = (tmp_path / "map.csv").read_text().splitlines()
    assert rows[0] == "window,noise,drift,time_s,chip,value"
    assert len(rows) == 1 + found.values.size
    assert len(found.rows()) == means.size
    assert len(str(found).splitlines()) == 3 + 18
    np.testing.assert_array_equal(found.report(1, 2, 0).values, found.values[1, 2, 0])


def test_the_point_of_the_device_itself_is_the_population() -> None:
    torch.manual_seed(1)
    net = pg.convert(
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.LSTM(16, 4)), pg.presets.pcm_inference()
    )

    @torch.no_grad()
    def evaluate(chip: nn.Module) -> float:
        return chip(torch.ones(3, 2, 4, 4))[0].square().sum().item()

    found = design_map(net, evaluate, noise=(1.0,), drift=(1.0,), times=(1.0, 3600.0), chips=2, progress=False)
    usual = pg.inference.accuracy_over_time(net, evaluate, (1.0, 3600.0), chips=2, progress=False)
    np.testing.assert_array_equal(found.report().values, usual.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": (1.0,)}, "windows = 1.0; it must be a number, finite and above 1"),
        ({"windows": (math.nan,)}, "windows = nan"),
        ({"noise": ()}, "noise is empty; pass at least one value"),
        ({"drift": (-1.0,)}, "drift = -1.0"),
        ({"times": (2.0, 1.0)}, "must not decrease"),
        ({"chips": 0}, "chips = 0"),
    ],
)
def test_impossible_maps_raise_before_anything_is_measured(options: dict[str, object], message: str) -> None:
    net, _ = fragile()
    called: list[nn.Module] = []
    with pytest.raises(ValueError, match=message):
        design_map(net, lambda chip: called.append(chip) or 0.0, progress=False, **options)
    assert not called


def test_other_devices_cannot_be_scaled() -> None:
    with pytest.raises(TypeError, match="device"):
        scaled("pcm")
    with pytest.raises(TypeError, match="noise"):
        design_map(fragile()[0], lambda chip: 0.0, noise=2.0, progress=False)


@pytest.mark.parametrize("device", [joshi_2020(), hermes_one(), nandakumar_2018_device()])
def test_a_scaled_device_has_its_laws_times_the_factors(device: pg.devices.PCM) -> None:
    g = torch.linspace(0.01, 1.0, 50, dtype=torch.float64)
    found = scaled(device, noise=0.5, drift=3.0)
    torch.testing.assert_close(found.nu_mean(g), 3.0 * device.nu_mean(g))
    torch.testing.assert_close(found.nu_sd(g), 3.0 * device.nu_sd(g))
    if device.read_noise is not None and found.read_noise is not None:
        torch.testing.assert_close(found.read_noise(g), 0.5 * device.read_noise(g))
    assert found.programming_sd == tuple(0.5 * c for c in device.programming_sd)
    assert found.read_sd == tuple(0.5 * c for c in device.read_sd)
    assert not scaled(device, noise=0.0, drift=0.0).reads_are_noisy
    assert scaled(device) == device
