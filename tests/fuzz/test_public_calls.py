"""Public functions with wrong arguments: the error names the argument and its value, or the call succeeds."""

from __future__ import annotations

import random
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fuzz.bad_values import BAD, CHANGED
from tests.fuzz.public_calls import Call, calls
from torch import Tensor

import phasegrad as pg

HUGE = ("2**63", "2**64", "inf", "1e308")
# A valid request for work without end.
ENDLESS = {"epochs", "chips", "oversampling", "converters", "batches", "calibration_batches"}
CLEAR = (ValueError, TypeError, OSError, pg.checkpoint.DamagedError, NotImplementedError)
SOURCES = Path(pg.__file__).parent


class Hang(BaseException):
    """A call that took too long."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(call: Call, argument: str, bad: str) -> str:
    """What a call with one wrong argument does: ``ok``, ``clear``, or what is wrong with it."""
    arguments = call.arguments()
    arguments[argument] = CHANGED[bad](arguments[argument]) if bad in CHANGED else BAD[bad]()
    torch.manual_seed(0)
    try:
        with limit(10), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call.run(**arguments)
    except Hang:
        return "hang"
    except Exception as error:
        return _judge(error, argument)
    return "silent nan" if not {"nan", "inf", "huge", "1e308"} & set(bad.split()) and _has_nan(result) else "ok"


def _judge(error: Exception, argument: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = SOURCES in Path(frames[-1].filename).parents
    if isinstance(error, (*CLEAR, IndexError) if own else OSError):
        return "clear"
    ours = next((f for f in reversed(frames) if SOURCES in Path(f.filename).parents), frames[-1])
    return f"{type(error).__name__} at {Path(ours.filename).name}:{ours.lineno}: {str(error)[:100]}"


def _has_nan(result: Any) -> bool:
    return (
        isinstance(result, Tensor) and result.is_floating_point() and not result.is_meta and bool(result.isnan().any())
    )


def _wrong(value: object) -> list[str]:
    """Names of the wrong values for an argument with this valid value."""
    return [*BAD, *CHANGED] if isinstance(value, Tensor) else list(BAD)


def cases(share: float, seed: int) -> list[tuple[Call, str, str]]:
    every = [
        (call, argument, bad)
        for call in calls()
        for arguments in (call.arguments(),)
        for argument in (*arguments, *call.optional)
        for bad in _wrong(arguments.get(argument))
        if not (argument in ENDLESS and bad in HUGE)
    ]
    return [case for case in every if random.Random(f"{seed} {case[0].name} {case[1:]}").random() < share]


def run(share: float, seed: int) -> tuple[int, dict[str, list[str]]]:
    """The number of calls, and the faults with the calls that have them."""
    faults: dict[str, list[str]] = {}
    chosen = cases(share, seed)
    for call, argument, bad in chosen:
        found = verdict(call, argument, bad)
        if found not in ("ok", "clear"):
            faults.setdefault(found, []).append(f"{call.name}({argument}={bad})")
    return len(chosen), faults


@pytest.mark.parametrize("call", calls(), ids=lambda call: call.name)
def test_the_calls_are_valid(call: Call) -> None:
    call.run(**call.arguments())


@pytest.mark.slow
def test_errors_of_public_calls_are_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some wrong paths can be written
    number, faults = run(share=0.25, seed=0)
    unclear = Counter({fault: len(where) for fault, where in faults.items()})
    listed = "\n".join(f"{n} x {fault}, as {faults[fault][0]}" for fault, n in unclear.most_common(30))
    assert not {"hang", "silent nan"} & set(faults), listed
    assert sum(unclear.values()) <= 0.01 * number, f"{sum(unclear.values())} of {number} calls:\n{listed}"
