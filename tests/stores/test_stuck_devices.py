"""Stuck devices stay where they are, in every cell and store, whatever is done to the chip."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import (
    Cell,
    DifferentialPair,
    DifferentialSlices,
    MultiMemristive,
    OffsetSlices,
    ReferencedDevice,
    SignificancePairs,
)
from phasegrad.crossbar import Hardware, Wires
from phasegrad.devices import Capacitor, CorrelatedNoise, Device, Faults, Telegraph, Thermal, joshi_2020
from phasegrad.stores import AnalogWeight
from phasegrad.stores.device_array import DeviceArray

FAULTS = Faults(stuck_at_reset=0.1, stuck_at_set=0.1, stuck_at_random=0.1, dead_rows=0.05, dead_columns=0.05)
JOSHI = joshi_2020()
NOISY = dataclasses.replace(
    JOSHI,
    correlated_noise=CorrelatedNoise(modes_per_decade=0.5),
    telegraph=Telegraph(fraction=0.1, amplitude=0.2, rates=(1e-3, 1e3)),
)

CELLS: dict[str, Callable[[Device], Cell]] = {
    "pair": lambda d: DifferentialPair(device=d),
    "significance pairs": lambda d: SignificancePairs(device=d, significances=(2.0, 1.0)),
    "multi-memristive": lambda d: MultiMemristive(device=d, pairs=2),
    "single": lambda d: ReferencedDevice(device=d),
    "differential slices": lambda d: DifferentialSlices(device=d, bits=5, slices=2),
    "offset slices": lambda d: OffsetSlices(device=d, bits=4, slices=2),
}
PROGRAMMED: dict[str, Hardware] = {
    name: Hardware(cell=make(JOSHI), rows=12, columns=4, faults=FAULTS) for name, make in CELLS.items()
}
PROGRAMMED |= {
    "correlated noise": Hardware(cell=DifferentialPair(device=NOISY), rows=12, columns=4, faults=FAULTS),
    "thermal": Hardware(
        cell=DifferentialPair(device=dataclasses.replace(JOSHI, thermal=Thermal())), rows=12, columns=4, faults=FAULTS
    ),
    "wires": dataclasses.replace(PROGRAMMED["pair"], wires=Wires(word_line=1.0, bit_line=1.0)),
    "leaking": Hardware(
        cell=ReferencedDevice(device=Capacitor(g_max=20e-6, tau=1.0)), rows=12, columns=4, faults=FAULTS
    ),
}
TRAINED: dict[str, Hardware] = {
    preset.__name__: dataclasses.replace(preset(**options), rows=12, columns=4, faults=FAULTS)
    for preset, options in (
        (pg.presets.constant_step_training, {}),
        (pg.presets.soft_bounds_training, {}),
        (pg.presets.pcm_pair_training, {"refresh": 2}),
        (pg.presets.multi_memristive_training, {"pairs": 2, "refresh": 2}),
        (pg.presets.pcm_capacitor_training, {"every": 4}),
        (pg.presets.tiki_taka_training, {}),
    )
}
FAST = TRAINED["pcm_capacitor_training"].fast
assert FAST is not None
assert FAST.transfer is not None
FEW_ATTEMPTS = dataclasses.replace(FAST, transfer=dataclasses.replace(FAST.transfer, attempts=4))
TRAINED["pcm_capacitor_training"] = dataclasses.replace(TRAINED["pcm_capacitor_training"], fast=FEW_ATTEMPTS)


def model(kind: str = "linear") -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(30, 10) if kind == "linear" else nn.Conv2d(6, 8, 3, groups=2)


def chip(name: str, kind: str = "linear", seed: int = 0) -> nn.Module:
    return pg.inference.program(pg.convert(model(kind), PROGRAMMED[name]), seed=seed)


def arrays(devices: AnalogWeight) -> list[DeviceArray]:
    return [array for array in (devices, devices.fast, devices.reference) if array is not None]


def check_held(net: nn.Module) -> None:
    """Stuck devices have the conductances of the map, drifted or not; the others are not all stuck."""
    for layer in pg.nn.analog_layers(net).values():
        assert layer.devices is not None
        for array in arrays(layer.devices):
            assert array.stuck is not None
            held = ~array.stuck.isnan()
            assert 0 < int(held.sum()) < held.numel()
            assert torch.equal(array.conductance[held], array.stuck[held])
            assert torch.equal(array.present(layer.devices.clock)[held], array.stuck[held])
            assert not array.nu[held].any()  # reads and products use the exponents


def maps(net: nn.Module) -> list[Tensor]:
    found = [m for layer in pg.inference.fault_maps(net).values() for m in layer.arrays.values() if m is not None]
    return [m.nan_to_num(nan=-1.0) for m in found]


def same_maps(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(maps(a), maps(b), strict=True))


@pytest.mark.parametrize("kind", ["linear", "grouped convolution"])
@pytest.mark.parametrize("name", PROGRAMMED)
def test_programmed_devices_stay_stuck(name: str, kind: str) -> None:
    first = chip(name, kind)
    check_held(first)
    old = pg.inference.age(first, seconds=1e6)
    check_held(old)
    assert same_maps(first, old)
    check_held(pg.inference.compensate(old, seed=1))
    check_held(copy.deepcopy(old).double())
    check_held(pickle.loads(pickle.dumps(old)))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        old.weight.mul_(0.5)  # writes the devices at the next use
        old.state_dict()
    check_held(old)
    assert same_maps(first, old)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", PROGRAMMED)
def test_state_dicts_hold_the_map(name: str, assign: bool) -> None:
    saved = pg.inference.age(chip(name), seconds=100.0)
    buffer = io.BytesIO()
    torch.save(saved.state_dict(), buffer)
    for net in (pg.convert(model(), PROGRAMMED[name]), chip(name, seed=5)):
        buffer.seek(0)
        net.load_state_dict(torch.load(buffer, weights_only=True), assign=assign)
        check_held(net)
        assert same_maps(net, saved)


def test_chips_remember_how_they_are_mapped_around_faults() -> None:
    """Swapped columns and the other devices of a pair belong to the state of a chip, and to its next programming."""
    net = pg.convert(model(), dataclasses.replace(PROGRAMMED["pair"], faults=Faults(stuck_at_random=0.2)))
    plain = pg.inference.program(net, seed=0, map_around=("columns",))
    saved = pg.inference.program(net, seed=0, map_around=("pair", "columns"))
    loaded = copy.deepcopy(net)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(saved.devices.column_order, loaded.devices.column_order)
    for one in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert same_maps(saved, one)
        assert rewritten_error(one) < 0.75 * rewritten_error(plain)
        assert same_maps(saved, one)


def rewritten_error(net: nn.Module) -> float:
    """Mean squared error of the weights after their signs are inverted by a write."""
    wanted = -net.weight.detach().clone()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        net.weight.copy_(wanted)
        net.state_dict()  # a use: programs what was written
        return float((net.weight - wanted).square().mean())


def test_a_reset_keeps_the_given_faults() -> None:
    hardware = dataclasses.replace(TRAINED["soft_bounds_training"], faults=None)
    maps_given = pg.inference.draw_faults(pg.convert(model(), hardware), FAULTS, seed=0)
    net = pg.convert(model(), hardware, faults=maps_given)
    net.reset_parameters()
    check_held(net)
    assert torch.equal(maps(net)[0], maps_given[""].stuck.nan_to_num(nan=-1.0))
    with pytest.raises(ValueError, match="meta device"):
        pg.convert(model().to("meta"), hardware, faults=maps_given)


def test_a_state_without_faults_removes_them() -> None:
    """A state dict of devices is the whole state: those of before there were faults have none."""
    hardware = dataclasses.replace(PROGRAMMED["pair"], faults=None)
    net = pg.convert(model(), hardware)
    healthy = pg.inference.program(net, seed=0)
    faulty = pg.inference.program(net, seed=0, faults=FAULTS, map_around=("pair", "columns"))
    assert "devices.stuck" not in healthy.state_dict()
    faulty.load_state_dict(healthy.state_dict())
    assert faulty.devices.stuck is None  # type: ignore[union-attr]
    assert faulty.state_dict().keys() == healthy.state_dict().keys()
    float_checkpoint = {k: v for k, v in healthy.state_dict().items() if k in ("weight", "bias")}
    again = pg.inference.program(net, seed=0, faults=FAULTS)
    before = maps(again)
    again.load_state_dict(float_checkpoint)
    check_held(again)
    assert all(torch.equal(a, b) for a, b in zip(maps(again), before, strict=True))


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("devices.stuck", torch.zeros(2, 3, 30), "shape"),
        ("devices.stuck", torch.full((2, 10, 30), torch.inf), "non-finite"),
        ("devices.stuck", torch.full((2, 10, 30), -1e-6), "negative"),
        ("devices.column_order", torch.zeros(3, 10, dtype=torch.int64), "no order of columns"),
    ],
)
def test_impossible_maps_are_not_loaded(entry: str, value: Tensor, message: str) -> None:
    net = pg.convert(model(), PROGRAMMED["pair"])
    saved = pg.inference.program(net, seed=0, map_around=("columns",)).state_dict()
    target = pg.inference.program(net, seed=1)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=message):
        target.load_state_dict(saved | {entry: value})
    assert all(torch.equal(v.nan_to_num(), before[k].nan_to_num()) for k, v in target.state_dict().items())


def test_stuck_devices_keep_their_read_noise() -> None:
    """The sd of reads of devices stuck at G is G Q(G) sqrt(ln ...) by the law of the device; see pcm_read."""
    layer = nn.Linear(200, 50)
    net = pg.convert(layer, dataclasses.replace(PROGRAMMED["pair"], faults=Faults(stuck_at_random=1.0), rows=512))
    devices = pg.inference.program(net, seed=0).devices
    assert devices is not None
    age, n = 0.0, 40
    g = devices.conductance.double()
    reads = torch.stack([devices.read(devices.clock, torch.tensor([i])).double() for i in range(n)])
    relative = (g / JOSHI.g_max).clamp(min=1e-9)
    q = (0.0088 / relative**0.65).clamp(max=0.2)
    sd = g * q * torch.log(torch.tensor((age + 20.0 + 250e-9) / (2 * 250e-9), dtype=torch.float64)).sqrt()
    clear = g > 5 * sd  # reads are clipped at 0
    z = (reads - g)[:, clear] / sd[clear]
    samples = z.numel()
    assert samples > 100_000
    assert abs(float(z.mean())) < 4 / samples**0.5
    assert abs(float(z.square().mean()) - 1.0) < 4 * (2 / samples) ** 0.5


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (net(torch.randn(4, *net.weight.shape[1:2])) - 1.0).square().mean().backward()
        optimizer.step()


SLOW = ("pcm_capacitor_training", "constant_step_training")  # on the reference: thousands of pulses per transfer
OPTIMIZERS = {
    "tiki_taka_training": [pg.optim.TikiTaka, pg.optim.TikiTakaV2, pg.optim.ChoppedTikiTakaV2, pg.optim.AGAD],
    "pcm_pair_training": [pg.optim.AnalogSGD, pg.optim.MixedPrecision],
}
RUNS = [
    pytest.param(name, optimizer, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in TRAINED
    for optimizer in OPTIMIZERS.get(name, [pg.optim.AnalogSGD])
]


@pytest.mark.parametrize(("name", "optimizer"), RUNS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_devices_in_memory_stay_stuck(name: str, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    net = pg.convert(model(), TRAINED[name])
    check_held(net)
    torch.manual_seed(1)
    first, before = maps(net), net.devices.conductance.clone()
    train(net, optimizer(net.parameters(), lr=0.05))
    check_held(net)
    assert not torch.equal(before, net.devices.conductance)
    assert torch.allclose(net.weight, net.devices.logical_weight(), atol=1e-6)
    resumed = pg.convert(model(), TRAINED[name])
    resumed.load_state_dict(net.state_dict())
    train(resumed, optimizer(resumed.parameters(), lr=0.05))
    check_held(resumed)
    assert torch.allclose(resumed.weight, resumed.devices.logical_weight(), atol=1e-6)
    old = pg.inference.age(resumed, seconds=1e4)
    check_held(old)
    assert all(torch.equal(a, b) for a, b in zip(first, maps(old), strict=True))


def test_a_leak_reaches_only_devices_that_respond() -> None:
    """Between samples, capacitors leak towards rest; stuck ones do not, and the weight follows the devices."""
    hardware = TRAINED["pcm_capacitor_training"]
    assert hardware.fast is not None
    assert hardware.pulses is not None
    leaky = dataclasses.replace(hardware.fast.cell.device, tau=1e-3)  # type: ignore[call-arg]
    fast = dataclasses.replace(hardware.fast, cell=dataclasses.replace(hardware.fast.cell, device=leaky))
    pulses = dataclasses.replace(hardware.pulses, sample_time=1e-4)
    net = pg.convert(model(), dataclasses.replace(hardware, fast=fast, pulses=pulses))
    before = net.devices.fast.conductance.clone()
    train(net, pg.optim.AnalogSGD(net.parameters(), lr=1e-9))  # hardly a pulse, but 8 samples of 0.1 ms
    check_held(net)
    assert not torch.equal(net.devices.fast.conductance, before)
    assert torch.allclose(net.weight, net.devices.logical_weight(), atol=1e-6)


def test_pulses_reach_every_device_that_responds() -> None:
    """Without faults the same pulses reach the same devices: the stuck ones alone differ."""
    hardware = dataclasses.replace(TRAINED["soft_bounds_training"], faults=None)
    torch.manual_seed(3)
    healthy = pg.convert(model(), hardware)
    torch.manual_seed(3)
    faulty = pg.convert(model(), dataclasses.replace(hardware, faults=Faults(stuck_at_reset=0.2)))
    for net in (healthy, faulty):
        torch.manual_seed(4)
        optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.02)
        net.weight.stage(torch.randn(4, 30), torch.randn(4, 10))
        optimizer.step()
    responds = faulty.devices.stuck.isnan()
    assert torch.equal(healthy.devices.conductance[responds], faulty.devices.conductance[responds])
    assert 0 < int((~responds).sum())
