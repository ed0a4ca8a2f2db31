"""Pulses through the Triton kernels: the trains and counts of the reference to the bit, its state to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contracts.op import SEED, draw, same_bits, tensors
from tests.contracts.triton_kernels import DEVICE, needs_triton, run_kernel
from tests.ops import test_pulses
from tests.ops.test_pulses import EXPONENTIAL, NAMES, PCM, QUANTILES, REFERENCE_COUNTS, REFERENCE_UPDATE
from torch import Tensor

from phasegrad.ops import arguments, pulses, reference, trains

pytestmark = needs_triton

TILES = ((4, 8), (8, 16))


def update(batch: int = 2, features: int = 9, out: int = 5, **changes: Any) -> dict[str, Any]:
    """Arguments of an update of few pulses: the interpreter takes about 10 ms for each."""
    return test_pulses.update(batch, features, out, **{"length": 7, "lr": 0.01, **changes})


CALLS = {
    "constant": update(coefficients=(0.3, 0.0, 0.0, 0.0)),
    "soft bounds": update(),
    "linear, without noise": update(coefficients=(0.0, 0.3, 0.7, 0.05)),
    "exponential": update(family=pulses.EXPONENTIAL, coefficients=EXPONENTIAL),
    "power": update(family=pulses.POWER, coefficients=(0.3, 1.5, 2.0)),
    "piecewise": update(family=pulses.PIECEWISE, coefficients=(0.3, 4, 1.0, 0.5, 0.7, 0.2, 0.1, 0.5, 1.0, 2.0)),
    "jump table": update(family=pulses.TABLE, coefficients=(0.0, 2, 3, *QUANTILES, *QUANTILES)),
    "pair": update(pair=True),
    "pair with history": update(family=pulses.HISTORY, coefficients=PCM, pair=True),
    "a device for all": update(shared=True),
    "deterministic": update(kind=trains.DETERMINISTIC),
    "mean count": update(kind=trains.MEAN_COUNT),
    "full trains": update(lr=100.0, length=31, bl_management=False, update_management=False),  # more than fit a queue
    "short trains": update(length=3),
    "one weight": update(1, 1, 1),
    "no sample": update(0),
}

call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


def copied(call: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in call.items()}


def settled(name: str, *rest: Any) -> None:
    """Run a kernel that changes its arguments; on a GPU, wait for what it refuses."""
    from phasegrad.ops.triton import refusals

    moved = [a.to(DEVICE) if isinstance(a, Tensor) else a for a in rest]
    run_kernel(name, *moved)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        refusals.start(DEVICE)
        for before, after in zip(rest, moved, strict=True):
            if isinstance(before, Tensor):
                before.copy_(after)


def agree(found: dict[str, Any], wanted: dict[str, Any], atol: float = 2e-6) -> None:
    for name in NAMES[:4]:
        if wanted[name] is not None:
            exact = name == "pulsed_at"  # who was pulsed
            tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 2e-6, "atol": atol}
            torch.testing.assert_close(found[name], wanted[name], **tolerance)


def tracked(call: dict[str, Any]) -> dict[str, Any]:
    """The call with a weight that follows, to which another plane belongs."""
    shape = call["conductance"].shape
    others, factors = draw(1, *shape[1:], seed=8), torch.linspace(-1.0, 2.0, 2 + shape[0]).tolist()
    return {**call, "weight": torch.zeros(shape[1:]), "other_planes": others, "factors": factors}


@call
def test_trains_are_those_of_the_reference(call: dict[str, Any]) -> None:
    lines = test_pulses.train_arguments(call)
    wanted = arguments.flat("pulse_trains", reference.pulse_trains)(*lines)
    assert same_bits(run_kernel("pulse_trains", *lines), wanted)


@call
def test_the_state_is_that_of_the_reference(call: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasegrad.ops.triton.pulses.TILE", TILES[-1])
    found, wanted = copied(tracked(call)), copied(tracked(call))
    settled("pulsed_update", *found.values())
    REFERENCE_UPDATE(*wanted.values())
    agree(found, wanted)
    total = reference.weighted_sum(*(found[n] for n in ("conductance", "other_planes", "factors")), [], SEED, 0)
    assert torch.equal(found["weight"], total)


@pytest.mark.parametrize("name", ["pair with history", "mean count"])
def test_sizes_of_blocks_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, results = CALLS[name], []
    for tile, block in zip(TILES, (16, 256), strict=True):
        monkeypatch.setattr("phasegrad.ops.triton.pulses.TILE", tile)
        monkeypatch.setattr("phasegrad.ops.triton.trains.BLOCK", block)
        found = copied(tracked(call))
        settled("pulsed_update", *found.values())
        results.append((tensors(list(found.values())), run_kernel("pulse_trains", *test_pulses.train_arguments(call))))
    assert same_bits(*results)


@pytest.mark.parametrize("kind", [trains.STOCHASTIC, trains.DETERMINISTIC, trains.MEAN_COUNT])
@pytest.mark.parametrize(("groups", "per"), [(1, 5), (3, 2)])
def test_blocks_of_samples_have_their_own_streams(
    groups: int, per: int, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples of groups, in blocks of two, two of which are in memory at a time."""
    monkeypatch.setattr("phasegrad.ops.pulses.SAMPLES_PER_BLOCK", 2)
    monkeypatch.setattr("phasegrad.ops.triton.pulses.WORDS", 4 * (3 + per))
    call = {**update(5, 3, groups * per, kind=kind), "d": 0.1 * draw(5, per, seed=6)}
    found, wanted = copied(tracked(call)), copied(tracked(call))
    settled("pulsed_update", *found.values())
    REFERENCE_UPDATE(*wanted.values())
    agree(found, wanted)


@pytest.mark.parametrize("name", ["soft bounds", "pair with history", "jump table"])
def test_counted_pulses_leave_the_state_of_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasegrad.ops.triton.pulses.TILE", TILES[-1])
    found, wanted = copied(tracked(CALLS[name])), copied(tracked(CALLS[name]))
    counts = (2.0 * draw(5, 9, seed=9)).to(torch.int32)
    counts[0, 0] = 35  # more than fit a queue
    for state, run in ((found, lambda *a: settled("pulse_counts", *a)), (wanted, REFERENCE_COUNTS)):
        run(*(state[n] for n in NAMES[:7]), counts, *(state[n] for n in NAMES[15:]))
    agree(found, wanted, atol=4e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.full((2, 9), torch.nan)}, "not finite"),
        ({"d": torch.tensor([1.0] * 9 + [-torch.inf]).view(2, 5)}, "not finite"),
        ({"family": pulses.PIECEWISE, "coefficients": torch.tensor([0.0, 9.0, 1.0, 1.0])}, "two tables of"),
    ],
)
def test_a_refused_update_changes_nothing(changes: dict[str, Any], message: str) -> None:
    call = {**tracked(update()), **changes}
    before = copied(call)
    with pytest.raises(ValueError, match=message):
        settled("pulsed_update", *call.values())
    assert same_bits([call[n] for n in NAMES[:4]], [before[n] for n in NAMES[:4]])


@pytest.mark.parametrize("count", [200_000, -(2**31)])
def test_too_many_counted_pulses_change_nothing(count: int) -> None:
    call = tracked(update(pair=True))
    before, counts = copied(call), torch.zeros(5, 9, dtype=torch.int32)
    counts[3, 5] = count
    with pytest.raises(ValueError, match=f"would receive {abs(count)} pulses, but .* cross its conductance window"):
        settled("pulse_counts", *(call[n] for n in NAMES[:7]), counts, *(call[n] for n in NAMES[15:]))
    assert same_bits([call[n] for n in NAMES[:4]], [before[n] for n in NAMES[:4]])
