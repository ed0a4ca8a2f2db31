"""A layer is analog wherever the model refers to it: in containers, objects, bound methods and compiled functions."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
import weakref
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange
from phasegrad.nn import AnalogLinear, analog_layers

IDEAL = pg.presets.ideal_inference()
# Deterministic, and so coarse that a digital result differs visibly.
COARSE = replace(IDEAL, dac=Dac(bits=3, range=AbsMaxRange()), adc=Adc(bits=4, range=FullScaleRange()))
MEMORY = pg.presets.soft_bounds_training()


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("layer",)

    def __init__(self, layer: Any) -> None:
        self.layer = layer


@dataclass(frozen=True)
class Frozen:
    """A frozen dataclass."""

    layer: Any


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    """A frozen dataclass without a dictionary."""

    layer: Any


Pair = namedtuple("Pair", "name layer")

CONTAINERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "list": (lambda x: [x], lambda c: c[0]),
    "nested": (lambda x: [{"a": ([x],)}], lambda c: c[0]["a"][0][0]),
    "tuple": (lambda x: (1, x), lambda c: c[1]),
    "dictionary": (lambda x: {"a": x}, lambda c: c["a"]),
    "ordered": (lambda x: OrderedDict(a=x), lambda c: c["a"]),
    "set": (lambda x: {x}, lambda c: next(iter(c))),
    "frozenset": (lambda x: frozenset((x,)), lambda c: next(iter(c))),
    "key": (lambda x: {x: 1}, lambda c: next(iter(c))),
    "deque": (lambda x: deque([x]), lambda c: c[0]),
    "named tuple": (lambda x: Pair("a", x), lambda c: c.layer),
    "namespace": (lambda x: SimpleNamespace(layer=x), lambda c: c.layer),
    "dataclass": (Frozen, lambda c: c.layer),
    "dataclass with slots": (FrozenSlots, lambda c: c.layer),
    "object with slots": (Slotted, lambda c: c.layer),
    "partial": (lambda x: functools.partial(x), lambda c: c.func),
}
REFERENCES: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda layer: layer,
    "forward": lambda layer: layer.forward,
    "call": lambda layer: layer.__call__,
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 6), (3, 6)),
    "convolution": (lambda: nn.Conv1d(6, 6, 3, padding=1), (2, 6, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(6, 6, 1), (2, 6, 5)),
    "cell": (lambda: nn.GRUCell(6, 6), (3, 6)),
    "recurrent": (lambda: nn.LSTM(6, 6, batch_first=True), (3, 2, 6)),
}


class Held(nn.Module):
    """A model that calls its layer through a container."""

    def __init__(
        self, make: Callable[[], nn.Module], container: str, reference: str, layer: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.layer, self.container = layer or make(), container
        self.holder = CONTAINERS[container][0](REFERENCES[reference](self.layer))

    def forward(self, x: Tensor) -> Tensor:
        y = CONTAINERS[self.container][1](self.holder)(x)
        return y[0] if isinstance(y, tuple) else y


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_layer_in_a_container_is_analog_there(container: str, reference: str) -> None:
    kinds = list(LAYERS.values())  # every kind in a list, two in each other container
    number = list(CONTAINERS).index(container)
    for make, shape in kinds if container == "list" else (kinds[0], kinds[1 + number % (len(kinds) - 1)]):
        torch.manual_seed(0)
        model, x = Held(make, container, reference), torch.randn(shape)
        expected = pg.convert(Held(make, "list", "module", model.layer), COARSE)(x)
        net = pg.convert(model, COARSE)
        assert torch.equal(net(x), expected)
        assert not same(model(x), expected)  # the model is unchanged, and the converters are visible
        assert same(pg.convert(model, IDEAL)(x), model(x))
        chip = pg.inference.program(pg.convert(model, IDEAL), seed=0)
        for net in (pg.to_digital(pg.convert(model, COARSE)), chip, copy.deepcopy(chip)):
            assert same(net(x), model(x))
        if reference == "module":
            assert CONTAINERS[container][1](chip.holder) is chip.layer
        assert {row.computed for row in pg.summary(pg.convert(model, COARSE), x).layers} == {"analog"}


@pytest.mark.parametrize("container", CONTAINERS)
def test_layers_in_containers_train_in_the_memory(container: str) -> None:
    net, x = pg.convert(Held(lambda: nn.Linear(6, 6), container, "module"), MEMORY), torch.randn(8, 6)
    before = net.layer.devices.conductance.clone()
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.2)
    net(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, net.layer.devices.conductance)


def test_a_weight_in_the_memory_knows_the_layer_that_is_called() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 6)), MEMORY)
    assert list(net[0].weight.users) == [net[0]]
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.warns(UserWarning, match="weight"):
        net(torch.randn(2, 6))


def test_order_and_identity_in_a_list_are_kept() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.laterals = []
            for i in range(3):
                layer = nn.Linear(4, 4)
                self.add_module(f"lateral{i}", layer)
                self.laterals.append(layer)

    net = pg.convert(Pyramid(), IDEAL, skip=["lateral1"])
    assert [type(layer) for layer in net.laterals] == [AnalogLinear, nn.Linear, AnalogLinear]
    assert all(layer is getattr(net, f"lateral{i}") for i, layer in enumerate(net.laterals))


def test_a_slotted_object_and_a_weak_reference_find_the_analog_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.slotted, model.weak = Slotted(model[0]), weakref.ref(model[0])
    net = pg.convert(model, IDEAL)
    assert net.slotted.layer is net[0] is net.weak()
    assert type(model.weak()) is nn.Linear


def test_attributes_of_the_user_and_hooks_of_the_state_dict_stay_with_the_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].rank, model[0].table = 3, torch.ones(2)
    model[0]._register_state_dict_hook(lambda m, state, prefix, meta: state.update({f"{prefix}extra": torch.ones(1)}))
    net = pg.convert(model, IDEAL)
    assert (net[0].rank, net[0].table.tolist()) == (3, [1.0, 1.0])
    assert "0.extra" in net.state_dict()
    assert pg.to_digital(net)[0].rank == 3


def test_compiled_roots_and_layers_compute_on_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 6)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    expected = pg.convert(model, COARSE)(x)
    inner = copy.deepcopy(model)
    inner[0] = torch.compile(inner[0], backend="eager")
    compiled = copy.deepcopy(model)
    compiled.compile(backend="eager")
    for variant in (torch.compile(model, backend="eager"), inner, compiled, nn.DataParallel(model)):
        net = pg.convert(variant, COARSE)
        assert same(net(x), expected)
        assert len(analog_layers(net)) == 2
        assert {row.computed for row in pg.summary(net, x).layers} == {"analog"}
    after = torch.compile(pg.convert(model, COARSE), backend="eager", fullgraph=True)
    assert same(after.eval()(x), expected)
    assert pg.conversion.bypasses(after, x) == {}


def test_calibration_sees_the_inputs_of_compiled_layers() -> None:
    model, data = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), [torch.randn(9, 6), torch.randn(9, 6)]
    expected = pg.hwa.calibrate(pg.convert(model, pg.presets.pcm_inference()), data, recipe=None)[0].input_range
    model[0] = torch.compile(model[0], backend="eager", fullgraph=True)
    net = pg.convert(model, pg.presets.pcm_inference())
    net(data[0])
    pg.hwa.calibrate(net, data, recipe=None)
    assert torch.equal(net[0]._orig_mod.input_range, expected)


def _with_closure() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    layer = model[0]
    model.use = lambda x: layer(x)
    return model


def _with_default() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model.use = lambda x, layer=model[0]: layer(x)
    return model


def _with_container() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    layers = {"first": [model[0].forward]}
    model.uses = [lambda x: layers["first"][0](x)]
    return model


def _with_compiled_method() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model.use = torch.compile(model[0].forward, backend="eager")
    return model


def _with_class() -> nn.Module:
    layer = nn.Linear(6, 6)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return layer(x)

    return Model()


CLOSURES = (_with_closure, _with_default, _with_container, _with_compiled_method, _with_class)


@pytest.mark.parametrize("make", CLOSURES)
def test_functions_that_refer_to_the_digital_model_are_named_in_one_warning(make: Callable[[], nn.Module]) -> None:
    model = make()
    with pytest.warns(UserWarning, match=r"convert: .*refers to (0|layer) of the digital model") as said:
        pg.convert(model, IDEAL)
    assert len(said) == 1
    assert said[0].filename == __file__


def test_a_call_of_the_digital_original_is_a_bypass(tmp_path: Path) -> None:
    model, x = _with_class(), torch.randn(3, 6)
    with pytest.warns(UserWarning, match="refers to layer"):
        net = pg.convert(model, IDEAL)
    for converted in (net, pg.inference.program(net, seed=0)):
        found = pg.summary(converted, x)
        assert found.layers[0].computed == "digital"
        assert "of the digital model from which the net was converted" in found.bypasses["layer.weight"]


@pytest.fixture
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_ordinary_functions_of_a_model_are_not_named(silent: None) -> None:
    class Model(nn.Module):
        def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.layer, self.act, scale = nn.Linear(6, 6), act, 2.0
            self.scaled = lambda x: scale * x

        def forward(self, x: Tensor) -> Tensor:
            return self.scaled(self.act(self.layer(x)))

    net = pg.convert(Model(torch.relu), IDEAL)
    net(torch.randn(2, 6))


def test_a_net_with_layers_in_containers_can_be_pickled() -> None:
    net, x = pg.convert(Held(lambda: nn.Linear(6, 6), "nested", "module"), COARSE), torch.randn(3, 6)
    again = pickle.loads(pickle.dumps(net))
    assert again.holder[0]["a"][0][0] is again.layer
    assert torch.equal(again(x), net(x))
