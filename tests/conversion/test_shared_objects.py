"""Objects that a copy shares with the model stay as they are, and what refers to the model through them is said."""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.nn import AnalogLinear

IDEAL = pg.presets.ideal_inference()


class Shared:
    """An object that is its own copy."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


class SharedModule(nn.Module):
    """A module that is its own copy."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def resize_token_embeddings(self) -> str:
        return "resized"

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedModule:
        return self


HOLDERS: dict[str, Callable[[nn.Module], Any]] = {
    "weak": lambda layer: Shared(ref=weakref.ref(layer)),
    "weak in a list": lambda layer: [Shared(refs=[weakref.ref(layer)])],
    "weak in a tuple": lambda layer: Shared(refs=(weakref.ref(layer), 1)),
    "weak as a key": lambda layer: Shared(refs={weakref.ref(layer): 1}),
    "weak deeper": lambda layer: {"a": Shared(inner=Shared(refs=deque([weakref.ref(layer)])))},
    "method": lambda layer: Shared(call=layer.forward),
    "module": lambda layer: Shared(layer=layer),
}


def referred(value: Any) -> nn.Module:
    """The module that a holder refers to."""
    while not isinstance(value, nn.Module):
        if isinstance(value, Shared):
            value = next(iter(vars(value).values()))
        elif isinstance(value, weakref.ref):
            value = value()
        elif isinstance(value, (list, tuple, deque, dict)):
            value = next(iter(value.values() if isinstance(value, dict) and "a" in value else value))
        else:
            value = value.__self__
    return value


@pytest.mark.parametrize("kind", HOLDERS)
def test_shared_objects_of_the_users_model_are_not_rewritten(kind: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.holder = HOLDERS[kind](model[0])
    with pytest.warns(UserWarning, match=r"convert: holder refers to 0 of the digital model") as found:
        net = pg.convert(model, IDEAL)
    assert len(found) == 1
    assert referred(model.holder) is model[0]
    assert type(model[0]) is nn.Linear
    assert type(net[0]) is AnalogLinear
    pg.to_digital(net)
    assert referred(model.holder) is model[0]
    assert type(net[0]) is AnalogLinear


def test_what_is_copied_is_rewritten_beside_what_is_shared() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.mine, model.shared = [weakref.ref(model[0])], Shared(numbers=[1, 2])
    net = pg.convert(model, IDEAL)
    assert net.mine[0]() is net[0]
    assert net.shared is model.shared


def test_a_shared_module_is_not_converted_in_the_users_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), SharedModule(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"convert: 1.layer cannot be copied: a __deepcopy__"):
        pg.convert(model, IDEAL)
    with pytest.raises(ValueError, match=r"convert: layer cannot be copied"):
        pg.convert(model[1], IDEAL)
    assert type(model[1].layer) is nn.Linear
    net = pg.convert(model, IDEAL, skip=["1"])
    assert net[1] is model[1]
    assert model[1].resize_token_embeddings() == "resized"
    assert torch.allclose(net(torch.ones(1, 4)), model(torch.ones(1, 4)), atol=1e-5)


def test_a_shared_analog_layer_is_not_programmed_in_the_users_net() -> None:
    layer = AnalogLinear(4, 4, hardware=IDEAL)
    net = nn.Sequential(SharedModule(layer))
    for verb in (lambda: pg.inference.program(net, seed=0), lambda: pg.to_digital(net)):
        with pytest.raises(ValueError, match=r"0\.layer cannot be copied"):
            verb()
    assert layer.devices is None


VOCABULARIES: dict[str, Callable[[int], Any]] = {
    "list": lambda n: list(range(n)),
    "tuple": lambda n: tuple(map(str, range(n))),
    "dictionary": lambda n: {str(i): float(i) for i in range(n)},
    "set": lambda n: set(range(n)),
    "deque": lambda n: deque(range(n), maxlen=n),
}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_large_containers_of_numbers_and_strings_are_not_walked(kind: str) -> None:
    def calls(size: int) -> int:
        model, count = nn.Sequential(nn.Linear(2, 2)), 0
        model.vocabulary = VOCABULARIES[kind](size)

        def tally(*_: Any) -> None:
            nonlocal count
            count += 1

        sys.setprofile(tally)
        try:
            net = pg.convert(model, IDEAL)
        finally:
            sys.setprofile(None)
        assert net.vocabulary == model.vocabulary
        assert type(net.vocabulary) is type(model.vocabulary)
        assert (net.vocabulary is model.vocabulary) == (kind == "tuple")
        assert getattr(net.vocabulary, "maxlen", None) == getattr(model.vocabulary, "maxlen", None)
        return count

    calls(10)  # what the first conversion of a process does
    assert calls(10_000) < calls(10) + 1000
