"""A layer that its counterpart could not represent stays digital, with the true reason."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.conversion import left_digital
from phasegrad.nn import AnalogLinear

IDEAL = pg.presets.ideal_inference()


def _double(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return 2.0 * forward(x)


def _replace_by_partial(layer: nn.Module) -> None:
    layer.forward = functools.partial(_double, layer.forward)  # type: ignore[method-assign]


def _replace_by_method(layer: nn.Module) -> None:
    layer.plain = layer.forward  # as accelerate does
    layer.forward = functools.partial(lambda module, x: module.plain(x) + 1.0, layer)  # type: ignore[method-assign]


def _replace_by_compiled(layer: nn.Module) -> None:
    layer.forward = torch.compile(layer.forward, backend="eager")  # type: ignore[method-assign]


CHANGES: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "partial": (_replace_by_partial, "its forward was replaced on the instance"),
    "method": (_replace_by_method, "its forward was replaced on the instance"),
    "compiled": (_replace_by_compiled, "its forward was replaced on the instance"),
    "parameter": (lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(1))), "scale was added to the "),
    "buffer": (lambda m: m.register_buffer("mask", torch.ones(1)), "mask was added to the "),
    "submodule": (lambda m: m.add_module("adapter", nn.Linear(4, 4)), "adapter was added to the "),
}
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 4), (3, 4)),
    "convolution": (lambda: nn.Conv1d(4, 4, 1), (3, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 4, 1), (3, 4, 5)),
    "cell": (lambda: nn.GRUCell(4, 4), (3, 4)),
}


@pytest.mark.filterwarnings("ignore:.*of the digital model, through a closure")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_computes_as_before_and_is_named(change: str, kind: str) -> None:
    (make, shape), (apply, reason) = KINDS[kind], CHANGES[change]
    model, x = nn.ModuleDict({"changed": make(), "other": nn.Linear(4, 4)}), torch.randn(shape)
    apply(model["changed"])
    with pytest.warns(UserWarning, match=f"convert: these layers stay digital .changed: {reason}"):
        net = pg.convert(model, IDEAL)
    assert left_digital(net)["changed"].startswith(reason)
    assert left_digital(net)["changed"] in str(pg.summary(net)).replace("\n             ", " ")
    assert torch.equal(net["changed"](x), model["changed"](x))
    assert set(model.state_dict()) <= set(net.state_dict())
    assert type(net["other"]) is AnalogLinear


@pytest.mark.parametrize("selection", [{"skip": ["0"]}, {"only": ["1"]}])
def test_a_changed_layer_that_the_user_leaves_digital_needs_no_warning(selection: dict[str, list[str]]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].register_buffer("mask", torch.ones(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert left_digital(pg.convert(model, IDEAL, **selection))["0"].startswith(("named in", "not named in"))


def test_many_changed_layers_are_counted() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
    for layer in model:
        layer.register_buffer("mask", torch.ones(1))
    with pytest.warns(UserWarning, match="and 3 more, see left_digital"):
        pg.convert(model, IDEAL)


def test_parts_of_attention_and_recurrent_layers_are_not_additions() -> None:
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3, vdim=5)
    model = nn.ModuleList([attention, nn.LSTM(4, 4, 2, proj_size=2, bidirectional=True), nn.RNNCell(2, 2)])
    assert len(left_digital(pg.convert(model, IDEAL))) == 1  # scores of attention
    model[0].out_proj.register_buffer("mask", torch.ones(1))
    with pytest.warns(UserWarning, match="0: out_proj.mask was added to the MultiheadAttention"):
        assert isinstance(pg.convert(model, IDEAL)[0], nn.MultiheadAttention)


class Attention(nn.MultiheadAttention):
    """A subclass whose output projection is an ordinary linear layer, which nobody calls."""

    def __init__(self) -> None:
        super().__init__(8, 2, batch_first=True)
        self.out_proj = nn.Linear(8, 8)  # pyright: ignore[reportAttributeAccessIssue]


def test_the_projection_that_attention_reads_stays_digital_with_the_reason() -> None:
    net = pg.convert(nn.ModuleDict({"attention": Attention(), "head": nn.Linear(8, 8)}), IDEAL)
    assert left_digital(net)["attention.out_proj"] == "Attention reads its weight and does not call it"
