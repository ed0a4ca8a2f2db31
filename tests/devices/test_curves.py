from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from phasegrad.devices import Curve, Law, Piecewise, Power, Table
from phasegrad.testing import ConfigurationContract

G = torch.cat((torch.logspace(-6, 0, 200), torch.linspace(0.0, 1.5, 200)))
G_AWAY_FROM_ZERO = G[G > 0]


class LawContract(ConfigurationContract):
    def configuration(self) -> Law:
        raise NotImplementedError

    def truth(self, g: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_value(self, dtype: torch.dtype) -> None:
        g = G_AWAY_FROM_ZERO.to(dtype)
        value = self.configuration()(g)
        assert (value.dtype, value.shape) == (dtype, g.shape)
        np.testing.assert_allclose(value.double().numpy(), self.truth(g.double().numpy()), rtol=3e-6, atol=1e-8)

    def test_kernels_compute_it(self) -> None:
        # As the mean of nu without variation, with a sign chosen so that |nu| hides it.
        law, zero = self.configuration(), Curve()
        seed = torch.tensor([0])
        _, nu = torch.ops.phasegrad.pcm_program(G, seed, 0, 1.0, [0.0], law.encode(), zero.encode())
        torch.testing.assert_close(nu, law(G).abs(), rtol=3e-6, atol=1e-8)

    def test_is_finite_at_zero(self) -> None:
        assert self.configuration()(torch.zeros(3)).isfinite().all()

    def test_encodes_as_floats(self) -> None:
        assert all(isinstance(x, float) for x in self.configuration().encode())


class TestCurve(LawContract):
    def configuration(self) -> Law:
        return Curve(log_slope=-0.0125, polynomial=(-0.0059, 0.02, -0.03, 0.01), low=0.008, high=0.045)

    def truth(self, g: np.ndarray) -> np.ndarray:
        return np.clip(-0.0125 * np.log(g) - 0.0059 + 0.02 * g - 0.03 * g**2 + 0.01 * g**3, 0.008, 0.045)


class TestCurveWithoutLimits(LawContract):
    def configuration(self) -> Law:
        return Curve(polynomial=(0.05, -0.01))

    def truth(self, g: np.ndarray) -> np.ndarray:
        return 0.05 - 0.01 * g


class TestPower(LawContract):
    def configuration(self) -> Law:
        return Power(factor=0.0088, exponent=-0.65, high=0.2)

    def truth(self, g: np.ndarray) -> np.ndarray:
        return np.minimum(0.0088 * g**-0.65, 0.2)


class TestRisingPower(LawContract):
    def configuration(self) -> Law:
        return Power(factor=0.3, exponent=0.5)

    def truth(self, g: np.ndarray) -> np.ndarray:
        return 0.3 * np.sqrt(g)


class TestPiecewise(LawContract):
    def configuration(self) -> Law:
        return Piecewise(
            threshold=0.3, below=Power(factor=0.02, exponent=-0.3, high=0.1), above=Curve(polynomial=(0.07,))
        )

    def truth(self, g: np.ndarray) -> np.ndarray:
        return np.where(g < 0.3, np.minimum(0.02 * g**-0.3, 0.1), 0.07)

    def test_the_threshold_belongs_to_the_upper_branch(self) -> None:
        law = Piecewise(threshold=0.5, below=Curve(polynomial=(1.0,)), above=Curve(polynomial=(2.0,)))
        assert law(torch.tensor([0.25, 0.5, 0.75])).tolist() == [1.0, 2.0, 2.0]


class TestTable(LawContract):
    points = ((0.0, 0.1, 0.5, 1.0), (0.1, 0.09, 0.06, 0.05))

    def configuration(self) -> Law:
        return Table(g=self.points[0], value=self.points[1])

    def truth(self, g: np.ndarray) -> np.ndarray:
        return np.interp(g, *self.points)


class TestTableOfOnePoint(LawContract):
    def configuration(self) -> Law:
        return Table(g=(0.5,), value=(0.03,))

    def truth(self, g: np.ndarray) -> np.ndarray:
        return np.full_like(g, 0.03)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Curve(polynomial=()), r"polynomial = \(\); it must have one to four"),
        (lambda: Curve(polynomial=(1.0,) * 5), "one to four finite coefficients"),
        (lambda: Curve(polynomial=(math.nan,)), r"polynomial = \(nan,\)"),
        (lambda: Curve(low=1.0, high=0.5), r"low = 1.0 and high = 0.5; low must not exceed high"),
        (lambda: Curve(log_slope=math.nan), "log_slope = nan"),
        (lambda: Curve(log_slope=math.inf), "log_slope = inf"),
        (lambda: Power(factor=0.0, exponent=1.0), "factor = 0.0 .* the factor must be above 0"),
        (lambda: Power(factor=math.inf, exponent=1.0), "factor = inf"),
        (lambda: Power(factor=1.0, exponent=math.nan), "exponent = nan"),
        (lambda: Power(factor=1.0, exponent=1.0, high=math.nan), "high = nan"),
        (lambda: Power(factor=1.0, exponent=1.0, high=-1.0), "high = -1.0"),
        (lambda: Piecewise(threshold=math.inf, below=Curve(), above=Curve()), "threshold = inf; it must be finite"),
        (lambda: Table(g=(), value=()), "0 points and 0 values"),
        (lambda: Table(g=(0.0, 1.0), value=(1.0,)), "2 points and 1 values"),
        (lambda: Table(g=(0.0, 0.0), value=(1.0, 2.0)), r"g = \(0.0, 0.0\); the points must increase"),
        (lambda: Table(g=(1.0, 0.0), value=(1.0, 2.0)), "the points must increase"),
        (lambda: Table(g=(0.0, 1.0), value=(1.0, math.nan)), "must be finite"),
    ],
)
def test_a_wrong_number_is_refused(build: Callable[[], Law], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("field", ["below", "above"])
def test_branches_are_curves_or_powers(field: str) -> None:
    branches = {"below": Curve(), "above": Curve(), field: Table(g=(0.0,), value=(1.0,))}
    with pytest.raises(TypeError, match=f"{field} = .*it must be Curve or Power"):
        Piecewise(threshold=0.5, **branches)
