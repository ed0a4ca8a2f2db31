"""Lazy layers of torch become analog in their first forward pass, which already computes on tiles."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.conversion import left_digital
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FullScaleRange, LearnedRange
from phasegrad.nn import AnalogLayer, AnalogLinear

IDEAL = pg.presets.ideal_inference()
COARSE = replace(IDEAL, dac=Dac(bits=3, range=AbsMaxRange()), adc=Adc(bits=4, range=FullScaleRange()))
LEARNED = replace(IDEAL, dac=Dac(range=LearnedRange(start=0.5)), adc=Adc(range=LearnedRange(start=0.5)))
LAZY = {
    "linear": (lambda: nn.LazyLinear(3), (2, 5)),
    "conv1d": (lambda: nn.LazyConv1d(3, 2), (2, 4, 5)),
    "conv2d": (lambda: nn.LazyConv2d(3, 2), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.LazyConv3d(3, 2), (2, 4, 3, 3, 3)),
    "transposed1d": (lambda: nn.LazyConvTranspose1d(3, 2), (2, 4, 5)),
    "transposed2d": (lambda: nn.LazyConvTranspose2d(3, 2), (2, 4, 5, 5)),
    "transposed3d": (lambda: nn.LazyConvTranspose3d(3, 2), (2, 4, 3, 3, 3)),
}


@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("root", [False, True])
def test_a_lazy_layer_becomes_analog_in_its_first_pass(kind: str, copied: bool, root: bool) -> None:
    make, shape = LAZY[kind]
    model = make() if root else nn.Sequential(make())
    net, x = pg.convert(model, COARSE), torch.randn(shape)
    net = pickle.loads(pickle.dumps(copy.deepcopy(net))) if copied else net
    name = "" if root else "0"
    assert "run the model once: it is converted then" in left_digital(net)[name]
    first = net(x)
    layer = net if root else net[0]
    assert isinstance(layer, AnalogLayer)
    assert left_digital(net) == {}
    assert torch.equal(net(x), first)
    assert not torch.allclose(layer.to_digital()(x), first, rtol=1e-3, atol=1e-3)  # the converters are visible
    assert torch.allclose(pg.convert(layer.to_digital(), IDEAL)(x), layer.to_digital()(x), rtol=1e-4, atol=1e-4)
    pg.inference.program(net, seed=0)


def test_a_lazy_layer_is_trained_by_the_optimizer_that_was_made_before() -> None:
    net, x = pg.convert(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), IDEAL), torch.randn(4, 5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).sum().backward()
    before = net[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, net[0].weight)


@pytest.mark.parametrize("verb", ["program", "calibrate", "fine_tune"])
def test_verbs_ask_for_a_first_pass(verb: str) -> None:
    net = pg.convert(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), pg.presets.pcm_inference())
    data = [(torch.randn(4, 5), torch.zeros(4, dtype=torch.int64))]
    calls = {
        "program": lambda: pg.inference.program(net, seed=0),
        "calibrate": lambda: pg.hwa.calibrate(net, data),
        "fine_tune": lambda: pg.hwa.fine_tune(net, data, loss=nn.functional.cross_entropy, epochs=1),
    }
    with pytest.raises(ValueError, match=rf"{verb}: the shape of 0 \(LazyLinear\) is not known.*run the net once"):
        calls[verb]()
    net(data[0][0])
    calls[verb]()


def test_a_checkpoint_asks_for_a_first_pass_too() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    net, lazy = pg.convert(model, IDEAL), pg.convert(model, IDEAL)
    net(torch.randn(4, 5))
    with pytest.raises(ValueError, match="load_state_dict: the shape of 0"):
        lazy.load_state_dict(net.state_dict())


def test_only_and_skip_apply_to_lazy_layers_and_to_digital_undoes_the_plan() -> None:
    model, x = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3), nn.LazyLinear(2)), torch.randn(4, 5)
    net = pg.convert(model, IDEAL, skip=["2"])
    back = pg.to_digital(net)
    back(x), net(x)
    assert [type(m) for m in net] == [AnalogLinear, AnalogLinear, nn.Linear]
    assert left_digital(net) == {"2": "named in skip"}
    assert [type(m) for m in back] == [nn.Linear] * 3


def test_a_lazy_layer_is_not_trained_in_memory_before_its_first_pass() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"the shape of 1 is not known.*run the model once first"):
        pg.convert(model, pg.presets.soft_bounds_training())
    model(torch.randn(2, 5))
    assert type(pg.convert(model, pg.presets.soft_bounds_training())[1]) is AnalogLinear


@pytest.mark.parametrize("kind", ["linear", "conv2d", "transposed1d"])
def test_learned_ranges_are_trained_by_an_optimizer_that_was_made_before_the_first_pass(kind: str) -> None:
    make, shape = LAZY[kind]
    net, x = pg.convert(nn.Sequential(make()), LEARNED), torch.randn(shape)
    before = dict(net.named_parameters())
    assert before.keys() == {"0.weight", "0.bias", "0.input_range", "0.output_range"}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).sum().backward()
    optimizer.step()
    after = dict(net.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert net[0].input_range.item() != 0.5
    eager = nn.Sequential(make())
    eager(x)
    eager.load_state_dict(net[0].to_digital().state_dict(prefix="0."))
    again = pg.convert(eager, LEARNED)
    assert again.state_dict().keys() == net.state_dict().keys()


def test_ranges_of_a_lazy_layer_go_where_its_parameters_go() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.LazyLinear(3))
    net = pg.convert(pg.convert(model, LEARNED, only=["0"]), LEARNED, only=["1"])
    twice = pg.convert(net, {"1": replace(LEARNED, adc=None)})
    copied = copy.deepcopy(twice).double()
    assert {n for n, _ in copied.named_parameters()} >= {"1.weight", "1.input_range"}
    assert copied[1].input_range.dtype == torch.float64
    assert "1.output_range" not in copied.state_dict()
    copied(torch.randn(2, 5, dtype=torch.float64))
    assert copied[1].hardware.adc is None
    assert [n for n, _ in pg.to_digital(net).named_parameters()] == [n for n, _ in model.named_parameters()]
    frozen = nn.LazyLinear(3)
    frozen.weight.requires_grad = frozen.bias.requires_grad = False
    assert not pg.convert(nn.Sequential(frozen), LEARNED)[0].input_range.requires_grad


def test_a_float_checkpoint_initialises_a_lazy_layer_and_leaves_its_ranges() -> None:
    model, x = nn.Sequential(nn.LazyLinear(3)), torch.randn(4, 5)
    net = pg.convert(model, LEARNED)
    model(x)
    net.load_state_dict(model.state_dict())
    parameter = net[0].input_range
    net(x)
    assert net[0].input_range is parameter
    assert torch.equal(net[0].weight, model[0].weight)
    state = net.state_dict()
    del state["0.input_range"]  # an analog layer misses its own
    with pytest.raises(RuntimeError, match="input_range"):
        net.load_state_dict(state)
