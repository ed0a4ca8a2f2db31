"""Layers that no data calibrated are named once; the fact that a layer is calibrated survives what nets go through."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Adc, CalibratedRange, Dac, FixedRange, LearnedRange
from phasegrad.hwa import calibrate, fine_tune
from phasegrad.nn import UncalibratedWarning, analog_layers

PCM = pg.presets.pcm_inference()
CALIBRATED_ADC = replace(PCM, dac=Dac(range=FixedRange(value=3.0)), adc=Adc(range=CalibratedRange()))
BOTH = replace(PCM, adc=Adc(range=CalibratedRange()))
WITHOUT = {
    "ideal": pg.presets.ideal_inference(),
    "fixed ranges": replace(PCM, dac=Dac(range=FixedRange(value=3.0))),
    "no dac": replace(PCM, dac=None),
}
X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("error::phasegrad.nn.UncalibratedWarning")


def said(call: Callable[[], Any]) -> list[str]:
    """The warnings of a call, each at this line of the user's code."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    assert all(w.category is UncalibratedWarning and w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


class Heads(nn.Module):
    """A body, a head, and an auxiliary head that is used in training, by ``forward`` or not at all."""

    def __init__(self, use: str = "training") -> None:
        super().__init__()
        self.use, self.body, self.head, self.aux = use, nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.body(x))
        if self.use == "forward":
            return self.head.forward(h), self.aux.forward(h)
        return (self.head(h), self.aux(h)) if self.training and self.use == "training" else self.head(h)


class Experts(nn.Module):
    """Three experts, of which the last gets no row at all, and the second none of the first batch."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(make() for _ in range(3))

    def forward(self, batch: tuple[Tensor, int]) -> None:
        x, second = batch
        rows = [x[second:], x[:second], x[:0]]
        for expert, part in zip(self.experts, rows, strict=True):
            expert(part)


@pytest.mark.parametrize("hardware", [PCM, CALIBRATED_ADC, BOTH], ids=["dac", "adc", "both"])
@pytest.mark.parametrize("use", ["training", "never"])
def test_a_head_that_calibration_never_ran_is_named_once(use: str, hardware: pg.Hardware) -> None:
    net = pg.convert(Heads(use), hardware)
    (message,) = said(lambda: calibrate(net, [X, X], recipe=None))
    assert message.startswith("calibrate: aux received no input in any batch")
    for call in (lambda: pg.inference.program(net, seed=0), lambda: report(net)):
        (message,) = said(call)
        assert "aux was never calibrated" in message
        assert "pg.hwa.calibrate(net, loader)" in message


def test_calls_of_forward_itself_are_calibrated_as_others() -> None:
    nets = [pg.convert(Heads(), PCM), pg.convert(Heads("forward"), PCM)]
    nets[1].load_state_dict(nets[0].state_dict())
    calibrate(nets[0], [X], recipe=None, forward=lambda net, x: net.train()(x))
    calibrate(nets[1], [X], recipe=None)
    torch.manual_seed(0)
    assert nets[1].aux.ranges_calibrated is True
    assert nets[1].aux.input_range.item() == pytest.approx(nets[0].aux.input_range.item(), rel=0.05)
    assert not any("forward" in vars(m) for m in nets[1].modules())


def test_a_forward_that_the_user_set_is_kept() -> None:
    net = pg.convert(Heads("forward"), PCM)
    own = net.head.forward = lambda x: type(net.head).forward(net.head, x)
    calibrate(net, [X], recipe=None)
    assert vars(net.head)["forward"] is own
    assert net.head.ranges_calibrated


def test_another_call_reaches_the_head_and_leaves_the_others() -> None:
    net = pg.convert(Heads(), PCM)
    with pytest.warns(UncalibratedWarning):
        calibrate(net, [X], recipe=None)
    head = net.head.input_range.item()
    assert said(lambda: calibrate(net, [X], recipe=None, forward=lambda n, x: n.aux(torch.relu(n.body(x))))) == []
    assert net.head.input_range.item() == head
    assert said(lambda: pg.inference.program(net, seed=0)) == []


def test_ranges_set_by_hand_are_not_doubted() -> None:
    net = pg.convert(Heads(), PCM)
    for layer in analog_layers(net).values():
        layer.input_range.data.fill_(5.0)
    assert said(lambda: pg.inference.program(net, seed=0)) == []
    assert said(lambda: calibrate(net, [X], recipe=None)) == []
    assert net.aux.input_range.item() == 5.0


@pytest.mark.parametrize("hardware", WITHOUT.values(), ids=WITHOUT)
def test_hardware_without_ranges_to_find_says_nothing(hardware: pg.Hardware) -> None:
    net = pg.convert(Heads(), hardware)
    assert said(lambda: pg.inference.program(net, seed=0)) == []
    assert said(lambda: calibrate(net, [X], recipe=None)) == []


def test_a_range_that_calibration_leaves_at_its_start_value_is_calibrated() -> None:
    net = pg.convert(nn.Linear(8, 2), PCM)
    calibrate(net, [torch.full((4, 8), 3.0)], recipe=None)
    assert net.input_range.item() == 3.0
    assert said(lambda: pg.inference.program(net, seed=0)) == []


@pytest.mark.parametrize("hardware", [PCM, CALIBRATED_ADC, BOTH], ids=["dac", "adc", "both"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(8, 4), (8,)),
        (lambda: nn.Conv1d(8, 4, 3), (8, 5)),
        (lambda: nn.Conv2d(8, 4, 3, padding=1), (8, 5, 5)),
        (lambda: nn.ConvTranspose1d(8, 4, 3), (8, 5)),
        (lambda: nn.LSTM(8, 4, batch_first=True, bidirectional=True), (5, 8)),
        (lambda: nn.GRUCell(8, 4), (8,)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), (5, 8)),
    ],
    ids=["linear", "conv1d", "conv2d", "transposed", "lstm", "gru cell", "transformer"],
)
def test_an_expert_without_tokens_is_calibrated_by_the_batches_that_have_some(
    make: Callable[[], nn.Module], shape: tuple[int, ...], hardware: pg.Hardware
) -> None:
    net = pg.convert(Experts(make), hardware)
    x = torch.randn(6, *shape)
    messages = said(lambda: calibrate(net, [((x, 0),), ((x, 4),)], recipe=None))
    cells = isinstance(make(), nn.GRUCell)  # its hidden state is 0 without one that is passed
    assert len(messages) == 1
    named = messages[0].split("received no input")[0]
    assert "experts.2" in named
    assert "experts.1" not in named
    assert "experts.0" not in named
    assert ("only zeros" in messages[0]) is cells


def test_an_embedding_without_tokens_is_calibrated() -> None:
    layer = pg.nn.AnalogEmbedding(8, 4, hardware=PCM)
    net = nn.Sequential(layer, pg.nn.AnalogLinear(4, 2, hardware=PCM))
    tokens = torch.arange(8)
    calibrate(net, [tokens[:0], tokens], recipe=None)
    assert net[1].ranges_calibrated
    (message,) = said(lambda: calibrate(nn.Sequential(layer, pg.nn.AnalogLinear(4, 2, hardware=PCM)), [tokens[:0]]))
    assert message.startswith("calibrate: 1 received no input")


def report(net: nn.Module) -> Any:
    return pg.inference.accuracy_over_time(net, lambda chip: 1.0, (1.0, 60.0), chips=3, progress=False)


def saved_whole(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def loaded(net: nn.Module, model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    fresh = pg.convert(model, PCM)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


VERBS: dict[str, Callable[[nn.Module, nn.Module], nn.Module]] = {
    "copied": lambda net, _: copy.deepcopy(net),
    "pickled": lambda net, _: pickle.loads(pickle.dumps(net)),
    "saved whole": lambda net, _: saved_whole(net),
    "loaded": loaded,
    "float weights loaded": lambda net, model: (net.load_state_dict(model.state_dict()), net)[1],
}


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("verb", VERBS)
def test_whether_a_layer_is_calibrated_survives(verb: str, calibrated: bool) -> None:
    model = nn.Linear(8, 8)
    net = pg.convert(model, PCM)
    if calibrated:
        calibrate(net, [torch.full((4, 8), 3.0)], recipe=None)  # the value alone does not tell
    net = VERBS[verb](net, model)
    assert net.ranges_calibrated is calibrated
    assert len(said(lambda: pg.inference.program(net, seed=0))) == (not calibrated)


def test_chips_and_their_checkpoints_keep_it(tmp_path: Any) -> None:
    model = nn.Linear(8, 8)
    chip = pg.inference.program(calibrate(pg.convert(model, PCM), [X], recipe=None), seed=0)
    chip = pg.inference.compensate(pg.inference.age(chip, seconds=60.0), seed=0)
    folder = pg.checkpoint.Folder(tmp_path)
    folder.save(1, net=chip)
    fresh = pg.convert(model, PCM)
    folder.resume(net=fresh)
    assert fresh.ranges_calibrated is chip.ranges_calibrated is True


def test_a_state_dict_that_does_not_tell_is_not_doubted() -> None:
    net, other = pg.convert(nn.Linear(8, 8), PCM), pg.convert(nn.Linear(8, 8), PCM)
    state = dict(net.state_dict())
    text = bytes(state["configuration"].tolist()).decode().replace(', "ranges_calibrated": false', "")
    assert "ranges_calibrated" not in text  # as in release 0.1.0
    state["configuration"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    other.load_state_dict(dict(state))
    assert other.ranges_calibrated is None
    assert said(lambda: pg.inference.program(other, seed=0)) == []
    del state["configuration"]
    net.load_state_dict(state)
    assert net.ranges_calibrated is None


def test_a_failed_calibration_leaves_a_layer_uncalibrated() -> None:
    net = pg.convert(nn.Linear(8, 8), PCM)
    with pytest.raises(ValueError, match="not finite"):
        calibrate(net, [X, torch.full((4, 8), torch.nan)], recipe=None)
    assert net.ranges_calibrated is False
    assert "forward" not in vars(net)


def test_fine_tune_says_it_once() -> None:
    net = pg.convert(Heads(), PCM)
    data = [(X, torch.arange(32) % 2)]
    forward = lambda n, b: (n(b[0])[0] if n.training else n(b[0]), b[1])  # noqa: E731
    (message,) = said(lambda: fine_tune(net, data, epochs=2, forward=forward, progress=False))
    assert "aux received no input" in message


def test_accuracy_over_time_says_it_once_for_all_chips() -> None:
    (message,) = said(lambda: report(pg.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), PCM)))
    assert message.startswith("accuracy_over_time: 0, 1 were never calibrated")


def test_dictionaries_are_passed_as_keywords() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    class Whole(Named):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
            return self.layer(batch["x"])

    ranges = []
    for model in (Named(), Whole()):
        net = calibrate(pg.convert(model, PCM), [{"x": X}], recipe=None)
        ranges.append(net.layer.input_range.item())
    calibrate(pg.convert(Named(), PCM), [{"x": X, "labels": X}], recipe=None)
    assert ranges[0] == ranges[1] != 3.0


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 4), lambda: nn.Conv1d(8, 4, 3), lambda: nn.GRU(8, 4)])
@pytest.mark.parametrize("preset", ["soft_bounds_training", "pcm_pair_training", "tiki_taka_training"])
def test_ranges_of_layers_that_are_trained_in_the_memory_are_calibrated(preset: str, make: Any) -> None:
    hardware = getattr(pg.presets, preset)()
    hardware = replace(hardware, dac=Dac(range=LearnedRange()), adc=Adc(range=CalibratedRange()))
    net, x = pg.convert(make(), hardware), torch.rand(9, 8, 5) if make().__class__ is nn.Conv1d else torch.rand(9, 8)
    layers = analog_layers(net)
    devices = {name: layer.devices.conductance.clone() for name, layer in layers.items()}
    assert said(lambda: calibrate(net, [x], recipe=None)) == []
    first = next(iter(layers.values()))
    assert first.input_range.item() == pytest.approx(min(3.0 * x.square().mean().sqrt(), x.max()).item(), rel=1e-5)
    for name, layer in layers.items():
        assert layer.ranges_calibrated
        assert 0.0 < layer.output_range.item() != 10.0
        assert torch.equal(layer.devices.conductance, devices[name])
    with pytest.raises(ValueError, match=r"fine_tune: .* is trained in the memory, by the pulses of an optimizer"):
        fine_tune(net, [(x, x)])


def test_start_values_that_the_user_confirms_are_not_doubted() -> None:
    net = pg.convert(nn.Linear(8, 2), PCM)
    (message,) = said(lambda: pg.inference.program(net, seed=0))
    assert "ranges_calibrated = True where the start values are right" in message
    net.ranges_calibrated = True
    assert said(lambda: pg.inference.program(net, seed=0)) == []
