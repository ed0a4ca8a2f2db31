"""Triton kernels with nothing to compute, with one element, and with tensors whose memory is not what they seem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.contracts.op import SEED, draw, tensors
from tests.contracts.triton_kernels import DEVICE, needs_triton, triton_kernel
from tests.ops import test_pulses
from torch import Tensor
from torch.utils._pytree import tree_map

from phasegrad.devices import Power
from phasegrad.ops import reference
from phasegrad.ops.arguments import flat
from phasegrad.ops.checks import CHECKS

pytestmark = needs_triton

LAW = Power(factor=0.0088, exponent=-0.65, high=0.2).encode()
AGE = torch.tensor(3600.0, dtype=torch.float64)
NOISE = [0.1, 0.2, 0.0]

Sizes = tuple[int, int, int]
"""Samples, outputs and inputs."""


def devices(sizes: Sizes) -> Tensor:
    return draw(2, *sizes[1:]).abs()


def tile_scales(sizes: Sizes) -> Tensor:
    return torch.ones(-(-sizes[2] // 2), sizes[1])


def inputs(sizes: Sizes) -> Tensor:
    return draw(sizes[0], sizes[2], seed=2)


def outputs(sizes: Sizes) -> Tensor:
    return draw(sizes[0], sizes[1], seed=3)


def matrix(sizes: Sizes) -> Tensor:
    return draw(*sizes[1:], seed=4)


def codes(sizes: Sizes) -> Tensor:
    return torch.zeros(len(tile_scales(sizes)), *sizes[:2], dtype=torch.int8)


def adc_of(y: Tensor) -> tuple[Any, ...]:
    columns = torch.ones(1, y.shape[1])
    return [y], [y.abs()], columns, columns, torch.ones(1), torch.ones(1), SEED, 1, 0.1, 0.1, 1, 7.0


def pulsed(sizes: Sizes) -> dict[str, Any]:
    call = test_pulses.update(*sizes[::2], sizes[1], length=7, lr=0.01)
    weight = {"weight": torch.zeros(sizes[1:]), "factors": [0.5, *(1.0 for _ in call["conductance"])]}
    return {**call, **weight}


def counted(sizes: Sizes) -> tuple[Any, ...]:
    call = pulsed(sizes)
    counts = (2.0 * matrix(sizes)).to(torch.int32)
    names = test_pulses.NAMES
    return (*(call[n] for n in names[:7]), counts, *(call[n] for n in names[15:]))


CALLS: dict[str, Callable[[Sizes], tuple[Any, ...]]] = {
    "normal": lambda s: (SEED, 1, [*s]),
    "uniform": lambda s: (SEED, 1, [*s]),
    "dac": lambda s: (inputs(s), torch.ones(s[0]), 7.0, 0.0, 0.0),
    "dac_backward": lambda s: (inputs(s), inputs(s), torch.ones(1), 0.1, 0.5),
    "adc": lambda s: adc_of(outputs(s)),
    "adc_backward": lambda s: (outputs(s), codes(s)),
    "weight_scale": lambda s: (matrix(s), 2, 2, True, 2.5, True),
    "noisy_weights": lambda s: (
        matrix(s), tile_scales(s), torch.ones(s[1]), torch.ones(1), SEED, 1, 2, NOISE, 0.1,
    ),
    "noisy_weights_backward": lambda s: (matrix(s), matrix(s), torch.ones(s[1])),
    "tile_linear": lambda s: (
        inputs(s), matrix(s), tile_scales(s), torch.ones(s[1]), torch.ones(1), tile_scales(s), torch.ones(1), 7.0,
        0.0, 0.0, torch.ones(1), SEED, 1, 3, 2, NOISE, 0.1, 0.1, 0.1, 1, 7.0,
    ),
    "tile_linear_backward": lambda s: (
        outputs(s), codes(s), inputs(s), matrix(s), matrix(s), torch.ones(s[1]), tile_scales(s), 2, [True, True],
    ),
    "leak": lambda s: (devices(s), 0.5, 0.1, torch.zeros(s[1:]), None, [0.5, 1.0, -1.0]),
    "noisy_cells": lambda s: (devices(s), devices(s), SEED, 1, [0.5, 1.0, -1.0], tile_scales(s), 2),
    "pcm_cells": lambda s: (
        devices(s), devices(s), AGE, SEED, 1, 1.0, 20.0, 1e-7, LAW, [0.5, 1.0, -1.0], tile_scales(s), 2,
    ),
    "pcm_moments": lambda s: (devices(s), devices(s), AGE, 1.0, 20.0, 1e-7, LAW),
    "pcm_program": lambda s: (devices(s), SEED, 1, 1.0, [0.1, 0.2], LAW, LAW),
    "pcm_read": lambda s: (devices(s), devices(s), AGE, SEED, 1, 1.0, 20.0, 1e-7, LAW),
    "pulse_counts": counted,
    "pulse_trains": lambda s: test_pulses.train_arguments(pulsed(s)),
    "pulsed_update": lambda s: tuple(pulsed(s).values()),
    "rectified_cells": lambda s: (devices(s), devices(s), [0.5, 1.0, -1.0], tile_scales(s), 2),
    "row_products": lambda s: (inputs(s)[0] if s[0] else inputs((1, *s[1:]))[0], matrix(s), matrix(s).abs(), 2),
    "weighted_sum": lambda s: (devices(s), None, [0.5, 1.0, -1.0], [0.1, 0.1], SEED, 1),
}  # fmt: skip

CHANGED = {"leak": 1, "pulse_counts": 4, "pulsed_update": 4}
"""Ops that change their first arguments."""


def results_of(name: str, run: Callable[..., Any], call: tuple[Any, ...], device: torch.device) -> list[Tensor]:
    """The results of an op and the tensors that it changed, of a copy of its arguments."""
    changed = CHANGED.get(name, 0)
    state = tree_map(lambda a: a.to(device, copy=True) if isinstance(a, Tensor) else a, call[:changed])
    others = tree_map(lambda a: a.to(device) if isinstance(a, Tensor) else a, call[changed:])
    result = run(*state, *others)
    return [t.cpu() for t in tensors([result, *state])]


def agrees(name: str, found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    definition = flat(name, getattr(reference, name))
    results = results_of(name, triton_kernel(name), found, DEVICE)
    for a, b in zip(results, results_of(name, definition, wanted, torch.device("cpu")), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (0, 3, 5), (2, 0, 5), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_little_or_nothing_to_compute(name: str, sizes: Sizes) -> None:
    call = CALLS[name](sizes)
    try:
        flat(name, CHECKS[name])(*call)
        results_of(name, flat(name, getattr(reference, name)), call, torch.device("cpu"))
    except (ValueError, IndexError):
        pytest.skip("the op refuses these sizes")
    agrees(name, call, call)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"normal", "uniform"}))
def test_expanded_and_strided_tensors(name: str) -> None:
    """Tensors that the op only reads repeat one row, or lie in memory in another order."""
    call, kept = CALLS[name]((3, 4, 5)), CHANGED.get(name, 0)
    if name == "leak":
        pytest.skip("changes all its tensors in place, which must be contiguous")
    for spread in (expanded, strided):
        found = tree_map(spread, call[kept:])
        wanted = tree_map(lambda t: t.contiguous() if isinstance(t, Tensor) else t, found)
        agrees(name, (*call[:kept], *found), (*call[:kept], *wanted))


def expanded(t: Any) -> Any:
    return t[:1].expand(t.shape) if isinstance(t, Tensor) and t.dim() > 0 else t


def strided(t: Any) -> Any:
    return torch.stack((t, t), -1)[..., 0] if isinstance(t, Tensor) else t
