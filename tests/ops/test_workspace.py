"""A weight that trains keeps the memory of its last read, unless that read is still referenced."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.ops import workspace
from phasegrad.ops.native import library


def address(weight: Tensor) -> int:
    return workspace.for_read(weight).data_ptr()


def test_memory_is_reused_once_nothing_references_it() -> None:
    weight = nn.Parameter(torch.randn(5, 7))
    first = workspace.for_read(weight)
    assert first.shape == weight.shape
    held = first.data_ptr()
    view = first[1:]
    del first
    assert address(weight) != held
    del view
    assert address(weight) == held


def test_weights_and_shapes_do_not_share() -> None:
    a, b = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(5, 7))
    assert address(a) == address(a)
    assert address(a) != address(b)
    a.data = torch.randn(3, 2)
    assert workspace.for_read(a).shape == a.shape


def test_memory_is_freed_with_the_weight() -> None:
    weight = nn.Parameter(torch.randn(5, 7))
    address(weight)
    kept = weakref.ref(workspace._kept[weight])
    del weight
    gc.collect()
    assert kept() is None


def test_a_tensor_that_is_not_a_parameter_keeps_no_memory() -> None:
    weight = torch.randn(5, 7)
    workspace.for_read(weight)
    assert weight not in workspace._kept


def layer_and_input() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = pg.convert(nn.Linear(20, 20), pg.presets.pcm_inference())
    pg.hwa.Recipe().apply(layer)
    return layer, torch.randn(4, 20, requires_grad=True)


@pytest.mark.skipif(library is None, reason="the reference allocates")
def test_training_keeps_and_evaluation_does_not() -> None:
    layer, x = layer_and_input()
    layer.eval()(x)
    assert layer.weight not in workspace._kept
    layer.train()(x)
    assert layer.weight in workspace._kept


def test_a_graph_that_is_kept_gives_its_gradient_again() -> None:
    layer, x = layer_and_input()
    y = layer(x).sum()
    first = torch.autograd.grad(y, (x, layer.weight), retain_graph=True)
    layer(x).sum().backward()  # another read of the same weight, in between
    for a, b in zip(first, torch.autograd.grad(y, (x, layer.weight)), strict=True):
        assert torch.equal(a, b)


def test_scratch_is_kept_grows_and_outlives_inference_mode() -> None:
    with torch.inference_mode():
        small = workspace.scratch("a test", torch.int8, 2, 3)
    assert workspace.scratch("a test", torch.int8, 3, 2).data_ptr() == small.data_ptr()
    large = workspace.scratch("a test", torch.int8, 40)
    assert large.fill_(1).sum() == 40
    assert workspace.scratch("a test", torch.int8, 4).data_ptr() == large.data_ptr()


def test_scratch_that_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "MOST_KEPT", 100)
    monkeypatch.setattr(workspace, "_scratch", threading.local())
    kept = workspace._scratch.__dict__
    for name in "abc":
        workspace.scratch(name, torch.int8, 30)
    workspace.scratch("a", torch.int8, 20)
    assert list(kept) == ["b", "c", "a"]
    assert len(workspace.scratch("large", torch.int8, 101)) == 101  # for one call, and nothing is freed for it
    assert list(kept) == ["b", "c", "a"]
    workspace.scratch("d", torch.int8, 30)  # b, which was not used for the longest time, goes
    assert list(kept) == ["c", "a", "d"]
    workspace.scratch("c", torch.int8, 60)  # and a buffer that grows does not count twice
    assert list(kept) == ["d", "c"]
    assert workspace.scratch_bytes("d", 30) is kept["d"]  # without a view
    assert list(kept) == ["c", "d"]
    assert len(workspace.scratch_bytes("d", 40)) == len(kept["d"]) == 40
    assert len(workspace.scratch_bytes("e", 101)) == 101
    assert "e" not in kept
    assert sum(b.nbytes for b in kept.values()) <= 100


def test_a_wide_layer_leaves_little_memory_behind() -> None:
    torch.manual_seed(0)
    layer = pg.convert(nn.Linear(64, 20_000), pg.presets.pcm_inference())
    layer(torch.randn(512, 64)).sum().backward()
    del layer
    kept = getattr(workspace._scratch, "__dict__", {})
    assert sum(b.nbytes for b in kept.values()) <= workspace.MOST_KEPT


def gone(storage: int) -> int:
    raise AttributeError("no such function")


@pytest.mark.parametrize("count", [lambda storage: 1, gone])
def test_storages_that_cannot_be_counted_are_not_used_again(
    count: Callable[[int], int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch._C, "_storage_Use_Count", count)
    with caplog.at_level(logging.WARNING, logger="phasegrad"):
        assert workspace._free() is None
    assert len(caplog.records) == 1
    assert "allocates" in caplog.text
    monkeypatch.setattr(workspace, "_FREE", None)
    weight = nn.Parameter(torch.randn(5, 7))
    assert workspace.for_read(weight).shape == weight.shape
    assert weight not in workspace._kept
