"""fine_tune that stops, wherever it does, leaves modes, noise level and recipe as they were, or as prepared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.hwa import Recipe, calibrate, fine_tune, set_noise_level

PCM = pg.presets.pcm_inference()
X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4
OLD = Recipe(noise=None, clip_sigma=3.0)


class Probe(nn.Module):
    """Raises after some calls."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.error = -1, KeyboardInterrupt

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x


def make() -> nn.Sequential:
    """A net in mixed modes, with a recipe and a noise level of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), Probe(), nn.Dropout(0.1), nn.Linear(8, 4)).train()
    model[1].eval()
    net = pg.convert(model, PCM)
    OLD.apply(net)
    set_noise_level(net, 0.25)
    return net


def settings(net: nn.Module) -> dict[str, Any]:
    layers = pg.nn.analog_layers(net).values()
    return {
        "modes": [m.training for m in net.modules()],
        "levels": [layer.noise_level.item() for layer in layers],
        "recipes": [layer.perturbation for layer in layers],
        "ranges": [layer.input_range.item() for layer in layers],
    }


class Failing:
    """Checkpoints that raise."""

    def __init__(self, at: str) -> None:
        self.at = at

    def resume(self, **parts: Any) -> None:
        if self.at == "resume":
            raise RuntimeError

    def save(self, step: int, **parts: Any) -> None:
        if self.at == "save":
            raise RuntimeError


def fail(net: nn.Module) -> float:
    raise ValueError


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_stopped_in_calibration_nothing_has_changed(call: int, error: type[BaseException]) -> None:
    net = make()
    before = settings(net)
    net[2].left, net[2].error = call, error
    with pytest.raises(error):
        fine_tune(net, [(X, Y)] * 3, recipe=Recipe(ramp=0.5), progress=False)
    assert settings(net) == before


def test_a_checkpoint_that_cannot_be_loaded_changes_nothing() -> None:
    net = make()
    before = settings(net)
    with pytest.raises(RuntimeError):
        fine_tune(net, [(X, Y)], checkpoints=Failing("resume"), progress=False)
    assert settings(net) == before


def test_a_batch_of_the_wrong_form_changes_nothing() -> None:
    net = make()
    before = settings(net)
    with pytest.raises(TypeError, match="tuple of 3"):
        fine_tune(net, [(X, Y), (X, X, Y)], progress=False)
    assert settings(net) == before


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (3 + 1, {}),  # after calibration, in the first step
        (3 + 4, {}),  # in the second epoch
        (-1, {"evaluate": fail}),
        (-1, {"checkpoints": Failing("save")}),
        (-1, {"loss": lambda y, t: F.cross_entropy(y, t) * float("nan")}),
    ],
    ids=["first step", "second epoch", "evaluate", "save", "loss"],
)
def test_stopped_in_training_modes_and_level_are_restored_and_the_net_is_prepared(
    call: int, options: dict[str, Any]
) -> None:
    net, prepared, recipe = make(), make(), Recipe(ramp=0.5)
    before = settings(net)
    net[2].left = call
    torch.manual_seed(1)
    calibrate(prepared, [(X, Y)] * 3, recipe=recipe)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with pytest.raises((KeyboardInterrupt, ValueError, RuntimeError)):
        fine_tune(net, [(X, Y)] * 3, recipe=recipe, optimizer=optimizer, progress=False, **options)
    found = settings(net)
    assert (found["modes"], found["levels"]) == (before["modes"], before["levels"])
    assert found["recipes"] == settings(prepared)["recipes"]
    assert found["ranges"] == settings(prepared)["ranges"]


def test_modules_that_are_evaluated_in_a_net_that_trains_stay_so() -> None:
    net, seen = make(), []
    net[1].register_forward_hook(lambda m, *_: seen.append((m.training, net[3].training)))
    mean = net[1].running_mean.clone()
    fine_tune(net, [(X, Y)] * 2, epochs=2, calibration_batches=0, evaluate=lambda n: 0.0, progress=False)
    assert seen == [(False, True)] * 4
    assert torch.equal(net[1].running_mean, mean)
    assert not any(m.training for m in net.modules())


def test_a_net_in_evaluation_mode_is_trained_as_a_whole() -> None:
    net, seen = make().eval(), []
    net[1].register_forward_hook(lambda m, *_: seen.append(m.training))
    fine_tune(net, [(X, Y)] * 2, epochs=1, calibration_batches=0, progress=False)
    assert seen == [True] * 2


@pytest.mark.parametrize("with_recipe", [True, False], ids=["whole state", "only weights"])
def test_resuming_takes_the_recipe_of_the_checkpoint(with_recipe: bool) -> None:
    saved: Callable[[], dict[str, Any]] = lambda: {"history": {}, "step": 0, "level": 1.0, "total": 0.0, "count": 0}  # noqa: E731
    other = make()
    Recipe(noise=None, clip_sigma=2.0).apply(other)

    class Saved(Failing):
        def resume(self, **parts: Any) -> dict[str, Any]:  # type: ignore[override]
            state = other.state_dict()
            if not with_recipe:
                state = {k: v for k, v in state.items() if not k.endswith("configuration")}
            parts["net"].load_state_dict(state)
            return saved()

    net = make()
    fine_tune(net, [(X, Y)], epochs=1, checkpoints=Saved("never"), progress=False)
    expected = 2.0 if with_recipe else Recipe().clip_sigma
    assert [layer.perturbation.clip_sigma for layer in pg.nn.analog_layers(net).values()] == [expected] * 2
