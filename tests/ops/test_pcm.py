from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.op import SEED, Call, OpContract, draw, seed_errors
from torch import Tensor

OFFSET = 11
G_MAX = 25e-6

# Laws as the kernels read them; LAWS has the formulas that they encode.
CURVE = (0.0, math.inf, -0.0155, 0.0244, 0.0, 0.0, 0.0, 0.0, 0.049, 0.1, *(0.0,) * 8)
CUBIC = (0.0, math.inf, 0.0, 0.05, 0.0, -0.03, 0.02, -0.01, -math.inf, math.inf, *(0.0,) * 8)
POWER = (0.0, math.inf, -0.65, math.log(0.0088), 1.0, 0.0, 0.0, 0.0, 0.0, 0.2, *(0.0,) * 8)
PIECES = (
    0.0,
    0.3,
    -0.012,
    -0.0023,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0124,
    0.04,
    *(0.0, 0.01, 0.0, 0.02, -0.01, 0.0, -1.0, 1.0),
)
TABLE = (1.0, 3.0, 0.0, 0.5, 1.0, 0.1, 0.06, 0.05)
POINT = (1.0, 1.0, 0.5, 0.03)


def log(g: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(g, 1.2e-38))


LAWS = {
    CURVE: lambda g: np.clip(0.0244 - 0.0155 * log(g), 0.049, 0.1),
    CUBIC: lambda g: 0.05 - 0.03 * g + 0.02 * g**2 - 0.01 * g**3,
    POWER: lambda g: np.minimum(0.0088 * np.exp(-0.65 * log(g)), 0.2),
    PIECES: lambda g: np.where(g < 0.3, np.clip(-0.012 * log(g) - 0.0023, 0.0124, 0.04), 0.01 + 0.02 * g - 0.01 * g**2),
    TABLE: lambda g: np.interp(g, [0.0, 0.5, 1.0], [0.1, 0.06, 0.05]),
    POINT: lambda g: np.full_like(g, 0.03),
}


def normals(seed: Tensor, offset: int, like: Tensor) -> np.ndarray:
    return torch.ops.phasegrad.normal(seed, offset, like.shape).double().numpy()


def targets(*shape: int) -> Tensor:
    return G_MAX * torch.rand(shape, generator=torch.Generator().manual_seed(0))


class TestPcmProgram(OpContract):
    name = "pcm_program"
    rtol = 2e-6
    atol = 1e-7  # of nu; a conductance is far below, see agrees
    elementwise = (0,)
    opchecked = ("odd", "transposed")

    def samples(self) -> dict[str, Call]:
        def call(target: Tensor, programming_sd: list[float], mean: tuple[float, ...], sd: tuple[float, ...]) -> Call:
            return (target, SEED, OFFSET, G_MAX, programming_sd, list(mean), list(sd))

        three = [0.26e-6, 1.97e-6, -1.17e-6]
        ends = torch.tensor([0.0, 1e-30, G_MAX, 1.5 * G_MAX] * 5)
        return {
            "one device": call(targets(1), three, CURVE, PIECES),
            "without axes": call(targets(1).view(()), three, CURVE, PIECES),
            "no device": call(targets(0), three, CURVE, PIECES),
            "odd": call(targets(2, 3, 5), three, CURVE, PIECES),
            "transposed": call(targets(7, 5).t(), three, CURVE, PIECES),
            "ends of the range": call(ends, three, CURVE, TABLE),
            "exact": call(targets(1030), [0.0], CUBIC, POINT),
            "constant deviation": call(targets(1030), [1e-6], TABLE, POINT),
            "cubic deviation": call(targets(1030), [1e-7, 2e-6, -2e-6, 7e-7], POWER, CUBIC),
            "deviation that would be negative": call(targets(1030), [1e-6, -2e-6], POINT, TABLE),
            "long": call(targets(20_011), three, CURVE, PIECES),
        }

    def agrees(self, results: Any, wanted: Any, call: Call, rtol: float = 0.0, atol: float = 0.0) -> None:
        """Conductances in units of the largest, so that one tolerance serves both results."""
        (g, nu), (g_wanted, nu_wanted) = results, wanted
        super().agrees((g.double() / G_MAX, nu), (g_wanted.double() / G_MAX, nu_wanted), call, rtol, atol)

    def truth(
        self, target: Tensor, seed: Tensor, offset: int, g_max: float, programming_sd: list[float], mean: list[float],
        sd: list[float],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        t = target.double().numpy()
        g = t / g_max
        programming = np.maximum(np.polynomial.polynomial.polyval(g, programming_sd), 0.0)
        conductance = np.maximum(t + programming * normals(seed, offset, target), 0.0)
        nu = abs(LAWS[tuple(mean)](g) + LAWS[tuple(sd)](g) * normals(seed, offset + 1, target))
        return torch.from_numpy(np.asarray(conductance)), torch.from_numpy(np.asarray(nu))

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        target, *rest = self.samples()["odd"]
        return {
            "integer target": ((torch.ones(3).int(), *rest), TypeError, "target has dtype torch.int32"),
            "no standard deviation": ((target, *rest[:3], [], *rest[4:]), ValueError, "programming_sd is empty"),
            "short law": ((target, *rest[:4], [0.0, 1.0], rest[5]), ValueError, "nu_mean"),
            "table short of values": ((target, *rest[:5], [1.0, 3.0, 0.0, 0.5, 1.0]), ValueError, "nu_sd"),
            **seed_errors((target, *rest), 1),
        }


class TestPcmRead(OpContract):
    name = "pcm_read"
    rtol = 3e-6
    atol = 1e-6 * G_MAX
    elementwise = (0, 1)
    opchecked = ("odd", "an age each", "transposed", "without noise")

    def samples(self) -> dict[str, Call]:
        def call(g: Tensor, age: Tensor, noise: tuple[float, ...], nu: float = 0.05) -> Call:
            return (
                g,
                nu * (1.0 + 0.3 * draw(*g.shape)),
                age.double(),
                SEED,
                OFFSET,
                G_MAX,
                20.0,
                250e-9,
                list(noise),
            )

        day, ages = torch.tensor([86_400.0]), 10.0 ** (2.0 * draw(2, 3, 5, seed=3))
        return {
            "one device": call(targets(1), day, POWER),
            "without axes": call(targets(1).view(()), day.view(()), POWER),
            "no device": call(targets(0), day, POWER),
            "odd": call(targets(2, 3, 5), day, POWER),
            "transposed": call(targets(7, 5).t(), day, POWER),
            "an age each": call(targets(2, 3, 5), ages, POWER),
            "an age each row": call(targets(2, 3, 5), ages[:, :1, :1], POWER),
            "new": call(targets(1030), torch.tensor([0.0]), POWER),
            "years": call(targets(1030), torch.tensor([1e9]), PIECES),
            "without noise": call(targets(1030), day, ()),
            "table": call(targets(1030), day, TABLE),
            "no drift": call(targets(1030), day, CURVE, nu=0.0),
            "conductances of zero": call(targets(1030) * 0.0, day, POWER),
            "above the range": call(targets(1030) * 3.0, day, CUBIC),
            "long": call(targets(20_011), day, POWER),
            "long, an age each": call(targets(20_011), 10.0 ** (2.0 * draw(20_011, seed=3)), POWER),
        }

    def truth(
        self, conductance: Tensor, nu: Tensor, age: Tensor, seed: Tensor, offset: int, g_max: float, t0: float,
        t_read: float, noise: list[float],
    ) -> Tensor:  # fmt: skip
        g, since = conductance.double().numpy(), age.numpy() + t0
        drifted = g * (since / t0) ** -nu.double().numpy()
        if not noise:
            return torch.from_numpy(np.asarray(drifted))
        sd = drifted * LAWS[tuple(noise)](g / g_max) * np.sqrt(np.log((since + t_read) / (2 * t_read)))
        return torch.from_numpy(np.asarray(np.maximum(drifted + sd * normals(seed, offset, conductance), 0.0)))

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        g, nu, age, *rest = self.samples()["odd"]
        return {
            "integer conductance": ((g.int(), nu, age, *rest), TypeError, "conductance has dtype torch.int32"),
            "integer nu": ((g, nu.int(), age, *rest), TypeError, "nu has dtype torch.int32"),
            "integer age": ((g, nu, age.long(), *rest), TypeError, "age has dtype torch.int64"),
            "nu elsewhere": ((g, nu.to("meta"), age, *rest), ValueError, "nu is on meta"),
            "one nu for all": ((g, nu[0], age, *rest), ValueError, r"nu has shape \[3, 5\]"),
            "four ages for thirty": ((g, nu, torch.ones(4).double(), *rest), ValueError, r"age has shape \[4\]"),
            "age of more axes": (
                (g[0], nu[0], torch.ones(2, 1, 1).double(), *rest), ValueError, r"age has shape \[2, 1, 1\]",
            ),
            "short law": ((g, nu, age, *rest[:-1], [0.0, 1.0]), ValueError, "noise"),
            **seed_errors((g, nu, age, *rest), 3),
        }  # fmt: skip

    @pytest.mark.parametrize("position", [0, 2])
    def test_infinite_conductance_or_no_age_is_no_finite_read(self, position: int) -> None:
        call = list(self.samples()["odd"])
        call[position] = torch.full_like(call[position], torch.inf if position == 0 else torch.nan)
        assert not torch.ops.phasegrad.pcm_read(*call).isfinite().any()

    def test_one_age_is_that_age_for_each(self) -> None:
        g, nu, age, *rest = self.samples()["odd"]
        each = torch.ops.phasegrad.pcm_read(g, nu, age.expand(g.shape), *rest)
        torch.testing.assert_close(each, torch.ops.phasegrad.pcm_read(g, nu, age, *rest), rtol=3e-7, atol=0.0)

    def test_no_device_with_an_age_each(self) -> None:
        # In a process of its own: a kernel that looks at the first age of none ends the process.
        code = (
            "import torch, phasegrad; g, age = torch.empty(0), torch.empty(0, dtype=torch.float64);"
            "print(torch.ops.phasegrad.pcm_read(g, g, age, torch.tensor([0]), 0, 1.0, 1.0, 1.0, []).shape)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert (run.returncode, run.stdout) == (0, "torch.Size([0])\n")
