"""AnalogSGD: pulses that descend the gradient, checkpoints, and refusal of dense gradients."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pickle
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.op import threads
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair, ReferencedDevice
from phasegrad.crossbar import Pulses
from phasegrad.devices import ConstantSteps, SetPulses, ideal_device, joshi_2020, nandakumar_2018
from phasegrad.stores import pulsed_weight

PRESETS = [
    pg.presets.constant_step_training,
    pg.presets.soft_bounds_training,
    pg.presets.pcm_pair_training,
    pg.presets.multi_memristive_training,
]
preset = pytest.mark.parametrize("preset", PRESETS, ids=[p.__name__ for p in PRESETS])


def fine(steps: int = 2_000_000, **fields: object) -> pg.Hardware:
    """Hardware with steps so small, equal and noiseless that pulses approximate additions."""
    law = ConstantSteps(size=25e-6 / steps)
    cell = ReferencedDevice(device=ideal_device(g_max=25e-6, steps=law))
    return pg.Hardware(cell=cell, scale=1.0, pulses=Pulses(), **fields)  # type: ignore[arg-type]


def net(hardware: pg.Hardware | None = None, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    digital = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4))
    return digital if hardware is None else pg.convert(digital, hardware)  # type: ignore[return-value]


def batch(n: int = 16, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, generator=generator), torch.randint(0, 4, (n,), generator=generator)


def backward(module: nn.Module, seed: int = 1) -> None:
    x, y = batch(seed=seed)
    F.cross_entropy(module(x), y).backward()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_outputs_and_digital_gradients_equal_those_of_the_float_net() -> None:
    analog, digital = net(fine()), net()
    x, y = batch()
    inputs = []
    for module in (analog, digital):
        own = x.clone().requires_grad_()
        F.cross_entropy(module(own), y).backward()
        inputs.append(own.grad)
    torch.testing.assert_close(inputs[0], inputs[1], rtol=1e-4, atol=1e-6)
    for i in (0, 2):
        torch.testing.assert_close(analog[i].bias.grad, digital[i].bias.grad, rtol=1e-4, atol=1e-6)


def test_pulses_descend_the_dense_gradient() -> None:
    analog, lr, steps, dw_min = net(fine()), 1e-5, 20, 1e-6
    optimizer = pg.optim.AnalogSGD(analog.parameters(), lr=lr)
    start = [analog[i].weight.detach().double() for i in (0, 2)]
    for _ in range(steps):
        optimizer.zero_grad()
        backward(analog)
        samples = [analog[i].weight.grad.samples[0] for i in (0, 2)]
        optimizer.step()
    digital = net()
    backward(digital)
    for layer, before, (x, d, _) in zip((0, 2), start, samples, strict=True):
        pulses = steps * lr / dw_min * d.double().abs().t() @ x.double().abs()  # total number per weight
        expected = -steps * lr * digital[layer].weight.grad.double()
        change = analog[layer].weight.detach().double() - before
        # The number of pulses per train is binomial; conductances of 25 uS have a precision of 24 bits.
        assert ((change - expected).abs() < 5.0 * dw_min * (pulses + 1.0).sqrt() + 1e-5 * before.abs()).all()


def test_digital_parameters_are_updated_as_by_torch() -> None:
    digital = nn.Linear(12, 4)
    counterpart, in_memory = copy.deepcopy(digital), pg.convert(digital, PRESETS[0]())
    for optimizer in (
        pg.optim.AnalogSGD([*digital.parameters(), in_memory.weight], lr=0.1, momentum=0.9),
        torch.optim.SGD(counterpart.parameters(), lr=0.1, momentum=0.9),
    ):
        module = digital if isinstance(optimizer, pg.optim.AnalogSGD) else counterpart
        for i in range(3):
            optimizer.zero_grad()
            backward(module, seed=i)
            optimizer.step()
    for a, b in zip(digital.parameters(), counterpart.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@preset
@pytest.mark.slow
def test_training_lowers_the_loss(preset: Callable[[], pg.Hardware]) -> None:
    module = net(preset())
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=0.1 if preset in PRESETS[:2] else 0.03)
    x, y = batch(64)
    y = x[:, :4].argmax(1)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_accumulated_backward_passes_equal_one_longer_batch() -> None:
    whole, halves = net(fine()), net(fine())
    x, y = batch()
    found = []
    for module, cuts in ((whole, [slice(0, 16)]), (halves, [slice(0, 8), slice(8, 16)])):
        optimizer = pg.optim.AnalogSGD(module.parameters(), lr=1e-5)
        for cut in cuts:
            F.cross_entropy(module(x[cut]), y[cut], reduction="sum").backward()
        torch.manual_seed(3)
        optimizer.step()
        found.append(module[0].devices.conductance)
    assert torch.equal(found[0], found[1])


def test_a_layer_used_twice_is_staged_twice() -> None:
    layer = pg.nn.AnalogLinear(6, 6, hardware=fine())
    layer(layer(torch.randn(3, 6)).tanh()).sum().backward()
    assert [len(s.x) for s in layer.weight.grad.samples] == [3, 3]


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_discards_samples(to_none: bool) -> None:
    module = net(fine())
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=0.1)
    backward(module)
    before = module[0].devices.conductance.clone()
    optimizer.zero_grad(set_to_none=to_none)
    optimizer.step()
    assert torch.equal(module[0].devices.conductance, before)


def test_no_gradient_is_staged_for_a_frozen_weight() -> None:
    module = net(fine())
    module[0].weight.requires_grad_(False)
    backward(module)
    assert module[0].weight.grad is None
    assert module[2].weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_train(dtype: torch.dtype) -> None:
    module = net(fine()).to(dtype)
    before = module[0].devices.conductance.clone()
    x, y = batch()
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=1e-3)
    F.cross_entropy(module(x.to(dtype)), y).backward()
    optimizer.step()
    assert module[0].weight.dtype == dtype
    assert module[0].devices.conductance.dtype == torch.float32
    assert not torch.equal(module[0].devices.conductance, before)


def test_autocast_trains() -> None:
    module = net(fine())
    before = module[0].devices.conductance.clone()
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(module(x), y)
    loss.backward()
    pg.optim.AnalogSGD(module.parameters(), lr=1e-3).step()
    assert not torch.equal(module[0].devices.conductance, before)


def test_empty_batches_and_leading_dimensions_are_supported() -> None:
    module = net(fine())
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=1e-3)
    before = module[0].devices.conductance.clone()
    module(torch.ones(0, 12)).sum().backward()
    optimizer.step()
    assert torch.equal(module[0].devices.conductance, before)
    optimizer.zero_grad()
    module(torch.ones(2, 3, 12)).sum().backward()
    assert module[0].weight.grad.samples[0][0].shape == (6, 12)
    optimizer.step()


def test_schedulers_change_the_learning_rate() -> None:
    module = net(fine())
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.0)
    backward(module)
    optimizer.step()
    schedule.step()
    backward(module)
    before = state(module)
    optimizer.step()
    after = state(module)
    after["0.devices.updates"] -= 1
    after["2.devices.updates"] -= 1
    assert same(before, after)


def run(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for i in steps:
        optimizer.zero_grad()
        backward(module, seed=i)
        optimizer.step()


@preset
@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads(preset: Callable[[], pg.Hardware]) -> None:
    found = []
    for count in (1, 2, 3):
        with threads(count):
            module = net(preset())
            run(module, pg.optim.AnalogSGD(module.parameters(), lr=0.1), range(5))
            found.append(state(module))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


@preset
def test_a_resumed_run_is_bit_identical(preset: Callable[[], pg.Hardware]) -> None:
    module = net(preset())
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=0.1, momentum=0.5)
    run(module, optimizer, range(4))
    file = io.BytesIO()
    torch.save((module.state_dict(), optimizer.state_dict(), torch.get_rng_state()), file)
    run(module, optimizer, range(4, 8))
    file.seek(0)
    resumed = net(preset(), seed=5)
    again = pg.optim.AnalogSGD(resumed.parameters(), lr=0.7)
    weights, rest, random = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    again.load_state_dict(rest)
    torch.set_rng_state(random)
    run(resumed, again, range(4, 8))
    assert same(state(module), state(resumed))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_have_their_own_devices(copied: Callable[[nn.Module], nn.Module]) -> None:
    module = net(pg.presets.pcm_pair_training())
    backward(module)
    other = copied(module)
    assert same(state(module), state(other))
    assert other[0].weight.grad is None
    assert other[0].weight.devices is other[0].devices
    before = state(module)
    run(other, pg.optim.AnalogSGD(other.parameters(), lr=0.1), range(3))
    assert same(state(module), before)
    assert not same(state(other), before)


def test_a_float_checkpoint_is_programmed_onto_the_devices() -> None:
    module, digital = net(fine(), seed=3), net(seed=4)
    module.load_state_dict(digital.state_dict())
    torch.testing.assert_close(module[0].weight.detach(), digital[0].weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(module[0].devices.logical_weight(), digital[0].weight.detach(), rtol=1e-4, atol=1e-6)
    assert isinstance(module[0].weight, pg.nn.InMemoryWeight)


def test_conversion_to_digital_restores_a_plain_parameter() -> None:
    module = net(fine())
    digital = pg.to_digital(module)
    assert type(digital[0].weight) is nn.Parameter
    x, _ = batch()
    torch.testing.assert_close(digital(x), module(x), rtol=1e-4, atol=1e-5)


def pair(refresh: int) -> pg.Hardware:
    device = ideal_device(g_max=12e-6, steps=nandakumar_2018())
    return pg.Hardware(cell=DifferentialPair(device=device, refresh=refresh), scale=0.3, pulses=Pulses())


def test_refresh_preserves_the_weight_and_resets_saturated_pairs() -> None:
    layer = pg.nn.AnalogLinear(40, 30, hardware=pair(refresh=1))
    devices = layer.devices
    generator = torch.Generator().manual_seed(0)
    devices.conductance.uniform_(0.1e-6, 12e-6, generator=generator)
    before, weight = devices.conductance.clone(), devices.logical_weight()
    where = devices.hardware.cell.saturated(before)
    assert 0.2 < where.double().mean().item() < 0.6
    no_gradient = [(torch.zeros(1, 40), torch.zeros(1, 30))]
    pulsed_weight.update(devices, no_gradient, 0.1, torch.tensor([1]), torch.zeros(30, 40))  # only the refresh
    least = torch.minimum(*devices.conductance)
    assert (least[where] - 0.1e-6).abs().max().item() < 0.05e-6  # RESET, with a spread of 10 %
    assert (devices.logical_weight() - weight).abs().max().item() < 0.3 * 0.05 / 12
    assert torch.equal(devices.conductance[:, ~where], before[:, ~where])
    assert (devices.history.amax(0)[where] == 1.0).all()  # the device at RESET
    assert (devices.history[:, where][devices.conductance[:, where] > 0.2e-6] < 0.7).all()  # SET by pulses


def test_trained_devices_drift_and_a_pulse_restarts_their_drift() -> None:
    device = dataclasses.replace(
        joshi_2020(g_max=12e-6), steps=nandakumar_2018(), programming_sd=(0.0,), read_noise=None
    )
    hardware = pg.Hardware(cell=DifferentialPair(device=device), scale=0.3, pulses=Pulses())
    module = net(hardware)
    fresh = module[0].weight.detach().clone()
    old = pg.inference.age(module, seconds=86_400.0)
    shrunk = old[0].weight.detach().abs().mean() / fresh.abs().mean()
    assert 0.4 < shrunk < 0.8  # 4,320 times t0 to the power of -0.05 to -0.1
    optimizer = pg.optim.AnalogSGD(old.parameters(), lr=1.0)
    run(old, optimizer, range(1))
    devices = old[0].devices
    pulsed = devices.pulsed_at == 86_400.0
    assert 0 < int(pulsed.sum()) < pulsed.numel()
    assert torch.equal(devices.age, 86_400.0 - devices.pulsed_at)
    present = devices.hardware.cell.device.drift(devices.state, devices.age)
    torch.testing.assert_close(present[pulsed], devices.conductance[pulsed])


@pytest.mark.slow
def test_training_after_compensation_keeps_the_gain() -> None:
    module = net(fine())
    devices = module[0].devices
    with torch.inference_mode():
        copy.deepcopy(module)[0].store.sync()
    devices.gain.fill_(1.25)
    run(module, pg.optim.AnalogSGD(module.parameters(), lr=0.1), range(2))
    value = module[0].weight.detach().clone()
    devices.gain = torch.ones_like(devices.gain)
    assert torch.equal(value, 1.25 * devices.logical_weight())
    run(module, pg.optim.AnalogSGD(module.parameters(), lr=0.1), range(2))
    assert torch.equal(module[0].weight, devices.logical_weight())
    other = copy.deepcopy(module)
    other[0].devices.gain.fill_(2.0)
    other[0].store.sync()
    assert torch.equal(other[0].weight, 2.0 * devices.logical_weight())


def test_each_device_has_its_own_history() -> None:
    module = net(pg.presets.pcm_pair_training())
    assert isinstance(module[0].hardware.cell.device.steps, SetPulses)
    run(module, pg.optim.AnalogSGD(module.parameters(), lr=1.0), range(2))
    devices = module[0].devices
    pulses = -2.6 * devices.history.double().log()
    assert torch.allclose(pulses, pulses.round(), atol=1e-4)
    assert int(pulses.round().max()) > 0


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_torch_optimizers_are_refused_with_a_reference_to_analog_sgd(optimizer: type[torch.optim.Optimizer]) -> None:
    module = net(fine())
    before = state(module)
    backward(module)
    with pytest.raises(RuntimeError, match="AnalogSGD"):
        optimizer(module.parameters(), lr=0.1).step()
    assert same(state(module), before)


def unscale(parameters: Iterable[nn.Parameter]) -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scaler.unscale_(pg.optim.AnalogSGD(parameters, lr=0.1))


def step_scaled(parameters: Iterable[nn.Parameter]) -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scaler.step(pg.optim.AnalogSGD(parameters, lr=0.1))


@pytest.mark.parametrize(
    "handle",
    [
        lambda p: nn.utils.clip_grad_norm_(p, 1e-3),
        lambda p: nn.utils.clip_grad_norm_(p, 1e-3, foreach=False),
        lambda p: nn.utils.clip_grad_value_(p, 1e-3),
        lambda p: nn.utils.clip_grad_value_(p, 1e-3, foreach=False),
        unscale,
        step_scaled,
    ],
    ids=["norm", "norm, one by one", "value", "value, one by one", "unscale", "scaler's step"],
)
@pytest.mark.parametrize("digital_first", [False, True])
def test_functions_that_need_dense_gradients_raise_and_change_nothing(
    handle: Callable[[Iterable[nn.Parameter]], object], digital_first: bool
) -> None:
    module = nn.Sequential(nn.Linear(12, 12), net(fine())) if digital_first else net(fine())
    backward(module)
    before = state(module)
    digital = {n: p for n, p in module.named_parameters() if not isinstance(p, pg.nn.InMemoryWeight)}
    dense = {n: p.grad.clone() for n, p in digital.items()}
    with pytest.raises(RuntimeError, match=r"InMemoryWeight.*AnalogSGD.*[Cc]lip.*GradScaler"):
        handle(module.parameters())
    assert same(state(module), before)
    assert all(torch.equal(module.get_parameter(n).grad, grad) for n, grad in dense.items())
    plain = [p for p in module.parameters() if not isinstance(p, pg.nn.InMemoryWeight)]
    nn.utils.clip_grad_norm_(plain, 1e-3)  # as advised


def test_a_weight_penalty_is_refused() -> None:
    module = net(fine())
    x, y = batch()
    with pytest.raises(RuntimeError, match=r"outside its layer.*AnalogSGD.*detach"):
        (F.cross_entropy(module(x), y) + module[0].weight.square().sum()).backward()


def test_a_dense_gradient_is_refused() -> None:
    weight = net(fine())[0].weight
    with pytest.raises(RuntimeError, match="AnalogSGD"):
        weight.grad = torch.zeros_like(weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_samples_pulse_no_device(value: float) -> None:
    module = net(fine())
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=0.1)
    backward(module)
    module[2].weight.grad.samples[0][1][0, 0] = value
    before = state(module)
    with pytest.raises(ValueError, match="not finite"):
        optimizer.step()
    assert same(state(module), before)


@pytest.mark.parametrize("lr", [-0.1, math.inf, math.nan])
def test_invalid_learning_rates_are_refused(lr: float) -> None:
    module = net(fine())
    with pytest.raises(ValueError, match="lr ="):
        pg.optim.AnalogSGD(module.parameters(), lr=lr)
    optimizer = pg.optim.AnalogSGD(module.parameters(), lr=0.1)
    backward(module)
    optimizer.param_groups[0]["lr"] = lr
    before = state(module)
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.step()
    assert same(state(module), before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": "column"}, "scale = 'column' with pulses"),
        ({"scale": 0.0}, "scale = 0.0"),
        ({"cell": DifferentialPair(device=ideal_device())}, r"device\.steps = None"),
        ({"cell": ReferencedDevice(device=ideal_device(steps=nandakumar_2018()))}, "only raises"),
    ],
)
def test_invalid_hardware_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(fine(), **fields)  # type: ignore[arg-type]


def test_a_numeric_scale_is_refused_without_pulses() -> None:
    with pytest.raises(ValueError, match="scale"):
        pg.Hardware(cell=DifferentialPair(device=ideal_device()), scale=0.5)
