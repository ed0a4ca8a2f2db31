"""The Tiki-Taka family: transfers, symmetric points, choppers, and checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.op import threads
from tests.optim.test_analog_sgd import backward, batch, fine, net, run, same, state
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import ReferencedDevice
from phasegrad.crossbar import Fast, Pulses
from phasegrad.devices import ConstantSteps, SoftBoundsSteps, ideal_device, joshi_2020
from phasegrad.ops.native import library
from phasegrad.optim import fast_array
from phasegrad.stores import pulsed_weight

FAMILY = [pg.optim.TikiTaka, pg.optim.TikiTakaV2, pg.optim.ChoppedTikiTakaV2, pg.optim.AGAD]
CHOPPED = FAMILY[2:]
kernels = pytest.mark.skipif(
    library is None, reason="the test has thousands of samples, which the reference processes one by one"
)
family = pytest.mark.parametrize("algorithm", FAMILY, ids=lambda a: a.__name__)
chopped = pytest.mark.parametrize("algorithm", CHOPPED, ids=lambda a: a.__name__)


def with_fast(slow: pg.Hardware, fast: pg.Hardware | None = None, gain: float = 0.0) -> pg.Hardware:
    """The slow cells of one hardware with the cells of another as fast cells."""
    fast = fast or slow
    assert isinstance(fast.scale, float)
    return dataclasses.replace(slow, fast=Fast(cell=fast.cell, scale=fast.scale, gain=gain))


def soft(states: int = 400) -> pg.Hardware:
    """Hardware with soft-bounds devices, identical and noiseless."""
    device = ideal_device(g_max=25e-6, steps=SoftBoundsSteps(size=25e-6 / states))
    return pg.Hardware(cell=ReferencedDevice(device=device), scale=1.0, pulses=Pulses())


def layer(hardware: pg.Hardware, inputs: int, outputs: int) -> pg.nn.AnalogLinear:
    torch.manual_seed(0)
    made = pg.nn.AnalogLinear(inputs, outputs, bias=False, hardware=hardware)
    made.load_state_dict({"weight": torch.zeros(outputs, inputs)}, strict=False)
    return made


def push(made: pg.nn.AnalogLinear, x: Tensor, d: Tensor) -> None:
    """Stage inputs and gradients."""
    made.weight.grad = None
    made.weight.stage(x, d)


@pytest.mark.parametrize("algorithm", FAMILY[1:], ids=lambda a: a.__name__)
def test_pulses_and_hidden_matrix_add_up_to_the_reads(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each pulse changes the slow array by 0.001 at any conductance, so C counts the pulses.
    made = layer(with_fast(fine(2000), soft()), 7, 5)
    optimizer = algorithm([made.weight], lr=0.005, fast_lr=0.05, transfer_every=2)
    found = torch.zeros(5, 7, dtype=torch.float64)
    buffer = algorithm._buffer

    def record(self: Any, weight: Any, state: Any, group: Any, due: Any, change: Tensor) -> None:
        found[:, due.rows] += 0.005 / 0.05 * change.double()
        buffer(self, weight, state, group, due, change)

    monkeypatch.setattr(algorithm, "_buffer", record)
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        push(made, torch.randn(3, 7, generator=generator), torch.randn(3, 5, generator=generator) - 0.3)
        optimizer.step()
    hidden = optimizer.state[made.weight]["hidden"]
    assert made.devices.dw_min == pytest.approx(0.001)
    assert (hidden.abs() < 0.001 * (1 + 1e-3)).all()
    assert 0.02 < found.abs().mean() < found.abs().max() < 0.9  # and no weight is at a bound
    # Half the range is 1; conductances have 24 bits, and the rounding of H adds up over 60 reads of at most 0.4.
    torch.testing.assert_close(made.weight.detach().double() + hidden, found, rtol=0.0, atol=2e-5)


@pytest.mark.parametrize("period", [1, 4])
def test_agad_learns_the_change_since_the_chopper_flipped(period: int) -> None:
    # A changes by g between two reads without decay, so a period of R reads sums to g (1 + ... + R), whatever its
    # initial value.
    g, periods, lr = 31e-4, 5, 0.1
    made = layer(with_fast(fine(20_000)), 6, 4)  # steps of 1e-4: a full train of 31 that always fires
    assert made.devices.fast is not None
    optimizer = pg.optim.AGAD([made.weight], lr=lr, fast_lr=1.0, rows=None, period=period, threshold=1e9)
    start = 0.2
    made.devices.fast.conductance.mul_(1.0 + start)
    for i in range(period * periods):
        if i == period:
            optimizer.state[made.weight]["hidden"].zero_()  # the first period has no reference
        push(made, torch.ones(1, 6), torch.full((1, 4), -1.0))
        optimizer.step()
    expected = lr * g * (periods - 1) * period * (period + 1) / 2
    hidden = optimizer.state[made.weight]["hidden"]
    torch.testing.assert_close(hidden, torch.full_like(hidden, expected), rtol=1e-3, atol=0.0)


def offset_of_a(algorithm: Any, reads: int, rows: int, **more: Any) -> tuple[float, float]:
    """Mean change of the hidden matrix per read without a gradient, and the symmetric point of A."""
    made = layer(with_fast(fine(), soft()), rows, 20)
    fast = made.devices.fast
    assert fast is not None
    assert fast.step_parameters is not None
    point = 0.3  # u (1 - w) = d (1 + w)
    fast.step_parameters[0] *= 1.0 + point
    fast.step_parameters[1] *= 1.0 - point
    fast.conductance.mul_(1.0 + point)
    optimizer = algorithm([made.weight], lr=1.0, fast_lr=1.0, rows=None, threshold=1e9, **more)
    generator = torch.Generator().manual_seed(2)
    for _ in range(reads):
        signs = torch.randint(0, 2, (4, 20), generator=generator) * 2.0 - 1.0
        push(made, torch.ones(4, rows), signs * 1e-2)
        optimizer.step()
    made.weight.grad = None
    return optimizer.state[made.weight]["hidden"].double().mean().item() / reads, point


@kernels
def test_ttv2_learns_the_symmetric_point_as_if_it_were_a_gradient() -> None:
    learned, point = offset_of_a(pg.optim.TikiTakaV2, 200, 50)
    assert learned == pytest.approx(point, rel=0.05)


@kernels
def test_choppers_average_out_the_symmetric_point() -> None:
    # The signs of a row are a Markov chain that keeps its value with probability 0.9. Their correlation per read is
    # 0.8, so the variance of their sum over N reads is N (1 + 0.8) / (1 - 0.8). All outputs of a row share its chopper.
    # The chain starts at +1, so the mean of the sum is 1 / (1 - 0.8).
    reads, rows = 200, 200
    learned, point = offset_of_a(pg.optim.ChoppedTikiTakaV2, reads, rows)
    assert learned == pytest.approx(point * 5.0 / reads, abs=5.0 * point * math.sqrt(9.0 / (reads * rows)))


@kernels
def test_agad_subtracts_the_symmetric_point() -> None:
    # The first reference is 0, so the first period includes the whole symmetric point. Later periods include only the
    # fluctuation of A about it, sd sqrt(size / 2) = 0.05, independent between periods and between 4,000 cells.
    reads, rows, period = 200, 200, 10
    learned, point = offset_of_a(pg.optim.AGAD, reads, rows, period=period)
    fluctuation = 2.0 * math.sqrt(0.005 / 2.0) / math.sqrt(20 * rows * reads / period)
    assert learned == pytest.approx(point * period / reads, abs=5.0 * fluctuation)


@kernels
@chopped
def test_gradients_are_learned_despite_the_symmetric_point(algorithm: Any) -> None:
    made = layer(with_fast(fine(2000), soft()), 30, 20)
    fast = made.devices.fast
    assert fast is not None
    assert fast.step_parameters is not None
    fast.step_parameters[0] *= 1.3
    fast.step_parameters[1] *= 0.7
    optimizer = algorithm([made.weight], lr=1e-3, fast_lr=1.0, rows=None)
    sign = torch.where(torch.arange(20) % 2 == 0, 1.0, -1.0)
    for _ in range(200):
        push(made, torch.ones(2, 30), 0.1 * sign.expand(2, 20))
        optimizer.step()
    learned = made.weight.detach()
    assert (learned[0::2] < -0.01).all()
    assert (learned[1::2] > 0.01).all()


def test_tiki_taka_pulses_the_rows_that_it_reads() -> None:
    made = layer(with_fast(fine(200_000), soft()), 6, 5)
    assert made.devices.fast is not None
    stored = torch.linspace(-0.4, 0.4, 30).view(5, 6)
    made.devices.fast.conductance.copy_((stored + 1.0) * 12.5e-6)
    optimizer = pg.optim.TikiTaka([made.weight], lr=1e-4, fast_lr=0.5, transfer_every=1, rows=2)
    for i in range(3):
        push(made, torch.zeros(1, 6), torch.zeros(1, 5))
        optimizer.step()
        touched = torch.arange(6) < 2 * (i + 1)
        change = made.weight.detach()
        assert torch.equal(change[:, ~touched].abs() > 0, torch.zeros(5, int((~touched).sum()), dtype=torch.bool))
        # The number of pulses of 1e-5 per cell is binomial, with mean lr / fast_lr stored / 1e-5, at most 8.
        expected = stored * (1e-4 / 0.5)
        assert (
            (change - expected)[:, touched].abs() < 5.0 * 1e-5 * (expected.abs() / 1e-5 + 1.0).sqrt()[:, touched]
        ).all()


ASYMMETRIC = pg.presets.tiki_taka_training(weight_max=1.5, states=30)


def regression(optimiser: Callable[..., torch.optim.Optimizer], hardware: pg.Hardware, lr: float) -> float:
    """The loss at the end of a training."""
    made = layer(hardware, 10, 5)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(600, 10, generator=generator)
    y = x @ (0.3 * torch.randn(5, 10, generator=generator)).t()
    step, losses = optimiser([made.weight], lr=lr), []
    for _ in range(10):
        for picked in torch.randperm(600, generator=generator).split(10):
            step.zero_grad()
            loss = F.mse_loss(made(x[picked]), y[picked])
            loss.backward()
            step.step()
            losses.append(loss.item())
    return sum(losses[-100:]) / 100


@pytest.fixture(scope="module")
def stalled() -> float:
    """The smallest loss that plain pulses reach."""
    hardware = dataclasses.replace(ASYMMETRIC, fast=None)
    return min(regression(pg.optim.AnalogSGD, hardware, lr) for lr in (0.01, 0.03, 0.1))


@kernels
@chopped
def test_an_asymmetric_device_learns_a_regression_where_plain_pulses_stall(algorithm: Any, stalled: float) -> None:
    assert regression(algorithm, ASYMMETRIC, 0.01) < 0.6 * stalled


def test_rows_are_read_in_turn_per_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    made, reads = layer(with_fast(fine()), 7, 3), []
    read_fast = fast_array.read_fast
    monkeypatch.setattr(
        fast_array, "read_fast", lambda made, rows, seed: (reads.append(rows.tolist()), read_fast(made, rows, seed))[1]
    )
    optimizer = pg.optim.TikiTakaV2([made.weight], lr=1e-6, transfer_every=4, rows=2)
    for n in (3, 6, 2, 5, 40):  # 3, 9, 11, 16, 56 samples: 0, 2, 2, 4, 14 transfers
        push(made, torch.ones(n, 7), torch.ones(n, 3))
        optimizer.step()
    assert reads == [[0, 1, 2, 3], [4, 5, 6, 0], [1, 2, 3, 4, 5, 6, 0]]


def test_choppers_flip_with_their_probability() -> None:
    made, flips, reads = layer(with_fast(fine()), 800, 3), 0, 25
    optimizer = pg.optim.ChoppedTikiTakaV2([made.weight], lr=1e-6, rows=None)
    before = torch.ones(800)
    for _ in range(reads):
        push(made, torch.ones(1, 800), torch.ones(1, 3))
        optimizer.step()
        after = optimizer.state[made.weight]["chopper"].clone()
        assert (after.abs() == 1.0).all()
        flips += int((after != before).sum())
        before = after
    assert flips / (800 * reads) == pytest.approx(0.1, abs=5.0 * math.sqrt(0.09 / (800 * reads)))


def test_agads_choppers_flip_regularly() -> None:
    made = layer(with_fast(fine()), 5, 3)
    optimizer = pg.optim.AGAD([made.weight], lr=1e-6, period=3)
    for samples in range(1, 31):  # one row per sample
        push(made, torch.ones(1, 5), torch.ones(1, 3))
        optimizer.step()
        read = torch.tensor([(samples + 4 - row) // 5 for row in range(5)])
        assert torch.equal(optimizer.state[made.weight]["chopper"], 1.0 - 2.0 * (read // 3 % 2))


def test_the_automatic_rate_maps_the_largest_product_to_its_pulses() -> None:
    made = layer(with_fast(fine(2000)), 6, 4)
    x, d = torch.ones(8, 6), torch.full((8, 4), -0.25)
    optimizer = pg.optim.TikiTakaV2([made.weight], lr=0.0, pulses=5.0)
    push(made, x, d)
    optimizer.step()
    assert made.devices.fast is not None
    stored = made.devices.fast.cell.weight(made.devices.fast.conductance)
    # 8 samples of 5 pulses each, without variation, with trains of 5 slots that always fire.
    torch.testing.assert_close(stored, torch.full((4, 6), 40 * 0.001), rtol=1e-3, atol=0.0)


def test_a_step_without_gradient_changes_no_device() -> None:
    made = layer(with_fast(soft()), 6, 4)
    optimizer, before = pg.optim.AGAD([made.weight], lr=0.1), state(made)
    push(made, torch.ones(3, 6), torch.zeros(3, 4))
    optimizer.step()
    push(made, torch.ones(0, 6), torch.zeros(0, 4))
    optimizer.step()
    after = state(made)
    assert torch.equal(before["devices.conductance"], after["devices.conductance"])
    assert torch.equal(before["devices.fast.conductance"], after["devices.fast.conductance"])


def options(algorithm: Any) -> dict[str, Any]:
    return {"pulses": 2.0, "transfer_every": 3, "rows": 2} | ({"period": 2} if algorithm is pg.optim.AGAD else {})


def run_in(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Train in the dtype of the net."""
    for i in steps:
        optimizer.zero_grad()
        x, y = batch(seed=i)
        F.cross_entropy(module(x.to(module[0].weight.dtype)), y).backward()  # type: ignore[index]
        optimizer.step()


@family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_is_bit_identical(algorithm: Any, dtype: torch.dtype) -> None:
    module = net(pg.presets.tiki_taka_training()).to(dtype)
    optimizer = algorithm(module.parameters(), lr=0.1, momentum=0.5, **options(algorithm))
    run_in(module, optimizer, range(7))
    file = io.BytesIO()
    torch.save((module.state_dict(), optimizer.state_dict(), torch.get_rng_state()), file)
    run_in(module, optimizer, range(7, 14))
    file.seek(0)
    resumed = net(pg.presets.tiki_taka_training(), seed=5).to(dtype)
    again = algorithm(resumed.parameters(), lr=0.7)
    weights, rest, random = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    again.load_state_dict(rest)
    torch.set_rng_state(random)
    run_in(resumed, again, range(7, 14))
    assert same(state(module), state(resumed))
    a, b = optimizer.state[module[0].weight], again.state[resumed[0].weight]
    assert a.keys() == b.keys()
    assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


@family
def test_results_do_not_depend_on_the_number_of_threads(algorithm: Any) -> None:
    found = []
    for count in (1, 2, 3):
        with threads(count):
            module = net(pg.presets.tiki_taka_training())
            run(module, algorithm(module.parameters(), lr=0.1, **options(algorithm)), range(6))
            found.append(state(module))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


@family
@pytest.mark.parametrize("kind", ["pair", "capacitor", "noisy", "gain"])
def test_the_weight_equals_that_of_its_devices(algorithm: Any, kind: str) -> None:
    base = pg.presets.tiki_taka_training()
    if kind == "pair":
        hardware = with_fast(pg.presets.pcm_pair_training(refresh=2), base)
    elif kind == "capacitor":
        leaky = pg.presets.pcm_capacitor_training().fast
        assert leaky is not None
        fast = dataclasses.replace(leaky, gain=0.0, transfer=None)
        hardware = dataclasses.replace(base, fast=fast, pulses=Pulses(sample_time=1e-4))
    elif kind == "noisy":
        device = dataclasses.replace(joshi_2020(), steps=SoftBoundsSteps(size=0.25e-6))
        noisy = dataclasses.replace(base, cell=ReferencedDevice(device=device))
        hardware = with_fast(noisy)
    else:
        hardware = with_fast(base, gain=0.5)
    if kind == "gain" and algorithm in CHOPPED:
        return
    module = net(hardware)
    before = state(module)
    run(module, algorithm(module.parameters(), lr=0.5, **options(algorithm)), range(8))
    assert not torch.equal(before["0.devices.conductance"], module[0].devices.conductance)
    for one in (module[0], module[2]):
        torch.testing.assert_close(one.weight.detach(), one.devices.logical_weight(), rtol=0.0, atol=1e-6)


@kernels
@family
def test_convolutions_train(algorithm: Any) -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3))
    module = pg.convert(digital, pg.presets.tiki_taka_training(weight_max=1.0, states=100))
    optimizer = algorithm(module.parameters(), lr=0.02, transfer_every=8, rows=8)
    y = torch.randint(0, 3, (96,))
    x = 0.5 * torch.randn(96, 1, 6, 6)
    x[torch.arange(96), 0, :, 2 * y] += 1.0
    losses = []
    for _ in range(8):
        for picked in torch.randperm(96).split(8):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(x[picked]), y[picked])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-12:]) < 0.3 * sum(losses[:12])
    assert optimizer.state[module[0].weight].get("hidden", torch.empty(6, 9)).shape == (6, 9)


@family
def test_copies_have_their_own_devices_and_no_optimizer_state(algorithm: Any) -> None:
    module = net(pg.presets.tiki_taka_training())
    run(module, algorithm(module.parameters(), lr=0.1), range(3))
    other = copy.deepcopy(module)
    before = state(module)
    run(other, algorithm(other.parameters(), lr=0.1), range(3))
    assert same(state(module), before)
    assert not same(state(other), before)


def test_schedulers_change_the_rate_of_digital_parameters_and_slow_arrays() -> None:
    module = net(pg.presets.tiki_taka_training())
    optimizer = pg.optim.TikiTakaV2(module.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.0)
    backward(module)
    bias = module[0].bias.detach().clone()
    optimizer.step()
    assert not torch.equal(bias, module[0].bias)
    schedule.step()
    slow, hidden = module[0].devices.conductance.clone(), optimizer.state[module[0].weight]["hidden"].clone()
    fast = module[0].devices.fast.conductance.clone()
    bias = module[0].bias.detach().clone()
    backward(module)
    optimizer.step()
    assert torch.equal(slow, module[0].devices.conductance)
    assert torch.equal(hidden, optimizer.state[module[0].weight]["hidden"])
    assert torch.equal(bias, module[0].bias)
    assert not torch.equal(fast, module[0].devices.fast.conductance)


def test_reads_of_rows_have_the_read_noise_of_the_devices() -> None:
    device = dataclasses.replace(joshi_2020(), steps=ConstantSteps(size=0.25e-6))
    made = layer(
        with_fast(pg.Hardware(cell=ReferencedDevice(device=device), scale=0.5, pulses=Pulses(sample_time=1.0))), 40, 500
    )
    fast, rows = made.devices.fast, torch.tensor([7, 3, 39])
    assert fast is not None
    made.devices.clock.fill_(3600.0)
    mean = fast.max_weight * fast.cell.weight(fast.present(made.devices.clock))[:, rows]
    whole = fast.max_weight * fast.cell.weight(fast.read(made.devices.clock, torch.tensor([1]), 0))[:, rows]
    reads = torch.stack([pulsed_weight.read_fast(made.devices, rows, torch.tensor([i])) for i in range(40)])
    # 60,000 numbers: the relative standard error of a standard deviation is 1 / sqrt(2 n); 1,500 for the whole read.
    noise = (reads - mean).double().std().item()
    assert noise == pytest.approx((whole - mean).double().std().item(), rel=5.0 / math.sqrt(2 * 1500))
    assert (reads - mean).double().mean().abs().item() < 5.0 * noise / math.sqrt(reads.numel())


def test_counts_pulse_their_rows() -> None:
    made = layer(with_fast(fine(2000)), 9, 4)
    counts = torch.arange(-4, 4, dtype=torch.int32).view(4, 2)
    rows = torch.tensor([6, 1])
    made.weight.apply_pulses(pulsed_weight.send_counts_to_slow, counts, rows, torch.tensor([1]))
    expected = torch.zeros(4, 9).index_copy_(1, rows, counts * 0.001)
    torch.testing.assert_close(made.weight.detach(), expected, rtol=0.0, atol=1e-6)


@family
def test_hardware_without_a_fast_array_is_refused(algorithm: Any) -> None:
    module = net(fine())
    with pytest.raises(ValueError, match=rf"{algorithm.__name__}: fast = None .*fast=Fast\("):
        algorithm(module.parameters(), lr=0.1)
    with_transfer = pg.presets.pcm_capacitor_training()
    with pytest.raises(ValueError, match=r"fast\.transfer = .*transfer=None"):
        algorithm(net(with_transfer).parameters(), lr=0.1)
    optimizer = algorithm(net(pg.presets.tiki_taka_training()).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="fast = None"):
        optimizer.add_param_group({"params": list(module.parameters())})
    assert len(optimizer.param_groups) == 1


@chopped
def test_choppers_refuse_a_fast_array_that_contributes_to_the_weight(algorithm: Any) -> None:
    with pytest.raises(ValueError, match=r"fast\.gain = 0\.5"):
        algorithm(net(with_fast(fine(), gain=0.5)).parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("algorithm", "fields", "message"),
    [
        *[(a, {"fast_lr": v}, "fast_lr = ") for a in FAMILY for v in (0.0, -1.0, math.inf, math.nan)],
        *[(a, {"pulses": v}, "pulses = ") for a in FAMILY for v in (0.0, math.nan)],
        *[(a, {"transfer_every": v}, "transfer_every = ") for a in FAMILY for v in (0, 1.5, True)],
        *[(a, {"rows": 0}, "rows = 0") for a in FAMILY],
        *[(a, {"lr": -1.0}, "lr = ") for a in FAMILY],
        *[(a, {"threshold": 0.0}, "threshold = ") for a in FAMILY[1:]],
        *[(pg.optim.ChoppedTikiTakaV2, {"probability": v}, "probability = ") for v in (-0.1, 1.1, math.nan)],
        (pg.optim.AGAD, {"period": 0}, "period = 0"),
        *[(pg.optim.AGAD, {"averaged": v}, "averaged = ") for v in (0.0, 1.1, math.nan)],
    ],
)
def test_invalid_options_are_refused(algorithm: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm(net(with_fast(fine())).parameters(), **{"lr": 0.1, **fields})


@family
def test_non_finite_samples_pulse_no_device(algorithm: Any) -> None:
    module = net(pg.presets.tiki_taka_training())
    optimizer = algorithm(module.parameters(), lr=0.1)
    run(module, optimizer, range(1))
    backward(module)
    module[2].weight.grad.samples[0][1][0, 0] = math.nan
    before, saved = state(module), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="not finite"):
        optimizer.step()
    assert same(state(module), before)
    torch.testing.assert_close(optimizer.state_dict(), saved, rtol=0.0, atol=0.0)


@family
def test_every_row_of_a_weight_with_the_inputs_first_is_read(algorithm: Any) -> None:
    made = pg.nn.AnalogTransposedLinear(4, 20, hardware=pg.presets.tiki_taka_training())
    optimizer = algorithm(made.parameters(), lr=0.5, fast_lr=0.5, rows=20)
    before = made.devices.conductance.clone()
    for _ in range(5):
        optimizer.zero_grad()
        made(torch.randn(9, 20)).square().sum().backward()
        optimizer.step()
    assert (made.devices.conductance != before)[0].any(0).all()


def test_an_old_name_in_a_group_counts_with_a_warning() -> None:
    made = layer(pg.presets.tiki_taka_training(), 4, 3)
    optimizer = pg.optim.TikiTaka(made.parameters(), lr=0.1, rows=2)
    optimizer.param_groups[0]["lines"] = 4
    push(made, torch.ones(1, 4), torch.ones(1, 3))
    with pytest.warns(DeprecationWarning, match="lines of a parameter group was renamed to rows"):
        optimizer.step()
    assert optimizer.param_groups[0]["rows"] == 4
    with pytest.raises(TypeError, match="give rows alone"):
        pg.optim.TikiTaka([{"params": list(made.parameters()), "lines": 2, "rows": 1}], lr=0.1)
    with pytest.raises(TypeError, match="give rows= alone"):
        pg.optim.TikiTaka(made.parameters(), lr=0.1, lines=2, rows=1)  # pyright: ignore[reportCallIssue]
