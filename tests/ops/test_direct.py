"""Calls that bypass the dispatcher return its results; calls that something intercepts go through it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import phasegrad as pg
from phasegrad.ops import direct

pytestmark = [
    pytest.mark.skipif(not direct.KERNELS, reason="the reference runs only through the dispatcher"),
    pytest.mark.skipif(not direct._wants_bypass(), reason="PHASEGRAD_DISPATCH=always turns the bypass off"),
]


class Noting(TorchDispatchMode):
    """Records the ops that the dispatcher sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    """A subclass without custom behaviour."""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were called without the dispatcher."""
    names: list[str] = []

    def noted(name: str, run: Callable[..., object]) -> Callable[..., object]:
        def kernel(*arguments: object) -> object:
            names.append(name)
            return run(*arguments)

        return kernel

    monkeypatch.setattr(direct, "KERNELS", {name: noted(name, run) for name, run in direct.KERNELS.items()})
    return names


def step(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    y = layer(x)
    return (y, *torch.autograd.grad(y.square().sum(), (x, layer.weight, layer.input_range)))


def trained_layer() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = pg.convert(nn.Linear(40, 24), pg.presets.pcm_inference())
    pg.hwa.Recipe().apply(layer)
    return layer, torch.randn(7, 40, requires_grad=True)


def test_a_step_bypasses_the_dispatcher_with_equal_results(runs: list[str]) -> None:
    layer, x = trained_layer()
    runs.clear()  # the recipe looks at the share of weights that it clips
    past = step(layer, x)
    # tile_linear does not keep the inputs that it converts: the backward pass converts them again.
    assert runs == ["weight_scale", "tile_linear", "dac", "tile_linear_backward", "dac_backward"]
    with Noting() as noting:
        dispatched = step(layer, x)
    assert "phasegrad::tile_linear" in noting.seen
    assert len(runs) == 5
    for a, b in zip(past, dispatched, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "around",
    [Noting, lambda: torch.device("cpu"), lambda: torch.autocast("cpu", dtype=torch.bfloat16), nullcontext],
    ids=["a dispatch mode", "a function mode", "autocast", "nothing"],
)
def test_modes_are_seen(around: Callable[[], AbstractContextManager[object]], runs: list[str]) -> None:
    with around():
        direct.call("dac", torch.randn(3, 4), torch.ones(1), 127.0, 0.0, 1.0)
    assert runs == (["dac"] if around is nullcontext else [])


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.as_subclass(Marked),
        lambda x: x.to_sparse(),
        lambda x: x._neg_view(),
        lambda x: x.to("meta"),
    ],
    ids=["a subclass", "sparse", "negated on reading", "another device"],
)
def test_tensors_that_are_not_plain_are_seen(make: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 4)
    assert direct._plain([x, nn.Parameter(x), [x, x], 1.0, None], direct._PLAIN_KEYS)
    assert not direct._plain([x, make(x)], direct._PLAIN_KEYS)
    assert not direct._plain([x, [x, make(x)]], direct._PLAIN_KEYS)


def test_transforms_are_seen(runs: list[str]) -> None:
    def loss(x: Tensor) -> Tensor:
        return direct.call("dac", x, torch.ones(1), 127.0, 0.0, 1.0).sum()

    x = torch.tensor([0.5, 2.0])
    assert torch.equal(torch.func.vmap(lambda row: direct.call("dac", row, torch.ones(1), 127.0, 0.0, 1.0))(x[None]),
                       direct.call("dac", x[None], torch.ones(1), 127.0, 0.0, 1.0))  # fmt: skip
    assert runs == ["dac"]
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.equal(leaf.grad, torch.tensor([1.0, 0.0]))


def test_no_zeros_are_made_for_results_without_a_gradient() -> None:
    layer, x = trained_layer()
    y = layer(x).sum()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        y.backward()
    filled = [e.input_shapes[0] for e in profile.events() if e.name in ("aten::fill_", "aten::zero_")]
    assert [24, 40] not in filled


def test_torch_is_trusted_here() -> None:
    assert direct.mistrusted() is None
    assert direct._BYPASS


class Same:
    """Dispatch keys that do not tell tensors apart."""

    def raw_repr(self) -> int:
        return 1


WRONG = {
    "_dispatch_keys": (lambda tensor: Same(), "a negated tensor has the dispatch keys"),
    "_len_torch_dispatch_stack": (lambda: 0, "a TorchDispatchMode is not reported"),
    "_len_torch_function_stack": (lambda: 0, "a BaseTorchFunctionMode is not reported"),
    "_get_tracing_state": (lambda: "a state", "a tracer is reported where there is none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_private_function_that_behaves_otherwise_turns_the_bypass_off(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, reason = WRONG[name]
    monkeypatch.setattr(torch._C, name, wrong)
    with caplog.at_level(logging.WARNING, logger="phasegrad"):
        assert not direct._trusted()
    assert len(caplog.records) == 1
    assert reason in caplog.text


@pytest.mark.parametrize("name", WRONG)
def test_a_private_function_that_is_gone_turns_the_bypass_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, name)
    assert "AttributeError" in str(direct.mistrusted())


@pytest.mark.parametrize("level", [None, lambda: None])
def test_transforms_that_cannot_be_seen_turn_the_bypass_off(level: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_transform_level", level)
    assert direct.mistrusted() is not None


def test_without_the_bypass_every_call_is_dispatched(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = trained_layer()
    past = step(layer, x)
    runs.clear()
    monkeypatch.setattr(direct, "_BYPASS", False)
    for a, b in zip(past, step(layer, x), strict=True):
        assert torch.equal(a, b)
    assert runs == []


def test_an_autograd_key_that_is_not_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)
    with pytest.raises(ImportError, match="records gradients below its Autograd key"):
        direct._check_below_autograd()


def test_the_environment_turns_the_bypass_off(monkeypatch: pytest.MonkeyPatch) -> None:
    show = "from phasegrad.ops import direct; print(direct._TRUSTED, direct._BYPASS)"
    found = subprocess.run(
        [sys.executable, "-c", show],
        env={**os.environ, "PHASEGRAD_DISPATCH": "always"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["True", "False"]
    monkeypatch.setenv("PHASEGRAD_DISPATCH", "never")
    with pytest.raises(ImportError, match="PHASEGRAD_DISPATCH = 'never'; it can be 'always'"):
        direct._wants_bypass()
