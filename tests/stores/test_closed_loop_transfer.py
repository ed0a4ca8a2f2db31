"""A PCM pair with a capacitor: destination of updates, leak, and transfer."""

from __future__ import annotations

import copy
import dataclasses
import io
import math

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.op import threads
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair, ReferencedDevice
from phasegrad.crossbar import Fast, Hardware, Pulses, Transfer
from phasegrad.devices import Capacitor, ConstantSteps, LinearSteps, ideal_device, nandakumar_2018_device
from phasegrad.stores import AnalogWeight, pulsed_weight
from phasegrad.stores.weight_reads import sum_of_planes

SEED = torch.tensor([11])
SHAPE = (60, 80)


def hardware(
    transfer: Transfer | None = None, *, tau: float = math.inf, imbalance: float = 0.0, noisy: bool = True
) -> Hardware:
    """A capacitor of 1,000 equal noiseless steps from -0.5 to 0.5, with PCM as in the preset."""
    steps = LinearSteps(size=80e-9, slope_up=0.0, slope_down=0.0, imbalance=imbalance)
    pcm = nandakumar_2018_device()
    pcm = pcm if noisy else dataclasses.replace(pcm, read_sd=())
    return Hardware(
        cell=DifferentialPair(device=pcm),
        scale=0.45,
        pulses=Pulses(sample_time=240e-9),
        fast=Fast(
            cell=ReferencedDevice(device=Capacitor(g_max=80e-6, tau=tau, steps=steps)), scale=0.5, transfer=transfer
        ),
    )


def devices(made: Hardware, weight: Tensor | None = None) -> AnalogWeight:
    """Devices programmed to a weight, by default 0."""
    result = AnalogWeight(made, *SHAPE, made.columns)
    target = torch.zeros(SHAPE) if weight is None else weight
    result.program_weight(target, torch.full_like(result.scale, 0.45), torch.ones(1), SEED)
    return result


def samples(n: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, SHAPE[1], generator=generator), torch.randn(n, SHAPE[0], generator=generator)


def rule(**fields: object) -> Transfer:
    return Transfer(**{"every": 1 << 30, "limit": 10.0 / 12.0, **fields})  # type: ignore[arg-type]


def test_updates_pulse_only_the_capacitor() -> None:
    made = devices(hardware())
    before, weight = made.conductance.clone(), made.logical_weight()
    x, d = samples(50)
    pulsed_weight.update(made, [(x, d)], 1e-3, SEED, weight)
    assert made.fast is not None
    assert torch.equal(made.conductance, before)
    expected = -1e-3 * d.double().t() @ x.double()
    sent = 1e-3 / 1e-3 * d.double().abs().t() @ x.double().abs()  # pulses of 0.001
    change = weight.double() - 0.45 * (before[0] - before[1]).double() / 12e-6
    assert ((change - expected).abs() < 5.0 * 1e-3 * (sent + 1.0).sqrt()).all()
    torch.testing.assert_close(weight, made.logical_weight(), rtol=0.0, atol=1e-6)


@pytest.mark.slow
def test_the_charge_leaks_during_the_samples_of_an_update() -> None:
    """A weight on the capacitor falls by ``exp(-n t / tau)`` under n samples without a gradient."""
    made = devices(hardware(tau=5e-3))
    x, d = samples(50)
    weight = made.logical_weight()
    pulsed_weight.update(made, [(x, d)], 1e-3, SEED, weight)
    slow = sum_of_planes(made.conductance, None, made.factors)
    before = (weight - slow).double()
    pulsed_weight.update(made, [(x.repeat(200, 1), torch.zeros(10_000, SHAPE[0]))], 1e-3, SEED, weight)
    assert float(made.clock) == pytest.approx(10_050 * 240e-9)
    kept = math.exp(-10_000 * 240e-9 / 5e-3)
    # Conductances of 40 uS and weights of 0.5 have a precision of 24 bits.
    torch.testing.assert_close((weight - slow).double(), kept * before, rtol=0.0, atol=1e-6)


@pytest.mark.slow
def test_capacitors_without_slow_devices_leak_and_the_weight_is_updated() -> None:
    steps = LinearSteps(size=80e-9, slope_up=0.0, slope_down=0.0)
    cell = ReferencedDevice(device=Capacitor(g_max=80e-6, tau=5e-3, steps=steps))
    made = devices(Hardware(cell=cell, scale=0.45, pulses=Pulses(sample_time=240e-9)), torch.full(SHAPE, 0.3))
    weight = made.logical_weight()
    pulsed_weight.update(made, [(torch.ones(10_000, SHAPE[1]), torch.zeros(10_000, SHAPE[0]))], 1e-3, SEED, weight)
    expected = torch.full(SHAPE, 0.3 * math.exp(-10_000 * 240e-9 / 5e-3))
    torch.testing.assert_close(weight, expected, rtol=0.0, atol=1e-6)
    assert torch.equal(weight, made.logical_weight())


def after_update(made: AnalogWeight, n: int = 300) -> Tensor:
    """Pulse the devices with an update, and return their weight."""
    weight = made.logical_weight()
    pulsed_weight.update(made, [samples(n)], 1e-2, SEED, weight)
    return made.logical_weight()


@pytest.mark.slow
def test_a_transfer_with_exact_reads_preserves_the_weight_to_half_a_pulse() -> None:
    made = devices(hardware(rule(), noisy=False))
    before = after_update(made)
    assert 0.05 < before.std().item() < 0.3
    pulsed_weight.transfer(made, SEED)
    error = (made.logical_weight() - before).abs()
    inside = before.abs() < 0.3
    assert error[inside].max().item() < 0.5e-3 + 1e-5  # half a pulse of the capacitor
    assert made.fast is not None
    left = 0.5 * (made.fast.conductance[0] / 40e-6 - 1.0)
    assert left[inside].std().item() < 0.5 * before[inside].std().item()  # the transfer had an effect


@pytest.mark.slow
def test_the_error_of_a_transfer_is_the_noise_of_two_measurements() -> None:
    """The weight before, the residual after: ``sd^2 = (0.45 / 12 uS)^2 sum (0.03 G + 0.13 uS)^2 / reads`` over both.

    The expected variance is the mean over all cells. Clipping at zero can only lower it, so it is an upper bound.
    """
    made = devices(hardware(rule(reads=4)))
    after_update(made)
    pulsed_weight.transfer(made, SEED)  # so that the pair stores a weight
    before, g_before = made.logical_weight(), made.conductance.clone()
    pulsed_weight.transfer(made, SEED + 1)
    g = torch.stack((g_before, made.conductance)).double()
    variance = ((0.03 * g + 0.13e-6) ** 2).sum((0, 1)) / 4 * (0.45 / 12e-6) ** 2 + (1e-3) ** 2 / 12
    error = (made.logical_weight() - before).double()[before.abs() < 0.3]
    expected = variance[before.abs() < 0.3].mean().sqrt().item()
    assert 0.75 * expected < error.std().item() < expected * (1.0 + 5.0 / math.sqrt(2 * error.numel()))


@pytest.mark.slow
def test_inversion_changes_the_polarity_and_preserves_the_weight() -> None:
    for inversion, sign in ((True, -1.0), (False, 1.0)):
        made = devices(hardware(rule(inversion=inversion), noisy=False))
        before = after_update(made)
        pulsed_weight.transfer(made, SEED)
        assert made.polarity is not None
        assert float(made.polarity) == sign
        inside = before.abs() < 0.3
        assert (made.logical_weight() - before).abs()[inside].max().item() < 0.51e-3
        weight = made.logical_weight()
        start = weight.clone()
        x, d = samples(200, seed=9)
        pulsed_weight.update(made, [(x, d)], 5e-3, SEED + 5, weight)
        assert torch.corrcoef(torch.stack(((weight - start).flatten(), -(d.t() @ x).flatten())))[0, 1].item() > 0.9


@pytest.mark.slow
def test_inversion_averages_out_asymmetric_steps() -> None:
    """Pulses that should cancel move a mismatched cell in one direction; inversion of the polarity moves it back."""
    pushed = {}
    for inversion in (True, False):
        made = devices(hardware(rule(inversion=inversion), imbalance=0.3, noisy=False))
        weight = made.logical_weight()
        x, d = samples(400)
        balanced = torch.cat((d, -d))[torch.randperm(800, generator=torch.Generator().manual_seed(0))]
        order = torch.cat((x, x))[torch.randperm(800, generator=torch.Generator().manual_seed(0))]
        for i in range(2):
            pulsed_weight.update(made, [(order, balanced)], 2e-4, SEED + i, weight)
            pulsed_weight.transfer(made, SEED + 10 + i)
        pushed[inversion] = made.logical_weight().double().pow(2).mean().sqrt().item()
    assert pushed[True] < 0.7 * pushed[False]


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.slow
def test_transfers_follow_a_number_of_samples(batch: int) -> None:
    made = devices(hardware(rule(every=50)))
    weight = made.logical_weight()
    flips, sign = 0, 1.0
    for start in range(0, 300, batch):
        x, d = samples(min(batch, 300 - start))
        pulsed_weight.update(made, [(x, d)], 1e-5, SEED + start, weight)
        assert made.polarity is not None
        flips, sign = flips + int(float(made.polarity) != sign), float(made.polarity)
    assert made.samples is not None
    assert int(made.samples) == 300
    assert flips == min(6, math.ceil(300 / batch))  # one for all transfers that are due in a batch
    torch.testing.assert_close(weight, made.logical_weight(), rtol=0.0, atol=1e-6)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    digital = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4))
    return pg.convert(digital, pg.presets.pcm_capacitor_training(every=40))  # type: ignore[return-value]


def run(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for i in steps:
        generator = torch.Generator().manual_seed(i)
        x, y = torch.randn(16, 12, generator=generator), torch.randint(0, 4, (16,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical() -> None:
    module = net()
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=0.1)
    run(module, optimizer, range(7))  # after two transfers, before the third
    file = io.BytesIO()
    torch.save((module.state_dict(), optimizer.state_dict(), torch.get_rng_state()), file)
    copied = copy.deepcopy(module)
    run(module, optimizer, range(7, 14))
    file.seek(0)
    weights, rest, random = torch.load(file, weights_only=True)
    for again in (net(seed=5), copied):
        again.load_state_dict(weights)
        resumed = pg.optim.AnalogSGD(again.parameters(), lr=0.7)
        resumed.load_state_dict(rest)
        torch.set_rng_state(random)
        run(again, resumed, range(7, 14))
        assert same(state(again), state(module))


def test_the_summary_counts_capacitors_as_devices() -> None:
    assert pg.summary(net()).devices == 3 * (12 * 9 + 9 * 4)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    found = []
    for count in (1, 2, 3):
        with threads(count):
            module = net()
            run(module, pg.optim.AnalogSGD(module.parameters(), lr=0.1), range(6))
            found.append(state(module))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_ageing_a_trained_net_discharges_its_capacitors() -> None:
    module = net()
    run(module, pg.optim.AnalogSGD(module.parameters(), lr=0.1), range(6))
    devices = module[0].devices
    slow = sum_of_planes(devices.conductance, None, devices.factors)
    old = pg.inference.age(module, seconds=1.0)  # 200 time constants, before the PCM drifts
    torch.testing.assert_close(old[0].weight.detach(), slow, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dataclasses.replace(hardware(), pulses=None, scale="column"), "fast is given without pulses"),
        (lambda: Fast(cell=ReferencedDevice(device=ideal_device()), scale=0.0), "scale = 0.0"),
        (
            lambda: Fast(cell=ReferencedDevice(device=ideal_device()), scale=1.0, gain=0.5, transfer=Transfer()),
            "gain = 0.5 with a transfer",
        ),
        (
            lambda: dataclasses.replace(
                hardware(), fast=Fast(cell=ReferencedDevice(device=nandakumar_2018_device()), scale=1.0)
            ),
            "SetPulses only raises a conductance",
        ),
        (
            lambda: dataclasses.replace(hardware(), fast=Fast(cell=ReferencedDevice(device=ideal_device()), scale=1.0)),
            "device.steps = None",
        ),
        (lambda: Transfer(every=0), "every = 0"),
        (lambda: Transfer(limit=1.5), "limit = 1.5"),
        (lambda: Pulses(sample_time=-1.0), "sample_time = -1.0"),
    ],
)
def test_invalid_hardware_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.slow
def test_bidirectional_devices_are_written_in_a_closed_loop() -> None:
    slow = ReferencedDevice(device=ideal_device(g_max=25e-6, steps=ConstantSteps(size=25e-6 / 400)))
    made = devices(dataclasses.replace(hardware(rule(attempts=500)), cell=slow))
    before = after_update(made)
    pulsed_weight.transfer(made, SEED)
    inside = before.abs() < 0.3
    assert (made.logical_weight() - before).abs()[inside].max().item() < 0.51e-3
