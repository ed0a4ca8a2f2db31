"""What devices cannot follow is refused: computed weights, other weights in a call, impossible values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.stores.written import (
    BASE,
    CHIPS,
    HARDWARE,
    MEMORIES,
    WRITES,
    WRITTEN,
    LanguageModel,
    add_to_data,
    assert_programmed,
    assign,
    correct,
    grow_old,
    make_digital,
    make_noiseless,
    model,
    save,
    stored,
    x,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import phasegrad as pg


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def prune_weights(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def parametrise(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", nn.Identity())


def normalise(layer: nn.Module) -> None:
    parametrizations.weight_norm(layer)


def spectral(layer: nn.Module) -> None:
    nn.utils.spectral_norm(layer)


def forward(net: nn.Module) -> Any:
    return net(x())


@pytest.mark.parametrize(
    ("compute", "use"),
    [(prune_weights, use) for use in (forward, save, grow_old, correct, make_digital, make_noiseless)]
    + [(parametrise, forward), (spectral, forward)],
)
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_weights_that_are_computed_from_others_are_refused(
    hardware: str, compute: Callable[[nn.Module], None], use: Callable[[nn.Module], Any]
) -> None:
    net = stored(HARDWARE[hardware])
    compute(net[0])
    with pytest.raises(
        RuntimeError, match=r"^0: the weight is no parameter any more.* before (programming|converting) "
    ):
        use(net)


def test_weight_normalisation_is_refused() -> None:
    net = stored(BASE)
    normalise(net[0])
    with pytest.raises(RuntimeError, match=r"^0: the weight is no parameter any more"):
        net(x())
    with pytest.raises(RuntimeError, match=r"trained in memory.*parametrize the digital model, before converting"):
        normalise(stored(MEMORIES["constant"])[0])


def test_the_value_of_a_weight_makes_ordinary_parameters() -> None:
    chip, net = stored(BASE), stored(MEMORIES["constant"])
    digital = nn.Linear(12, 8)
    for parameter in (nn.Parameter(chip[0].weight), nn.Parameter(net[0].weight.detach().clone())):
        digital.weight = parameter
        torch.optim.SGD(digital.parameters(), lr=0.1).step()
        digital(x()).sum().backward()
        assert parameter.grad is not None
        assert type(copy.deepcopy(digital).weight) is type(parameter)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_pruning_that_is_made_permanent_is_programmed(hardware: str) -> None:
    net = stored(HARDWARE[hardware])
    prune_weights(net[0])
    wanted = net[0].weight.detach().clone()
    assert 0.4 < float((wanted == 0.0).double().mean()) < 0.6
    prune.remove(net[0], "weight")
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x())
    assert_programmed(net[0], wanted)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_removed_parametrization_is_programmed(hardware: str) -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 0.5 * weight

    net = stored(HARDWARE[hardware])
    wanted = 0.5 * net[0].weight.detach()
    parametrize.register_parametrization(net[0], "weight", Halved())
    parametrize.remove_parametrizations(net[0], "weight")
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x())
    assert_programmed(net[0], wanted)


@pytest.mark.parametrize("hardware", ["pair", "noisy", "soft bounds"])
def test_functional_call_with_other_weights_is_refused(hardware: str) -> None:
    net = stored(HARDWARE[hardware])
    before = state_of(net)
    other = {"0.weight": torch.zeros(8, 12)}
    with pytest.raises(RuntimeError, match=r"^0: it was called with another weight than its own.*0\.weight out of"):
        torch.func.functional_call(net, other, (x(),))
    assert all(torch.equal(before[k], v) for k, v in state_of(net).items())
    net(x())


@pytest.mark.parametrize("passed", ["same", "detached", "equal", "biases"])
@pytest.mark.parametrize("hardware", ["pair", "noisy", "soft bounds"])
def test_functional_call_with_its_own_weights_computes(hardware: str, passed: str) -> None:
    net = stored(HARDWARE[hardware]).eval()
    parameters: dict[str, Tensor] = dict(net.named_parameters())
    if passed == "detached":
        parameters = {k: v.detach() for k, v in parameters.items()}
    elif passed == "equal":
        parameters = {k: v.detach().clone() for k, v in parameters.items()}
    elif passed == "biases":
        parameters = {k: v for k, v in parameters.items() if k.endswith("bias")}
    weights = [net[0].weight, net[2].weight]
    torch.manual_seed(0)
    expected = net(x())
    torch.manual_seed(0)
    assert torch.equal(torch.func.functional_call(net, parameters, (x(),)), expected)
    assert net[0].weight is weights[0]
    assert net[2].weight is weights[1]


@pytest.mark.parametrize("way", ["grad", "requires_grad"])
def test_a_gradient_of_a_weight_on_devices_is_refused(way: str) -> None:
    net = stored(pg.presets.ideal_inference())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, (x(),)).square().sum()

    parameters = {k: v.detach().clone() for k, v in net.named_parameters()}
    biases = {k: v for k, v in parameters.items() if k.endswith("bias")}
    assert all(bool(g.any()) for g in torch.func.grad(loss)(biases).values())
    if way == "requires_grad":
        parameters = {k: v.requires_grad_() for k, v in parameters.items()}
    compute = loss if way == "requires_grad" else torch.func.grad(loss)
    with pytest.raises(RuntimeError, match=r"^0: a gradient is wanted for a weight that lives on devices"):
        compute(parameters)


def test_chips_of_a_vmap_are_compared_with_their_own_devices() -> None:
    chips = [pg.inference.program(pg.convert(model(), CHIPS["pair"]), seed=i) for i in range(3)]
    parameters, buffers = torch.func.stack_module_state(chips)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(chips[0], (parameters, buffers), (x(),))

    with torch.no_grad():
        found = torch.vmap(call, randomness="different")(parameters, buffers)
        assert found.shape == (3, 5, 4)
        wrong = {name: p + 0.1 for name, p in parameters.items()}
        own = {n: b.expand(3, *b.shape) for n, b in chips[0].named_buffers() if "devices" not in n}
        with pytest.raises(RuntimeError, match="another weight than its own"):
            torch.vmap(call, randomness="different")(wrong, own)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_write_within_a_transform_is_programmed_outside_of_it(hardware: str) -> None:
    net = stored(HARDWARE[hardware]).eval()
    wanted = add_to_data(net[0])
    with pytest.raises(RuntimeError, match=r"within a transform of torch\.func"):
        torch.vmap(net, randomness="different")(x(3, 5, 12))
    with pytest.warns(UserWarning, match=WRITTEN), torch.no_grad():
        net(x())
    assert_programmed(net[0], wanted)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_values_that_are_not_finite_are_refused_before_anything_is_programmed(hardware: str, value: float) -> None:
    net = stored(HARDWARE[hardware])
    before = state_of(net)
    add_to_data(net[0])
    net[2].weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"^2: the weight was written with values that are not finite"):
        net(x())
    assert all(torch.equal(before[k], v) for k, v in state_of(net).items())


def test_a_weight_of_another_shape_is_refused() -> None:
    net = stored(BASE)
    net[0].weight = nn.Parameter(torch.zeros(6, 12))
    with pytest.raises(ValueError, match=r"^0: the weight was replaced with one of shape \[6, 12\].*\[8, 12\]"):
        net(x())
    net = stored(BASE)
    net[0].weight.data = torch.zeros(6, 12)
    with pytest.raises(ValueError, match=r"^0: the weight was replaced with one of shape \[6, 12\]"):
        net(x())


@pytest.mark.parametrize(
    ("origin", "write"),
    [*(("pair", write) for write in WRITES), ("digital", add_to_data), ("soft bounds", assign)],
)
def test_writes_to_a_noiseless_net_are_refused(write: Callable[[nn.Module], Tensor], origin: str) -> None:
    net = pg.convert(model(), BASE) if origin == "digital" else stored(HARDWARE[origin])
    quiet = pg.inference.noiseless(net)
    expected = quiet(x())
    quiet[0].weight.data.abs().sum()
    assert torch.equal(quiet(x()), expected)
    write(quiet[0])
    for use in (forward, save, make_digital):
        with pytest.raises(RuntimeError, match=r"^0: the weight was written, but the layer is noiseless"):
            use(quiet)


def test_a_noiseless_net_keeps_ties_with_digital_modules() -> None:
    net = pg.convert(LanguageModel(), BASE)
    quiet = pg.inference.noiseless(net)
    assert quiet.head.weight is quiet.embedding.weight
    digital = pg.to_digital(quiet)
    assert digital.head.weight is digital.embedding.weight
    assert type(digital.head.weight) is nn.Parameter
