"""fine_tune equals calibrate and a plain loop, reports its history, resumes, and improves accuracy on noisy chips."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Dac, LearnedRange
from phasegrad.hwa import AdditiveNoise, Distillation, Recipe, calibrate, fine_tune

IDEAL = pg.presets.ideal_inference()
PCM = pg.presets.pcm_inference()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, because nets this small gain nothing from a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data(count: int = 6, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of three classes; the class is the index of the largest of three sums of inputs."""
    x = torch.randn(count * 32, 9, generator=torch.Generator().manual_seed(seed))
    y = x.unflatten(1, (3, 3)).sum(2).argmax(1)
    return list(zip(x.split(32), y.split(32), strict=True))


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3))


def plain_loop(
    net: nn.Module, loader: list[tuple[Tensor, Tensor]], epochs: int, recipe: Recipe, optimizer: Any, scheduler: Any
) -> list[float]:
    """The loop that a user would write."""
    calibrate(net, loader, 100, recipe=recipe)
    losses = []
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(loss.item())
    net.eval()
    return losses


@pytest.mark.parametrize("optimizer", [None, torch.optim.Adam], ids=["default", "adam"])
def test_fine_tune_equals_calibrate_and_a_plain_loop_to_the_bit(optimizer: type[torch.optim.Adam] | None) -> None:
    mine, theirs, loader, recipe = pg.convert(model(), PCM), pg.convert(model(), PCM), data(), Recipe(drop_connect=0.02)
    torch.manual_seed(5)
    own = optimizer(mine.parameters(), lr=3e-3) if optimizer else None
    history = fine_tune(mine, loader, epochs=2, recipe=recipe, optimizer=own, progress=False)
    torch.manual_seed(5)
    scheduler = None
    if optimizer:
        other: torch.optim.Optimizer = optimizer(theirs.parameters(), lr=3e-3)
    else:
        other = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(other, 12)
    losses = plain_loop(theirs, loader, 2, recipe, other, scheduler)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.state_dict().items())
    assert history.loss == pytest.approx([sum(losses[:6]) / 6, sum(losses[6:]) / 6], rel=1e-12)
    assert not mine.training


def test_history_has_one_figure_per_epoch() -> None:
    calls: list[bool] = []

    def evaluate(net: nn.Module) -> float:
        calls.append(net.training)
        return float(len(calls))

    history = fine_tune(pg.convert(model(), PCM), data(), epochs=3, evaluate=evaluate, progress=False)
    assert history.metric == [1.0, 2.0, 3.0]
    assert calls == [False] * 3
    assert history.learning_rate == pytest.approx([0.0075, 0.0025, 0.0])  # a half cosine over 18 steps
    assert history.noise_level == [1.0] * 3
    assert history.loss[2] < history.loss[0]


def test_the_users_scheduler_steps_after_each_batch() -> None:
    net = pg.convert(model(), PCM)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda _: 0.5)
    rates = fine_tune(net, data(), epochs=2, optimizer=optimizer, scheduler=scheduler, progress=False).learning_rate
    assert rates == pytest.approx([0.5**6, 0.5**12])


def test_the_users_optimizer_without_scheduler_keeps_its_rate() -> None:
    net = pg.convert(model(), PCM)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.003)
    assert fine_tune(net, data(), epochs=2, optimizer=optimizer, progress=False).learning_rate == [0.003] * 2


@pytest.mark.parametrize("sized", [True, False])
def test_noise_ramps_up_over_its_fraction_of_the_training(sized: bool) -> None:
    net, levels = pg.convert(model(), PCM), []
    net[0].register_forward_hook(lambda m, *_: levels.append(m.noise_level.item()) if m.training else None)

    class Unsized:
        def __iter__(self) -> Any:
            return iter(data())

    loader: Any = data() if sized else Unsized()
    history = fine_tune(net, loader, epochs=4, recipe=Recipe(ramp=0.5), calibration_batches=1, progress=False)
    wanted = [min(1.0, step / 24 / 0.5) for step in range(24)] if sized else [0.0] * 6 + [0.5] * 6 + [1.0] * 12
    assert levels == pytest.approx(wanted)
    assert history.noise_level[-1] == 1.0
    assert net[0].noise_level.item() == 1.0


def test_without_calibration_ranges_stay_and_the_recipe_is_applied() -> None:
    net = pg.convert(model(), replace(PCM, dac=Dac(range=LearnedRange(start=2.0, decay=0.0))))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    fine_tune(net, data(), epochs=1, optimizer=optimizer, calibration_batches=0, progress=False)
    assert net[0].input_range.item() == 2.0
    assert net[0].perturbation == Recipe().perturbation(net[0].hardware)


def distance_to(teacher: nn.Module, net: nn.Module) -> float:
    with torch.no_grad():
        parts = [F.kl_div(net(x).log_softmax(1), teacher(x).softmax(1), reduction="batchmean") for x, _ in data(seed=1)]
    return torch.stack(parts).mean().item()


def test_distillation_brings_the_net_to_its_teacher() -> None:
    net, teacher = pg.convert(model(0), IDEAL), model(1)
    with torch.no_grad():
        teacher[2].weight.mul_(4.0)
    before = distance_to(teacher, net.eval())
    recipe = Recipe(noise=None, clip_sigma=0.0, distillation=Distillation(weight=1.0, temperature=2.0))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    fine_tune(net, data(), epochs=15, recipe=recipe, teacher=teacher, optimizer=optimizer, progress=False)
    assert distance_to(teacher, net) < 0.3 * before


def test_distillation_is_the_stated_loss() -> None:
    net, teacher, (x, y) = pg.convert(model(0), IDEAL), model(1), data()[0]
    recipe = Recipe(noise=None, clip_sigma=0.0, distillation=Distillation(weight=0.3, temperature=2.0))
    with torch.no_grad():
        soft, own = F.softmax(teacher(x) / 2, 1), F.softmax(net(x) / 2, 1)
        distance = (soft * (soft / own).log()).sum(1).mean()
        expected = 0.7 * F.cross_entropy(net(x), y) + 0.3 * 4.0 * distance
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    history = fine_tune(net, [(x, y)], epochs=1, recipe=recipe, teacher=teacher, optimizer=optimizer, progress=False)
    assert history.loss[0] == pytest.approx(expected.item(), rel=1e-5)


def test_the_default_teacher_is_the_net_itself_before_training() -> None:
    net = pg.convert(model(), IDEAL)
    recipe = Recipe(noise=None, clip_sigma=0.0, distillation=Distillation(weight=1.0))
    history = fine_tune(net, data(), epochs=1, recipe=recipe, progress=False)
    assert history.loss[0] == pytest.approx(0.0, abs=1e-6)


def test_the_teacher_is_not_modified() -> None:
    teacher = model(1).train()
    before = copy.deepcopy(teacher.state_dict())
    recipe = Recipe(distillation=Distillation())
    fine_tune(pg.convert(model(), PCM), data(), epochs=1, recipe=recipe, teacher=teacher, progress=False)
    assert teacher.training
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: pg.convert(model(), PCM), {"loss": lambda y, t: y.sum() * float("nan")}, "loss is nan at step 0"),
        (lambda: pg.convert(model(), PCM), {"epochs": 0}, "epochs = 0"),
        (lambda: pg.convert(model(), PCM), {"loader": [], "calibration_batches": 0}, "yielded no batch"),
        (model, {}, "no analog layer"),
        (lambda: pg.inference.program(pg.convert(model(), PCM), seed=0), {}, "is programmed"),
    ],
)
def test_impossible_trainings_raise(make: Callable[[], nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fine_tune(make(), options.pop("loader", data()), progress=False, **options)


def trained_range(start: float, decay: float, steps: int = 20) -> float:
    """Input range after it alone was trained to reproduce the exact product."""
    hardware = replace(IDEAL, dac=Dac(bits=8, range=LearnedRange(start=start, decay=decay, keep=0.95)))
    layer, x = pg.convert(nn.Linear(9, 16), hardware), torch.randn(256, 9)
    exact = F.linear(x, layer.weight, layer.bias).detach()
    optimizer = torch.optim.SGD([layer.input_range], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(layer(x), exact).backward()
        optimizer.step()
    return layer.input_range.item()


def test_a_range_that_clips_too_much_grows() -> None:
    assert trained_range(start=0.5, decay=1e-3) > 1.0


def test_a_range_that_hardly_clips_decays() -> None:
    assert trained_range(start=50.0, decay=1e-3) == pytest.approx(50.0 * (1 - 0.5 * 1e-3) ** 20, rel=1e-4)
    assert trained_range(start=50.0, decay=0.0) == 50.0


def noisy_accuracy(net: nn.Module) -> float:
    """Mean accuracy over freshly programmed chips, on unseen data."""
    x, y = (torch.cat(part) for part in zip(*data(12, seed=1), strict=True))

    def evaluate(chip: nn.Module) -> float:
        with torch.no_grad():
            return (chip(x).argmax(1) == y).float().mean().item()

    return pg.inference.accuracy_over_time(net, evaluate, (0.0,), chips=12, seed=0, progress=False).mean()[0]


def deep_model() -> nn.Module:
    """Four layers, through which errors accumulate, trained without noise."""
    torch.manual_seed(0)
    hidden = [m for _ in range(2) for m in (nn.Linear(32, 32), nn.ReLU())]
    digital = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), *hidden, nn.Linear(32, 3))
    optimizer = torch.optim.Adam(digital.parameters(), lr=1e-2)
    for x, y in data(12) * 10:
        optimizer.zero_grad()
        F.cross_entropy(digital(x), y).backward()
        optimizer.step()
    return digital


def test_fine_tuning_keeps_accuracy_on_devices_with_large_errors() -> None:
    device = replace(pg.devices.joshi_2020(), programming_sd=(8e-6,))
    net = pg.convert(deep_model(), replace(IDEAL, cell=pg.cells.DifferentialPair(device=device)))
    before = noisy_accuracy(net)
    recipe = Recipe(noise=AdditiveNoise(sigma=0.2), clip_sigma=1.2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    fine_tune(net, data(12), epochs=12, recipe=recipe, optimizer=optimizer, progress=False)
    assert noisy_accuracy(net) > before + 0.03  # from about 0.85; nets from six other seeds gained 0.05 to 0.07


class _Stopped(Exception):
    pass


def _tuned(loader: Any, folder: Any, stop_at: int | None = None, every: int = 4) -> tuple[nn.Module, Any]:
    """Fine-tune a net with every kind of part, or raise :class:`_Stopped` at step ``stop_at``."""
    torch.manual_seed(3)
    net, seen = pg.convert(model(), PCM), 0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal seen
        if seen == stop_at:
            raise _Stopped
        seen += 1
        return F.cross_entropy(output, target)

    recipe = Recipe(ramp=0.5, distillation=Distillation())
    options: dict[str, Any] = {"loss": loss, "epochs": 3, "recipe": recipe, "progress": False, "every": every}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    history = fine_tune(net, loader, optimizer=optimizer, checkpoints=folder, evaluate=lambda n: 0.5, **options)
    return net, history


def _resumable() -> pg.checkpoint.ResumableLoader:
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    return pg.checkpoint.ResumableLoader(torch.utils.data.TensorDataset(x, y), 32, seed=1)


@pytest.mark.parametrize("stop_at", [0, 3, 5, 6, 11, 17])
@pytest.mark.parametrize("make", [_resumable, data], ids=["resumable loader", "plain loader"])
def test_resumes_after_an_interruption(make: Callable[[], Any], stop_at: int, tmp_path: Any) -> None:
    whole, history = _tuned(make(), None)
    with pytest.raises(_Stopped):
        _tuned(make(), pg.checkpoint.Folder(tmp_path), stop_at)
    resumed, resumed_history = _tuned(make(), pg.checkpoint.Folder(tmp_path))
    assert resumed_history == history
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_finished_fine_tuning_is_not_run_again(tmp_path: Any) -> None:
    first, history = _tuned(_resumable(), pg.checkpoint.Folder(tmp_path))
    again, same_history = _tuned(_resumable(), pg.checkpoint.Folder(tmp_path), stop_at=0)
    assert same_history == history
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_checkpoints_are_saved_every_so_many_steps_and_after_each_epoch(tmp_path: Any) -> None:
    folder = pg.checkpoint.Folder(tmp_path, keep=100)
    _tuned(_resumable(), folder, every=4)
    assert sorted(int(f.stem[5:]) for f in folder.files()) == [4, 6, 8, 12, 16, 18]


class NeedsClosure(torch.optim.SGD):
    """An optimizer that evaluates the loss itself."""

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, NeedsClosure])
@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_that_needs_a_closure_is_refused_at_once(kind: Any, scheduled: bool) -> None:
    net = pg.convert(model(), PCM)
    optimizer = kind(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer) if scheduled else None
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(TypeError, match=rf"fine_tune: optimizer = a {kind.__name__}, whose step needs a closure"):
        fine_tune(net, data(), epochs=1, optimizer=optimizer, scheduler=scheduler)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "None"), ("0.9", "'0.9'"), (torch.ones(2), "a tensor of shape"), (math.nan, "nan")]
)
def test_what_evaluate_returns_must_be_a_number(value: Any, shown: str) -> None:
    net = pg.convert(model(), PCM)
    with pytest.raises(ValueError, match=rf"fine_tune: evaluate returned {shown}.* after epoch 1; it must return one"):
        fine_tune(net, data(), epochs=1, evaluate=lambda net: value)
