"""Chips with correlated noise and changing temperature."""

from __future__ import annotations

import copy
import dataclasses
import io
import math

import pytest
import torch
from tests.contracts.op import same_bits
from torch import nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair, OffsetSlices
from phasegrad.devices import PCM, CorrelatedNoise, Curve, Power, Telegraph, Thermal, ideal_device, joshi_2020
from phasegrad.inference.programming import advance
from phasegrad.stores import AnalogWeight

CORRELATED = CorrelatedNoise(modes_per_decade=1)
TELEGRAPH = Telegraph(fraction=0.3, amplitude=0.1, rates=(1e-3, 1e3))
DEVICE = dataclasses.replace(joshi_2020(), correlated_noise=CORRELATED, telegraph=TELEGRAPH, thermal=Thermal())
READ = torch.tensor([5])


def chip_of(device: PCM, *, outputs: int = 16, inputs: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(0)
    net = pg.convert(nn.Sequential(nn.Linear(inputs, outputs)), pg.Hardware(cell=DifferentialPair(device=device)))
    return pg.inference.program(net, seed=seed)


def devices(chip: nn.Module) -> AnalogWeight:
    found = chip[0].devices  # type: ignore[index]
    assert isinstance(found, AnalogWeight)
    return found


def noise(chip: nn.Module) -> torch.Tensor:
    found = devices(chip).noise
    assert found is not None
    return found


def test_a_forward_pass_changes_no_state_and_reads_at_one_time_agree() -> None:
    chip = pg.inference.age(chip_of(DEVICE), 60.0)
    before = {name: t.clone() for name, t in chip.state_dict().items()}
    x = torch.randn(3, 32)
    first, second = chip(x), chip(x)
    assert same_bits(first, second)
    assert all(same_bits(t, before[name]) for name, t in chip.state_dict().items())


def test_only_the_fast_part_is_redrawn_at_each_read() -> None:
    device = dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(modes_per_decade=1, shortest=1.0))
    chip = chip_of(device)
    first, second = (devices(chip).read_weight(READ + i) for i in range(2))
    assert not torch.equal(first, second)
    again = pg.inference.age(chip, 1e-3)
    assert not same_bits(noise(again)[1], noise(chip)[1])  # only the clock advances the correlated part


def test_vmap_of_a_chip_equals_the_chip() -> None:
    chip = pg.inference.age(chip_of(DEVICE), 60.0, temperature=330.0)
    x = torch.randn(3, 1, 32)
    torch.testing.assert_close(torch.vmap(chip, randomness="same")(x), chip(x), rtol=1e-5, atol=1e-6)


def test_reference_columns_age_too() -> None:
    cell = OffsetSlices(device=DEVICE, bits=8, slices=2)
    chip = pg.inference.program(pg.convert(nn.Sequential(nn.Linear(32, 16)), pg.Hardware(cell=cell)), seed=0)
    old = pg.inference.age(chip, 60.0, temperature=330.0)
    before, after = devices(chip).reference, devices(old).reference
    assert before is not None
    assert after is not None
    assert not torch.equal(before.state.noise[0], after.state.noise[0])  # type: ignore[index]
    torch.testing.assert_close(after.heat, devices(old).heat)


def test_age_does_not_modify_the_chip_and_draws_nothing() -> None:
    chip = chip_of(DEVICE)
    before, generator = noise(chip).clone(), torch.get_rng_state()
    old = pg.inference.age(chip, 60.0)
    assert same_bits(noise(chip), before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert same_bits(noise(old), noise(pg.inference.age(chip, 60.0)))
    assert not torch.equal(noise(old)[0], noise(pg.inference.age(chip, 61.0))[0])


def test_chips_have_independent_noise() -> None:
    """After a second, the fastest mode is independent of its initial value."""
    one, other = (noise(pg.inference.age(chip_of(DEVICE, seed=s), 1.0))[1] for s in (0, 1))
    correlation = torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]
    assert abs(correlation.item()) < 5.0 / math.sqrt(one.numel())


@pytest.mark.parametrize("stops", [(), (3600.0,), (1e-6, 1.0, 1800.0, 3600.0)])
def test_a_chip_has_the_published_variance_for_any_sequence_of_ages(stops: tuple[float, ...]) -> None:
    """Equal conductances have equal Q; each pair is one device at 25 µS and one at 0, which is noiseless."""
    q = Power(factor=0.01, exponent=0.5)
    device = dataclasses.replace(
        ideal_device(), read_noise=q, correlated_noise=CorrelatedNoise(), t0=20.0, nu_mean=Curve(polynomial=(0.05,))
    )
    hardware = pg.Hardware(cell=DifferentialPair(device=device))
    model = nn.Sequential(nn.Linear(300, 200, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    chip = pg.inference.program(pg.convert(model, hardware), seed=1)
    for stop in stops:
        chip = pg.inference.age(chip, until=stop)
    since = pg.inference.now(chip) + 20.0
    seen = devices(chip).read_weight(READ).double() / (since / 20.0) ** -0.05 - 1.0
    wanted = 0.01**2 * math.log(since / 500e-9)
    n = seen.numel()
    assert abs(seen.mean().item()) < 5.0 * math.sqrt(wanted / n)
    assert abs(seen.var().item() / wanted - 1.0) < 5.0 * math.sqrt(2.0 / n) + 3e-5


def test_bits_do_not_depend_on_threads() -> None:
    many = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = noise(pg.inference.age(chip_of(DEVICE, outputs=301, inputs=333), 1e4))
        torch.set_num_threads(3)
        assert same_bits(noise(pg.inference.age(chip_of(DEVICE, outputs=301, inputs=333), 1e4)), one)
    finally:
        torch.set_num_threads(many)


def test_state_is_saved_copied_and_never_rounded() -> None:
    chip = pg.inference.age(chip_of(DEVICE), 60.0, temperature=330.0)
    file = io.BytesIO()
    torch.save(chip.state_dict(), file)
    file.seek(0)
    other = chip_of(DEVICE, seed=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    for copied in (other, copy.deepcopy(chip), copy.deepcopy(chip).half(), copy.deepcopy(chip).to(torch.bfloat16)):
        assert same_bits(noise(copied), noise(chip))
        assert same_bits(devices(copied).heat, devices(chip).heat)
        late, wanted = (pg.inference.age(c, 1e4) for c in (copied, chip))
        assert same_bits(noise(late), noise(wanted))
        assert same_bits(devices(late).read_weight(READ), devices(wanted).read_weight(READ))


def test_compensation_reads_the_present_noise() -> None:
    """Without other noise, the gain restores the mean read, slow noise included."""
    device = dataclasses.replace(joshi_2020(), correlated_noise=CORRELATED)
    chip = chip_of(device)
    before = devices(chip).read_weight(READ).abs().sum()
    old = pg.inference.age(chip, 3.15e7)
    compensated = pg.inference.compensate(old, compensation="layer", seed=0)
    after = devices(compensated).read_weight(READ).abs().sum()
    torch.testing.assert_close(after, before, rtol=1e-5, atol=0.0)


def test_accuracy_over_time_ages_correlated_noise() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(8, 4)), pg.Hardware(cell=DifferentialPair(device=DEVICE)))
    x = torch.randn(10, 8)

    def evaluate(chip: nn.Module) -> float:
        return chip(x).norm().item()

    options = {"chips": 2, "seed": 1, "compensation": None, "progress": False}
    cold, again, hot = (
        pg.inference.accuracy_over_time(net, evaluate, (1.0, 1e6), temperature=t, **options)  # type: ignore[arg-type]
        for t in (None, None, 350.0)
    )
    assert (cold.values == again.values).all()
    assert (hot.values > 1.05 * cold.values).all()


@pytest.mark.parametrize("field", ["correlated_noise", "telegraph", "thermal"])
def test_in_memory_training_refuses_devices_that_it_cannot_simulate(field: str) -> None:
    trained = pg.presets.pcm_capacitor_training()
    value = {"correlated_noise": CORRELATED, "telegraph": TELEGRAPH, "thermal": Thermal()}[field]
    device = dataclasses.replace(trained.cell.device, **{"read_noise": Curve(polynomial=(0.01,)), field: value})
    with pytest.raises(ValueError, match=f"Hardware: pulses are given, but the cell's device has {field}, which only"):
        dataclasses.replace(trained, cell=dataclasses.replace(trained.cell, device=device))


def exact(energy: Curve) -> PCM:
    return dataclasses.replace(
        ideal_device(), nu_mean=Curve(polynomial=(0.05,)), thermal=Thermal(conductance_energy=energy)
    )


def test_a_chip_is_read_at_its_present_temperature() -> None:
    chip = chip_of(exact(Curve(polynomial=(0.1,))))
    factor = math.exp(0.1 * Thermal().inverse(350.0))
    hot = pg.inference.age(chip, 0.0, temperature=350.0)
    for see in (lambda c: c[0].weight, lambda c: devices(c).read_weight(READ)):
        torch.testing.assert_close(see(hot), see(chip) * factor, rtol=1e-5, atol=1e-7)
    later = pg.inference.age(hot, 1e5)  # at 350 K
    left = ((1e5 + 20.0) / 20.0) ** (-0.05 * math.exp(0.026 * Thermal().inverse(350.0)))
    torch.testing.assert_close(later[0].weight, hot[0].weight * left, rtol=2e-5, atol=1e-7)
    back = pg.inference.age(later, 0.0, temperature=300.0)
    torch.testing.assert_close(back[0].weight, chip[0].weight * left, rtol=2e-5, atol=1e-7)


def test_one_gain_compensates_only_a_uniform_effect_of_temperature() -> None:
    left = []
    for energy in (Curve(polynomial=(0.1,)), Curve(polynomial=(0.2, -0.18))):
        chip = chip_of(exact(energy))
        hot = pg.inference.age(chip, 86_400.0, temperature=350.0)
        compensated = pg.inference.compensate(hot, compensation="layer", seed=0)
        left.append((compensated[0].weight - chip[0].weight).norm() / chip[0].weight.norm())
    assert left[0] < 1e-5
    assert left[1] > 0.05


def test_a_temperature_outside_the_laws_is_refused_and_changes_nothing() -> None:
    chip = chip_of(DEVICE)
    before = {name: t.clone() for name, t in chip.state_dict().items()}
    with pytest.raises(ValueError, match=r"age: 0: temperature = 85.0 K; it must be in \[200, 400\] K"):
        advance(chip, 60.0, 85.0)
    assert all(same_bits(t, before[name]) for name, t in chip.state_dict().items())
    with pytest.raises(ValueError, match=r"age: 0: temperature = 350.0 K, but PCM does not depend on temperature"):
        pg.inference.age(chip_of(joshi_2020()), 1.0, temperature=350.0)
