"""Copies of nets on which results, files, locks and hooks hang."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections import OrderedDict, deque
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.nn.copying import copy_net


@dataclasses.dataclass
class Recorder:
    """What a hook keeps."""

    file: Any
    output: Tensor | None = None
    owner: Any = None

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.output = output


class Kept(nn.Module):
    """Keeps results of its forward pass, in every way that users do."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 4), nn.LSTM(8, 8)
        self.lock, self.maps, self.history, self.options = threading.Lock(), {}, deque(maxlen=2), OrderedDict(x=[1])
        self.recorder = Recorder(file, owner=self)
        self.handle = self.a.register_forward_hook(self.recorder.hook)
        self.b.register_forward_hook(lambda *_: None)
        self.b.register_forward_hook(partial(Recorder.hook, self.recorder))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.features = torch.relu(self.a(x))
        self.maps["features"] = [self.features, (self.features,)]
        self.history.append(self.features)
        self.seen = self.seen + self.features.sum()  # a buffer with a graph
        return self.b(self.c(self.features)[0])


X, Y = torch.randn(16, 8), torch.randint(4, (16,))
VERBS = {
    "convert": lambda model, net: pg.convert(model, pg.presets.pcm_inference()),
    "program": lambda model, net: pg.inference.program(net, seed=0),
    "to_digital": lambda model, net: pg.to_digital(net),
    "noiseless": lambda model, net: pg.inference.noiseless(net),
    "age": lambda model, net: pg.inference.age(_used(pg.inference.program(net, seed=0)), seconds=1.0),
    "compensate": lambda model, net: pg.inference.compensate(_used(pg.inference.program(net, seed=0)), seed=0),
    "of a chip": lambda model, net: pg.to_digital(_used(pg.inference.program(net, seed=0))),
    "over time": lambda model, net: pg.inference.accuracy_over_time(
        net, lambda chip: float(_used(chip)(X).detach().sum()), (1.0, 2.0), chips=1, progress=False
    ),
}


def _used(net: nn.Module) -> nn.Module:
    net(X)
    return net


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_copy_nets_with_results(verb: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        model = _used(Kept(file))
        net = _used(pg.convert(model, pg.presets.pcm_inference()))
        VERBS[verb](model, net)
        assert net.features.grad_fn is not None  # the original is as it was
        assert not file.closed


def test_results_are_detached_and_the_rest_is_as_deepcopy_would_have_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        net = Kept(file)
        net.requires_grad_(False)
        plain = copy_net(nn.Sequential(net.b, net.b, nn.LSTM(3, 3)))
        assert plain[0] is plain[1]
        assert plain[0] is not net.b
        net.requires_grad_(True)
        copied = copy_net(_used(net))
        for tensor in (copied.features, copied.maps["features"][0], copied.history[-1], copied.seen):
            assert tensor.grad_fn is None
        assert copied.features is copied.maps["features"][1][0] is copied.history[-1]
        assert torch.equal(copied.features, net.features)
        assert copied.features.data_ptr() != net.features.data_ptr()
        assert copied.history.maxlen == 2
        assert copied.lock is net.lock
        assert copied.recorder.file is file
        assert copied.recorder is not net.recorder
        assert copied.recorder.owner is copied
        assert type(copied.options) is OrderedDict
        assert copied.options["x"] is not net.options["x"]


def test_a_copied_hook_is_bound_to_the_copy(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        net = _used(Kept(file))
        copied, before = copy_net(net), net.recorder.output
        copied(X)
        assert net.recorder.output is before
        assert copied.recorder.output is not None
        assert copied.recorder.output.grad_fn is not None
        copied.handle.remove()
        assert not copied.a._forward_hooks
        assert next(reversed(copied.b._forward_hooks.values())).args[0] is copied.recorder
        assert net.a._forward_hooks


def test_an_object_with_a_finalizer_is_shared() -> None:
    class Writer:
        def __init__(self) -> None:
            self.lock, self.closed = threading.Lock(), False

        def __del__(self) -> None:
            self.closed = True

    net = nn.Linear(2, 2)
    net.writer = Writer()
    copied = copy_net(net)
    assert copied.writer is net.writer
    del copied
    assert not net.writer.closed


def test_modules_with_copies_of_their_own() -> None:
    class Own(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Own:
            return Own(2, 3)

    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    copied = copy_net(nn.ModuleList([Own(2, 2), traced]))
    assert copied[0].out_features == 3
    assert torch.equal(copied[1](torch.ones(2)), traced(torch.ones(2)))


def test_a_teacher_with_results() -> None:
    class Teacher(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.output = super().forward(x)
            return self.output

    teacher = Teacher(8, 4)
    net = pg.convert(nn.Linear(8, 4), pg.presets.pcm_inference())
    recipe = pg.hwa.Recipe(distillation=pg.hwa.Distillation())
    teacher(X)
    pg.hwa.fine_tune(net, [(X, Y)], epochs=1, recipe=recipe, teacher=teacher, progress=False)
    assert teacher.output.grad_fn is not None


def test_equals_deepcopy_of_a_plain_net() -> None:
    for model in (
        nn.LSTM(3, 4, 2),
        nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    ):
        ours, theirs = copy_net(model), copy.deepcopy(model)
        assert str(ours) == str(theirs)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(ours.parameters(), model.parameters(), strict=True))
