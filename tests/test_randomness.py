"""torch.manual_seed determines all draws, for any number of threads and any copy, and no other state changes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg

HARDWARE = replace(pg.presets.pcm_inference(), rows=64)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread unless a test sets more, because threads this short mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(channels: int = 4) -> nn.Module:
    """A net of several row tiles; with 16 channels it is large enough for several threads."""
    torch.manual_seed(11)
    conv = nn.Conv2d(3, channels, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(64 * channels, 48))
    converted = pg.convert(model, HARDWARE)
    pg.hwa.Recipe(drop_connect=0.05, clip_sigma=2.0).apply(converted)
    return converted


def inputs() -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def training_step(module: nn.Module) -> list[Tensor]:
    module = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    y = module(inputs())
    F.cross_entropy(y, torch.arange(16)).backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    optimizer.step()
    return [y.detach(), *gradients, *module.state_dict().values()]


def evaluation(module: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [module.eval()(inputs()), module(inputs())]


def chip_over_time(module: nn.Module) -> list[Tensor]:
    chip = pg.inference.program(module)
    old = pg.inference.compensate(pg.inference.age(chip, seconds=86_400.0))
    with torch.no_grad():
        return [*old.state_dict().values(), chip(inputs()), old(inputs()), old(inputs())]


def mean_output(chip: nn.Module) -> float:
    with torch.no_grad():
        return chip(inputs()).double().square().mean().item()


def over_time(module: nn.Module) -> list[Tensor]:
    report = pg.inference.accuracy_over_time(module, mean_output, (0.0, 1e5), chips=2, seed=3, progress=False)
    return [torch.from_numpy(report.values)]


ACTIONS: dict[str, Callable[[nn.Module], list[Tensor]]] = {
    "training step": training_step,
    "evaluation": evaluation,
    "chip over time": chip_over_time,
    "accuracy over time": over_time,
}


def seeded(action: Callable[[nn.Module], list[Tensor]], module: nn.Module, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return action(module)


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_one_seed_gives_one_result_on_any_number_of_threads(action: Callable[[nn.Module], list[Tensor]]) -> None:
    module = net(channels=16)
    digital, found, torchs_own = pg.to_digital(module), [], []
    for threads in (1, 1, 2, 3):
        torch.set_num_threads(threads)
        found.append(seeded(action, module))
        torchs_own.append(training_step(digital))
    assert_same_bits(found[1], found[0])
    if not all(torch.equal(a, b) for step in torchs_own for a, b in zip(step, torchs_own[0], strict=True)):
        pytest.skip("torch's own products of this size depend on the number of threads here")
    for other in found[2:]:
        assert_same_bits(other, found[0])


def from_state_dict(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    again = net()
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    again.load_state_dict(torch.load(file, weights_only=True))
    return again


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), from_state_dict],
    ids=["deepcopy", "pickle", "state dict"],
)
def test_copies_draw_the_same(
    copied: Callable[[nn.Module], nn.Module], action: Callable[[nn.Module], list[Tensor]]
) -> None:
    module = net()
    assert_same_bits(seeded(action, copied(module)), seeded(action, module))


@pytest.mark.parametrize("action", [training_step, evaluation, chip_over_time])
def test_another_seed_draws_independent_noise(action: Callable[[nn.Module], list[Tensor]]) -> None:
    """Differences of two pairs of runs are uncorrelated, unlike those of equal or shifted streams."""
    module = net()
    runs = [seeded(action, module, seed)[0 if action is not chip_over_time else -3].flatten() for seed in range(4)]
    a, b = runs[0] - runs[1], runs[2] - runs[3]
    assert a.abs().max() > 0
    assert abs(correlation(a, b)) < 5 / len(a) ** 0.5


def test_two_reads_of_a_chip_differ_by_the_read_noise() -> None:
    chip = pg.inference.program(pg.convert(nn.Linear(400, 300), HARDWARE), seed=0)
    devices = chip.devices
    reads = [devices.read_weight(torch.tensor([seed])) - devices.logical_weight() for seed in (1, 2)]
    g = devices.conductance / 25e-6
    q = (0.0088 / g.clamp(min=1e-9) ** 0.65).clamp(max=0.2)
    sd = g * q * torch.log(torch.tensor((20.0 + 250e-9) / 500e-9, dtype=torch.float64)).sqrt().float()
    large = (g.amax(0) > 0.4) & (g.amin(0) < 0.004)  # one device dominates, and is never read as 0
    scale = chip.devices.scale.repeat_interleave(64, 0)[:400].t()
    for read in reads:
        z = (read / scale / sd.square().sum(0).sqrt())[large]
        assert z.std().item() == pytest.approx(1.0, abs=5 / (2 * len(z)) ** 0.5)
    assert abs(correlation(reads[0][large], reads[1][large])) < 5 / int(large.sum()) ** 0.5


def test_chips_differ_by_independent_programming_errors() -> None:
    module = pg.convert(nn.Linear(400, 300), HARDWARE)
    # Differences of chips cancel the mean error of devices at RESET.
    chips = [pg.inference.program(module, seed=seed).weight for seed in range(4)]
    one, other = chips[0] - chips[1], chips[2] - chips[3]
    assert abs(correlation(one, other)) < 5 / one.numel() ** 0.5
    assert one.std().item() == pytest.approx(other.std().item(), rel=0.03)


def test_layers_of_a_chip_draw_independent_errors() -> None:
    model = nn.Sequential(nn.Linear(100, 200), nn.Linear(100, 200))
    model[1].load_state_dict(model[0].state_dict())
    one, other = (pg.inference.program(pg.convert(model, HARDWARE), seed=seed) for seed in (0, 1))
    first, second = (a.weight - b.weight for a, b in zip(one, other, strict=True))
    assert abs(correlation(first, second)) < 5 / first.numel() ** 0.5


def test_accuracy_over_time_restores_the_generator() -> None:
    module = net()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    over_time(module)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="nan"):
        pg.inference.accuracy_over_time(module, lambda chip: float("nan"), chips=1, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("act", [pg.inference.program, pg.inference.compensate], ids=["program", "compensate"])
def test_a_seed_leaves_the_generator_unchanged(act: Callable[..., nn.Module]) -> None:
    module = net() if act is pg.inference.program else pg.inference.program(net(), seed=0)
    before = torch.get_rng_state()
    act(module, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_call_draws_one_number_from_torch() -> None:
    layer = pg.nn.AnalogLinear(8, 4, hardware=HARDWARE)
    torch.manual_seed(0)
    layer(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    found = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randint(-(2**63), 2**63 - 1, (1,))
    assert torch.equal(found, torch.get_rng_state())


def test_forward_changes_no_parameter_and_no_buffer() -> None:
    for module in (net().train(), net().eval(), pg.inference.program(net(), seed=0)):
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        before = {name: tensor.clone() for name, tensor in named.items()}
        module(inputs())
        assert all(torch.equal(named[name], tensor) for name, tensor in before.items())
