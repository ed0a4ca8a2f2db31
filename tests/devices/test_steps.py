from __future__ import annotations

import math

import pytest
import torch

from phasegrad.configuration import from_json
from phasegrad.devices import (
    ConstantSteps,
    ExponentialSteps,
    JumpTable,
    LinearSteps,
    PiecewiseSteps,
    PowerSteps,
    SetPulses,
    SoftBoundsSteps,
    Steps,
    ideal_device,
    nandakumar_2018,
)
from phasegrad.ops import trains

SEED = torch.tensor([7])
G_MAX = 20e-6
TABLE = ((-0.5, 1.0, 3.0), (-1.0, 0.0, 0.5))

LAWS: dict[str, Steps] = {
    "constant": ConstantSteps(size=20e-9),
    "linear": LinearSteps(size=20e-9, slope_up=0.4, slope_down=1.0),
    "soft bounds": SoftBoundsSteps(size=20e-9),
    "exponential": ExponentialSteps(size=20e-9),
    "power": PowerSteps(size=20e-9, gamma_up=1.5, gamma_down=2.0),
    "piecewise": PiecewiseSteps(size=20e-9, up=(1.0, 0.4, 0.1), down=(0.2, 0.5, 1.0)),
    "jump table": JumpTable(size=20e-9, up=TABLE, down=TABLE),
    "SET": nandakumar_2018(),
}


def pulse(
    law: Steps, g: torch.Tensor, count: int, *, up: bool = True, history: float = 1.0, seed: int = 7
) -> torch.Tensor:
    """Conductances ``[n]`` [S] after ``count`` pulses, through the op."""
    n, key = g.numel(), torch.tensor([seed])
    planes = [0, 0] if law.two_sided else [0, 1]
    state = g.reshape(1, 1, n).repeat(planes[1] + 1, 1, 1).float()
    parameters = law.draw(tuple(state.shape), G_MAX, law.two_sided, key, 0)
    past = torch.full_like(state, history) if law.has_history else None
    coefficients = torch.tensor(law.coefficients(G_MAX))
    x, d = torch.ones(count, n), torch.full((count, 1), -1.0 if up else 1.0)
    torch.ops.phasegrad.pulsed_update(
        state, past, None, None, None, [], parameters, x, d, 1.0, 1.0, 1, True, True, trains.DETERMINISTIC, 0.0,
        planes, law.family, coefficients, key, 100,
    )  # fmt: skip
    return state[0, 0].double()


def test_laws_at_half_the_range() -> None:
    """One pulse up at ``g_max / 2``, in steps."""
    z = 0.244 * 0.0 + 0.2425
    expected = {
        "constant": 1.0,
        "linear": 1.0,
        "soft bounds": 1.0,
        "exponential": 1.0 - 0.00081 * math.exp(12.44625 * z),
        "power": 0.5**1.5,
        "piecewise": 0.4,
    }
    for name, value in expected.items():
        law = LAWS[name]
        moved = pulse(law, torch.full((3,), G_MAX / 2), 1) - G_MAX / 2
        assert (moved / law.size).tolist() == pytest.approx([value] * 3, rel=1e-3), name


def test_laws_downwards_near_the_top() -> None:
    """One pulse down at three quarters of the range: 0.5 of the way from the reference to the bound."""
    z = 0.244 * 0.5 + 0.2425
    expected = {
        "constant": 1.0,
        "linear": 1.5,
        "soft bounds": 1.5,
        "exponential": 1.0 - 0.36833 * math.exp(-12.78785 * z),
        "power": 0.75**2,
        "piecewise": 0.75,
    }
    for name, value in expected.items():
        law = LAWS[name]
        moved = pulse(law, torch.full((3,), 0.75 * G_MAX), 1, up=False) - 0.75 * G_MAX
        assert (moved / law.size).tolist() == pytest.approx([-value] * 3, rel=1e-3), name


@pytest.mark.parametrize("g", [0.0, 3e-6, 8e-6])
@pytest.mark.parametrize("history", [0.0, 1.0])
def test_set_pulse_has_the_published_mean_and_spread(g: float, history: float) -> None:
    # The law describes steps without clipping: lower the lowest conductance.
    n, us = 20_000, 1e6
    law = nandakumar_2018()
    free = SetPulses(**{f: getattr(law, f) for f in ("size", "history_length", "mean", "deviation")}, reset=0.0)
    p = history * math.exp(-1.0 / 2.6)
    mean, sd = -0.084 * g * us + 0.880 + 1.40 * p, 0.091 * g * us + 0.260 + 2.15 * p
    found = (pulse(free, torch.full((n,), g), 1, history=history) - g) * us
    # Steps below 0 are clipped: mean and variance are those of a clipped normal.
    alpha = (g * us + mean) / sd
    pdf, cdf = math.exp(-(alpha**2) / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + math.erf(alpha / math.sqrt(2)))
    shifted = mean + g * us
    first = shifted * cdf + sd * pdf
    second = (shifted**2 + sd**2) * cdf + shifted * sd * pdf
    deviation = math.sqrt(second - first**2)
    assert abs(found.mean().item() + g * us - first) < 5.0 * deviation / math.sqrt(n)
    kurtosis = ((found - found.mean()) ** 4).mean().item() / deviation**4
    assert abs(found.std().item() / deviation - 1.0) < 5.0 * math.sqrt((kurtosis - 1.0) / (4.0 * n))


def test_pcm_grows_to_where_the_mean_step_vanishes() -> None:
    g = pulse(nandakumar_2018(), torch.full((4_000,), 0.1e-6), 20) * 1e6
    assert 5.0 < g.mean().item() < 10.5
    later = pulse(nandakumar_2018(), torch.full((4_000,), 0.1e-6), 200) * 1e6
    assert g.mean() < later.mean() < 11.0


def test_single_set_pulses_are_often_negative() -> None:
    """PHYSICS: 15 % at the first pulse after RESET."""
    n = 20_000
    law = nandakumar_2018()
    free = SetPulses(**{f: getattr(law, f) for f in ("size", "history_length", "mean", "deviation")}, reset=0.0)
    start = torch.full((n,), 6e-6)  # far from the lower bound, so that mean and standard deviation give the share
    p = math.exp(-1.0 / 2.6)
    mean, sd = -0.084 * 6 + 0.880 + 1.40 * p, 0.091 * 6 + 0.260 + 2.15 * p
    share = 0.5 * (1 + math.erf(-mean / sd / math.sqrt(2)))
    found = (pulse(free, start, 1) < start.double()).double().mean().item()
    assert abs(found - share) < 5.0 * math.sqrt(share * (1 - share) / n)


def test_devices_differ_for_life() -> None:
    n = 40_000
    law = ConstantSteps(size=1e-8, d2d=0.2, imbalance=0.02, bounds_d2d=0.05, stuck=0.1)
    up, down, low, high = law.draw((n,), G_MAX, True, SEED, 0).double()
    moves = up > 0
    assert abs(moves.double().mean().item() - 0.9) < 5.0 * (0.09 / n) ** 0.5
    assert torch.equal(moves, down > 0)
    m = int(moves.sum())
    ratio, size = (up / down)[moves], (up * down)[moves].sqrt() / law.size
    for values, mean, sd in ((ratio, 1.0, 0.02), (size, 1.0, 0.2), (low / G_MAX, 0.0, 0.05), (high / G_MAX, 1.0, 0.05)):
        assert abs(values.mean().item() - mean) < 5.0 * sd / m**0.5
        assert abs(values.std().item() / sd - 1.0) < 5.0 * (0.5 / m) ** 0.5
    assert torch.equal(law.draw((n,), G_MAX, False, SEED, 0)[2], torch.zeros(n))


def test_stuck_devices_stay() -> None:
    g = torch.full((200,), G_MAX / 2)
    law = ConstantSteps(size=20e-9, c2c=0.3, stuck=1.0)
    assert torch.equal(pulse(law, g, 5), g.double())


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_configurations_travel(law: Steps) -> None:
    device = ideal_device(steps=law)
    assert from_json(device.to_json()) == device


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantSteps(size=0.0), "size = 0.0"),
        (lambda: ConstantSteps(size=1e-8, c2c=-1.0), "c2c = -1.0"),
        (lambda: ConstantSteps(size=1e-8, stuck=1.5), "stuck = 1.5"),
        (lambda: LinearSteps(size=1e-8, slope_up=-1.0, slope_down=0.0), "slope_up = -1.0"),
        (lambda: PowerSteps(size=1e-8, gamma_up=1.0, gamma_down=math.nan), "gamma_down = nan"),
        (lambda: PiecewiseSteps(size=1e-8, up=(1.0,), down=(1.0,)), "two or more"),
        (lambda: PiecewiseSteps(size=1e-8, up=(1.0, -0.1), down=(1.0, 1.0)), "not below 0"),
    ],
)
def test_refuses(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
