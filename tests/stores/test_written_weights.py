"""Writes to a weight that lives on devices are programmed at its next use, and said."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.stores.written import (
    CHIPS,
    HARDWARE,
    MEMORIES,
    WRITES,
    WRITTEN,
    add_to_data,
    assert_programmed,
    assign,
    checkpoint,
    correct,
    error,
    estimate_batchnorm,
    fill_in_place,
    grow_old,
    make_digital,
    make_noiseless,
    move,
    new_weight,
    read,
    save,
    stored,
    train,
    x,
)
from torch import Tensor, nn

import phasegrad as pg

EVERY_WRITE = ("noisy", "soft bounds")  # hardware with every kind of write; the others with two


@pytest.mark.parametrize(
    ("hardware", "write"),
    [(h, w) for h in HARDWARE for w in (WRITES if h in EVERY_WRITE else (add_to_data, assign))],
)
def test_a_write_is_programmed_at_the_next_forward_pass(hardware: str, write: Callable[[nn.Module], Tensor]) -> None:
    net = stored(HARDWARE[hardware])
    wanted = write(net[0])
    with pytest.warns(UserWarning, match=f"^0: {WRITTEN}") as found:
        net(x())
    assert len(found) == 1
    assert Path(found[0].filename) == Path(__file__)
    assert_programmed(net[0], wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(x())
    assert (type(net[0].weight) is pg.nn.InMemoryWeight) == (hardware in MEMORIES)


USES = [save, estimate_batchnorm, make_digital, make_noiseless, read, move, grow_old, correct]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("write", [add_to_data, assign])
@pytest.mark.parametrize("hardware", ["slices", "capacitor"])
def test_every_use_programs_what_was_written(
    hardware: str, write: Callable[[nn.Module], Tensor], use: Callable[[nn.Module], nn.Module]
) -> None:
    net = stored(HARDWARE[hardware])
    wanted = write(net[0])
    name = {read: r"AnalogLinear \[8, 12\]", estimate_batchnorm: "0.0"}.get(use, "0")
    with pytest.warns(UserWarning, match=f"^{name}: {WRITTEN}"):
        used = use(net)
    assert_programmed(used[0], wanted)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_checkpoint_holds_devices_that_store_what_was_written(hardware: str, tmp_path: Path) -> None:
    net = stored(HARDWARE[hardware])
    wanted = add_to_data(net[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        checkpoint(net, tmp_path)
    other = stored(HARDWARE[hardware])
    pg.checkpoint.load(tmp_path / "run.pt", net=other)
    assert_programmed(other[0], wanted)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear": (lambda: nn.Linear(12, 8), (5, 12), ""),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5), ""),
    "transposed convolution": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5), ""),
    "recurrent": (lambda: nn.LSTM(6, 5), (4, 2, 6), "hh_l0"),
    "cell": (lambda: nn.GRUCell(6, 5), (3, 6), "hh"),
    "attention": (lambda: nn.MultiheadAttention(8, 2), (3, 2, 8), "in_proj"),
}


@pytest.mark.parametrize("write", [add_to_data, assign])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_every_kind_of_layer_programs_what_was_written(
    hardware: str, kind: str, write: Callable[[nn.Module], Tensor]
) -> None:
    make, shape, name = LAYERS[kind]
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], make())
    layer = net.get_submodule(name)
    wanted = write(layer)
    inputs = (x(*shape),) * (3 if kind == "attention" else 1)
    with pytest.warns(UserWarning, match=f"^{name or 'Analog.*'}: {WRITTEN}"):
        net(*inputs)
    assert_programmed(layer, wanted)


def test_an_analog_embedding_programs_what_was_written() -> None:
    torch.manual_seed(0)
    layer = pg.inference.program(pg.nn.AnalogEmbedding(20, 6, hardware=CHIPS["pair"]), seed=0)
    wanted = add_to_data(layer)
    tokens = torch.arange(20)
    with pytest.warns(UserWarning, match=WRITTEN):
        layer(tokens)
    assert_programmed(layer, wanted)


@pytest.mark.parametrize("hardware", HARDWARE)
def test_reads_copies_and_moves_are_no_writes(hardware: str) -> None:
    """Nothing is programmed, no random number is drawn, and the devices stay as they are."""
    net = stored(HARDWARE[hardware])
    if net[0].devices.hardware.pulses is not None:
        train(net, 3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    nets = [net, copy.deepcopy(net), pickle.loads(pickle.dumps(net)), stored(HARDWARE[hardware])]
    nets[3].load_state_dict(net.state_dict())
    nets.append(stored(HARDWARE[hardware]))
    nets[4].load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
    for one in nets:
        one[0].weight.data.abs().sum(), one[0].weight.detach().numpy().sum(), one[0].weight.tolist()
        one[0].weight.data.add_(0.0)
        with torch.no_grad():
            one[0].weight.copy_(one[0].weight.clone())  # as DDP does
        one[0].weight = one[0].weight
        state = torch.get_rng_state()
        pg.to_digital(one), one.state_dict(), one.to("cpu")
        assert torch.equal(torch.get_rng_state(), state)
        one.eval()(x())
        after = one.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items())
        one.half().float()  # which rounds the biases
        assert torch.equal(one[0].weight, net[0].weight)
        assert type(one[0].weight) is type(net[0].weight)


@pytest.mark.parametrize("hardware", MEMORIES)
def test_the_pulses_of_an_optimizer_are_no_writes(hardware: str) -> None:
    net = stored(MEMORIES[hardware])
    for _ in range(5):
        train(net, 2)
        for layer in (net[0], net[2]):
            torch.testing.assert_close(layer.weight.detach(), layer.devices.logical_weight(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hardware", MEMORIES)
def test_a_write_before_a_step_is_programmed_before_the_pulses(hardware: str) -> None:
    net = stored(MEMORIES[hardware])
    net(x()).square().sum().backward()
    wanted = new_weight(net[0])
    net[0].weight.data.copy_(wanted)
    fast = MEMORIES[hardware].fast
    kind = pg.optim.TikiTakaV2 if fast is not None and fast.transfer is None else pg.optim.AnalogSGD
    with pytest.warns(UserWarning, match=rf"AnalogLinear \[8, 12\]: {WRITTEN}"):
        kind(net.parameters(), lr=1e-6).step()
    assert_programmed(net[0], wanted)


def test_an_optimizer_keeps_the_weight_that_was_assigned_over() -> None:
    net = stored(MEMORIES["constant"])
    weight, optimizer = net[0].weight, pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    wanted = assign(net[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x()).square().sum().backward()
    assert net[0].weight is weight
    assert_programmed(net[0], wanted)
    before = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(weight, before)


def test_one_warning_names_all_layers_of_the_outermost_net() -> None:
    class Outer(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, inputs: Tensor) -> Tensor:
            return self.body(inputs)

    net = Outer(stored(CHIPS["pair"]))
    for layer in (net.body[0], net.body[2]):
        add_to_data(layer)
    with pytest.warns(UserWarning, match=f"^body.0, body.2: {WRITTEN}") as found:
        net(x())
    assert len(found) == 1


# Modes.


@pytest.mark.parametrize("hardware", ["noisy", "soft bounds"])
def test_inference_mode_counts_writes(hardware: str) -> None:
    with torch.inference_mode():
        net = copy.deepcopy(stored(HARDWARE[hardware]))
        net(x())
        wanted = fill_in_place(net[0])
        with pytest.warns(UserWarning, match=WRITTEN):
            net(x())
        assert_programmed(net[0], wanted)


def test_autocast_does_not_round_what_is_programmed() -> None:
    net = stored(CHIPS["pair"])
    wanted = fill_in_place(net[0])
    with pytest.warns(UserWarning, match=WRITTEN), torch.autocast("cpu", dtype=torch.bfloat16):
        net(x())
    assert error(net[0], wanted) < 1e-5


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_other_precisions_program_what_was_written(hardware: str) -> None:
    net = stored(HARDWARE[hardware]).bfloat16()
    wanted = add_to_data(net[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        net(x().bfloat16())
    assert error(net[0], wanted.float()) < 0.12
    stored_weight = net[0].devices.logical_weight()
    assert torch.equal(net.float()[0].weight, stored_weight)  # the devices are not rounded


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_chips_compile_without_graph_breaks_after_a_write() -> None:
    torch.compiler.reset()
    net = stored(pg.presets.ideal_inference())
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    add_to_data(net[0])
    with pytest.warns(UserWarning, match=WRITTEN), torch.no_grad():
        expected = net(x())
    with torch.no_grad():
        torch.testing.assert_close(compiled(x()), expected)
    torch.compiler.reset()
