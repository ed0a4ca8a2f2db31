"""Pulse durations and capacitors: an independent solution of the differential equation, and its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phasegrad.crossbar.duration import Integrator

WINDOW = 128e-9


def product(x: Tensor, w: Tensor) -> Sequence[Tensor]:
    """Product on two row-tiles."""
    return [F.linear(x[:, :5], w[:, :5]), F.linear(x[:, 5:], w[:, 5:])]


def whole(x: Tensor, w: Tensor) -> Sequence[Tensor]:
    return [F.linear(x, w)]


def ticked(rows: int, lines: int, steps: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-steps, steps + 1, (rows, lines), generator=generator).double() / steps


def weights(out: int, lines: int) -> Tensor:
    return torch.rand(out, lines, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2.0 - 1.0


def solved(x: Tensor, w: Tensor, decay: float, bound: float, steps: int, fine: int = 40) -> Tensor:
    """Explicit small steps of ``dq/dt = I(t) - decay q``, clipped, second order in the step."""
    q, h = torch.zeros(len(x), len(w), dtype=torch.float64), 1.0 / (steps * fine)
    for i in range(steps * fine):
        current = F.linear(torch.sign(x) * (x.abs() * steps > i // fine + 0.5), w)
        middle = q + 0.5 * h * (current - decay * q)
        q = (q + h * (current - decay * middle)).clamp(-bound, bound)
    return q


def test_a_capacitor_without_limits_is_a_product() -> None:
    x, w = ticked(6, 9, 127), weights(4, 9)
    for got, want in zip(Integrator().integrate(x, w, product), product(x, w), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("decay", "bound"), [(0.7, math.inf), (0.0, 1.0), (0.7, 0.5), (3.0, 0.3)])
def test_the_differential_equation(decay: float, bound: float, split: bool) -> None:
    steps = 15
    x, w = ticked(40, 9, steps), weights(5, 9)
    tau = WINDOW / decay if decay else math.inf
    made = Integrator(window=WINDOW, tau=tau, saturation=bound, split=split, steps=steps)
    parts = (x.clamp(min=0.0), x.clamp(max=0.0)) if split else (x,)
    want = sum(solved(part, w, decay, bound, steps) for part in parts)
    (got,) = made.integrate(x, w, whole)
    torch.testing.assert_close(got, want, rtol=0.0, atol=2e-4)


def test_what_is_full_on_the_way_may_not_be_full_at_the_end() -> None:
    """One line charges for the whole window, one discharges for half of it: the end depends on the order of events."""
    made = Integrator(saturation=0.2, steps=100)
    x, w = torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, -2.0]])
    (got,) = made.integrate(x, w, whole)
    assert got.item() == pytest.approx(0.2)  # -0.2 after half of the window, then 0.5 upwards, clipped at saturation
    x = torch.tensor([[0.6, 0.5]])
    (got,) = made.integrate(x, w, whole)
    assert got.item() == pytest.approx(-0.1, abs=1e-6)  # -0.2, then 0.1 upwards; amplitudes would give -0.2


def test_the_course_of_a_charge() -> None:
    made = Integrator(window=WINDOW, tau=0.5 * WINDOW, saturation=0.3, steps=40)
    x, w = ticked(5, 9, 40), weights(3, 9)
    course = made.charge_over_time(x, w, steps=40)
    assert course.shape == (41, 5, 3)
    assert not course[0].any()
    torch.testing.assert_close(course[-1], made.integrate(x, w, whole)[0])
    alone = made.charge_over_time(torch.tensor([[0.5]]), torch.tensor([[0.1]]), steps=40)[:, 0, 0]
    t = torch.linspace(0.0, 1.0, 41)
    law = 0.05 * (1.0 - torch.exp(-2.0 * t.clamp(max=0.5))) * torch.exp(-2.0 * (t - 0.5).clamp(min=0.0))
    torch.testing.assert_close(alone, law, rtol=1e-5, atol=1e-7)


def test_a_leak_takes_most_from_what_came_first() -> None:
    made = Integrator(window=WINDOW, tau=WINDOW)
    for part in (0.25, 1.0):
        (got,) = made.integrate(torch.tensor([[part]], dtype=torch.float64), torch.ones(1, 1).double(), whole)
        assert got.item() == pytest.approx(math.exp(-(1.0 - part)) * (1.0 - math.exp(-part)), rel=1e-12)


def test_gradients_are_those_of_a_free_capacitor_and_none_where_it_is_full() -> None:
    made = Integrator(window=WINDOW, tau=2.0 * WINDOW, steps=50)
    x = ticked(3, 6, 50).requires_grad_()
    w = weights(2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: made.integrate(a, b, whole)[0], (x, w))
    (got,), (free,) = (m.integrate(x, w, whole) for m in (Integrator(saturation=0.4, steps=50), Integrator()))
    full = got.abs() >= 0.4
    assert 0 < full.sum() < full.numel()
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = torch.autograd.grad(got, (x, w), upstream)
    wanted = torch.autograd.grad(free, (x, w), upstream * ~full)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("field", "value"),
    [("window", 0.0), ("tau", -1.0), ("tau", math.nan), ("saturation", 0.0), ("steps", 0)],
)
def test_refuses(field: str, value: float) -> None:
    with pytest.raises((ValueError, TypeError), match=field):
        Integrator(**{field: value})  # type: ignore[arg-type]
