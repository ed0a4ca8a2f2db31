from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.contracts.op import SEED, Call, draw, same_bits, threads
from torch import Tensor

from phasegrad.ops import arguments, pulses, reference, trains
from phasegrad.ops.native import library

STEP = 1e-3
NAMES = (
    "conductance", "history", "pulsed_at", "weight", "other_planes", "factors", "parameters", "x", "d", "lr",
    "dw_min", "length", "bl_management", "update_management", "kind", "now", "planes", "family", "coefficients",
    "seed", "offset",
)  # fmt: skip
REFERENCE_TRAINS = arguments.flat("pulse_trains", reference.pulse_trains)
REFERENCE_UPDATE = arguments.flat("pulsed_update", reference.pulsed_update)
REFERENCE_COUNTS = arguments.flat("pulse_counts", reference.pulse_counts)
SOFT_BOUNDS = (0.3, 1.0, 1.0, 0.0)
EXPONENTIAL = (0.3, 0.00081, 12.44625, 0.36833, 12.78785, 0.244, 0.2425)
PCM = (0.0, math.exp(-1 / 2.6), -0.084, 0.88, 1.4, 0.091, 0.26, 2.15)
QUANTILES = (-0.5, 1.0, 2.0, -0.2, 0.5, 1.0)


def update(
    batch: int = 6,
    features: int = 37,
    out: int = 21,
    family: int = pulses.LINEAR,
    coefficients: tuple[float, ...] = SOFT_BOUNDS,
    *,
    pair: bool = False,
    shared: bool = False,
    step: float = STEP,
    **changes: Any,
) -> dict[str, Any]:
    """Arguments of an update, some of its trains saturated."""
    shape = (2 if pair else 1, out, features)
    g = draw(*shape, seed=1).abs() * 0.2 if pair else draw(*shape, seed=1).clamp(-2.0, 2.0) * 0.25
    low = 0.0 if pair else -0.6
    own = torch.ones(1, 1, 1) if shared else 1.0 + 0.3 * draw(*shape, seed=2).clamp(-2.0, 2.0)
    parameters = torch.stack((step * own, step * own.flip(0), low * torch.ones_like(own), 0.6 * torch.ones_like(own)))
    call = {
        "conductance": g,
        "history": draw(*shape, seed=3).abs() if family == pulses.HISTORY else None,
        "pulsed_at": torch.zeros(shape, dtype=torch.float64),
        "weight": None,
        "other_planes": None,
        "factors": [],
        "parameters": parameters,
        "x": draw(batch, features, seed=4),
        "d": 0.1 * draw(batch, out, seed=5),
        "lr": 0.05,
        "dw_min": STEP,
        "length": 31,
        "bl_management": True,
        "update_management": True,
        "kind": trains.STOCHASTIC,
        "now": 5.0,
        "planes": [0, int(pair)],
        "family": family,
        "coefficients": torch.tensor(coefficients),
        "seed": SEED,
        "offset": 100,
    }
    return {**call, **changes}


def run(call: dict[str, Any], op: Any = None) -> list[Tensor]:
    """The state after an update of a copy of it."""
    state = [None if call[n] is None else call[n].clone() for n in NAMES[:3]]
    (op or torch.ops.phasegrad.pulsed_update)(*state, *(call[n] for n in NAMES[3:]))
    return [t for t in state if t is not None]


def train_arguments(call: dict[str, Any]) -> Call:
    return tuple(call[n] for n in (*NAMES[7:15], "seed", "offset"))


def bits(words: Tensor) -> Tensor:
    """Slots of each train, ``[..., 31]``."""
    return (words.long().unsqueeze(-1) >> torch.arange(31)) & 1


# Few samples: the reference takes them, and their slots, one by one.
CALLS = {
    "constant": update(3, coefficients=(0.3, 0.0, 0.0, 0.0)),
    "soft bounds": update(3),
    "without noise": update(3, coefficients=(0.0, 1.0, 1.0, 0.0)),
    "linear": update(3, coefficients=(0.1, 0.3, 0.7, 0.05)),
    "exponential": update(3, family=pulses.EXPONENTIAL, coefficients=EXPONENTIAL),
    "power": update(3, family=pulses.POWER, coefficients=(0.3, 1.5, 2.0)),
    "piecewise": update(3, family=pulses.PIECEWISE, coefficients=(0.3, 4, 1.0, 0.5, 0.7, 0.2, 0.1, 0.5, 1.0, 2.0)),
    "jump table": update(3, family=pulses.TABLE, coefficients=(0.0, 2, 3, *QUANTILES, *QUANTILES)),
    "pair": update(3, pair=True),
    "pair with history": update(3, family=pulses.HISTORY, coefficients=PCM, pair=True),
    "a device for all": update(3, shared=True),
    "deterministic": update(3, kind=trains.DETERMINISTIC),
    "mean count": update(3, kind=trains.MEAN_COUNT),
    "mean count, pair": update(3, kind=trains.MEAN_COUNT, pair=True),
    "fixed length": update(3, bl_management=False, update_management=False),
    "one slot": update(3, length=1),
    "one weight": update(1, 1, 1),
    "one row": update(3, 300, 1),
    "one column": update(3, 1, 300),
    "one sample": update(1, 300, 50),
    "no sample": update(0),
    "full trains": update(3, lr=100.0),
    "long": update(20, 40, 30, lr=0.5),
    "more samples than are kept": update(1100, 5, 3, lr=0.02),
}

call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


@pytest.mark.skipif(library is None, reason="no kernels: the op is its reference")
@call
def test_kernel_makes_the_trains_of_the_reference(call: dict[str, Any]) -> None:
    assert same_bits(
        torch.ops.phasegrad.pulse_trains(*train_arguments(call)),
        REFERENCE_TRAINS(*train_arguments(call)),
    )


@pytest.mark.skipif(library is None, reason="no kernels: the op is its reference")
@call
def test_kernel_leaves_the_state_of_the_reference(call: dict[str, Any]) -> None:
    found, wanted = run(call), run(call, REFERENCE_UPDATE)
    assert torch.equal(found[-1], wanted[-1])  # who was pulsed
    for got, want in zip(found[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.skipif(library is None, reason="no kernels: torch's own elementwise ops do not depend on threads")
@call
def test_threads_do_not_show(call: dict[str, Any]) -> None:
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(run(call))
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_of_the_lines_are_what_the_reference_gives(dtype: torch.dtype) -> None:
    call = update(3)
    call |= {"x": call["x"].to(dtype), "d": call["d"].to(dtype)}
    assert same_bits(run(call), run(call, REFERENCE_UPDATE))


def test_opcheck() -> None:
    call = update(2, 5, 3, family=pulses.HISTORY, coefficients=PCM, pair=True)
    torch.library.opcheck(torch.ops.phasegrad.pulsed_update.default, tuple(call.values()), test_utils="test_schema")
    torch.library.opcheck(torch.ops.phasegrad.pulsed_update.default, tuple(call.values()), test_utils="test_faketensor")
    torch.library.opcheck(torch.ops.phasegrad.pulse_trains.default, train_arguments(call))


def coincidences(call: dict[str, Any]) -> Tensor:
    """Pulses of every weight for every sample, ``[batch, out, in]``."""
    words_x, words_d = torch.ops.phasegrad.pulse_trains(*train_arguments(call))
    return (bits(words_d).unsqueeze(2) & bits(words_x).unsqueeze(1)).sum(-1)


def repeated(x: list[float], d: list[float], n: int, **changes: Any) -> dict[str, Any]:
    return update(x=torch.tensor([x] * n), d=torch.tensor([d] * n), **changes)


# Trains that are short and not balanced saturate the lines of large values, which update management prevents.
@pytest.mark.parametrize(("update_management", "bl_management"), [(True, True), (True, False), (False, False)])
def test_pulses_count_to_the_outer_product(update_management: bool, bl_management: bool) -> None:
    n, x, d = 20_000, [0.5, -0.2, 1.0], [0.3, -0.05]
    call = repeated(x, d, n, lr=0.01, bl_management=bl_management, update_management=update_management)
    counts = coincidences(call).double()
    mean = torch.tensor(d, dtype=torch.float64).outer(torch.tensor(x, dtype=torch.float64)).abs() * 0.01 / STEP
    # A slot coincides with probability p_x p_d, independently: the variance is below the mean.
    assert ((counts.mean(0) - mean).abs() < 5.0 * (mean / n).sqrt()).all()


def test_long_products_saturate_at_the_longest_train() -> None:
    call = repeated([1.0, 0.5], [1.0], 5_000, lr=1.0)  # k = 1000: the largest fires in every slot
    counts = coincidences(call)
    assert (counts[:, 0, 0] == 31).all()
    assert abs(counts[:, 0, 1].double().mean().item() / 15.5 - 1.0) < 5.0 * (1.0 / (15.5 * 5_000)) ** 0.5


def test_a_train_is_as_long_as_its_sample_asks() -> None:
    call = update(x=torch.tensor([[1.0], [1.0]]), d=torch.tensor([[0.12], [3.0]]), lr=0.01)  # k = 1.2 and 30
    call |= {"kind": trains.DETERMINISTIC}
    slots = bits(torch.ops.phasegrad.pulse_trains(*train_arguments(call))[0])
    assert slots[0, 0, 2:].sum() == 0
    assert slots[1, 0].sum() == 30


def test_deterministic_trains_round_the_product() -> None:
    x, d = torch.linspace(0.0, 1.0, 41).unsqueeze(0), torch.linspace(0.0, 1.0, 23).unsqueeze(0)
    call = update(x=x, d=d, lr=0.031, kind=trains.DETERMINISTIC)  # k = 31
    n_x, n_d = torch.floor(31 * x[0] + 0.5), torch.floor(31 * d[0] + 0.5)
    expected = torch.floor((2 * n_d.outer(n_x) + 31) / 62)
    assert torch.equal(coincidences(call)[0].float(), expected)


@pytest.mark.parametrize("kind", [trains.STOCHASTIC, trains.MEAN_COUNT])
@pytest.mark.slow
def test_update_descends_by_learning_rate_times_outer_product(kind: int) -> None:
    n, ideal = 1_000, (0.0, 0.0, 0.0, 0.0)
    x, d = torch.tensor([[0.5, -0.2, 1.0]]), torch.tensor([[0.3, -0.05]])
    total = torch.zeros(2, 3, dtype=torch.float64)
    flat = torch.tensor([STEP, STEP, -100.0, 100.0]).view(4, 1, 1, 1)
    zero = torch.zeros(1, 2, 3)
    changes = {"conductance": zero, "pulsed_at": None, "parameters": flat, "kind": kind, "lr": 0.01}
    for i in range(n):
        call = update(coefficients=ideal, x=x, d=d, offset=100 * i, **changes)
        total += run(call)[0][0]
    mean = 0.01 * d[0].double().outer(x[0].double())
    assert ((total / n + mean).abs() < 5.0 * (mean.abs() * STEP / n).sqrt()).all()


def one_pulse(n: int, g: float, **changes: Any) -> Tensor:
    """The steps of ``n`` devices at ``g`` that take one pulse upwards each."""
    x, d = torch.ones(1, n), -torch.ones(1, 1)
    state = torch.full((2 if changes.get("pair") else 1, 1, n), g)
    call = update(x=x, d=d, lr=STEP, conductance=state, pulsed_at=None, shared=True, **changes)
    return run(call)[0][0, 0].double() - state[0, 0].double()


def test_noise_of_a_step_is_normal() -> None:
    n = 40_000
    found = (one_pulse(n, 0.0) / STEP).sort().values
    z = (found - 1.0) / 0.3
    cdf = 0.5 * (1.0 + torch.erf(z / 2**0.5))
    distance = (cdf - (torch.arange(n) + 0.5) / n).abs().max().item()
    assert distance < 2.2 / n**0.5  # Kolmogorov's law exceeds it once in 8,000
    assert abs(z.mean().item()) < 5.0 / n**0.5
    assert abs(z.var().item() - 1.0) < 5.0 * (2.0 / n) ** 0.5
    assert abs(z.pow(4).mean().item() - 3.0) < 5.0 * (96.0 / n) ** 0.5


def test_noise_has_no_memory_along_any_axis() -> None:
    n = 200
    state = torch.zeros(1, n, n)
    flat = torch.tensor([1.0, 1.0, -1e6, 1e6]).view(4, 1, 1, 1)
    changes = {
        "conductance": state,
        "parameters": flat,
        "pulsed_at": None,
        "coefficients": (0.3, 0.0, 0.0, 0.0),
    }
    found = []
    for pulses_each in (1, 2):
        call = update(x=torch.ones(pulses_each, n), d=-torch.ones(pulses_each, n), lr=STEP, **changes)
        found.append((run(call)[0][0].double() - pulses_each) / 0.3)
    first, second = found[0], found[1] - found[0]
    pairs = ((first[:, 1:], first[:, :-1]), (first[1:], first[:-1]), (first, second))
    for a, b in pairs:
        assert abs(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()) < 5.0 / n


@pytest.mark.parametrize("g", [-0.3, 0.0, 0.45])
@pytest.mark.parametrize(
    ("family", "coefficients", "law"),
    [
        (pulses.LINEAR, (0.0, 0.0, 0.0, 0.0), lambda g: 1.0),
        (pulses.LINEAR, (0.0, 1.0, 1.0, 0.0), lambda g: 1.0 - g / 0.6),
        (pulses.LINEAR, (0.0, 0.4, 1.0, 0.1), lambda g: 1.0 - 0.4 * (g - 0.1) / 0.5),
        (
            pulses.EXPONENTIAL,
            (0.0, *EXPONENTIAL[1:]),
            lambda g: 1.0 - 0.00081 * math.exp(12.44625 * (2.0 * 0.244 * g / 1.2 + 0.2425)),
        ),
        (pulses.POWER, (0.0, 1.5, 2.0), lambda g: ((0.6 - g) / 1.2) ** 1.5),
        (
            pulses.PIECEWISE,
            (0.0, 3, 1.0, 0.4, 0.2, 9.0, 9.0, 9.0),
            lambda g: 1.0 + (0.4 - 1.0) * (g + 0.6) / 0.6 if g < 0.0 else 0.4 - 0.2 * g / 0.6,
        ),
    ],
)
def test_step_laws(family: int, coefficients: tuple[float, ...], law: Any, g: float) -> None:
    found = one_pulse(3, g, family=family, coefficients=coefficients)
    assert found.tolist() == pytest.approx([STEP * law(g)] * 3, rel=2e-4)


def test_jump_table_is_an_inverse_cdf() -> None:
    n = 20_000
    table = (-1.0, 0.0, 4.0)  # half below 0, and up to four steps above
    found = one_pulse(n, 0.2, family=pulses.TABLE, coefficients=(0.0, 2, 3, *table, *table, *table, *table)) / STEP
    for q, value in ((0.25, -0.5), (0.5, 0.0), (0.75, 2.0)):
        share = (found < value).double().mean().item()
        assert abs(share - q) < 5.0 * (q * (1 - q) / n) ** 0.5


def test_pulses_of_a_sample_act_one_after_another() -> None:
    call = update(1, 1, 1, coefficients=(0.0, 1.0, 1.0, 0.0), shared=True, step=0.05, kind=trains.DETERMINISTIC)
    call |= {"x": torch.ones(1, 1), "d": -torch.ones(1, 1), "lr": 7 * STEP, "conductance": torch.zeros(1, 1, 1)}
    g = 0.0
    for _ in range(7):
        g += 0.05 * (1.0 - g / 0.6)
    assert run(call)[0].item() == pytest.approx(g, rel=1e-6)


def test_a_pair_takes_each_sign_on_its_own_device() -> None:
    state = torch.zeros(2, 1, 2)
    call = update(1, 2, 1, pair=True, conductance=state, x=torch.tensor([[1.0, -1.0]]), d=torch.ones(1, 1), lr=STEP)
    up, down = run(call)[0][:, 0]
    assert up[0] == 0.0
    assert up[1] > 0.0
    assert down[0] > 0.0
    assert down[1] == 0.0


def test_history_decays_with_every_pulse_of_its_device() -> None:
    call = update(3, 1, 1, family=pulses.HISTORY, coefficients=PCM, pair=True, kind=trains.DETERMINISTIC)
    call |= {"x": torch.ones(3, 1), "d": -torch.ones(3, 1), "lr": 2 * STEP, "history": torch.ones(2, 1, 1)}
    _, history, pulsed_at = run(call)
    assert history.flatten().tolist() == pytest.approx([math.exp(-6 / 2.6), 1.0], rel=1e-5)
    assert pulsed_at.flatten().tolist() == [5.0, 0.0]


@pytest.mark.slow
def test_fixed_point_of_an_asymmetric_device_is_where_its_steps_are_equal() -> None:
    # Up 1 - w / 0.6, down 2 (1 + w / 0.6): equal at w = -0.2.
    flat = torch.tensor([STEP, 2 * STEP, -0.6, 0.6]).view(4, 1, 1, 1)
    n, batch = 400, 2400
    sign = torch.tensor([1.0, -1.0]).repeat(batch // 2).unsqueeze(1)
    changes = {"conductance": torch.zeros(1, 1, n), "pulsed_at": None, "parameters": flat, "lr": STEP}
    found = run(update(coefficients=SOFT_BOUNDS, x=torch.ones(batch, n), d=sign, **changes))[0]
    # A step of sd 0.3 x 1.33e-3 each way against a pull of 5e-3 a pair of pulses.
    sd = (2 * (0.3 * 1.333 * STEP) ** 2 / (1.0 - (1.0 - 5.0 * STEP) ** 2)) ** 0.5
    assert abs(found.mean().item() + 0.2) < 5.0 * sd / n**0.5 + STEP


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.full((6, 37), torch.nan)}, "not finite"),
        ({"d": torch.full((6, 21), torch.inf)}, "not finite"),
        ({"d": torch.zeros(5, 21)}, r"\[5, 21\]"),
        ({"x": torch.zeros(6, 36)}, "planes, 21, 36"),
        ({"lr": math.inf}, "learning rate is inf"),
        ({"lr": -0.1}, "learning rate is -0.1"),
        ({"dw_min": 0.0}, "dw_min = 0.0"),
        ({"lr": 1e300, "dw_min": 1e-10}, "ratio must be at most 1e\\+200"),
        ({"length": 32}, "trains of 32 slots"),
        ({"kind": 7}, "kind 7"),
        ({"planes": [0, 1]}, r"planes = \[0, 1\]"),
        ({"family": 17}, "no family 17"),
        ({"coefficients": torch.zeros(3)}, "3 coefficients"),
        ({"family": pulses.PIECEWISE, "coefficients": torch.tensor([0.0, 9.0, 1.0, 1.0])}, "two tables of"),
        ({"family": pulses.TABLE, "coefficients": torch.tensor([0.0, 1.0, 3.0])}, "two points"),
        ({"family": pulses.HISTORY, "coefficients": torch.zeros(8)}, "history missing"),
        ({"parameters": torch.zeros(3, 1, 1, 1)}, r"\[3, 1, 1, 1\]"),
        ({"history": torch.zeros(1, 21, 37)}, "history given"),
    ],
)
def test_refuses_and_leaves_the_state(changes: dict[str, Any], message: str) -> None:
    call = {**update(), **changes}
    before = call["conductance"].clone()
    with pytest.raises(ValueError, match=message):
        torch.ops.phasegrad.pulsed_update(*call.values())
    assert torch.equal(call["conductance"], before)


@pytest.mark.skipif(library is None, reason="the reference expands the gradients")
@pytest.mark.parametrize("kind", [trains.STOCHASTIC, trains.DETERMINISTIC, trains.MEAN_COUNT])
@pytest.mark.parametrize(
    ("groups", "per", "features", "batch"),
    [(2, 3, 37, 20), (7, 1, 9, 1500), (5, 20, 3, 2200), (64, 1, 9, 100), (3, 2, 1, 7), (3, 2, 9, 1)],
)
@pytest.mark.parametrize(
    "law",
    [
        {}, {"family": pulses.HISTORY, "coefficients": PCM, "pair": True},
        {"family": pulses.TABLE, "coefficients": (0.0, 2.0, 3.0, *QUANTILES, *QUANTILES)},
    ],
    ids=["soft bounds", "pair with history", "table"],
)  # fmt: skip
def test_samples_of_groups_pulse_as_samples_with_zeros_outside_their_group(
    groups: int, per: int, features: int, batch: int, kind: int, law: dict[str, Any]
) -> None:
    call = update(batch, features, groups * per, kind=kind, lr=0.02, **law)
    for scale in (1.0, 0.02):  # long trains and short ones
        d = scale * draw(batch, per, seed=6)
        whole = pulses.of_all_groups(d, groups)
        wanted = run({**call, "d": whole})
        for count in (1, 2, 3):
            with threads(count):
                assert all(same_bits(a, b) for a, b in zip(run({**call, "d": d}), wanted, strict=True))
    if batch < 100:
        found = run({**call, "d": d}, REFERENCE_UPDATE)
        for a, b in zip(found, run({**call, "d": whole}, REFERENCE_UPDATE), strict=True):
            assert same_bits(a, b)


def counted(call: dict[str, Any], counts: Tensor, op: Any = None) -> list[Tensor]:
    """The state after pulses of the given numbers."""
    state = [None if call[n] is None else call[n].clone() for n in NAMES[:3]]
    rest = [call[n] for n in NAMES[15:]]
    (op or torch.ops.phasegrad.pulse_counts)(*state, *(call[n] for n in NAMES[3:7]), counts, *rest)
    return [t for t in state if t is not None]


@pytest.mark.skipif(library is None, reason="no kernels: the op is its reference")
@call
def test_counted_pulses_leave_the_state_of_the_reference(call: dict[str, Any]) -> None:
    out, features = call["conductance"].shape[1:]
    counts = (8.0 * draw(out, features, seed=9)).to(torch.int32)
    counts[0, 0] = 80  # more than fit a queue
    found, wanted = counted(call, counts), counted(call, counts, REFERENCE_COUNTS)
    assert torch.equal(found[-1], wanted[-1])
    for got, want in zip(found[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(got, want, rtol=2e-6, atol=4e-6)


def test_counted_pulses_step_as_often_as_counted() -> None:
    flat = torch.tensor([STEP, STEP, -100.0, 100.0]).view(4, 1, 1, 1)
    counts = torch.tensor([[0, 1, -3, 70]], dtype=torch.int32)
    call = update(coefficients=(0.0, 0.0, 0.0, 0.0), conductance=torch.zeros(1, 1, 4), parameters=flat, pulsed_at=None)
    torch.testing.assert_close(counted(call, counts)[0][0], counts * STEP, rtol=1e-5, atol=0.0)
    with pytest.raises(TypeError, match="int32"):
        counted(call, counts.float())


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("count", [200_000, -200_000, -(2**31), 2**31 - 1])
def test_more_counted_pulses_than_cross_the_window_many_times_are_refused(count: int, pair: bool) -> None:
    # Steps of 0.001 in a window of 1.2, or of 0.6 in a pair.
    call = update(pair=pair)
    counts = torch.zeros(21, 37, dtype=torch.int32)
    counts[3, 5] = count
    for op in (None, REFERENCE_COUNTS):
        state = {n: None if call[n] is None else call[n].clone() for n in NAMES[:3]}
        arguments = [*state.values(), *(call[n] for n in NAMES[3:7]), counts, *(call[n] for n in NAMES[15:])]
        with pytest.raises(ValueError, match=f"would receive {abs(count)} pulses, but .* cross its conductance window"):
            (op or torch.ops.phasegrad.pulse_counts)(*arguments)
        for name, before in state.items():
            assert before is None or torch.equal(before, call[name])


@pytest.mark.parametrize("beside", [0, 2])
@pytest.mark.parametrize(
    "name",
    [
        "soft bounds", "pair with history", "one row",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("long", "more samples than are kept")),
    ],
)  # fmt: skip
def test_the_weight_follows_to_the_bit(name: str, beside: int) -> None:
    call = CALLS[name]
    g = call["conductance"].clone()
    others = draw(beside, *g.shape[1:], seed=8) if beside else None
    factors = [0.3, *torch.linspace(-1.0, 2.0, len(g) + beside).tolist()]
    weight = torch.ops.phasegrad.weighted_sum(g, others, factors, [], SEED, 0)
    call = {**call, "conductance": g, "weight": weight, "other_planes": others, "factors": factors}
    held = [None if call[n] is None else call[n].clone() for n in NAMES[1:3]]
    torch.ops.phasegrad.pulsed_update(g, *held, *(call[n] for n in NAMES[3:]))
    assert torch.equal(weight, torch.ops.phasegrad.weighted_sum(g, others, factors, [], SEED, 0))
    counts = (3.0 * draw(*g.shape[1:], seed=9)).to(torch.int32)
    torch.ops.phasegrad.pulse_counts(g, *held, *(call[n] for n in NAMES[3:7]), counts, *(call[n] for n in NAMES[15:]))
    assert torch.equal(weight, torch.ops.phasegrad.weighted_sum(g, others, factors, [], SEED, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": [0.0]}, "factors has 1 numbers"),
        ({"weight": torch.zeros(21, 36)}, r"weight is torch.float32 \[21, 36\]"),
        ({"weight": torch.zeros(37, 21).t()}, "contiguous float32"),
        (
            {"other_planes": torch.zeros(1, 3, 3), "factors": [0.0, 1.0, 1.0]},
            r"other_planes is .* \[1, 3, 3\]",
        ),
    ],
)
def test_refuses_a_weight_that_cannot_follow(changes: dict[str, Any], message: str) -> None:
    call = {**update(), "weight": torch.zeros(21, 37), "factors": [0.0, 1.0], **changes}
    with pytest.raises(ValueError, match=message):
        run(call)


def test_zero_gradients_and_a_learning_rate_of_zero_pulse_nothing() -> None:
    for changes in ({"lr": 0.0}, {"x": torch.zeros(6, 37)}, {"d": torch.zeros(6, 21)}):
        for kind in (trains.STOCHASTIC, trains.DETERMINISTIC, trains.MEAN_COUNT):
            call = update(kind=kind, **changes)
            assert torch.equal(run(call)[0], call["conductance"])
