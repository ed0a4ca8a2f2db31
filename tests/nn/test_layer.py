"""State dicts of layers: their contents, loading into digital and programmed nets, and copies."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, CalibratedRange, Dac, FixedRange, LearnedRange

IDEAL = pg.presets.ideal_inference()
NOISY = replace(pg.presets.pcm_inference(), rows=5)
DEVICES = ("conductance", "nu", "programmed_at", "clock", "scale", "gain", "baseline")


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def net(seed: int = 0, hardware: pg.Hardware = NOISY) -> nn.Module:
    return pg.convert(model(seed), hardware)


def chip(seed: int = 0, hardware: pg.Hardware = NOISY) -> nn.Module:
    """A chip that is one hour old and drift-compensated."""
    old = pg.inference.age(pg.inference.program(net(seed, hardware), seed=seed), seconds=3600.0)
    return pg.inference.compensate(old, seed=seed)


def output(module: nn.Module, seed: int = 0) -> Tensor:
    torch.manual_seed(7)
    x = torch.randn(4, 2, 6)
    torch.manual_seed(seed)
    with torch.no_grad():
        return module.eval()(x)


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, including those that are not in the state dict."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().clone() for name, tensor in named}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def saved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that was saved to a file and loaded."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_keys_of_a_digital_weight() -> None:
    keys = set(pg.nn.AnalogLinear(4, 3, hardware=NOISY).state_dict())
    assert keys == {"weight", "bias", "input_range", "configuration"}


def test_keys_of_a_programmed_weight() -> None:
    keys = set(pg.inference.program(pg.nn.AnalogLinear(4, 3, bias=False, hardware=NOISY), seed=0).state_dict())
    assert keys == {"weight", "input_range", "configuration", *(f"devices.{name}" for name in DEVICES)}


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"dac": None}, set()),
        ({"dac": Dac(range=FixedRange(value=2.0))}, set()),
        ({"dac": Dac(range=AbsMaxRange())}, set()),
        ({"dac": None, "adc": Adc(range=LearnedRange())}, {"output_range"}),
        ({"dac": None, "adc": Adc(range=CalibratedRange())}, {"output_range"}),
    ],
)
def test_ranges_are_saved_only_if_they_come_from_data(options: dict[str, Any], keys: set[str]) -> None:
    layer = pg.nn.AnalogLinear(4, 3, hardware=replace(NOISY, **options))
    assert set(layer.state_dict()) == {"weight", "bias", "configuration"} | keys


def test_configuration_is_saved_as_bytes_of_json() -> None:
    tensor = net().state_dict()["2.configuration"]
    assert tensor.dtype == torch.uint8
    assert b'"version": 2' in bytes(tensor.tolist())


def test_float_checkpoint_sets_weights_and_keeps_ranges() -> None:
    mine, checkpoint = net(0), model(1).state_dict()
    with torch.no_grad():
        mine[2].input_range.fill_(1.25)
    mine.load_state_dict(checkpoint)
    assert all(torch.equal(mine.state_dict()[key], value) for key, value in checkpoint.items())
    assert mine[2].input_range.item() == 1.25
    assert mine[2].hardware is NOISY


def test_converted_net_loads_weights_ranges_and_noise() -> None:
    theirs, mine = net(0), net(1)
    pg.hwa.Recipe(clip_sigma=1.5, drop_connect=0.1).apply(theirs)
    with torch.no_grad():
        theirs[2].input_range.fill_(1.25)
    mine.load_state_dict(theirs.state_dict())
    assert_same(mine.state_dict(), theirs.state_dict())
    assert mine[2].perturbation == theirs[2].perturbation
    assert torch.equal(output(mine), output(theirs))


def test_a_programmed_state_dict_restores_the_devices_in_a_digital_net() -> None:
    theirs, mine = chip(0), net(1)
    mine.load_state_dict(saved(theirs.state_dict()))
    assert_same(mine.state_dict(), theirs.state_dict())
    assert torch.equal(output(mine, seed=5), output(theirs, seed=5))
    assert not mine[2].weight.requires_grad
    assert pg.inference.now(mine) == 3600.0
    assert torch.equal(output(pg.inference.age(mine, 1e5)), output(pg.inference.age(theirs, 1e5)))


def test_a_programmed_state_dict_loads_into_a_chip() -> None:
    theirs, mine = chip(0), chip(1)
    mine.load_state_dict(theirs.state_dict())
    assert torch.equal(output(mine), output(theirs))


def test_a_programmed_state_dict_of_tied_layers_restores_shared_devices() -> None:
    theirs = pg.inference.program(pg.convert(Tied(), NOISY), seed=0)
    mine = pg.convert(Tied(), NOISY)
    mine.load_state_dict(theirs.state_dict())
    assert theirs.a.devices is theirs.b.devices
    assert mine.a.devices is mine.b.devices


def test_a_float_checkpoint_programs_a_chip_again() -> None:
    mine, checkpoint = chip(0), model(1).state_dict()
    before = {key: value.clone() for key, value in checkpoint.items()}
    mine.load_state_dict(checkpoint)
    devices = mine[2].devices
    error = (devices.logical_weight() - checkpoint["2.weight"]).abs().max()
    assert error < 0.2 * checkpoint["2.weight"].abs().max()  # five times the largest programming sd of a pair
    assert float(devices.age) == 0.0
    assert torch.equal(devices.gain, torch.ones_like(devices.gain))
    assert torch.equal(mine[2].weight, devices.logical_weight())
    assert_same(checkpoint, before)


def test_a_digital_state_dict_programs_a_chip_again_reproducibly() -> None:
    state, weights = net(1).state_dict(), []
    for _ in range(2):
        mine = chip(0)
        torch.manual_seed(3)
        mine.load_state_dict(state)
        weights.append(mine[2].weight)
    assert torch.equal(*weights)
    assert (weights[0] - state["2.weight"]).abs().max() < 0.2 * state["2.weight"].abs().max()


def test_a_non_finite_checkpoint_raises() -> None:
    mine, checkpoint = chip(0), model(1).state_dict()
    checkpoint["2.weight"][1, 2] = float("nan")
    with pytest.raises(ValueError, match="non-finite"):
        mine.load_state_dict(checkpoint)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda module: module,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "programmed": lambda module: pg.inference.program(module, seed=0),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("state_of", [net, chip])
def test_different_hardware_raises_before_anything_is_copied(
    state_of: Callable[..., nn.Module], copied: Callable[[nn.Module], nn.Module]
) -> None:
    state = state_of(1).state_dict()
    other = replace(NOISY, columns=256, adc=replace(NOISY.adc, bits=10))
    last = state_of(1, other).state_dict()
    state |= {key: value for key, value in last.items() if key.startswith("4.")}  # the first layers match
    mine = copied(net(0))
    before = all_tensors(mine)
    with pytest.raises(ValueError, match=r"different Hardware for 4 .*columns: 512 != 256.*adc\.bits: 8 != 10"):
        mine.load_state_dict(state)
    assert_same(all_tensors(mine), before)


def test_weights_without_configuration_load_onto_different_hardware() -> None:
    state = {k: v for k, v in net(1).state_dict().items() if not k.endswith("configuration")}
    mine = net(0, replace(NOISY, columns=256))
    mine.load_state_dict(state)
    assert torch.equal(mine[2].weight, state["2.weight"])


def test_missing_and_unexpected_keys_are_reported_as_in_torch() -> None:
    state = net(1).state_dict()
    state["2.extra"] = state.pop("2.bias")
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*2\.bias.*Unexpected key.*2\.extra"):
        net(0).load_state_dict(state)
    keys = net(0).load_state_dict(state, strict=False)
    assert keys.missing_keys == ["2.bias"]
    assert keys.unexpected_keys == ["2.extra"]


def test_loading_does_not_change_the_state_dict() -> None:
    for mine in (net(0), chip(0)):
        for state in (model(1).state_dict(), net(1).state_dict(), chip(1).state_dict()):
            before = {key: value.clone() for key, value in state.items()}
            mine.load_state_dict(state)
            assert_same(dict(state), before)


@pytest.mark.parametrize("make", [net, chip])
def test_loading_by_assignment_computes_the_same(make: Callable[..., nn.Module]) -> None:
    theirs, mine = make(1), make(0)
    mine.load_state_dict(theirs.state_dict(), assign=True)
    assert torch.equal(output(mine), output(theirs))
    assert_same(mine.state_dict(), theirs.state_dict())


def test_assigning_a_float_checkpoint_to_a_chip_does_not_change_the_checkpoint() -> None:
    mine, checkpoint = chip(0), model(1).state_dict()
    before = {key: value.clone() for key, value in checkpoint.items()}
    mine.load_state_dict(checkpoint, assign=True)
    assert torch.equal(mine[2].weight, mine[2].devices.logical_weight())
    assert_same(checkpoint, before)


@pytest.mark.parametrize("copied", [copy.deepcopy, COPIES["pickle"]], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("make", [net, chip])
def test_copies_compute_the_same_and_share_nothing(
    make: Callable[..., nn.Module], copied: Callable[[nn.Module], nn.Module]
) -> None:
    mine = make(0)
    theirs = copied(mine)
    assert torch.equal(output(mine), output(theirs))
    assert_same(theirs.state_dict(), mine.state_dict())
    mine_at = {t.data_ptr() for t in (*mine.parameters(), *mine.buffers())}
    assert not mine_at & {t.data_ptr() for t in (*theirs.parameters(), *theirs.buffers())}


@pytest.mark.parametrize("make", [net, chip])
def test_a_state_dict_loads_from_a_file_with_weights_only(make: Callable[..., nn.Module]) -> None:
    theirs, mine = make(0), make(1)
    mine.load_state_dict(saved(theirs.state_dict()))
    assert torch.equal(output(mine), output(theirs))


CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "float64": lambda module: module.to(torch.float64),
    "to device and dtype": lambda module: module.to("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_casts_do_not_round_devices(cast: Callable[[nn.Module], nn.Module]) -> None:
    mine = chip(0)
    before = {name: buffer.clone() for name, buffer in mine[2].devices.named_buffers()}
    cast(mine)
    assert mine[2].weight.dtype != torch.float32
    assert_same(dict(mine[2].devices.named_buffers()), before)
    double = ("programmed_at", "clock")
    for name, buffer in mine[2].devices.named_buffers():
        assert buffer.dtype == (torch.float64 if name in double else torch.float32), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_cast_chip_computes_in_its_dtype_from_the_same_devices(dtype: torch.dtype) -> None:
    fine = replace(IDEAL, rows=5, cell=NOISY.cell, adc=Adc(bits=12), dac=Dac(bits=12))
    mine = chip(0, fine)
    cast, x = copy.deepcopy(mine).to(dtype), torch.randn(4, 2, 6)
    found, expected = (torch.manual_seed(0) and module(x.to(module[2].weight.dtype)) for module in (cast, mine))
    assert found.dtype == dtype
    tolerance = 1e-2 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


def test_ageing_after_a_cast_equals_ageing_before() -> None:
    cast = pg.inference.age(chip(0).half(), seconds=1e5)[2].weight
    assert torch.equal(cast, pg.inference.age(chip(0), seconds=1e5)[2].weight.half())


def test_forward_changes_no_parameter_and_no_buffer() -> None:
    for module in (net(0).train(), net(0).eval(), chip(0)):
        pg.hwa.Recipe(drop_connect=0.1).apply(module)
        before = all_tensors(module)
        module(torch.randn(4, 2, 6))
        assert_same(all_tensors(module), before)
