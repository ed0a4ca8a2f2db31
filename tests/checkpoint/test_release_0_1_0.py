"""Files of release 0.1.0 load and give the same results."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.configuration import from_json

SAVED: dict[str, Any] = torch.load(Path(__file__).parent / "fixtures" / "0.1.0.pt", weights_only=True)
NETS: dict[str, dict[str, Any]] = SAVED["nets"]


def net_of(saved: dict[str, Any]) -> nn.Module:
    hardware = from_json(saved["json"])
    assert isinstance(hardware, pg.Hardware)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 6))
    net = pg.convert(model, hardware)
    net.load_state_dict(saved["state"])
    return net


@pytest.mark.parametrize("name", NETS)
def test_loads_and_computes_the_same(name: str) -> None:
    saved = NETS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = net_of(saved).eval()
    assert net.state_dict().keys() == saved["state"].keys()
    torch.manual_seed(2)
    with torch.no_grad():
        y = net(SAVED["x"])
    torch.testing.assert_close(y, saved["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, saved in NETS.items() if "optimizer" in saved])
def test_training_continues_identically(name: str) -> None:
    saved = NETS[name]
    net = net_of(saved)
    kind = pg.optim.TikiTakaV2 if name == "tiki-taka" else pg.optim.AnalogSGD
    optimizer = kind(net.parameters(), lr=0.05)
    optimizer.load_state_dict(saved["optimizer"])
    torch.manual_seed(2)
    with torch.no_grad():
        net(SAVED["x"])
    optimizer.zero_grad()
    net(SAVED["x"]).square().mean().backward()
    optimizer.step()
    after = net.state_dict()
    for key, value in saved["stepped"].items():
        if not key.endswith(("configuration", "baseline")):  # a baseline is measured again after pulses
            found = torch.where(rewritten(key, saved["stepped"], after), value, after[key])
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


def rewritten(key: str, before: dict[str, Any], after: dict[str, Any]) -> Tensor:
    """Where the step RESET the devices of a weight, which release 0.1.0 wrote 0.1 uS short and without history."""
    layer, _, name = key.partition(".")
    conductance, found = f"{layer}.devices.conductance", after[key]
    nowhere = torch.zeros_like(found, dtype=torch.bool)
    if f"{layer}.devices.history" not in after:
        return nowhere
    cells = ((before[conductance] == 0.1e-6) & (after[conductance] != 0.1e-6)).any(0)
    if f"{layer}.devices.fast.conductance" in after and bool(cells.any()):  # a transfer rewrites all cells
        cells = torch.ones_like(cells)
    if found.numel() < cells.numel():
        return nowhere
    return (cells.view(found.shape) if name == "weight" else cells).expand_as(found)
