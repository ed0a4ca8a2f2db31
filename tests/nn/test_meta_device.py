"""Nets that are built on the meta device, materialised and loaded are the nets that were saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialSlices, OffsetSlices
from phasegrad.crossbar import (
    Adc,
    BitSerialDac,
    CalibratedRange,
    Dac,
    FixedRange,
    FullScaleRange,
    Integrator,
    LearnedRange,
    RampAdc,
    SarAdc,
    Wires,
)
from phasegrad.crossbar.converters import AbsMaxRange
from phasegrad.devices import CorrelatedNoise, Telegraph, Thermal

PCM = pg.presets.pcm_inference()
DEVICE = PCM.cell.device
PAIR = type(PCM.cell)


def with_device(**fields: Any) -> pg.Hardware:
    return replace(PCM, cell=PAIR(device=replace(DEVICE, **fields)))


HARDWARE: dict[str, Callable[[], pg.Hardware]] = {
    **{name: getattr(pg.presets, name) for name in pg.presets.__all__},
    "small tiles": lambda: replace(PCM, rows=5, columns=3),
    "differential slices": lambda: replace(PCM, cell=DifferentialSlices(device=DEVICE, bits=6, slices=3)),
    "offset slices": lambda: replace(PCM, cell=OffsetSlices(device=DEVICE, bits=5, slices=2)),
    "wires": lambda: replace(PCM, rows=6, wires=Wires(word_line=5.0, bit_line=5.0)),
    "correlated noise": lambda: with_device(correlated_noise=CorrelatedNoise()),
    "telegraph noise": lambda: with_device(telegraph=Telegraph(fraction=0.5, amplitude=0.2, rates=(1.0, 1e4))),
    "thermal": lambda: with_device(thermal=Thermal()),
    "SAR with mismatch": lambda: replace(PCM, adc=SarAdc(capacitor_mismatch=0.1), columns=4),
    "shared ramp": lambda: replace(PCM, adc=RampAdc(curvature=1.0, gain_mismatch=0.1, columns_per_converter=2)),
    "calibrated range": lambda: replace(PCM, adc=Adc(range=CalibratedRange())),
    "learned range": lambda: replace(PCM, adc=Adc(range=LearnedRange(start=3.0))),
    "full scale": lambda: replace(PCM, adc=Adc(range=FullScaleRange())),
    "fixed input range": lambda: replace(PCM, dac=Dac(range=FixedRange(value=2.0), gain_mismatch=0.1)),
    "largest input": lambda: replace(PCM, dac=BitSerialDac(range=AbsMaxRange(), bits=4)),
    "integrator": lambda: replace(PCM, dac=Dac(range=FixedRange(value=3.0)), integrator=Integrator(window=1e-7)),
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "transposed convolution": lambda: nn.ConvTranspose2d(2, 3, 2),
    "grouped convolution": lambda: nn.Conv2d(2, 4, 3, groups=2, padding=1),
    "LSTM": lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2),
    "GRU cell": lambda: nn.GRUCell(4, 3),
    "attention": lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    "attention of other sizes": lambda: nn.MultiheadAttention(4, 2, kdim=4, vdim=4, bias=False),
    "float16": lambda: nn.Linear(4, 3, dtype=torch.bfloat16),
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def converted(build: Callable[[], nn.Module], hardware: pg.Hardware, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        model = build()
    return pg.convert(model, hardware).eval()


def trainer(hardware: pg.Hardware) -> Any:
    """An optimizer that trains nets of some hardware."""
    alone = hardware.fast is not None and hardware.fast.transfer is None
    return pg.optim.TikiTaka if alone else pg.optim.AnalogSGD


def saved(hardware: pg.Hardware, chip: bool) -> nn.Module:
    """A net with a history: calibrated, then aged as a chip, or trained in the memory."""
    net, x = converted(mlp, hardware), torch.randn(20, 8)
    if hardware.pulses is not None:
        optimizer = trainer(hardware)(net.parameters(), lr=0.1)
        for _ in range(3):
            net(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return pg.inference.age(net, 100.0) if chip else net
    pg.hwa.calibrate(net, [x], recipe=None)
    if not chip:
        return net
    old = pg.inference.age(pg.inference.program(net, seed=0), 1e5)
    return pg.inference.compensate(old, seed=1)


def fill_freed_memory() -> None:
    """Leave wrong numbers in the memory that the next allocations get."""
    for size in (1, 4, 8, 16, 64, 128, 256, 1024):
        junk = [torch.full((size,), 7.0) for _ in range(64)]
        del junk


def materialised(build: Callable[[], nn.Module], hardware: pg.Hardware) -> nn.Module:
    net = converted(build, hardware, "meta")
    fill_freed_memory()
    return net.to_empty(device="cpu").eval()


def run(net: nn.Module, *inputs: Tensor) -> list[Tensor]:
    torch.manual_seed(5)
    with torch.no_grad():
        found = net(*inputs)
    flat = found if isinstance(found, tuple) else (found,)
    return [t for item in flat for t in (item if isinstance(item, tuple) else (item,)) if t is not None]


def assert_same(net: nn.Module, other: nn.Module, *inputs: Tensor) -> None:
    for mine, theirs in zip(run(net, *inputs), run(other, *inputs), strict=True):
        assert torch.equal(mine, theirs)
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    buffers = dict(other.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in net.named_buffers())


@pytest.mark.parametrize("chip", [False, True], ids=["net", "chip"])
@pytest.mark.parametrize("name", HARDWARE)
def test_a_materialised_and_loaded_net_is_the_net_that_was_saved(name: str, chip: bool) -> None:
    hardware = HARDWARE[name]()
    original, x = saved(hardware, chip), torch.randn(6, 8)
    empty = materialised(mlp, hardware)
    empty.load_state_dict({key: value.clone() for key, value in original.state_dict().items()})
    assert_same(empty, original, x)
    assigned = converted(mlp, hardware, "meta")
    assigned.load_state_dict({key: value.clone() for key, value in original.state_dict().items()}, assign=True)
    assert_same(assigned, original, x)
    assert all(not tensor.is_meta for tensor in (*assigned.parameters(), *assigned.buffers()))
    again = saved(hardware, chip)  # a net that had other values, which to_empty discards
    again.to_empty(device="cpu").load_state_dict(original.state_dict())
    assert_same(again, original, x)


@pytest.mark.parametrize("name", [n for n, make in HARDWARE.items() if make().pulses is not None])
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_a_loaded_in_memory_net_trains_as_the_one_that_was_saved(name: str, assign: bool) -> None:
    hardware = HARDWARE[name]()
    original, x = saved(hardware, False), torch.randn(6, 8)
    state = {key: value.clone() for key, value in original.state_dict().items()}
    net = converted(mlp, hardware, "meta") if assign else materialised(mlp, hardware)
    net.load_state_dict(state, assign=assign)
    for trained in (net, original):
        torch.manual_seed(3)
        optimizer = trainer(hardware)(trained.parameters(), lr=0.1)
        trained(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(net, original, x)


@pytest.mark.parametrize("training", [False, True], ids=["digital", "in memory"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_restored(name: str, training: bool) -> None:
    hardware = pg.presets.pcm_pair_training() if training else PCM
    inputs = {
        "transposed convolution": (torch.randn(2, 2, 4, 4),), "grouped convolution": (torch.randn(2, 2, 4, 4),),
        "float16": (torch.randn(2, 4).bfloat16(),), "GRU cell": (torch.randn(2, 4),),
    }.get(name, (torch.randn(3, 2, 4),) * (3 if "attention" in name else 1))  # fmt: skip
    original = converted(LAYERS[name], hardware)
    for way in ("copied", "assigned"):
        net = materialised(LAYERS[name], hardware) if way == "copied" else converted(LAYERS[name], hardware, "meta")
        net.load_state_dict({k: v.clone() for k, v in original.state_dict().items()}, assign=way == "assigned")
        assert_same(net, original, *inputs)
    blank = materialised(LAYERS[name], hardware)
    for module in blank.modules():  # as FSDP does
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    if isinstance(blank, nn.Module) and hasattr(blank, "bias_k") and blank.bias_k is not None:
        assert bool(blank.bias_k.isfinite().all())
    assert all(bool(value.isfinite().all()) for value in run(blank, *inputs))


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("name", ["pcm_inference", "pcm_pair_training", "SAR with mismatch", "wires", "learned range"])
def test_a_float_checkpoint_gives_a_net_as_convert_does(name: str, assign: bool) -> None:
    hardware, model = HARDWARE[name](), mlp()
    net = converted(mlp, hardware, "meta") if assign else materialised(mlp, hardware)
    net.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=assign)
    expected, found = pg.convert(model, hardware).state_dict(), net.state_dict()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        if not key.endswith("configuration"):
            assert found[key].shape == value.shape
            assert bool(found[key].isfinite().all()), key
    tolerance = 0.15 if hardware.pulses else 0.0
    for key, value in model.state_dict().items():
        torch.testing.assert_close(found[key], value, atol=tolerance, rtol=0.0)
    assert bool(net(torch.randn(3, 8)).isfinite().all())


@pytest.mark.parametrize("name", ["pcm_inference", "pcm_pair_training"])
def test_a_net_into_which_nothing_was_loaded_says_so(name: str) -> None:
    hardware, x = HARDWARE[name](), torch.randn(3, 8)
    net = materialised(mlp, hardware)
    with pytest.raises(ValueError, match=r"AnalogLinear: weight, bias.* has no values.*load_state_dict"):
        net(x)
    for verb in (lambda: pg.hwa.calibrate(net, [x]), lambda: pg.inference.program(net)):
        with pytest.raises(ValueError, match=r": 0: weight, bias.* has no values"):
            verb()
    meta = converted(mlp, hardware, "meta")
    with pytest.raises(ValueError, match=r"program: 0: the weight is on the meta device.*to_empty"):
        pg.inference.program(meta)
    partly = {k: v for k, v in pg.convert(mlp(), hardware).state_dict().items() if k != "2.bias"}
    net.load_state_dict(partly, strict=False)
    with pytest.raises(ValueError, match=r"AnalogLinear: bias has no values"):
        net(x)
    nn.init.zeros_(net[2].bias)  # what the user sets needs no state dict
    assert bool(net(x).isfinite().all())
    assert not net[0]._forward_pre_hooks
    assert not net[2]._forward_pre_hooks


def test_a_checkpoint_of_a_diverged_net_is_not_called_unloaded() -> None:
    net = pg.convert(mlp(), PCM)
    with torch.no_grad():
        net[0].weight.fill_(torch.nan)
    other = materialised(mlp, PCM)
    other.load_state_dict(net.state_dict())
    assert bool(other(torch.randn(3, 8)).isnan().all())


def test_moves_that_keep_values_keep_them() -> None:
    net = pg.convert(mlp(), PCM)
    pg.hwa.set_noise_level(net, 0.25)
    net.half().float().to("cpu").share_memory()
    assert net[0].noise_level == 0.25
    assert not net[0]._forward_pre_hooks


def test_tied_in_memory_layers_stay_tied() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    hardware = pg.presets.soft_bounds_training()
    original = converted(build, hardware)
    for assign in (False, True):
        net = converted(build, hardware, "meta") if assign else materialised(build, hardware)
        net.load_state_dict(original.state_dict(), assign=assign)
        assert net[0].weight is net[1].weight
        assert net[0].weight.devices is net[0].devices is net[1].devices
        assert_same(net, original, torch.randn(3, 4))


def test_a_noiseless_net_computes_with_the_weights_that_it_loads() -> None:
    chips = [pg.inference.program(pg.convert(mlp(), PCM), seed=seed) for seed in (0, 1)]
    mine, other = (pg.inference.noiseless(chip) for chip in chips)
    mine.load_state_dict(other.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(mine(x), other(x))
    mine.to_empty(device="cpu")
    with pytest.raises(ValueError, match="has no values"):
        mine(x)
    mine.load_state_dict(other.state_dict())
    assert torch.equal(mine(x), other(x))


def test_programmed_layers_cannot_be_initialised() -> None:
    chip = pg.inference.program(pg.convert(mlp(), PCM), seed=0)
    before = {key: value.clone() for key, value in chip.state_dict().items()}
    with pytest.raises(ValueError, match=r"AnalogLinear.reset_parameters: the store is programmed"):
        chip[0].reset_parameters()
    assert all(torch.equal(value, before[key]) for key, value in chip.state_dict().items())


def test_reset_parameters_draws_as_the_digital_layer_does() -> None:
    layers: list[tuple[nn.Module, str]] = [
        (nn.Linear(8, 4), "weight"), (nn.Conv2d(2, 3, 3), "weight"), (nn.LSTM(4, 3), "ih_l0.weight"),
    ]  # fmt: skip
    for digital, key in layers:
        net = pg.convert(digital, PCM)
        torch.manual_seed(4)
        digital.reset_parameters()  # type: ignore[operator]
        torch.manual_seed(4)
        net.reset_parameters()  # type: ignore[operator]
        assert torch.equal(net.get_parameter(key), next(digital.parameters()))
    transposed = pg.nn.AnalogTransposedLinear(200, 100, hardware=PCM)
    transposed.reset_parameters()
    assert abs(float(transposed.weight.detach().std()) / 0.02 - 1.0) < 4.0 / (2 * 20_000) ** 0.5
