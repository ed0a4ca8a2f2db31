"""A state dict with one wrong entry raises, names it, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import OffsetSlices
from phasegrad.crossbar import Adc, CalibratedRange, RampAdc, Wires
from phasegrad.devices import CorrelatedNoise, Thermal

PCM = pg.presets.pcm_inference()
DEVICE = PCM.cell.device
HARDWARE: dict[str, Callable[[], pg.Hardware]] = {
    **{name: getattr(pg.presets, name) for name in pg.presets.__all__},
    "offset slices": lambda: replace(PCM, cell=OffsetSlices(device=DEVICE, bits=5, slices=2)),
    "wires": lambda: replace(PCM, wires=Wires(word_line=5.0, bit_line=5.0)),
    "noise and heat": lambda: replace(
        PCM, cell=type(PCM.cell)(device=replace(DEVICE, correlated_noise=CorrelatedNoise(), thermal=Thermal()))
    ),
    "converters": lambda: replace(PCM, adc=RampAdc(curvature=1.0, gain_mismatch=0.1)),
    "calibrated": lambda: replace(PCM, adc=Adc(range=CalibratedRange())),
}
STORES = ("net", "chip", "net into chip", "chip into net")


def made(hardware: pg.Hardware, chip: bool, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = pg.convert(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), hardware)
    return pg.inference.program(net, seed=seed) if chip and hardware.pulses is None else net


def everything(net: nn.Module) -> dict[str, Any]:
    """All tensors, with their identity, and what else loading could change."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    layers = pg.nn.analog_layers(net)
    return {
        **{key: (id(value), value.detach().clone(), value.requires_grad) for key, value in tensors.items()},
        **{f"{name}.store": layer.store.name for name, layer in layers.items()},
        **{f"{name}.perturbation": layer.perturbation for name, layer in layers.items()},
        **{f"{name}.devices": id(layer.devices) for name, layer in layers.items()},
    }


def unchanged(net: nn.Module, before: dict[str, Any]) -> bool:
    after = everything(net)
    same = after.keys() == before.keys()
    for key, old in before.items():
        new = after.get(key)
        if isinstance(old, tuple):
            same = same and new[0] == old[0] and new[2] == old[2] and torch.equal(new[1], old[1])
        else:
            same = same and new == old
    return same


def filled(value: Tensor, number: float) -> Tensor:
    """A copy whose last element is a number."""
    copied = value.clone()
    copied.view(-1)[-1] = number
    return copied


def corruptions(key: str, value: Tensor) -> dict[str, Any]:
    """Wrong entries in place of one, by what is wrong; ``None`` for a missing one."""
    name = key.rpartition(".")[2]
    wrong: dict[str, Any] = {"shape": torch.zeros(*value.shape, 7), "missing": None}
    if name == "configuration":
        return {"text": value[:-3]}
    analog = ".devices." in key or ".converters." in key or name.endswith("_range")
    if analog:
        wrong["dtype"] = value.to(torch.int32) if value.is_floating_point() else value.float()
        wrong["complex"] = value.to(torch.complex64)
        wrong["no tensor"] = 3.0
    if analog and value.is_floating_point():
        wrong |= {"NaN": filled(value, torch.nan), "infinity": filled(value, torch.inf)}
    if ".devices." in key and value.is_floating_point():
        wrong["rounded"] = value.half()
    if name in ("clock", "programmed_at", "pulsed_at", "scale", "gain", "baseline", "nu", "history", "updates"):
        wrong["negative"] = filled(value, -1.0)
    return wrong


def refusal(net: nn.Module, state: dict[str, Any]) -> str | None:
    """The message with which a state dict is refused, or ``None``."""
    try:
        net.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", HARDWARE)
def test_every_wrong_entry_is_named_and_nothing_changes(name: str, store: str) -> None:
    hardware = HARDWARE[name]()
    if hardware.pulses is not None and store != "net":
        pytest.skip("a net that is trained in the memory has devices")
    state = made(hardware, store in ("chip", "chip into net"), 0).state_dict()
    net = made(hardware, store in ("chip", "net into chip"), 1)
    before = everything(net)
    for key, value in state.items():
        for what, wrong in corruptions(key, value).items():
            damaged = {k: v for k, v in state.items() if k != key} | ({} if wrong is None else {key: wrong})
            error = refusal(net, damaged)
            if error is not None:
                assert key in error, f"{key}, {what}: {error}"
                assert unchanged(net, before), f"{key}, {what}"
                continue
            # a float checkpoint has neither converters nor devices, and old ones of batch normalisation no counts
            assert what == "missing", f"{key}, {what}"
            assert key.endswith("num_batches_tracked"), f"{key}, {what}"
            net = made(hardware, store in ("chip", "net into chip"), 1)
            before = everything(net)
    with pytest.raises(RuntimeError, match=r'nothing was loaded:\n\tUnexpected key.*"3.weight"'):
        net.load_state_dict({**state, "3.weight": torch.zeros(1)})
    assert unchanged(net, before)
    net.load_state_dict(state)
    found = net.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items() if store != "net into chip")


def test_without_strictness_keys_may_differ_but_shapes_may_not() -> None:
    net, state = made(PCM, False, 0), made(PCM, False, 1).state_dict()
    before = everything(net)
    with pytest.raises(RuntimeError, match=r"size mismatch for 2\.bias"):
        net.load_state_dict({**state, "2.bias": torch.zeros(3)}, strict=False)
    assert unchanged(net, before)
    del state["2.bias"]
    found = net.load_state_dict({**state, "more": torch.zeros(1)}, strict=False)
    assert found.missing_keys == ["2.bias"]
    assert found.unexpected_keys == ["more"]
    assert torch.equal(net[0].weight, state["0.weight"])


def test_a_part_of_a_larger_model_is_checked_too() -> None:
    """The hook of a converted net runs inside of another module, whose other keys are not its own."""
    model = nn.ModuleDict({"analog": made(PCM, False, 0), "head": nn.Linear(2, 2)})
    state = nn.ModuleDict({"analog": made(PCM, False, 1), "head": nn.Linear(2, 2)}).state_dict()
    model.load_state_dict(state)
    assert torch.equal(model["analog"][0].weight, state["analog.0.weight"])
    with pytest.raises(RuntimeError, match=r'Missing key.*"analog\.0\.bias"'):
        model.load_state_dict({key: value for key, value in state.items() if key != "analog.0.bias"})


def test_hooks_of_users_that_rename_keys_still_work() -> None:
    net, state = made(PCM, False, 0), made(PCM, False, 1).state_dict()

    def rename(module: nn.Module, entries: dict[str, Any], prefix: str, *_: Any) -> None:
        entries[f"{prefix}0.bias"] = entries.pop(f"{prefix}0.offset")

    net.register_load_state_dict_pre_hook(rename)
    state["0.offset"] = state.pop("0.bias")
    net.load_state_dict(state)
    assert torch.equal(net[0].bias, state["0.offset"])


def test_a_diverged_digital_net_can_be_loaded() -> None:
    net, state = made(PCM, False, 0), made(PCM, False, 1).state_dict()
    state["0.weight"] = torch.full_like(state["0.weight"], torch.nan)
    net.load_state_dict(state)
    assert bool(net[0].weight.isnan().all())
