"""fine_tune takes pairs, dictionaries and, with ``forward``, any batch; it refuses what would train nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.hwa import Distillation, Recipe, fine_tune
from phasegrad.nn.evaluation import _moved

PCM = pg.presets.pcm_inference()
X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        return self.a(p) + self.b(q)


class Labelled(Two):
    """A model that computes its own loss, as those of Hugging Face do."""

    form = "attributes"

    def forward(self, p: Tensor, q: Tensor | None = None, labels: Tensor | None = None) -> Any:  # type: ignore[override]
        logits = self.a(p) + self.b(p if q is None else q)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        if self.form == "tuple":
            return (logits,) if loss is None else (loss, logits)
        output = {"loss": loss, "logits": logits}
        return output if self.form == "dictionary" else SimpleNamespace(**output)


def tuned(model: nn.Module, batch: Any, **options: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final state, from one seed."""
    net = pg.convert(model, PCM)
    torch.manual_seed(1)
    history = fine_tune(net, [batch] * 3, epochs=2, progress=False, **options)
    return history.loss, net.state_dict()


def same(one: tuple[list[float], dict[str, Tensor]], other: tuple[list[float], dict[str, Tensor]]) -> bool:
    return one[0] == other[0] and all(torch.equal(v, other[1][k]) for k, v in one[1].items())


def reference() -> tuple[list[float], dict[str, Tensor]]:
    class OneInput(Two):
        def forward(self, p: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(p, p)

    return tuned(OneInput(), (X, Y))


@pytest.mark.parametrize("form", ["attributes", "dictionary", "tuple"])
def test_a_dictionary_with_labels_trains_on_the_nets_own_loss(form: str) -> None:
    model = Labelled()
    model.form = form
    assert same(tuned(model, {"p": X, "labels": Y}), reference())


def test_labels_that_the_net_does_not_take_are_the_target() -> None:
    assert same(tuned(Two(), {"p": X, "q": X, "labels": Y}), reference())


@pytest.mark.parametrize(
    ("batch", "forward"),
    [
        ((X, X, Y), lambda net, b: (net(b[0], b[1]), b[2])),
        (((X, X), Y), lambda net, b: (net(*b[0]), b[1])),
        ([X, X, Y], lambda net, b: F.cross_entropy(net(b[0], b[1]), b[2])),
        ({"x": X, "y": Y}, lambda net, b: (net(b["x"], b["x"]), b["y"])),
    ],
    ids=["triple", "pair of inputs", "own loss", "dictionary"],
)
def test_forward_takes_every_batch(batch: Any, forward: Callable[[nn.Module, Any], Any]) -> None:
    assert same(tuned(Two(), batch, forward=forward), reference())


def test_forward_may_return_the_output_of_a_net_that_computes_its_loss() -> None:
    found = tuned(Labelled(), (X, Y), forward=lambda net, b: net(b[0], labels=b[1]))
    assert same(found, reference())


def test_a_loss_of_ones_own_gets_output_and_target_of_forward() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return 2.0 * F.cross_entropy(output, target)

    doubled = tuned(Two(), (X, X, Y), forward=lambda net, b: (net(b[0], b[1]), b[2]), loss=loss)
    assert doubled[0][0] == pytest.approx(2 * reference()[0][0], rel=0.1)


@pytest.mark.parametrize("form", ["dictionary", "forward"])
def test_distillation_uses_the_logits(form: str) -> None:
    recipe = Recipe(noise=None, clip_sigma=0.0, distillation=Distillation(weight=1.0))
    net = pg.convert(Labelled(), pg.presets.ideal_inference())
    batch: Any = {"p": X, "labels": Y} if form == "dictionary" else (X, X, Y)
    forward = None if form == "dictionary" else lambda n, b: (n(b[0], b[1]).logits, b[2])
    history = fine_tune(net, [batch], epochs=1, recipe=recipe, forward=forward, progress=False)
    assert history.loss[0] == pytest.approx(0.0, abs=1e-6)  # the teacher is the net itself


ADVICE = r"forward=lambda net, batch"


@pytest.mark.parametrize(
    ("make", "batch", "options", "kind", "message"),
    [
        (Two, (X, X, Y), {}, TypeError, rf"yielded a tuple of 3\. .*{ADVICE}"),
        (Two, X, {}, TypeError, rf"yielded a Tensor\. .*{ADVICE}"),
        (Two, (X,), {}, TypeError, rf"yielded a tuple of 1\. .*{ADVICE}"),
        (Two, ((X, X), Y), {}, TypeError, rf"takes \(p, q\), and the input of the batch is one tuple\. .*{ADVICE}"),
        (Two, {"p": X, "r": X, "labels": Y}, {}, TypeError, rf"a dictionary of p, r, labels, but .*{ADVICE}"),
        (Two, {"p": X, "q": X}, {}, TypeError, rf"without 'labels', and the net computes no loss.*{ADVICE}"),
        (Labelled, {"p": X, "labels": Y}, {"loss": F.nll_loss}, ValueError, "loss is given, but the net computes its"),
        (Two, (X, Y), {"forward": lambda net, b: net(b[0], b[0])}, TypeError, r"returned a Tensor of shape \[16, 4\]"),
        (Two, (X, Y), {"forward": lambda net, b: None}, TypeError, "forward returned a NoneType; it must return"),
        (
            Two,
            {"p": X, "q": X, "labels": Y},
            {"loss": lambda o, t: F.cross_entropy(o, t, reduction="none")},
            TypeError,
            r"loss returned a tensor of shape \[16\]",
        ),
        (
            Two,
            (X, Y),
            {
                "forward": lambda net, b: F.cross_entropy(net(b[0], b[0]), b[1]),
                "recipe": Recipe(distillation=Distillation()),
            },
            TypeError,
            "distillation need a tensor",
        ),
    ],
)
def test_other_batches_say_what_is_taken(
    make: Callable[[], nn.Module], batch: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    net = pg.convert(make(), PCM)
    with pytest.raises(kind, match=message):
        fine_tune(net, [batch], epochs=1, progress=False, **options)


def test_an_error_of_the_net_itself_comes_through() -> None:
    class Broken(Two):
        def forward(self, p: Tensor) -> Tensor:  # type: ignore[override]
            raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        fine_tune(pg.convert(Broken(), PCM), [(X, Y)], progress=False)


def test_tensors_of_a_batch_are_moved_with_its_form() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 2, 4), torch.tensor([3, 2]))
    batch = {"x": [X, (Y, "text")], "packed": packed, "n": 3}
    found = _moved(batch, torch.device("meta"))
    assert found["x"][0].device.type == found["x"][1][0].device.type == found["packed"].data.device.type == "meta"
    assert (found["x"][1][1], found["n"]) == ("text", 3)
    assert found["packed"].batch_sizes.device.type == "cpu"


def pairs() -> list[tuple[Tensor, Tensor]]:
    return [(X, Y)] * 3


@pytest.mark.parametrize(
    "once",
    [
        lambda: iter(pairs()),
        lambda: (pair for pair in pairs()),
        lambda: zip([X] * 3, [Y] * 3, strict=True),
        lambda: map(tuple, pairs()),
        lambda: iter(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 8)),
    ],
    ids=["iter", "generator", "zip", "map", "data loader"],
)
def test_an_iterator_is_refused_before_anything_changes(once: Callable[[], Iterator[Any]]) -> None:
    net, loader = pg.convert(nn.Linear(8, 4), PCM), once()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(TypeError, match=r"loader is an iterator .*yields its batches once.*not iter\(loader\)"):
        fine_tune(net, loader, progress=False)
    assert len(list(loader)) >= 2  # none was consumed
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_no_loader_is_refused() -> None:
    with pytest.raises(TypeError, match="loader = 3; it must be an iterable of batches"):
        fine_tune(pg.convert(nn.Linear(8, 4), PCM), 3, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("holds", ["the float model", "another net", "frozen parameters"])
def test_an_optimizer_without_trainable_parameters_of_the_net_is_refused(holds: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    net = pg.convert(model, PCM)
    net[0].requires_grad_(False)
    other = {"the float model": model, "another net": pg.convert(model, PCM), "frozen parameters": net[0]}[holds]
    optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"none of the \d parameter.* nothing would be trained.*after it"):
        fine_tune(net, pairs(), optimizer=optimizer, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net[1].perturbation is None


def test_a_frozen_net_is_refused() -> None:
    net = pg.convert(nn.Linear(8, 4), PCM).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the net is frozen"):
        fine_tune(net, pairs(), progress=False)


def test_a_class_in_place_of_an_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"it must be an optimizer, such as torch\.optim\.Adam"):
        fine_tune(pg.convert(nn.Linear(8, 4), PCM), pairs(), optimizer=torch.optim.Adam, progress=False)  # type: ignore[arg-type]


def test_an_optimizer_without_analog_weights_is_said_once() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), PCM)
    optimizer = torch.optim.SGD([p for n, p in net.named_parameters() if n.endswith("bias")], lr=0.1)
    with pytest.warns(UserWarning, match="the SGD holds no weight of an analog layer") as found:
        fine_tune(net, pairs(), epochs=1, optimizer=optimizer, progress=False)
    assert [w.filename for w in found] == [__file__]


def test_some_weights_or_frozen_weights_are_enough() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), PCM)
    fine_tune(net, pairs(), epochs=1, optimizer=torch.optim.SGD(net[1].parameters(), lr=0.1), progress=False)
    for layer in net:
        layer.weight.requires_grad_(False)
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    fine_tune(net, pairs(), epochs=1, optimizer=torch.optim.SGD(biases, lr=0.1), progress=False)


def test_a_scheduler_of_another_optimizer_is_refused() -> None:
    net, batch = pg.convert(nn.Linear(8, 4), PCM), (torch.randn(4, 8), torch.randint(4, (4,)))
    other = torch.optim.SGD(net.parameters(), lr=0.1)
    for scheduler, error, message in (
        (torch.optim.lr_scheduler.StepLR(other, 1), ValueError, "StepLR of another optimizer"),
        (torch.optim.lr_scheduler.ReduceLROnPlateau(other), TypeError, "whose step needs a metric"),
    ):
        with pytest.raises(error, match=message):
            fine_tune(net, [batch], scheduler=scheduler, epochs=1, progress=False)


def test_a_stream_without_length_trains() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.ones(8), torch.tensor(1))] * 8)

    net = pg.convert(nn.Linear(8, 4), PCM)
    before = net.weight.detach().clone()
    fine_tune(net, torch.utils.data.DataLoader(Stream(), batch_size=4), epochs=1, progress=False)
    assert not torch.equal(net.weight, before)


def test_a_loss_with_logits_is_no_output_with_its_target() -> None:
    net, batch = pg.convert(nn.Linear(8, 4), PCM), (torch.randn(4, 8), torch.randint(4, (4,)))
    with pytest.raises(TypeError, match=r"as \(loss, logits\); it must return the loss alone"):
        fine_tune(
            net, [batch], epochs=1, progress=False, forward=lambda n, b: (n(b[0]).square().mean(), n(b[0]))
        )  # fmt: skip
