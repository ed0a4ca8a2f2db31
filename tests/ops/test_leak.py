"""Devices that relax by the same fraction towards a level, and the weight that tracks them."""

from __future__ import annotations

import pytest
import torch
from tests.contracts.op import SEED, draw, threads
from tests.contracts.triton_kernels import needs_triton, on_device, run_kernel
from torch import Tensor

from phasegrad.ops import arguments, reference

SHAPES = {"one": (1, 1, 1), "pair": (2, 21, 37), "large": (1, 130, 300), "nothing": (2, 0, 5)}
LEVEL, LOST = 0.7, 0.3


def call(name: str, beside: int) -> tuple[Tensor, float, float, Tensor, Tensor | None, list[float]]:
    g = draw(*SHAPES[name], seed=1).abs()
    others = draw(beside, *g.shape[1:], seed=2) if beside else None
    factors = [0.2, *torch.linspace(-1.0, 2.0, len(g) + beside).tolist()]
    return g, LEVEL, LOST, torch.zeros(g.shape[1:]), others, factors


@pytest.mark.parametrize("beside", [0, 2])
@pytest.mark.parametrize("name", list(SHAPES))
def test_the_law_and_the_weight(name: str, beside: int) -> None:
    g, *rest = call(name, beside)
    wanted = LEVEL + (1.0 - LOST) * (g.double() - LEVEL)
    torch.ops.phasegrad.leak(g, *rest)
    torch.testing.assert_close(g.double(), wanted, rtol=1e-6, atol=1e-6)
    _, _, weight, others, factors = rest
    assert torch.equal(weight, torch.ops.phasegrad.weighted_sum(g, others, factors, [], SEED, 0))


@pytest.mark.parametrize("name", list(SHAPES))
def test_reference_and_threads_give_the_same_bits(name: str) -> None:
    results = []
    for run, count in (
        (torch.ops.phasegrad.leak, 1),
        (torch.ops.phasegrad.leak, 3),
        (arguments.flat("leak", reference.leak), 1),
    ):
        g, level, lost, weight, others, factors = call(name, 1)
        with threads(count):
            run(g, level, lost, weight, others, factors)
        results.append((g, weight))
    for g, weight in results[1:]:
        assert torch.equal(g, results[0][0])
        assert torch.equal(weight, results[0][1])


@needs_triton
@pytest.mark.parametrize("block", [64, 256, 4096])
@pytest.mark.parametrize("name", ["one", "pair", "nothing"])
def test_triton_gives_the_bits_of_the_reference(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasegrad.ops.triton.sums.LEAK", block)
    found, wanted = (on_device(call(name, 1)), call(name, 1))
    run_kernel("leak", *found)
    arguments.flat("leak", reference.leak)(*wanted)
    assert torch.equal(found[0].cpu(), wanted[0])
    assert torch.equal(found[3].cpu(), wanted[3])


def test_a_weight_is_not_needed() -> None:
    g = draw(2, 3, 5).abs()
    expected = g + (LEVEL - g) * LOST
    torch.ops.phasegrad.leak(g, LEVEL, LOST, None, None, [])
    torch.testing.assert_close(g, expected)
    torch.ops.phasegrad.leak(g, LEVEL, 1.0, None, None, [])
    torch.testing.assert_close(g, torch.full_like(g, LEVEL))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: float("nan")}, "level = nan"),
        ({2: 1.5}, "lost = 1.5"),
        ({0: torch.zeros(2, 3, 5).double()}, "float64"),
        ({0: torch.zeros(2, 5, 3).transpose(1, 2)}, "contiguous float32"),
        ({3: torch.zeros(3, 4)}, r"weight is torch.float32 \[3, 4\]"),
        ({5: [0.0, 1.0]}, "factors has 2 numbers"),
    ],
)
def test_refuses(changes: dict[int, object], message: str) -> None:
    given = [torch.zeros(2, 3, 5), LEVEL, LOST, torch.zeros(3, 5), None, [0.0, 1.0, 1.0]]
    wrong = [changes.get(i, a) for i, a in enumerate(given)]
    with pytest.raises(ValueError, match=message):
        torch.ops.phasegrad.leak(*wrong)
    assert not given[0].any()  # type: ignore[union-attr]


def test_opcheck() -> None:
    for utility in ("test_schema", "test_faketensor"):
        torch.library.opcheck(torch.ops.phasegrad.leak.default, call("pair", 1), test_utils=utility)
